-- End a conversation now. ARGV[3] status, ARGV[4] value
if redis.call('EXISTS', C) == 0 or not finish(ARGV[3], ARGV[4]) then return {0} end
redis.call('UNLINK', W)  -- nothing is answered any more
touch()
local told = redis.call('HMGET', C, 'canvas', 'entry')
return {1, told[1], redis.call('HGET', D, 'r:' .. told[2])}
