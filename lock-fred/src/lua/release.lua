-- Gives a lock up. KEYS: lock. ARGV: owner, wake channel, 'PUBLISH', 'SPUBLISH' or ''.
-- Behind release_held.lua, which has answered already in the usual case.
-- The channel is told at the end, and what becomes of that does not matter: waiters also look by themselves.
local function release()
  local whose, kind = ownership(KEYS[1], ARGV[1])
  if whose == 'held' then
    call('DEL', KEYS[1])
    if ARGV[3] ~= '' then redis.pcall(ARGV[3], ARGV[2], '') end
  end
  return {whose, kind}
end

return answer(release)
