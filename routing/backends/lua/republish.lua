-- A message that the broker had and nobody began: its row, to be published again if it was lost.
-- ARGV[3] member of KEYS[11], ARGV[4] ms since its publishing that have to be over
local sent = redis.call('ZSCORE', SENT, ARGV[3])
if not sent or tonumber(sent) > now - tonumber(ARGV[4]) then return {} end
local id = string.sub(ARGV[3], #member('d', '') + 1)
if not status or state_of(id) ~= 'sent' then  -- its keys expired, and no worker swept
  redis.call('ZREM', SENT, ARGV[3])
  return {}
end
local row = row_of(id)
local depth = status == 'killed' and #row.scope or moot(row)
if depth then
  local _, attempt = state_of(id)
  cancel(id, attempt, row, depth)
  touch()
  outbox()
  return {}
end
redis.call('ZADD', SENT, now, ARGV[3])
return {redis.call('HGET', D, 'r:' .. id)}
