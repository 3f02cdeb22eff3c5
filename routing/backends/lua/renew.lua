-- Extend leases. ARGV[3] owner, ARGV[4] lease ms, ARGV[5...] the deliveries that its runs began with
local renewed = 0
for i = 5, #ARGV do
  local id = redis.call('HGET', D, 'l:' .. ARGV[i]) or ARGV[i]
  local state, _, owner = state_of(id)
  if state == 'leased' and owner == ARGV[3] then
    redis.call('ZADD', DUE, 'XX', now + tonumber(ARGV[4]), member('d', id))
    renewed = renewed + 1
  end
end
if renewed > 0 then touch() end  -- a run may take longer than the ttl
return renewed
