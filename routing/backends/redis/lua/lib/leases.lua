-- @include conversation, members, rows
-- What the holder of a lease on a delivery has to know, as a `begun` reply. Without the raw row, for
-- a holder who has row and envelope. `thread`: its row and children, where they were read before.
local function told(id, raw, row, attempt, reason, thread)
  thread = thread
    or redis.call('HMGET', THREADS, THREAD_OF .. row.thread, CHILDREN_OF .. row.thread)
  local join = ''
  if #row.scope > 0 then
    local branch = cjson.decode(thread[1]).branch
    join = branch and redis.call('HGET', JOINS, JOIN_OF .. branch[1]) or ''
  end
  local kept = raw and redis.call('HMGET', DELIVERIES, ENVELOPE_OF .. id, REPLAYED_AFTER_OF .. id) or {}
  return reply_begun({
    delivery_id = id, attempt = attempt, tries = attempt - tonumber(kept[2] or 0), reason = reason,
    row = raw, envelope = kept[1], thread = thread[1], children = thread[2] or '{}', join = join,
    deliveries = delivery_count,
  })
end

-- Give a delivery to `owner` for `lease_ms`, and perhaps say which turn has come to it. `turn` is
-- the field that says so.
local function grant(id, raw, row, attempt, reason, owner, lease_ms, turn, thread)
  local state = STATE_LEASED .. '|' .. attempt + 1 .. '|' .. reason .. '|' .. owner
  if turn then
    redis.call('HSET', DELIVERIES, STATE_OF .. id, state, turn, id)
  else
    redis.call('HSET', DELIVERIES, STATE_OF .. id, state)
  end
  redis.call('ZADD', DUE, now_ms + lease_ms, member(KIND_DELIVERY, id))
  if row.answer_within_ms > 0 then
    local branch = row.scope[#row.scope]
    redis.call('ZADD', DUE, 'NX', now_ms + row.answer_within_ms,
      member(KIND_BRANCH, branch[1] .. ':' .. branch[2]))
  end
  return told(id, raw, row, attempt + 1, reason, thread)
end
