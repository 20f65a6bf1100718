-- Takes a lock. KEYS: lock, fencing counter. ARGV: owner, ttl (ms), tokens, owner to take over from or '',
-- how long the counter is kept (ms), '1' to check permissions; and then: wake channel, the command that tells it something or
-- '', and whatever else its user must be allowed to send it.
--
-- Behind acquire_free.lua, which has answered already in the usual case.
--
-- A free lock is taken by SET NX first, then counted for; if counting fails the entry is deleted again, and
-- nobody has seen it, because a script runs alone. That is one command less on the common path than looking
-- first. Scripts do not roll back, so every error after the SET must pass the DEL at the end.
local lock, fence = KEYS[1], KEYS[2]
local owner, ttl, tokens, from, keep = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4], ARGV[5]

-- Fails if the user may not send a command, where the server tells (from Redis 7). It does not log that as a refusal.
local function must(what, command, ...)
  if not redis.acl_check_cmd or redis.acl_check_cmd(command, ...) then return end
  step = command
  error('NOPERM this user has no permissions to ' .. what, 0)
end

-- What telling and waiting take cannot all be run in a script.
local function check_channel(channel, publish)
  for i = 8, #ARGV do
    local command = ARGV[i]
    if command ~= '' then must('run it', command) end
    if command:find('SUBSCRIBE$') or command == publish and publish ~= '' then
      must('access the channel "' .. channel .. '"', command, channel)
    end
  end
  if publish ~= '' and not redis.acl_check_cmd then call(publish, channel, '') end
end

-- Runs what renewing, releasing and looking need on a lock that is free, where it does nothing, and asks for what cannot be
-- run. So a missing permission shows now, and not when somebody waits or the lock is to be given back.
local function check()
  local whose = ownership(lock, owner)
  -- By an earlier copy of the request, which was allowed it.
  if whose == 'held' then return end
  check_channel(ARGV[7], ARGV[8])
  must('run it', 'PEXPIRE', lock, ttl)
  must('run it', 'DEL', lock)
  if whose ~= 'absent' then return end
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
