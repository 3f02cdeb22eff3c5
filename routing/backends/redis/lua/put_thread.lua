-- @include thread_retention
-- Store a thread, once. ARGV: 3 ttl ms, 4 its id, 5 its row
if redis.call('HSETNX', THREADS, THREAD_OF .. ARGV[4], ARGV[5]) == 0 then return 0 end
touch_threads(ARGV[3])
return 1
