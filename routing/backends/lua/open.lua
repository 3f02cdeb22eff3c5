-- Create a conversation, once, and do as told with its first delivery: `keep` it in the outbox, take
-- it for sent (`send`), or `begin` it.
-- ARGV[3] header (JSON: from, entry, threads, children, ttl, mode, owner, lease), ARGV[4] canvas,
-- ARGV[5] the first delivery's row, ARGV[6] its envelope
local h = cjson.decode(ARGV[3])
if status then
  if h.mode == 'begin' then return begin(h.entry, h.owner, h.lease) end
  local unsent = h.mode == 'keep' and state_of(h.entry) == 'ready'  -- repeated before it was sent
  return {'ready', unsent and {redis.call('HGET', D, 'r:' .. h.entry)} or {}}
end

name_in_lists = string.format('%015d:', now) .. conversation
status, ttl, entry = 'running', h.ttl, h.entry
redis.call('HSET', C, 'entry', h.entry, 'from', h.from, 'member', name_in_lists,
  'status', status, 'value', 'null', 'waiting', 0, 'ttl', h.ttl, 'created', now,
  'canvas', ARGV[4], 'release', 'parked')
redis.call('ZADD', INDEX, 0, name_in_lists)
redis.call('ZREM', RETENTION, ':' .. conversation)
for _, thread in ipairs(h.threads) do redis.call('HSET', T, 't:' .. thread[1], thread[2]) end
for _, child in ipairs(h.children) do adopt(child[1], child[2], child[3]) end
create_delivery(ARGV[5], ARGV[6])
touch(true)
if h.mode == 'keep' then return {'ready', outbox()} end
if h.mode == 'begin' then
  return grant(h.entry, ARGV[5], publish[1].row, 0, '', h.owner, h.lease)
end
set_state(h.entry, 'sent')
redis.call('ZADD', SENT, now, member('d', h.entry))
return {'ready', {1}}
