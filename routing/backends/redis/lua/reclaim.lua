-- @include branches
-- Take one late thing in hand, if it still is late.
-- ARGV: 3 its name in DUE, 4 the ms until it is late again, in case whoever takes it in hand dies
--   before publishing it, 5 what a silent branch answers
local name, again_ms, silent = ARGV[3], now_ms + tonumber(ARGV[4]), ARGV[5]
local late_ms = redis.call('ZSCORE', DUE, name)
if not late_ms or tonumber(late_ms) > now_ms then return reply_ready({rows = {}}) end
local kind = string.sub(name, 1, 1)
local id = string.sub(name, #member(kind, '') + 1)
if not status then  -- its retention is over
  redis.call('ZREM', DUE, name)
  return reply_ready({rows = {}})
end

local function reclaim_delivery()
  local state, attempt, _, reason = state_of(id)
  if state ~= STATE_LEASED and state ~= STATE_READY and state ~= STATE_POSTPONED then
    redis.call('ZREM', DUE, name)
    return
  end
  local row = row_of(id)
  local depth = status == STATUS_KILLED and #row.scope or moot(row)
  if depth then return cancel(id, attempt, row, depth) end
  if state == STATE_LEASED then
    reason = ABANDONED_LOST
    note(EVENT_ABANDONED, cjson.encode({id, reason}))
  end
  make_ready(id, attempt, reason)
end

local function reclaim_timer()
  redis.call('ZREM', DUE, name)
  if status == STATUS_KILLED then return end
  if kind == KIND_JOIN then
    local raw = redis.call('HGET', JOINS, JOIN_OF .. id)
    if raw then fire(id, read_join(raw)) end
    return
  end
  local join, index = string.match(id, '^(.*):(%d+)$')
  if answer_branch(join, index, false, '', silent) then
    redis.call('HSET', JOINS, TIMED_OUT_OF .. id, 1)  -- what is still in flight in it need not run
    drop_waits(id)
  end
end

if kind == KIND_RELEASE then
  local parked = redis.call('HMGET', CONVERSATION, FIELD_RELEASE, FIELD_CANVAS)
  if parked[1] == RELEASE_DONE then
    redis.call('ZREM', DUE, name)
    return reply_ready({rows = {}})
  end
  redis.call('HSET', CONVERSATION, FIELD_RELEASE, RELEASE_DUE)
  redis.call('ZADD', DUE, again_ms, name)
  return reply_resume({
    canvas = parked[2], entry = redis.call('HGET', DELIVERIES, ROW_OF .. entry_id),
  })
end
if kind == KIND_DELIVERY then reclaim_delivery() else reclaim_timer() end
touch()
return reply_ready({rows = outbox(kind == KIND_DELIVERY and again_ms or nil)})
