-- A message that the broker had given out waits in it again. ARGV[3] delivery
return redis.call('ZADD', SENT, 'XX', now, member('d', ARGV[3]))
