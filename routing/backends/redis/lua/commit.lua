-- @include creating, dead_letters, leases, threads
-- Settle a delivery and create all that follows, or say why not.
-- ARGV: 3 header (JSON: delivery, attempt, created, and of these what there is: max_deliveries,
--   threads, children, joins, results, waits, refills, ending, silent, note, dead_letter, and turn),
--   then for each of its `created` deliveries the row and the envelope; a result's `next` is the
--   ARGV position of the row that it creates if it counts
local h = cjson.decode(ARGV[3])
local FIRST_ROW = 4
local NONE = {}
local state, attempt = state_of(h.delivery)
if not status or not state then return reply_fenced({}) end
local turn = h.turn or {id = h.delivery, owner = '', lease_ms = 0, within_s = 0, lanes = 0}
local turn_field = TURN_OF .. turn.id

-- The lease on what an earlier copy of this commit took, if its answer was lost.
local function taken_before()
  local id = h.turn and redis.call('HGET', DELIVERIES, turn_field)
  if not id or id == h.delivery then return false end
  local taken, tries, holder, reason = state_of(id)
  if taken ~= STATE_LEASED or holder ~= turn.owner then return false end
  local raw = redis.call('HGET', DELIVERIES, ROW_OF .. id)
  return told(id, raw, read_row(raw), tries, reason)
end

if state == STATE_SETTLED and attempt == h.attempt then  -- a repetition: the answer was lost
  local rows = {}
  for i = 0, h.created - 1 do
    local raw = ARGV[FIRST_ROW + 2 * i]
    if state_of(cjson.decode(raw).id) == STATE_READY then rows[#rows + 1] = raw end
  end
  return reply_adopted({rows = rows, begun = taken_before()})
end
if state == STATE_SETTLED or state == STATE_CANCELLED then return reply_adopted({rows = {}}) end
if state ~= STATE_LEASED or attempt ~= h.attempt then return reply_fenced({}) end

local row = row_of(h.delivery)
local had_ended = is_final()

local function settle()
  set_state(h.delivery, STATE_SETTLED, attempt)
  redis.call('ZREM', DUE, member(KIND_DELIVERY, h.delivery))
end

-- Whether the delivery before this one on its thread has not begun yet: it waits in a queue.
local function follows_a_queued_one(row)
  local before = row.slot > 0
    and redis.call('HGET', DELIVERIES, SLOT_OF .. row.thread .. ':' .. row.slot - 1)
  if not before then return false end
  local state = state_of(before)
  return not state or state == STATE_HELD or state == STATE_READY or state == STATE_SENT
end

-- Let the turn go on at once with the first delivery that it may, and publish the others. What this
-- commit created overtakes nothing: neither what it created before (a list of responses is taken in
-- its order) nor an earlier delivery of the same thread (replies arrive in the order of their calls).
local function take()
  if turn.within_s == 0 or (is_final() and not had_ended) then return false end
  local first_is_queued = false
  for i, ready in ipairs(publish) do
    local fields = ready.row or read_row(ready.raw)
    if fields.local_s > 0 and fields.local_s <= turn.within_s
        and not (ready.row and (first_is_queued or follows_a_queued_one(ready.row)))
        and not moot(fields) then
      local thread =
        redis.call('HMGET', THREADS, THREAD_OF .. fields.thread, CHILDREN_OF .. fields.thread)
      if not thread[1] then return false end  -- it was cleaned up; whoever begins it says so
      table.remove(publish, i)
      -- Whoever commits has the row and the envelope of what this commit created.
      return grant(ready.id, not ready.row and ready.raw, fields, ready.attempt, ready.reason,
        turn.owner, turn.lease_ms, turn_field, thread)
    end
    first_is_queued = first_is_queued or ready.row
  end
  return false
end

local function committed(new_key)
  free_lane(row, turn.lanes)
  landed()
  local begun = take()
  if turn.id ~= h.delivery and not begun then redis.call('HDEL', DELIVERIES, turn_field) end
  touch(new_key)
  local ending = false
  if not had_ended and is_final() then
    local ended = redis.call('HMGET', CONVERSATION, FIELD_VALUE, FIELD_CANVAS)
    ending = reply_ending({
      status = status, value = ended[1], canvas = ended[2],
      entry = redis.call('HGET', DELIVERIES, ROW_OF .. entry_id),
    })
  end
  return reply_committed({rows = outbox(), ending = ending, begun = begun})
end

local depth = status == STATUS_KILLED and #row.scope or moot(row)
if depth then
  settle()
  close_inside(row, depth)
  note(EVENT_LATE, h.delivery)
  return committed()
end

local clashes = {}
for _, child in ipairs(h.children or NONE) do
  local known = children_of(child[1])[child[2]]
  if known and known ~= child[3] then clashes[#clashes + 1] = {child[1], child[2], known} end
end
if #clashes > 0 then
  return reply_replan({deliveries = delivery_count, children = cjson.encode(clashes)})
end
for _, join in ipairs(h.joins or NONE) do
  if join.label ~= '' and redis.call('HEXISTS', JOINS, LABEL_OF .. join.label) == 1 then
    return reply_replan({deliveries = delivery_count, label_taken = 1})
  end
end
if h.max_deliveries and delivery_count + h.created > h.max_deliveries then
  return reply_replan({deliveries = delivery_count, over_limit = 1})
end

settle()
for _, thread in ipairs(h.threads or NONE) do
  redis.call('HSET', THREADS, THREAD_OF .. thread[1], thread[2])
end
for _, child in ipairs(h.children or NONE) do adopt(child[1], child[2], child[3]) end
for _, join in ipairs(h.joins or NONE) do
  local spec = read_join(join.row)
  redis.call('HSET', JOINS, JOIN_OF .. join.id, join.row)
  if join.label ~= '' then redis.call('HSET', JOINS, LABEL_OF .. join.label, join.id) end
  if join.released < spec.total then
    redis.call('HSET', JOINS, NEXT_INDEX_OF .. join.id, join.released)
    if spec.window == 0 then redis.call('HSET', JOINS, LANES_OF .. join.id, join.released) end
    if spec.window > join.released then
      redis.call('HSET', JOINS, IDLE_LANES_OF .. join.id, spec.window - join.released)
    end
  end
  if spec.deadline_ms > 0 then
    redis.call('ZADD', DUE, now_ms + spec.deadline_ms, member(KIND_JOIN, join.id))
  end
  if spec.deadline_ms > 0 or spec.item_timeout_ms > 0 then
    redis.call('HSET', CONVERSATION, FIELD_TIMED, 1)
  end
end

local in_branch = 0  -- how many of the new deliveries live in this delivery's own branch
local later = {}     -- positions of rows that only exist if their branch's answer counts
for _, result in ipairs(h.results or NONE) do
  if result.next > 0 then later[result.next] = true end
end
for i = 0, h.created - 1 do
  local at = FIRST_ROW + 2 * i
  if not later[at] then
    local created = create_delivery(ARGV[at], ARGV[at + 1])
    if not created.opens_branch then in_branch = in_branch + 1 end
  end
end
for _, refill in ipairs(h.refills or NONE) do
  local kept = redis.call('HMGET', JOINS, NEXT_INDEX_OF .. refill.join_id, FIRED_OF .. refill.join_id)
  local next_index, is_fired = kept[1], kept[2]
  if is_fired then
    set_state(refill.delivery_id, STATE_CANCELLED)
    in_branch = in_branch - 1
  elseif tonumber(next_index) > refill.at then
    launch_refill(refill.delivery_id)
  else
    redis.call('HSET', JOINS, REFILL_AT_OF .. refill.join_id, refill.at,
      REFILL_OF .. refill.join_id, refill.delivery_id)
  end
end
for _, wait in ipairs(h.waits or NONE) do
  redis.call('HSET', DELIVERIES, ROW_OF .. wait[1], wait[2])
  redis.call('HSET', WAITS, wait[1], wait[2])
  set_state(wait[1], STATE_WAITING)
  in_flight = in_flight + 1
  redis.call('HINCRBY', CONVERSATION, FIELD_WAITING, 1)
  for _, branch in ipairs(row.scope) do
    local name = branch[1] .. ':' .. branch[2]
    local inside = cjson.decode(redis.call('HGET', JOINS, BRANCH_WAITS_OF .. name) or '[]')
    inside[#inside + 1] = wait[1]
    redis.call('HSET', JOINS, HAS_WAITED_OF .. branch[1], 1,
      BRANCH_WAITS_OF .. name, cjson.encode(inside))
  end
  in_branch = in_branch + 1
  note(EVENT_WAITING, wait[2])
end
for _, result in ipairs(h.results or NONE) do
  if answer_branch(result.join, result.index, result.success, result.path, result.payload) then
    if result.next > 0 and not redis.call('HGET', JOINS, FIRED_OF .. result.join) then
      redis.call('HSET', THREADS, THREAD_OF .. result.thread[1], result.thread[2])
      create_delivery(ARGV[result.next], ARGV[result.next + 1])
    end
  else
    note(EVENT_LATE, h.delivery)
  end
end
book_branch(row, in_branch, h.silent)
if h.dead_letter then bury(h.delivery, h.note or '') end
if h.note then note(EVENT_NOTE, cjson.encode({h.delivery, h.note})) end
if h.ending and not finish(h.ending[1], h.ending[2]) then note(EVENT_LATE, h.delivery) end
return committed(h.joins or h.waits)
