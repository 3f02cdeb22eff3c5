-- Give up a lease without a commit. ARGV[3] delivery, ARGV[4] owner, ARGV[5] reason
local state, attempt, owner = state_of(ARGV[3])
if state == 'leased' and owner == ARGV[4] then
  make_ready(ARGV[3], attempt, ARGV[5])
  note('abandoned', cjson.encode({ARGV[3], ARGV[5]}))
end
return publish
