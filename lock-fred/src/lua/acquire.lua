-- Takes a lock. KEYS: lock, fencing counter. ARGV: owner, ttl (ms), tokens, owner to take over from or '',
-- how long the counter is kept (ms), '1' to check permissions.
--
-- Behind acquire_free.lua, which has answered already in the usual case.
--
-- A free lock is taken by SET NX first, then counted for; if counting fails the entry is deleted again, and
-- nobody has seen it, because a script runs alone. That is one command less on the common path than looking
-- first. Scripts do not roll back, so every error after the SET must pass the DEL at the end.
local lock, fence = KEYS[1], KEYS[2]
local owner, ttl, tokens, from, keep = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4], ARGV[5]

-- Runs what renewing, releasing and looking need on a lock that is free, where it does nothing. So a missing
-- permission shows now, and not when the lock is to be given back.
local function check()
  if call('TYPE', lock).ok ~= 'none' then return end
  call('GETRANGE', lock, 0, 0)
  call('PTTL', lock)
  call('PEXPIRE', lock, ttl)
  call('DEL', lock)
end

local function acquire()
  if ARGV[6] == '1' then check() end
  if from == '' and taken == nil then
    taken = redis.pcall('SET', lock, owner, 'NX', 'PX', ttl)
    made = taken and taken.ok
  end
  if made then return reserve(fence, tokens, keep) end

  -- Not taken: somebody has it, perhaps this owner by an earlier copy of the request. Looked at also when
  -- the SET was refused (out of memory, say): "not applied" must stay true for the earlier copy as well.
  local whose, kind = ownership(lock, owner)
  if whose == 'held' then
    local last = last_token(fence)
    if not last or last < tokens then return {'unnumbered'} end
    return {'granted', last - tokens + 1, last}
  end
  if whose == 'conflict' then return {'conflict', kind} end
  if whose == 'absent' then
    if taken then return {'failed', 'SET', taken.err} end
    return {'absent'}
  end
  if from ~= '' and ownership(lock, from) == 'held' then
    local reply = reserve(fence, tokens, keep)
    if reply[1] == 'granted' then call('SET', lock, owner, 'PX', ttl) end
    return reply
  end
  return busy(lock, fence)
end

local reply = answer(acquire)
if made and reply[1] ~= 'granted' then
  local undone = redis.pcall('DEL', lock)
  if type(undone) == 'table' then return {'left', 'DEL', undone.err} end
end
return reply
