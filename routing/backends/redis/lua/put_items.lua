-- @include conversation
-- Store items of a list; answers 0 for a conversation that is not there, 2 for one that would hold
-- too much.
-- ARGV: 3 the list, 4 the index of the first item, 5 the most bytes that the conversation may hold, or
--   0, from 6 on the items
local FIRST, max_bytes = 6, tonumber(ARGV[5])
if not status then return 0 end
local size = 0
for i = FIRST, #ARGV do size = size + #ARGV[i] end
if max_bytes > 0 and stored_bytes + size > max_bytes then return 2 end
for i = FIRST, #ARGV do
  local field = ITEM_OF .. ARGV[3] .. ':' .. (ARGV[4] + i - FIRST)
  if redis.call('HSET', JOINS, field, ARGV[i]) == 1 then stored_bytes = stored_bytes + #ARGV[i] end
end
touch(true)
return 1
