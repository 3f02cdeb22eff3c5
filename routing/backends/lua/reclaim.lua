-- Take one late thing in hand, if it still is.
-- ARGV[3] due member, ARGV[4] ms until it is late again, ARGV[5] what a silent branch answers
local late = redis.call('ZSCORE', DUE, ARGV[3])
if not late or tonumber(late) > now then return {{}} end
local again = now + tonumber(ARGV[4])
local kind = string.sub(ARGV[3], 1, 1)
local id = string.sub(ARGV[3], #member(kind, '') + 1)
if not status then  -- its retention is over
  redis.call('ZREM', DUE, ARGV[3])
  return {{}}
end

local function reclaim_delivery()
  local state, attempt, _, reason = state_of(id)
  if state ~= 'leased' and state ~= 'ready' and state ~= 'postponed' then
    redis.call('ZREM', DUE, ARGV[3])
    return
  end
  local row = row_of(id)
  local depth = status == 'killed' and #row.scope or moot(row)
  if depth then return cancel(id, attempt, row, depth) end
  if state == 'leased' then
    reason = 'lost'
    note('abandoned', cjson.encode({id, reason}))
  end
  make_ready(id, attempt, reason)
end

local function reclaim_timer()
  redis.call('ZREM', DUE, ARGV[3])
  if status == 'killed' then return end
  if kind == 'j' then
    local raw = redis.call('HGET', J, 'j:' .. id)
    if raw then fire(id, read_join(raw)) end
    return
  end
  local join, index = string.match(id, '^(.*):(%d+)$')
  if answer_branch(join, index, false, '', ARGV[5]) then
    redis.call('HSET', J, 'x:' .. id, 1)  -- what is still in flight in it need not run
    drop_waits(id)
  end
end

if kind == 'r' then
  local parked = redis.call('HMGET', C, 'release', 'canvas', 'entry')
  if parked[1] == 'done' then
    redis.call('ZREM', DUE, ARGV[3])
    return {{}}
  end
  redis.call('HSET', C, 'release', 'due')
  redis.call('ZADD', DUE, again, ARGV[3])
  return {{}, parked[2], redis.call('HGET', D, 'r:' .. parked[3])}
end
if kind == 'd' then reclaim_delivery() else reclaim_timer() end
touch()
return {outbox(kind == 'd' and again or nil)}
