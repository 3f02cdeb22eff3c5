-- @include threads, thread_retention
-- Answer the one child of a thread for a listener; of '': the injector's own thread.
-- ARGV: 3 ttl ms, 4 parent, 5 listener, 6 the id that a new child gets
local own_ttl_ms, parent, listener, proposed_id = ARGV[3], ARGV[4], ARGV[5], ARGV[6]
local raw = parent ~= '' and redis.call('HGET', THREADS, THREAD_OF .. parent)
if parent ~= '' and not raw then return reply_unknown({}) end
local id = children_of(parent)[listener]
if id then
  return reply_thread({thread_id = id, row = redis.call('HGET', THREADS, THREAD_OF .. id)})
end
local chain = raw and cjson.decode(raw).chain or {}
chain[#chain + 1] = listener
local row = cjson.encode({chain = chain, parent = raw and parent or nil})
redis.call('HSET', THREADS, THREAD_OF .. proposed_id, row)
adopt(parent, listener, proposed_id)
touch_threads(own_ttl_ms)
return reply_thread({thread_id = proposed_id, row = row})
