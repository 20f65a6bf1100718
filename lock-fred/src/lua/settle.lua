-- Writes something behind a grant, so that WAIT on the same connection waits for both. KEYS: lock, fencing counter. ARGV:
-- owner, how long the counter is kept (ms).
local function settle()
  local whose, kind = ownership(KEYS[1], ARGV[1])
  if whose == 'held' and call('PEXPIRE', KEYS[2], ARGV[2]) == 0 then return {'unnumbered'} end
  return {whose, kind}
end

return answer(settle)
