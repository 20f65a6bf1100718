-- Prolongs entries, never recreates one. KEYS: locks. ARGV, three for each: owner, ttl (ms), '1' to shorten too.
-- Answers `renewed`, one letter for each lock (held, absent, taken), and an array for each lock whose letter is `?`: a lock
-- that fails does not keep the others from being renewed.
local function renew(lock, owner, ttl, exactly)
  local whose, kind = ownership(lock, owner)
  -- An entry without an end (PTTL -1, by somebody's PERSIST) gets one again.
  if whose == 'held' and (exactly == '1' or call('PTTL', lock) < tonumber(ttl)) then
    call('PEXPIRE', lock, ttl)
  end
  return {whose, kind}
end

local LETTERS = {held = 'h', absent = 'a', taken = 't'}
local letters, others = {}, {}
for i, lock in ipairs(KEYS) do
  local reply = answer(renew, lock, ARGV[3 * i - 2], ARGV[3 * i - 1], ARGV[3 * i])
  letters[i] = LETTERS[reply[1]] or '?'
  if letters[i] == '?' then others[#others + 1] = reply end
end
return {'renewed', table.concat(letters), unpack(others)}
