-- Shared by all scripts. A script answers an array whose first element is a word:
--   granted FIRST LAST | busy HEAD PTTL LAST | held | absent | taken
--   renewed LETTERS ANSWER.. see renew.lua
--   conflict TYPE            the key holds something that is no string
--   counter WHAT             the fencing counter cannot count
--   unnumbered               granted before, but the counter is gone
--   failed COMMAND ERROR     the server refused a command, and nothing was changed
--   left COMMAND ERROR       the same, but the lock's entry could not be taken back

-- A label is at most 128 bytes behind 32 hex digits and a colon.
local LONGEST_OWNER = 161

-- The command that runs: servers before 7.2 do not say which one they refuse.
local step

local function call(command, ...)
  step = command
  return redis.call(command, ...)
end

-- Runs body; an error in it becomes an answer. Servers before 7 raise text, later ones a table.
local function answer(body, ...)
  local ok, reply = pcall(body, ...)
  if ok then return reply end
  return {'failed', step, type(reply) == 'table' and reply.err or tostring(reply)}
end

-- Whose the entry of key is. Compares the whole value without fetching more of it than owner is long.
local function ownership(key, owner)
  step = 'GETRANGE'
  local value = redis.pcall('GETRANGE', key, 0, #owner)
  if value == owner and #owner > 0 then return 'held' end
  local kind = call('TYPE', key).ok
  if kind == 'none' then return 'absent' end
  if kind ~= 'string' then return 'conflict', kind end
  if type(value) == 'table' then
    step = 'GETRANGE'
    error(value.err, 0)
  end
  return 'taken'
end

-- The last fencing token given, 0 if none is known, nil and the reason if the counter cannot count.
local function last_token(fence)
  step = 'GET'
  local text = redis.pcall('GET', fence)
  if not text then return 0 end
  if type(text) == 'table' then
    if text.err:find('^WRONGTYPE') then return nil, 'a ' .. call('TYPE', fence).ok end
    error(text.err, 0)
  end
  local last = #text <= 16 and text:find('^%d+$') and tonumber(text)
  if not last then return nil, 'text that is no number' end
  -- 2^53 - 1: Lua does not tell greater whole numbers apart.
  if last > 9007199254740991 then return nil, 'a number beyond 2^53' end
  return last
end

-- Reserves a block of tokens, and keeps the counter for so many milliseconds. They are above all given before, and not
-- below the server's clock, so that they grow also when the counter is lost. Numbers are written with %.0f: tostring would
-- lose digits.
local function reserve(fence, tokens, keep)
  local last, problem = last_token(fence)
  if not last then return {'counter', problem} end
  -- 2^53 - 64: the numbers of a block that began there would not be exact.
  if last >= 9007199254740928 then return {'counter', 'a number beyond 2^53 - 64'} end
  step = 'TIME'
  local now = redis.call('TIME')
  local first = math.max(last + 1, now[1] * 1000000 + now[2])
  last = first + tokens - 1
  step = 'SET'
  redis.call('SET', fence, string.format('%.0f', last), 'PX', keep)
  return {'granted', first, last}
end

-- What others may know of the entry of key, whose value is a string.
local function busy(key, fence)
  local head = call('GETRANGE', key, 0, LONGEST_OWNER)
  if #head > LONGEST_OWNER then head = '' end
  local left = call('PTTL', key)
  -- A counter that cannot count does not make the lock less busy.
  local ok, last = pcall(last_token, fence)
  return {'busy', head, left, ok and last or 0}
end
