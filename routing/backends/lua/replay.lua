-- Run a dead letter again, unless nothing of it can count any more. ARGV[3] delivery
local dead = redis.call('HEXISTS', D, 'x:' .. ARGV[3]) == 1
if not status or status == 'killed' or not dead then return {} end
local row = row_of(ARGV[3])
if moot(row) or redis.call('HEXISTS', T, 't:' .. row.thread) == 0 then return {} end

-- A conversation that ended with an error goes on, until it ends again; but not for a delivery of
-- a branch that was answered since, whose own answer will be late.
local answered = false
for _, branch in ipairs(row.scope) do
  answered = answered or redis.call('HEXISTS', J, 'v:' .. branch[1] .. ':' .. branch[2]) == 1
end
if status == 'error' and not answered then
  status = 'running'
  redis.call('HSET', C, 'status', 'running', 'value', 'null', 'release', 'parked')
  redis.call('ZREM', DUE, member('r', ''))
end

exhume(ARGV[3])
local _, attempt = state_of(ARGV[3])
redis.call('HSET', D, 'z:' .. ARGV[3], attempt)
note('replayed', ARGV[3])
book_branch(row, 2, '')
in_flight = in_flight + 1
make_ready(ARGV[3], attempt, '')
touch()
return outbox()
