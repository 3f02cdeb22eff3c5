-- Run a dead letter again. ARGV[3] delivery
-- A conversation that it ended with an error goes on, until it ends again.
local status = redis.call('HGET', C, 'status')
if not status or status == 'killed' or not exhume(ARGV[3]) then return publish end
local _, attempt = state_of(ARGV[3])
redis.call('HSET', D, 'z:' .. ARGV[3], attempt)
if status == 'error' then
  redis.call('HSET', C, 'status', 'running', 'value', 'null', 'release', 'parked')
  redis.call('ZREM', DUE, member('r', ''))
end
note('replayed', ARGV[3])
redis.call('HINCRBY', C, 'in_flight', 1)
make_ready(ARGV[3], attempt, '')
touch()
return publish
