-- @include branches
-- End an attempt that is to be repeated. ARGV: 3 delivery, 4 attempt, 5 ms until then, 6 why
local id, attempt_asking, reason = ARGV[3], tonumber(ARGV[4]), ARGV[6]
local state, attempt = state_of(id)
if not status or state ~= STATE_LEASED or attempt ~= attempt_asking then return reply_fenced({}) end
set_state(id, STATE_POSTPONED, attempt, '', ABANDONED_RETRY)
local again_ms = now_ms + tonumber(ARGV[5])
redis.call('ZADD', DUE, again_ms, member(KIND_DELIVERY, id))
note(EVENT_RETRY, cjson.encode({id, reason}))
free_lane(row_of(id), 0)  -- the others need not wait for it
touch()
return reply_ready({rows = outbox()})
