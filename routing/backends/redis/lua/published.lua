-- @include members, states
-- Clear the outbox: the broker has these messages.
-- ARGV: 3 the ms after which a release that nobody handed over is late, from 4 on deliveries; ''
--   stands for the conversation's release
local FIRST = 4
local later_ms = now_ms + tonumber(ARGV[3])
for i = FIRST, #ARGV do
  local id = ARGV[i]
  if id == '' then
    if redis.call('HGET', CONVERSATION, FIELD_RELEASE) == RELEASE_DUE then
      redis.call('ZADD', DUE, 'XX', later_ms, member(KIND_RELEASE, ''))
    end
  else
    local state, attempt, _, reason = state_of(id)
    if state == STATE_READY then
      set_state(id, STATE_SENT, attempt, '', reason)
      redis.call('ZREM', DUE, member(KIND_DELIVERY, id))
      redis.call('ZADD', SENT, now_ms, member(KIND_DELIVERY, id))
    end
  end
end
return 1
