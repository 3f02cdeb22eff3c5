-- Clear the outbox: the broker has these messages.
-- ARGV[3] ms after which a release that nobody handed over is late, ARGV[4...] deliveries; ''
-- stands for the conversation's release
local later = now + tonumber(ARGV[3])
for i = 4, #ARGV do
  local id = ARGV[i]
  if id == '' then
    if redis.call('HGET', C, 'release') == 'due' then
      redis.call('ZADD', DUE, 'XX', later, member('r', ''))
    end
  else
    local state, attempt, _, reason = state_of(id)
    if state == 'ready' then
      set_state(id, 'sent', attempt, '', reason)
      redis.call('ZREM', DUE, member('d', id))
      redis.call('ZADD', SENT, now, member('d', id))
    end
  end
end
return 1
