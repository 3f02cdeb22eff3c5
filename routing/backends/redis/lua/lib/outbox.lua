-- @include conversation, members, rows, states
-- What this script has made ready: {id, attempt, reason, raw row, and row where it is new}.
-- ARGV[2] is the ms after which an unpublished message is late.
local publish_grace_ms = tonumber(ARGV[2])
local publish = {}

-- Have `outbox` put a delivery there, or `take` hand it to whoever runs this script.
local function make_ready(id, attempt, reason, raw, row)
  publish[#publish + 1] = {id = id, attempt = attempt, reason = reason, row = row,
    raw = raw or redis.call('HGET', DELIVERIES, ROW_OF .. id)}
end

-- Make a delivery ready that was not in flight until now.
local function launch(id, raw, row)
  in_flight = in_flight + 1
  make_ready(id, 0, '', raw, row)
end

-- Put what is ready into the outbox, late at `late_ms` if nobody has published it by then. Returns
-- the rows of the messages to publish.
local function outbox(late_ms)
  local rows = {}
  for i, ready in ipairs(publish) do
    set_state(ready.id, STATE_READY, ready.attempt, '', ready.reason)
    redis.call('ZADD', DUE, late_ms or now_ms + publish_grace_ms, member(KIND_DELIVERY, ready.id))
    rows[i] = ready.raw
  end
  return rows
end
