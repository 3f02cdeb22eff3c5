-- @include ending, states
-- End the conversation now: nothing of it runs any more. False if it had ended.
local function kill(how, value)
  if not finish(how, value) then return false end
  -- Nothing is answered any more, so what waits for input is not in flight any more.
  for _, id in ipairs(redis.call('HKEYS', WAITS)) do
    set_state(id, STATE_CANCELLED)
    redis.call('HINCRBY', CONVERSATION, FIELD_WAITING, -1)
    landed()
  end
  redis.call('UNLINK', WAITS)
  touch()
  return true
end
