-- Prolongs entries, never recreates one. KEYS: locks. ARGV, three for each: owner, ttl (ms), '1' to shorten too.
-- Answers one array for each lock: a lock that fails does not keep the others from being renewed.
local function renew(lock, owner, ttl, exactly)
  local whose, kind = ownership(lock, owner)
  -- An entry without an end (PTTL -1, by somebody's PERSIST) gets one again.
  if whose == 'held' and (exactly == '1' or call('PTTL', lock) < tonumber(ttl)) then
    call('PEXPIRE', lock, ttl)
  end
  return {whose, kind}
end

local replies = {}
for i, lock in ipairs(KEYS) do
  replies[i] = answer(renew, lock, ARGV[3 * i - 2], ARGV[3 * i - 1], ARGV[3 * i])
end
return replies
