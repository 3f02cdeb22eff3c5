-- @include branches
-- Answer the row of a message that the broker had and nobody began, to be published again if it was
-- lost. ARGV: 3 its name in SENT, 4 the ms since its publishing that have to be over
local name, older_than_ms = ARGV[3], tonumber(ARGV[4])
local sent_ms = redis.call('ZSCORE', SENT, name)
if not sent_ms or tonumber(sent_ms) > now_ms - older_than_ms then return {} end
local id = string.sub(name, #member(KIND_DELIVERY, '') + 1)
if not status or state_of(id) ~= STATE_SENT then  -- its keys expired, and no worker swept
  redis.call('ZREM', SENT, name)
  return {}
end
local row = row_of(id)
local depth = status == STATUS_KILLED and #row.scope or moot(row)
if depth then
  local _, attempt = state_of(id)
  cancel(id, attempt, row, depth)
  touch()
  outbox()
  return {}
end
redis.call('ZADD', SENT, now_ms, name)
return {redis.call('HGET', DELIVERIES, ROW_OF .. id)}
