-- Create a conversation, once, and begin its first delivery if asked to.
-- ARGV[3] header (JSON: from, entry, threads, children, ttl, begin, owner, lease), ARGV[4] canvas, ARGV[5] the first delivery's row, ARGV[6] its envelope
local h = cjson.decode(ARGV[3])
if redis.call('EXISTS', C) == 0 then
  local name = string.format('%015d:', now) .. conversation
  redis.call('HSET', C, 'entry', h.entry, 'from', h.from, 'member', name, 'status', 'running',
    'value', 'null', 'waiting', 0, 'ttl', h.ttl, 'created', now, 'canvas', ARGV[4],
    'release', 'parked')
  redis.call('ZADD', INDEX, 0, name)
  redis.call('ZREM', RETENTION, ':' .. conversation)
  for _, thread in ipairs(h.threads) do redis.call('HSET', T, 't:' .. thread[1], thread[2]) end
  for _, child in ipairs(h.children) do adopt(child[1], child[2], child[3]) end
  create_delivery(ARGV[5], ARGV[6])
  touch()
elseif not h.begin and state_of(h.entry) == 'ready' then
  publish[1] = redis.call('HGET', D, 'r:' .. h.entry)  -- an inject repeated before it was sent
end
if not h.begin then return {'ready', publish} end
return begin(h.entry, h.owner, h.lease)
