-- Gives up an entry that is the owner's, which is the usual case: before anything else is defined, because a script costs
-- what it runs. Anything else is left to release.lua, behind it in the same script.
if #ARGV[1] > 0 and redis.pcall('GETRANGE', KEYS[1], 0, #ARGV[1]) == ARGV[1] then
  if redis.pcall('DEL', KEYS[1]) == 1 then
    if ARGV[3] ~= '' then redis.pcall(ARGV[3], ARGV[2], '') end
    return {'held'}
  end
end
