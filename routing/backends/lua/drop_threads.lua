-- Forget threads. ARGV[3...] their ids
local dropped = 0
for i = 3, #ARGV do
  local id = ARGV[i]
  local row = redis.call('HGET', T, 't:' .. id)
  if row then
    local thread = cjson.decode(row)
    redis.call('HDEL', T, 't:' .. id, 'k:' .. id)
    dropped = dropped + 1
    if thread.parent ~= cjson.null then
      local known = children_of(thread.parent)
      local name = thread.chain[#thread.chain]
      if known[name] == id then
        known[name] = nil
        local left = next(known) and cjson.encode(known)
        if left then
          redis.call('HSET', T, 'k:' .. thread.parent, left)
        else
          redis.call('HDEL', T, 'k:' .. thread.parent)
        end
      end
    end
  end
end
return dropped
