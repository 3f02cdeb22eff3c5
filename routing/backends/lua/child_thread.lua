-- The one child of a thread for a listener.
-- ARGV[3] ttl ms, ARGV[4] parent, ARGV[5] listener, ARGV[6] proposed id
local raw = redis.call('HGET', T, 't:' .. ARGV[4])
if not raw then return false end
local known = children_of(ARGV[4])
local id = known[ARGV[5]]
if id then return {id, redis.call('HGET', T, 't:' .. id)} end
local chain = cjson.decode(raw).chain
chain[#chain + 1] = ARGV[5]
local row = cjson.encode({chain = chain, parent = ARGV[4], branch = cjson.null})
known[ARGV[5]] = ARGV[6]
redis.call('HSET', T, 't:' .. ARGV[6], row, 'k:' .. ARGV[4], cjson.encode(known))
touch_threads(ARGV[3])
return {ARGV[6], row}
