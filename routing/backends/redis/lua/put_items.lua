-- @include conversation
-- Store items of a list; answers 0 for a conversation that is not there.
-- ARGV: 3 the list, 4 the index of the first item, from 5 on the items
local FIRST = 5
if not status then return 0 end
for i = FIRST, #ARGV do
  redis.call('HSET', JOINS, ITEM_OF .. ARGV[3] .. ':' .. (ARGV[4] + i - FIRST), ARGV[i])
end
touch(true)
return 1
