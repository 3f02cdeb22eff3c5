-- @include threads, thread_retention
-- Answer the row of the one child of a thread for a listener; of '': of the injector's own thread.
-- Answers false for a parent that is not there.
-- ARGV: 3 ttl ms, 4 parent, 5 listener, 6 the id that a new child gets
local own_ttl_ms, parent, listener, proposed_id = ARGV[3], ARGV[4], ARGV[5], ARGV[6]
local raw = parent ~= '' and redis.call('HGET', THREADS, THREAD_OF .. parent)
if parent ~= '' and not raw then return false end
local id = children_of(parent)[listener]
if id then return redis.call('HGET', THREADS, THREAD_OF .. id) end
local chain = raw and cjson.decode(raw).chain or {}
chain[#chain + 1] = listener
local row = cjson.encode({id = proposed_id, chain = chain, parent = raw and parent or nil})
redis.call('HSET', THREADS, THREAD_OF .. proposed_id, row)
adopt(parent, listener, proposed_id)
touch_threads(own_ttl_ms)
return row
