-- The one child of a thread for a listener; of '': the injector's own thread.
-- ARGV[3] ttl ms, ARGV[4] parent, ARGV[5] listener, ARGV[6] proposed id
local raw = ARGV[4] ~= '' and redis.call('HGET', T, 't:' .. ARGV[4])
if ARGV[4] ~= '' and not raw then return false end
local id = children_of(ARGV[4])[ARGV[5]]
if id then return redis.call('HGET', T, 't:' .. id) end
local chain = raw and cjson.decode(raw).chain or {}
chain[#chain + 1] = ARGV[5]
local row = cjson.encode({id = ARGV[6], chain = chain, parent = raw and ARGV[4] or nil})
redis.call('HSET', T, 't:' .. ARGV[6], row)
adopt(ARGV[4], ARGV[5], ARGV[6])
touch_threads(ARGV[3])
return row
