-- Create a conversation, once, and begin its first delivery if asked to.
-- ARGV[3] header (JSON: from, entry, threads, children, ttl, begin, owner, lease), ARGV[4] canvas,
-- ARGV[5] the first delivery's row, ARGV[6] its envelope
local h = cjson.decode(ARGV[3])
local is_new = not status
if is_new then
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
elseif not h.begin and state_of(h.entry) == 'ready' then  -- repeated before it was sent
  return {'ready', {redis.call('HGET', D, 'r:' .. h.entry)}}
end
if not h.begin then return {'ready', outbox()} end
if not is_new then return begin(h.entry, h.owner, h.lease) end
return grant(h.entry, ARGV[5], publish[1].row, 0, '', h.owner, h.lease)
