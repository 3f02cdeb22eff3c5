-- Count the pool processes of the workers that are there, and perhaps announce one more.
-- KEYS[1] sorted set, by the ms until which a worker counts as there, of <processes>:<worker>
-- ARGV: 1 ttl ms, or '' to announce none, 2 processes, 3 worker
local workers, ttl_ms = KEYS[1], ARGV[1]
local clock = redis.call('TIME')
local now_ms = clock[1] * 1000 + math.floor(clock[2] / 1000)
redis.call('ZREMRANGEBYSCORE', workers, '-inf', now_ms)
if ttl_ms ~= '' then
  redis.call('ZADD', workers, now_ms + ttl_ms, ARGV[2] .. ':' .. ARGV[3])
  redis.call('PEXPIRE', workers, ttl_ms)
end
local processes = 0
for _, name in ipairs(redis.call('ZRANGE', workers, 0, -1)) do
  processes = processes + tonumber(string.match(name, '^%d+'))
end
return processes
