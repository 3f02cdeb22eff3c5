-- @include outbox
-- Give up the lease of a turn without a commit; answers the rows of the messages to publish.
-- ARGV: 3 the delivery that the turn began with, 4 owner, 5 reason
local turn_id, owner_asking, reason = ARGV[3], ARGV[4], ARGV[5]
local id = redis.call('HGET', DELIVERIES, TURN_OF .. turn_id) or turn_id
local state, attempt, owner = state_of(id)
if state == STATE_LEASED and owner == owner_asking then
  make_ready(id, attempt, reason)
  note(EVENT_ABANDONED, cjson.encode({id, reason}))
end
return outbox()
