-- @include outbox
-- Give up the lease of a turn without a commit; answers the rows of the messages to publish.
-- ARGV: 3 the delivery that the turn began with, 4 owner, 5 reason
local turn_id, owner_asking, reason = ARGV[3], ARGV[4], ARGV[5]
if not status then return {} end
local id = redis.call('HGET', DELIVERIES, TURN_OF .. turn_id) or turn_id
local state, attempt, owner, kept_reason = state_of(id)
if not state or not is_part_of(owner, owner_asking) then return {} end
if state == STATE_READY and kept_reason == reason then  -- a repetition: the answer was lost
  return {redis.call('HGET', DELIVERIES, ROW_OF .. id)}
end
if state ~= STATE_LEASED then return {} end
make_ready(id, attempt, reason)
note(EVENT_ABANDONED, cjson.encode({id, reason}))
local rows = outbox()
set_state(id, STATE_READY, attempt, owner, reason)  -- whose it was, by which a repetition is known
return rows
