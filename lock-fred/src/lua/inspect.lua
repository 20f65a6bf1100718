-- Who holds a lock. Reads only. KEYS: lock, fencing counter.
local function inspect()
  local kind = call('TYPE', KEYS[1]).ok
  if kind == 'none' then return {'absent'} end
  if kind ~= 'string' then return {'conflict', kind} end
  return busy(KEYS[1], KEYS[2])
end

return answer(inspect)
