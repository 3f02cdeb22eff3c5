-- Turn a wait into the delivery of its input. ARGV[3] the wait's id, ARGV[4] row, ARGV[5] envelope
if not status then return {'unknown'} end
if state_of(ARGV[3]) ~= 'waiting' or status == 'killed' then return {'late'} end
redis.call('HSET', D, 'r:' .. ARGV[3], ARGV[4], 'e:' .. ARGV[3], ARGV[5])
redis.call('HINCRBY', C, 'waiting', -1)
redis.call('HDEL', W, ARGV[3])
count = count + 1
local row = read_row(ARGV[4])
remember(row)
make_ready(ARGV[3], 0, '', ARGV[4], row)
touch()
return {'ready', outbox()}
