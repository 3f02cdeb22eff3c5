-- @include members
-- A message that the broker had given out waits in it again. ARGV: 3 delivery
return redis.call('ZADD', SENT, 'XX', now_ms, member(KIND_DELIVERY, ARGV[3]))
