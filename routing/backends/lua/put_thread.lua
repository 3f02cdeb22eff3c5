-- Store a thread, once. ARGV[3] ttl ms, ARGV[4] its id, ARGV[5] row
if redis.call('HSETNX', T, 't:' .. ARGV[4], ARGV[5]) == 0 then return 0 end
touch_threads(ARGV[3])
return 1
