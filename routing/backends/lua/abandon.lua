-- Give up a run's lease without a commit. ARGV[3] the delivery that the run began with, ARGV[4]
-- owner, ARGV[5] reason
local id = redis.call('HGET', D, 'l:' .. ARGV[3]) or ARGV[3]
local state, attempt, owner = state_of(id)
if state == 'leased' and owner == ARGV[4] then
  make_ready(id, attempt, ARGV[5])
  note('abandoned', cjson.encode({id, ARGV[5]}))
end
return outbox()
