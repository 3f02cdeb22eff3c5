-- Where a delivery stands: `<state>|<attempt>|<reason>|<owner>` in one field.
-- Returns state, attempt, owner of the lease, and why the last attempt was abandoned; or nil.
local function read_state(text)
  if not text then return nil end
  local state, attempt, reason, owner = string.match(text, '^(%a+)|(%d+)|([^|]*)|(.*)$')
  return state, tonumber(attempt), owner, reason
end

local function state_of(id) return read_state(redis.call('HGET', DELIVERIES, STATE_OF .. id)) end

local function set_state(id, state, attempt, owner, reason)
  redis.call('HSET', DELIVERIES, STATE_OF .. id,
    state .. '|' .. (attempt or 0) .. '|' .. (reason or '') .. '|' .. (owner or ''))
end
