-- End a run that is to be repeated. ARGV[3] delivery, [4] attempt, [5] ms until then, [6] why
local state, attempt = state_of(ARGV[3])
if state ~= 'leased' or attempt ~= tonumber(ARGV[4]) then return {0} end
set_state(ARGV[3], 'postponed', attempt, '', 'retry')
local again = now + tonumber(ARGV[5])
redis.call('ZADD', DUE, again, member('d', ARGV[3]))
if again > postponed then
  postponed = again
  redis.call('HSET', C, 'postponed', again)
end
note('retry', cjson.encode({ARGV[3], ARGV[6]}))
free_lane(row_of(ARGV[3]), 0)  -- the others need not wait for it
touch(true)
return {1, outbox()}
