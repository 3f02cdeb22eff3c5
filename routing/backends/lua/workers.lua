-- Count the pool processes of the workers that are there, and perhaps announce one more.
-- KEYS[1] workers  sorted set, by the ms until which one is there: <processes>:<worker>
-- ARGV[1] ttl ms, or '' to announce none, ARGV[2] processes, ARGV[3] worker
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
if ARGV[1] ~= '' then
  redis.call('ZADD', KEYS[1], now + ARGV[1], ARGV[2] .. ':' .. ARGV[3])
  redis.call('PEXPIRE', KEYS[1], ARGV[1])
end
local processes = 0
for _, name in ipairs(redis.call('ZRANGE', KEYS[1], 0, -1)) do
  processes = processes + tonumber(string.match(name, '^%d+'))
end
return processes
