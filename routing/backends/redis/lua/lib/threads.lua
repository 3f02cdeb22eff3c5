-- The child threads of a thread by listener, as JSON; of '' the injectors' own threads.
local function children_of(thread)
  return cjson.decode(redis.call('HGET', THREADS, CHILDREN_OF .. thread) or '{}')
end

local function adopt(parent, name, child)
  local known = children_of(parent)
  known[name] = child
  redis.call('HSET', THREADS, CHILDREN_OF .. parent, cjson.encode(known))
end
