-- Takes a lock that is free, which is the usual case: before anything else is defined, because a script costs what it
-- runs. Asked for anything but a new grant, or in any doubt about the counter, it leaves the answer to acquire.lua, behind
-- it in the same script, which sees `made`.

-- Whether this run of the script made the entry, and what SET answered if it was asked.
local made, taken = false, nil

if ARGV[4] == '' and ARGV[6] == '' then
  taken = redis.pcall('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2])
  if taken and taken.ok then
    made = true
    local last, now = redis.pcall('GET', KEYS[2]), redis.pcall('TIME')
    -- Both are of 16 digits, from 2001 to 2286, and so compare as numbers do.
    local digits = type(last) == 'string' and #last == 16 and last:find('^%d+$')
    if now[2] and (digits or not last) then
      local text = now[1] .. string.sub('000000', #now[2] + 1) .. now[2]
      if not last or last < text then
        local first = now[1] * 1000000 + now[2]
        local newest = first + ARGV[3] - 1
        if newest ~= first then text = string.format('%.0f', newest) end
        local counted = redis.pcall('SET', KEYS[2], text, 'PX', ARGV[5])
        if counted.ok then return {'granted', first, newest} end
      end
    end
  end
end
