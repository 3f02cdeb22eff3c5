-- Create conversations of one shard whose first messages are about to be sent, as open.lua does for
-- each of them in mode `send`, with half of its commands. Answers the positions, from 0, of those
-- that were left: they, or threads of theirs, are known already.
-- KEYS[1] index, KEYS[2] retention, KEYS[3] sent; then of each conversation what KEYS 1, 2, 3 and 5
-- are in prelude.lua: conversation, deliveries, threads, log
-- ARGV[1] ttl ms; then of each conversation its id, who it is from, its canvas, the first delivery's
-- row and envelope, the root thread's id and row, the root as a child (JSON: name -> id), the first
-- delivery's thread, its row, and it as a child. A first delivery's id is its conversation's.
-- Numbers are passed as texts: to write one for a command takes as long as to look a key up.
local OWN_KEYS, FIELDS, MARGIN = 4, 11, 600000
local ttl = ARGV[1]
local clock = redis.call('TIME')
local now = string.format('%d%03d', clock[1], math.floor(clock[2] / 1000))
local expiry = string.format('%d', ttl + MARGIN)
local over = string.format('%d', now + ttl)
local prefix, logged = string.format('%015d:', now), now .. '|message|'
local known, index, retention, sent = {}, {}, {}, {}

local function open(at, keys)
  local id, from, canvas, row, envelope, root, root_row, roots, thread, thread_row, children =
    unpack(ARGV, at, at + FIELDS - 1)
  local C, D, T, L = unpack(KEYS, keys, keys + OWN_KEYS - 1)
  if redis.call('EXISTS', C, T) > 0 then return false end
  local name = prefix .. id
  redis.call('HSET', C, 'entry', id, 'from', from, 'member', name, 'status', 'running',
    'value', 'null', 'waiting', '0', 'ttl', ttl, 'created', now, 'canvas', canvas,
    'release', 'parked', 'updated', now, 'touched', now, 'in_flight', '1', 'count', '1')
  redis.call('HSET', D, 'r:' .. id, row, 'e:' .. id, envelope, 's:' .. id, 'sent|0||',
    'n:' .. thread, '1', 'm:' .. thread .. ':0', id)
  redis.call('HSET', T, 't:' .. root, root_row, 't:' .. thread, thread_row,
    'k:', roots, 'k:' .. root, children)
  redis.call('RPUSH', L, logged .. id)
  for key = keys, keys + OWN_KEYS - 1 do redis.call('PEXPIRE', KEYS[key], expiry) end
  local n = #index + 1
  index[n], index[n + 1] = '0', name
  retention[n], retention[n + 1] = over, name
  sent[n], sent[n + 1] = now, 'd|' .. #id .. '|' .. id .. '|' .. id
  return true
end

for n = 0, (#ARGV - 1) / FIELDS - 1 do
  if not open(2 + n * FIELDS, 4 + n * OWN_KEYS) then known[#known + 1] = n end
end
if #index > 0 then
  redis.call('ZADD', KEYS[1], unpack(index))
  redis.call('ZADD', KEYS[2], unpack(retention))
  redis.call('ZADD', KEYS[3], unpack(sent))
end
return known
