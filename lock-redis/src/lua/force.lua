-- Takes a lock from its holder, for operators. KEYS: lock, fencing counter. ARGV: wake channel, 'PUBLISH', 'SPUBLISH' or '',
-- how long the counter is kept (ms). Answers busy with the holder, and with the token reserved above the holder's.
local function force()
  local kind = call('TYPE', KEYS[1]).ok
  if kind == 'none' then return {'absent'} end
  if kind ~= 'string' then return {'conflict', kind} end
  local reply = busy(KEYS[1], KEYS[2])
  local reserved = reserve(KEYS[2], 1, ARGV[3])
  if reserved[1] ~= 'granted' then return reserved end
  call('DEL', KEYS[1])
  if ARGV[2] ~= '' then redis.pcall(ARGV[2], ARGV[1], '') end
  reply[4] = reserved[2]
  return reply
end

return answer(force)
