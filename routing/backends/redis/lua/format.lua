-- Answer the format that a registry is written in; a new one gets the caller's.
-- KEYS[1] the format, which never expires. ARGV: 1 the caller's format
redis.call('SET', KEYS[1], ARGV[1], 'NX')
return redis.call('GET', KEYS[1])
