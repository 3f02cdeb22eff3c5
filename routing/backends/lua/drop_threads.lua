-- Forget threads. ARGV[3...] their ids
local function disown(parent, name, id)
  local known = children_of(parent)
  if known[name] ~= id then return end
  known[name] = nil
  if next(known) then
    redis.call('HSET', T, 'k:' .. parent, cjson.encode(known))
  else
    redis.call('HDEL', T, 'k:' .. parent)
  end
end

local dropped = 0
for i = 3, #ARGV do
  local id = ARGV[i]
  local row = redis.call('HGET', T, 't:' .. id)
  if row then
    local thread = cjson.decode(row)
    disown(thread.parent or '', thread.chain[#thread.chain], id)
    redis.call('HDEL', T, 't:' .. id, 'k:' .. id)
    dropped = dropped + 1
  end
end
return dropped
