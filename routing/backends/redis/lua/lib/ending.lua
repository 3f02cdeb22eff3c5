-- @include conversation, members
-- End the conversation, once. Whoever injected it is told by a release. False if it had ended.
local function finish(how, value)
  if is_final() then return false end
  status = how
  redis.call('HSET', CONVERSATION, FIELD_STATUS, status, FIELD_VALUE, value)
  note(EVENT_ENDED, status)
  if redis.call('HGET', CONVERSATION, FIELD_RELEASE) == RELEASE_PARKED then
    redis.call('HSET', CONVERSATION, FIELD_RELEASE, RELEASE_DUE)
    redis.call('ZADD', DUE, now_ms + tonumber(ARGV[2]), member(KIND_RELEASE, ''))
  end
  return true
end

-- One delivery less is in flight; with the last one the conversation completes.
local function landed()
  in_flight = in_flight - 1
  if in_flight <= 0 then finish(STATUS_COMPLETED, 'null') end
end
