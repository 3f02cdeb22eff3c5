-- Where a delivery stands: `<state>|<attempt>|<reason>|<owner>` in one field.
-- Returns state, attempt, owner of the lease, and why the last attempt was abandoned; or nil.
local function read_state(text)
  if not text then return nil end
  local state, attempt, reason, owner = string.match(text, '^(%a+)|(%d+)|([^|]*)|(.*)$')
  return state, tonumber(attempt), owner, reason
end

-- Whether a lease's owner is who asks, or part of it: a worker is `w`, its processes are `w/1`, `w/2`,
-- and the turns of these `w/1/a`, `w/1/b`.
local function is_part_of(owner, asking)
  return owner == asking or string.sub(owner, 1, #asking + 1) == asking .. '/'
end

local function state_of(id) return read_state(redis.call('HGET', DELIVERIES, STATE_OF .. id)) end

local function set_state(id, state, attempt, owner, reason)
  redis.call('HSET', DELIVERIES, STATE_OF .. id,
    state .. '|' .. (attempt or 0) .. '|' .. (reason or '') .. '|' .. (owner or ''))
end
