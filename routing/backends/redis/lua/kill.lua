-- @include ending, states
-- End a conversation now. ARGV: 3 status, 4 value, 5 whether only one that has not begun
if not status then return reply_late({}) end
if ARGV[5] == '1' then
  local _, attempt = state_of(entry_id)
  if attempt > 0 then return reply_late({}) end
end
if not finish(ARGV[3], ARGV[4]) then return reply_late({}) end
-- Nothing is answered any more, so what waits for input is not in flight any more.
for _, id in ipairs(redis.call('HKEYS', WAITS)) do
  set_state(id, STATE_CANCELLED)
  redis.call('HINCRBY', CONVERSATION, FIELD_WAITING, -1)
  landed()
end
redis.call('UNLINK', WAITS)
touch()
return reply_resume({
  canvas = redis.call('HGET', CONVERSATION, FIELD_CANVAS),
  entry = redis.call('HGET', DELIVERIES, ROW_OF .. entry_id),
})
