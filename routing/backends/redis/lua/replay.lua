-- @include branches, dead_letters
-- Run a dead letter again, unless nothing of it can count any more; answers rows to publish.
-- ARGV: 3 delivery, 4 the ms after which it has grown too old once more
local id = ARGV[3]
local is_dead = redis.call('HEXISTS', DELIVERIES, DEAD_MEMBER_OF .. id) == 1
if not status or status == STATUS_KILLED or not is_dead then return {} end
local row = row_of(id)
if moot(row) or redis.call('HEXISTS', THREADS, THREAD_OF .. row.thread) == 0 then return {} end

-- A conversation that ended with an error goes on, until it ends again; but not for a delivery of
-- a branch that was answered since, whose own answer will be late.
local is_answered = false
for _, branch in ipairs(row.scope) do
  is_answered = is_answered
    or redis.call('HEXISTS', JOINS, ANSWER_OF .. branch[1] .. ':' .. branch[2]) == 1
end
if status == STATUS_ERROR and not is_answered then
  status, release = STATUS_RUNNING, RELEASE_PARKED
  redis.call('HSET', CONVERSATION, FIELD_STATUS, status, FIELD_VALUE, 'null',
    FIELD_RELEASE, release)
  redis.call('ZREM', DUE, member(KIND_RELEASE, ''))
end

exhume(id)
local _, attempt = state_of(id)
redis.call('HSET', DELIVERIES, REPLAYED_AFTER_OF .. id, attempt)
note(EVENT_REPLAYED, id)
book_branch(row, 2, '')
in_flight = in_flight + 1
make_ready(id, attempt, '')
redis.call('HDEL', CONVERSATION, FIELD_TOUCHED, FIELD_AGED)  -- it owes an answer again
for key = 1, OWN_KEYS do redis.call('PERSIST', KEYS[key]) end
redis.call('ZADD', RETENTION, now_ms + tonumber(ARGV[4]), name_in_lists)
touch()
return outbox()
