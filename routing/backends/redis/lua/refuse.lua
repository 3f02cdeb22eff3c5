-- Keep a message that was put aside; once, however often it is said.
-- KEYS[1] the list of them, newest first. ARGV: 1 its row, 2 how long they are kept, ms
if redis.call('LPOS', KEYS[1], ARGV[1]) then return 0 end
redis.call('LPUSH', KEYS[1], ARGV[1])
redis.call('LTRIM', KEYS[1], 0, MOST_REFUSED - 1)
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return 1
