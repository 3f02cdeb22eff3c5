-- @include killing
-- End a conversation now. ARGV: 3 status, 4 value
if not status or not kill(ARGV[3], ARGV[4]) then return reply_late({}) end
return reply_resume({
  canvas = redis.call('HGET', CONVERSATION, FIELD_CANVAS),
  entry = redis.call('HGET', DELIVERIES, ROW_OF .. entry_id),
})
