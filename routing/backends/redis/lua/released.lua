-- @include conversation, members
-- Whoever injected the conversation has been told how it ended.
if not is_final() then return 0 end
release = RELEASE_DONE
redis.call('HSET', CONVERSATION, FIELD_RELEASE, release)
redis.call('HDEL', CONVERSATION, FIELD_TELLER)
redis.call('ZREM', DUE, member(KIND_RELEASE, ''))
touch()
return 1
