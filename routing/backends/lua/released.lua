-- Whoever injected the conversation has been told how it ended.
if not is_final() then return 0 end
redis.call('HSET', C, 'release', 'done')
redis.call('ZREM', DUE, member('r', ''))
return 1
