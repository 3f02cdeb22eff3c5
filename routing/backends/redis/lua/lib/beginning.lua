-- @include branches, leases
-- Hand the conversation's ending to whoever asks, if nobody has told it and nobody is at it.
local function grant_release(owner, lease_ms)
  local kept = redis.call('HMGET', CONVERSATION, FIELD_RELEASE, FIELD_TELLER, FIELD_HANDED)
  local release, is_own = kept[1], kept[2] == owner  -- a repetition: the answer was lost
  local until_ms = tonumber(redis.call('ZSCORE', DUE, member(KIND_RELEASE, '')) or 0)
  if release == RELEASE_DONE then return reply_skip({reason = SKIP_SETTLED}) end
  if release == RELEASE_HANDING and until_ms > now_ms and not is_own then
    return reply_skip({reason = SKIP_LEASED})
  end
  local handed = tonumber(kept[3] or 0)
  if release ~= RELEASE_HANDING or not is_own then handed = handed + 1 end
  redis.call('HSET', CONVERSATION, FIELD_RELEASE, RELEASE_HANDING, FIELD_TELLER, owner,
    FIELD_HANDED, handed)
  redis.call('ZADD', DUE, now_ms + lease_ms, member(KIND_RELEASE, ''))
  local ended = redis.call('HMGET', CONVERSATION, FIELD_STATUS, FIELD_VALUE)
  return reply_release({status = ended[1], value = ended[2], attempt = handed})
end

-- Why a delivery cannot be run now, as a reply. If it can: nil, and its thread's row and children.
local function refusal(id, row, state, attempt, is_own, owner, lease_ms)
  local is_over = state == STATE_SETTLED or state == STATE_CANCELLED
  if not is_over then
    if state == STATE_HELD or state == STATE_WAITING then return reply_skip({reason = state}) end
    if status == STATUS_KILLED then
      cancel(id, attempt, row, #row.scope)
      is_over = true
    end
  end
  if is_over and is_final() and entry_id == id then return grant_release(owner, lease_ms) end
  if is_over then
    return reply_skip({reason = status == STATUS_KILLED and SKIP_ENDED or SKIP_SETTLED})
  end
  local depth = moot(row)
  if depth then
    cancel(id, attempt, row, depth)
    return reply_skip({reason = SKIP_CANCELLED})
  end
  local thread = redis.call('HMGET', THREADS, THREAD_OF .. row.thread, CHILDREN_OF .. row.thread)
  if not thread[1] then  -- it was cleaned up
    note(EVENT_LATE, id)
    book_branch(row, 0, '')
    cancel(id, attempt, row, #row.scope)
    return reply_skip({reason = SKIP_CANCELLED})
  end
  if not is_own and (state == STATE_LEASED or state == STATE_POSTPONED) then
    local due_ms = tonumber(redis.call('ZSCORE', DUE, member(KIND_DELIVERY, id)) or 0)
    if due_ms > now_ms then return reply_skip({reason = state}) end
  end
  return nil, thread
end

local function begin(id, owner, lease_ms)
  local kept = status and redis.call('HMGET', DELIVERIES, ROW_OF .. id, STATE_OF .. id)
  local raw = kept and kept[1]
  if not raw then return reply_skip({reason = SKIP_UNKNOWN}) end
  local row = read_row(raw)
  local state, attempt, holder, reason = read_state(kept[2])
  local is_own = state == STATE_LEASED and holder == owner  -- a repetition: the answer was lost
  local in_flight_before = in_flight
  local refused, thread = refusal(id, row, state, attempt, is_own, owner, lease_ms)
  if refused then
    outbox()  -- of a lane that it made free; the sweep publishes it
    if in_flight ~= in_flight_before then touch() end
    return refused
  end
  if is_own then
    redis.call('ZADD', DUE, now_ms + lease_ms, member(KIND_DELIVERY, id))
    return told(id, raw, row, attempt, reason, thread)
  end
  if state == STATE_LEASED then
    reason = ABANDONED_LOST
    note(EVENT_ABANDONED, cjson.encode({id, reason}))
  end
  redis.call('ZREM', SENT, member(KIND_DELIVERY, id))
  return grant(id, raw, row, attempt, reason, owner, lease_ms, nil, thread)
end
