-- @include creating
-- Turn a wait into the delivery of its input.
-- ARGV: 3 the wait's id, 4 the delivery's row, 5 its envelope
local wait_id, raw, envelope = ARGV[3], ARGV[4], ARGV[5]
if not status then return reply_unknown({}) end
if state_of(wait_id) ~= STATE_WAITING or status == STATUS_KILLED then return reply_late({}) end
redis.call('HSET', DELIVERIES, ROW_OF .. wait_id, raw, ENVELOPE_OF .. wait_id, envelope)
redis.call('HINCRBY', CONVERSATION, FIELD_WAITING, -1)
redis.call('HDEL', WAITS, wait_id)
delivery_count = delivery_count + 1
stored_bytes = stored_bytes + #envelope
local row = read_row(raw)
remember(row)
make_ready(wait_id, 0, '', raw, row)
touch()
return reply_ready({rows = outbox()})
