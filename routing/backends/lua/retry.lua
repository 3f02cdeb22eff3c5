-- End a run that is to be repeated. ARGV[3] delivery, [4] attempt, [5] ms until then, [6] why
local state, attempt = state_of(ARGV[3])
if state ~= 'leased' or attempt ~= tonumber(ARGV[4]) then return 0 end
set_state(ARGV[3], 'ready', attempt, '', 'retry')
redis.call('ZADD', DUE, now + tonumber(ARGV[5]), member('d', ARGV[3]))
note('retry', cjson.encode({ARGV[3], ARGV[6]}))
touch()
return 1
