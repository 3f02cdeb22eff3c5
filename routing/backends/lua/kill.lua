-- End a conversation now. ARGV[3] status, ARGV[4] value
if not status or not finish(ARGV[3], ARGV[4]) then return {0} end
redis.call('UNLINK', W)  -- nothing is answered any more
touch()
local parked = redis.call('HMGET', C, 'canvas', 'entry')
return {1, parked[1], redis.call('HGET', D, 'r:' .. parked[2])}
