-- @include beginning, creating, threads
-- Create a conversation, once, and do as told with its first delivery: `keep` it in the outbox, take
-- it for sent (`send`), or `begin` it.
-- ARGV: 3 header (JSON: from, entry, threads, children, ttl_ms,
--   max_age_ms, mode, owner, lease_ms), 4 canvas, 5 the first delivery's row, 6 its envelope
local h = cjson.decode(ARGV[3])
local canvas, raw, envelope = ARGV[4], ARGV[5], ARGV[6]
if status then
  if h.mode == 'begin' then return begin(h.entry, h.owner, h.lease_ms) end
  -- Repeated before its first message was sent, it answers that message once more.
  local is_unsent = h.mode == 'keep' and state_of(h.entry) == STATE_READY
  return reply_ready({rows = is_unsent and {redis.call('HGET', DELIVERIES, ROW_OF .. h.entry)} or {}})
end

name_in_lists = string.format('%015d:', now_ms) .. conversation_id
status, ttl_ms, entry_id = STATUS_RUNNING, h.ttl_ms, h.entry
redis.call('HSET', CONVERSATION, FIELD_ENTRY, h.entry, FIELD_FROM, h.from,
  FIELD_MEMBER, name_in_lists, FIELD_STATUS, status, FIELD_VALUE, 'null', FIELD_WAITING, 0,
  FIELD_TTL, h.ttl_ms, FIELD_CREATED, now_ms, FIELD_CANVAS, canvas, FIELD_RELEASE, RELEASE_PARKED)
redis.call('ZADD', CREATED, 0, name_in_lists)
redis.call('ZADD', RETENTION, now_ms + h.max_age_ms, name_in_lists)
if redis.call('ZREM', RETENTION, ':' .. conversation_id) == 1 then redis.call('PERSIST', THREADS) end
for _, thread in ipairs(h.threads) do
  redis.call('HSET', THREADS, THREAD_OF .. thread[1], thread[2])
end
for _, child in ipairs(h.children) do adopt(child[1], child[2], child[3]) end
create_delivery(raw, envelope)
touch(true)
if h.mode == 'keep' then return reply_ready({rows = outbox()}) end
if h.mode == 'begin' then  -- the caller has the row and the envelope
  return grant(h.entry, false, publish[1].row, 0, '', h.owner, h.lease_ms)
end
set_state(h.entry, STATE_SENT)
redis.call('ZADD', SENT, now_ms, member(KIND_DELIVERY, h.entry))
return reply_ready({rows = {raw}})
