-- @include conversation, members
-- Whoever injected the conversation has been told how it ended.
if not is_final() then return 0 end
redis.call('HSET', CONVERSATION, FIELD_RELEASE, RELEASE_DONE)
redis.call('HDEL', CONVERSATION, FIELD_TELLER)
redis.call('ZREM', DUE, member(KIND_RELEASE, ''))
return 1
