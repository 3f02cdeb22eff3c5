-- @include conversation, members, states
-- Extend leases. ARGV: 3 owner, 4 lease ms, from 5 on the deliveries that the owner's turns began with
local owner_asking, lease_ms, FIRST = ARGV[3], tonumber(ARGV[4]), 5
local renewed = 0
if not status then return renewed end  -- nothing of it may come back to life
for i = FIRST, #ARGV do
  local id = redis.call('HGET', DELIVERIES, TURN_OF .. ARGV[i]) or ARGV[i]
  local state, _, owner = state_of(id)
  if state == STATE_LEASED and is_part_of(owner, owner_asking) then
    redis.call('ZADD', DUE, 'XX', now_ms + lease_ms, member(KIND_DELIVERY, id))
    renewed = renewed + 1
  end
end
if renewed > 0 then touch() end  -- a turn may take longer than the ttl
return renewed
