-- @include branches
-- Give a delivery the next slot of its thread's context, and a line in the log.
local function remember(row)
  row.slot = redis.call('HINCRBY', DELIVERIES, SLOT_COUNT_OF .. row.thread, 1) - 1
  redis.call('HSET', DELIVERIES, SLOT_OF .. row.thread .. ':' .. row.slot, row.id)
  note(EVENT_MESSAGE, row.id)
end

-- Hold an index of a join back, or release it to a lane that waits for one.
local function hold(row)
  local branch = row.scope[#row.scope]
  redis.call('HSET', JOINS, HELD_OF .. branch[1] .. ':' .. branch[2], row.id)
  if tonumber(redis.call('HGET', JOINS, IDLE_LANES_OF .. branch[1]) or 0) > 0 then
    redis.call('HINCRBY', JOINS, IDLE_LANES_OF .. branch[1], -1)
    release_next(branch[1])
  end
end

-- Create a delivery; nothing, if it opens a branch of a join that has fired.
local function create_delivery(raw, envelope)
  local row = read_row(raw)
  if row.held and row.opens_branch
      and redis.call('HEXISTS', JOINS, FIRED_OF .. row.scope[#row.scope][1]) == 1 then
    return row
  end
  redis.call('HSET', DELIVERIES, ROW_OF .. row.id, raw, ENVELOPE_OF .. row.id, envelope)
  delivery_count = delivery_count + 1
  remember(row)
  if not row.held then
    launch(row.id, raw, row)
    return row
  end
  set_state(row.id, STATE_HELD)
  if row.opens_branch then hold(row) end
  return row
end
