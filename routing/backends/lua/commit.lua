-- Settle a delivery and create all that follows, or say why not.
-- ARGV[3] header (JSON: delivery, attempt, created, and of these what there is: max_deliveries,
--   threads, children, joins, results, waits, refills, ending, silent, note, dead_letter, and run:
--   {id, owner, lease ms, within_s, lanes}), then for each of its `created` deliveries the row and
--   the envelope; a result's `next` is the ARGV position of the row it creates if it counts
local h = cjson.decode(ARGV[3])
local NONE = {}
local state, attempt = state_of(h.delivery)
if not status or not state then return {'fenced'} end
local run_id, owner, lease, within_s, lanes = unpack(h.run or {h.delivery, '', 0, 0, 0})
local run = 'l:' .. run_id

-- The lease on what an earlier copy of this commit took, if its answer was lost.
local function taken_before()
  local id = h.run and redis.call('HGET', D, run)
  if not id or id == h.delivery then return false end
  local taken, tries, holder, reason = state_of(id)
  if taken ~= 'leased' or holder ~= owner then return false end
  local raw = redis.call('HGET', D, 'r:' .. id)
  return told(id, raw, read_row(raw), tries, reason)
end

if state == 'settled' and attempt == h.attempt then  -- its answer was lost; this is the repetition
  local rows = {}
  for i = 1, h.created do
    local row = ARGV[2 + 2 * i]
    if state_of(cjson.decode(row).id) == 'ready' then rows[#rows + 1] = row end
  end
  return {'adopted', rows, false, taken_before()}
end
if state == 'settled' or state == 'cancelled' then return {'adopted', {}, false, false} end
if state ~= 'leased' or attempt ~= h.attempt then return {'fenced'} end

local row = row_of(h.delivery)
local ended_before = is_final()

local function settle()
  set_state(h.delivery, 'settled', attempt)
  redis.call('ZREM', DUE, member('d', h.delivery))
end

-- Whether the delivery before this one on its thread has not begun yet: it waits in a queue.
local function follows_a_queued_one(row)
  local before = row.slot > 0 and redis.call('HGET', D, 'm:' .. row.thread .. ':' .. row.slot - 1)
  if not before then return false end
  local state = state_of(before)
  return not state or state == 'held' or state == 'ready' or state == 'sent'
end

-- Let the run go on at once with the first delivery that it may, and publish the others. What this
-- commit created overtakes nothing: neither what it created before (a list of responses is taken in
-- its order) nor an earlier delivery of the same thread (replies arrive in the order of their calls).
local function take()
  if within_s == 0 or (is_final() and not ended_before) then return false end
  local first_is_queued = false
  for i, ready in ipairs(publish) do
    local fields = ready.row or read_row(ready.raw)
    if fields.local_s > 0 and fields.local_s <= within_s
        and not (ready.row and (first_is_queued or follows_a_queued_one(ready.row)))
        and not moot(fields) then
      local thread = redis.call('HMGET', T, 't:' .. fields.thread, 'k:' .. fields.thread)
      if not thread[1] then return false end  -- it was cleaned up; whoever begins it says so
      table.remove(publish, i)
      -- Whoever commits has the row and the envelope of what this commit created.
      return grant(ready.id, not ready.row and ready.raw, fields, ready.attempt, ready.reason,
        owner, lease, run, thread)
    end
    first_is_queued = first_is_queued or ready.row
  end
  return false
end

local function committed(new_key)
  free_lane(row, lanes)
  landed()
  local begun = take()
  if run_id ~= h.delivery and not begun then redis.call('HDEL', D, run) end
  touch(new_key)
  local ending = false
  if not ended_before and is_final() then
    local ended = redis.call('HMGET', C, 'value', 'canvas')
    ending = {status, ended[1], ended[2], redis.call('HGET', D, 'r:' .. entry)}
  end
  return {'committed', outbox(), ending, begun}
end

local depth = status == 'killed' and #row.scope or moot(row)
if depth then
  settle()
  close_inside(row, depth)
  note('late', h.delivery)
  return committed()
end

local clashes = {}
for _, child in ipairs(h.children or NONE) do
  local known = children_of(child[1])[child[2]]
  if known and known ~= child[3] then clashes[#clashes + 1] = {child[1], child[2], known} end
end
if #clashes > 0 then return {'replan', count, cjson.encode(clashes), 0, 0} end
for _, join in ipairs(h.joins or NONE) do
  if join[3] ~= '' and redis.call('HEXISTS', J, 'l:' .. join[3]) == 1 then
    return {'replan', count, '[]', 0, 1}
  end
end
if h.max_deliveries and count + h.created > h.max_deliveries then
  return {'replan', count, '[]', 1, 0}
end

settle()
for _, thread in ipairs(h.threads or NONE) do redis.call('HSET', T, 't:' .. thread[1], thread[2]) end
for _, child in ipairs(h.children or NONE) do adopt(child[1], child[2], child[3]) end
for _, join in ipairs(h.joins or NONE) do
  local spec = read_join(join[2])
  redis.call('HSET', J, 'j:' .. join[1], join[2])
  if join[3] ~= '' then redis.call('HSET', J, 'l:' .. join[3], join[1]) end
  if join[4] < spec.total then
    redis.call('HSET', J, 'next:' .. join[1], join[4])
    if spec.window == 0 then redis.call('HSET', J, 'lanes:' .. join[1], join[4]) end
    if spec.window > join[4] then
      redis.call('HSET', J, 'idle:' .. join[1], spec.window - join[4])
    end
  end
  if spec.deadline_ms > 0 then
    redis.call('ZADD', DUE, now + spec.deadline_ms, member('j', join[1]))
  end
  if spec.deadline_ms > 0 or spec.item_timeout_ms > 0 then redis.call('HSET', C, 'timed', 1) end
end

local in_branch = 0  -- how many of the new deliveries live in this delivery's own branch
local later = {}     -- rows that only exist if their branch's answer counts
for _, result in ipairs(h.results or NONE) do
  if result.next > 0 then later[result.next] = true end
end
for i = 1, h.created do
  local at = 2 + 2 * i
  if not later[at] then
    local created = create_delivery(ARGV[at], ARGV[at + 1])
    if not created.opens_branch then in_branch = in_branch + 1 end
  end
end
for _, refill in ipairs(h.refills or NONE) do  -- join, index, delivery
  local at = redis.call('HMGET', J, 'next:' .. refill[1], 'fired:' .. refill[1])
  if at[2] then
    set_state(refill[3], 'cancelled')
    in_branch = in_branch - 1
  elseif tonumber(at[1]) > refill[2] then
    launch(refill[3])
  else
    redis.call('HSET', J, 'low:' .. refill[1], refill[2], 'more:' .. refill[1], refill[3])
  end
end
for _, wait in ipairs(h.waits or NONE) do
  redis.call('HSET', D, 'r:' .. wait[1], wait[2])
  redis.call('HSET', W, wait[1], wait[2])
  set_state(wait[1], 'waiting')
  in_flight = in_flight + 1
  redis.call('HINCRBY', C, 'waiting', 1)
  for _, branch in ipairs(row.scope) do
    local name = branch[1] .. ':' .. branch[2]
    local inside = cjson.decode(redis.call('HGET', J, 'w:' .. name) or '[]')
    inside[#inside + 1] = wait[1]
    redis.call('HSET', J, 'w:' .. branch[1], 1, 'w:' .. name, cjson.encode(inside))
  end
  in_branch = in_branch + 1
  note('waiting', wait[2])
end
for _, result in ipairs(h.results or NONE) do
  if answer_branch(result.join, result.index, result.success, result.path, result.payload) then
    if result.next > 0 and not redis.call('HGET', J, 'fired:' .. result.join) then
      redis.call('HSET', T, 't:' .. result.thread[1], result.thread[2])
      create_delivery(ARGV[result.next], ARGV[result.next + 1])
    end
  else
    note('late', h.delivery)
  end
end
book_branch(row, in_branch, h.silent)
if h.dead_letter then bury(h.delivery, h.note or '') end
if h.note then note('note', cjson.encode({h.delivery, h.note})) end
if h.ending and not finish(h.ending[1], h.ending[2]) then note('late', h.delivery) end
return committed(h.joins or h.waits)
