-- Create conversations of one shard whose first messages are about to be sent, as open.lua does for
-- each of them in mode `send`, with half of its commands. Answers the positions, from 0, of those
-- that were left: they, or threads of theirs, are known already.
-- KEYS: 1 created, 2 retention, 3 sent; then of each conversation its own row, deliveries, threads
--   and log
-- ARGV: 1 ttl ms, 2 the ms after which it has grown too old; then of each conversation its id, who it is from, its canvas, the first delivery's
--   row and envelope, the root thread's id and row, the root as a child (JSON: name -> id), the first
--   delivery's thread, its row, and it as a child. A first delivery's id is its conversation's.
-- Numbers are passed as texts: to write one for a command takes as long as to look a key up.
local FIRST_KEY, KEYS_EACH, FIRST_FIELD, FIELDS_EACH = 4, 4, 3, 11
local ttl_ms = ARGV[1]
local clock = redis.call('TIME')
local now_ms = string.format('%d%03d', clock[1], math.floor(clock[2] / 1000))
local over_ms = string.format('%d', now_ms + ARGV[2])
local prefix, logged = string.format('%015d:', now_ms), now_ms .. '|' .. EVENT_MESSAGE .. '|'
local known, index, retention, sent = {}, {}, {}, {}

local function open(at, first_key)
  local id, from, canvas, row, envelope, root, root_row, roots, thread, thread_row, children =
    unpack(ARGV, at, at + FIELDS_EACH - 1)
  local conversation, deliveries, threads, log = unpack(KEYS, first_key, first_key + KEYS_EACH - 1)
  if redis.call('EXISTS', conversation, threads) > 0 then return false end
  local name = prefix .. id
  redis.call('HSET', conversation, FIELD_ENTRY, id, FIELD_FROM, from, FIELD_MEMBER, name,
    FIELD_STATUS, STATUS_RUNNING, FIELD_VALUE, 'null', FIELD_WAITING, '0', FIELD_TTL, ttl_ms,
    FIELD_CREATED, now_ms, FIELD_CANVAS, canvas, FIELD_RELEASE, RELEASE_PARKED,
    FIELD_UPDATED, now_ms, FIELD_IN_FLIGHT, '1', FIELD_COUNT, '1')
  redis.call('HSET', deliveries, ROW_OF .. id, row, ENVELOPE_OF .. id, envelope,
    STATE_OF .. id, STATE_SENT .. '|0||', SLOT_COUNT_OF .. thread, '1', SLOT_OF .. thread .. ':0', id)
  redis.call('HSET', threads, THREAD_OF .. root, root_row, THREAD_OF .. thread, thread_row,
    CHILDREN_OF, roots, CHILDREN_OF .. root, children)
  redis.call('RPUSH', log, logged .. id)
  local n = #index + 1
  index[n], index[n + 1] = '0', name
  retention[n], retention[n + 1] = over_ms, name
  sent[n], sent[n + 1] = now_ms, KIND_DELIVERY .. '|' .. #id .. '|' .. id .. '|' .. id
  return true
end

for n = 0, (#ARGV - FIRST_FIELD + 1) / FIELDS_EACH - 1 do
  if not open(FIRST_FIELD + n * FIELDS_EACH, FIRST_KEY + n * KEYS_EACH) then known[#known + 1] = n end
end
if #index > 0 then
  redis.call('ZADD', KEYS[1], unpack(index))
  redis.call('ZADD', KEYS[2], unpack(retention))
  redis.call('ZADD', KEYS[3], unpack(sent))
end
return known
