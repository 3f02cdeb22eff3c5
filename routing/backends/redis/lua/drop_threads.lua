-- @include threads
-- Forget threads; answers how many were there. ARGV: from 3 on their ids
local FIRST = 3

local function disown(parent, name, id)
  local known = children_of(parent)
  if known[name] ~= id then return end
  known[name] = nil
  if next(known) then
    redis.call('HSET', THREADS, CHILDREN_OF .. parent, cjson.encode(known))
  else
    redis.call('HDEL', THREADS, CHILDREN_OF .. parent)
  end
end

local dropped = 0
for i = FIRST, #ARGV do
  local id = ARGV[i]
  local row = redis.call('HGET', THREADS, THREAD_OF .. id)
  if row then
    local thread = cjson.decode(row)
    disown(thread.parent or '', thread.chain[#thread.chain], id)
    redis.call('HDEL', THREADS, THREAD_OF .. id, CHILDREN_OF .. id)
    dropped = dropped + 1
  end
end
return dropped
