-- @include killing
-- End a conversation now. ARGV: 3 status, 4 value, 5 whether only one that has not begun
if not status then return reply_late({}) end
if ARGV[5] == '1' then
  local _, attempt = state_of(entry_id)
  if attempt > 0 then return reply_late({}) end
end
if not kill(ARGV[3], ARGV[4]) then return reply_late({}) end
return reply_resume({
  canvas = redis.call('HGET', CONVERSATION, FIELD_CANVAS),
  entry = redis.call('HGET', DELIVERIES, ROW_OF .. entry_id),
})
