-- @include ending, outbox
-- A branch is one index of a join, `<join>:<index>`. A delivery's row names the branches that it
-- lives in, outermost first: {{join, index}, ...}.

-- The depth (1 = outermost) of the first enclosing branch that was decided without this delivery,
-- which then need not run; nil if there is none.
local function moot(row)
  for depth, branch in ipairs(row.scope) do
    local name = branch[1] .. ':' .. branch[2]
    local decided = redis.call('HMGET', JOINS, FIRED_OF .. branch[1], TIMED_OUT_OF .. name)
    if decided[2]
        or (decided[1] and redis.call('HEXISTS', JOINS, ANSWER_OF .. name) == 0) then
      return depth
    end
  end
end

-- Have a join take no more answers. False if it did not any more.
local function close(join, spec)
  if redis.call('HSETNX', JOINS, FIRED_OF .. join, now_ms) == 0 then return false end
  if spec.deadline_ms > 0 then redis.call('ZREM', DUE, member(KIND_JOIN, join)) end
  if spec.label ~= '' then redis.call('HDEL', JOINS, LABEL_OF .. spec.kind .. ':' .. spec.label) end
  local refill = redis.call('HGET', JOINS, REFILL_OF .. join)
  if not refill then return true end
  -- More items are not needed. The branch around the join has its body in flight still.
  redis.call('HDEL', JOINS, REFILL_OF .. join)
  set_state(refill, STATE_CANCELLED)
  local around = row_of(refill).scope
  local branch = around[#around]
  if branch then
    redis.call('HINCRBY', JOINS, BRANCH_IN_FLIGHT_OF .. branch[1] .. ':' .. branch[2], -1)
  end
  return true
end

-- Close the joins inside a branch that was decided without them: nobody waits for them any more.
local function close_inside(row, depth)
  for i = depth + 1, #row.scope do
    local join = row.scope[i][1]
    close(join, read_join(redis.call('HGET', JOINS, JOIN_OF .. join)))
  end
end

-- Launch what brings a join more branches, before all else: so a turn goes on with it. In the queue
-- it would stand behind the messages of all lanes, and these would run out of branches meanwhile.
local function launch_refill(id)
  launch(id)
  table.insert(publish, 1, table.remove(publish))
end

-- Release the next index of a join that holds some back; if it is not there yet, once it comes.
local function release_next(join)
  local kept = redis.call('HMGET', JOINS, NEXT_INDEX_OF .. join, FIRED_OF .. join, REFILL_OF .. join,
    REFILL_AT_OF .. join)
  local index, is_fired, refill, refill_at = kept[1], kept[2], kept[3], kept[4]
  if not index or is_fired then return end
  local slot = HELD_OF .. join .. ':' .. index
  local held = redis.call('HGET', JOINS, slot)
  if not held then
    redis.call('HINCRBY', JOINS, IDLE_LANES_OF .. join, 1)
    return
  end
  redis.call('HSET', JOINS, NEXT_INDEX_OF .. join, index + 1)
  redis.call('HDEL', JOINS, slot)
  launch(held)
  if refill and tonumber(index) >= tonumber(refill_at) then
    redis.call('HDEL', JOINS, REFILL_OF .. join)
    launch_refill(refill)
  end
end

-- The first delivery of a branch has had its attempt: its lane takes the next index, and if there
-- are fewer lanes than `wanted`, a new one does so as well.
local function free_lane(row, wanted)
  if not row.opens_branch or status == STATUS_KILLED then return end
  local join = row.scope[#row.scope][1]
  local lanes = redis.call('HGET', JOINS, LANES_OF .. join)
  if not lanes then return end
  release_next(join)
  if tonumber(lanes) < wanted then
    redis.call('HINCRBY', JOINS, LANES_OF .. join, 1)
    release_next(join)
  end
end

local function cancel(id, attempt, row, depth)
  set_state(id, STATE_CANCELLED, attempt)
  redis.call('ZREM', DUE, member(KIND_DELIVERY, id))
  redis.call('ZREM', SENT, member(KIND_DELIVERY, id))
  close_inside(row, depth)
  free_lane(row, 0)
  landed()
end

-- Cancel the waits in a branch whose input is not needed any more.
local function drop_waits(branch)
  local waits = redis.call('HGET', JOINS, BRANCH_WAITS_OF .. branch)
  for _, id in ipairs(waits and cjson.decode(waits) or {}) do
    local row = row_of(id)
    local depth = moot(row)
    if depth and state_of(id) == STATE_WAITING then
      redis.call('HINCRBY', CONVERSATION, FIELD_WAITING, -1)
      redis.call('HDEL', WAITS, id)
      cancel(id, 0, row, depth)
    end
  end
end

local function fire(join, spec)
  if not close(join, spec) then return end
  note(EVENT_JOIN, 'fired ' .. join)
  if spec.body then launch(spec.body) end
  if redis.call('HEXISTS', JOINS, HAS_WAITED_OF .. join) == 0 then return end
  for index = 0, spec.total - 1 do drop_waits(join .. ':' .. index) end
end

-- The first answer of a branch counts; false for any other, and after the join has fired.
local function answer_branch(join, index, success, path, payload)
  local branch = join .. ':' .. index
  local raw = redis.call('HGET', JOINS, JOIN_OF .. join)
  if not raw or redis.call('HEXISTS', JOINS, FIRED_OF .. join) == 1
      or redis.call('HEXISTS', JOINS, ANSWER_OF .. branch) == 1 then
    return false
  end
  local spec = read_join(raw)
  redis.call('HSET', JOINS, ANSWER_OF .. branch, (success and '1|' or '0|') .. path .. '|' .. payload)
  redis.call('ZREM', DUE, member(KIND_BRANCH, branch))
  redis.call('HDEL', JOINS, BRANCH_IN_FLIGHT_OF .. branch)
  local ok = redis.call('HINCRBY', JOINS, OK_COUNT_OF .. join, success and 1 or 0)
  local failed = redis.call('HINCRBY', JOINS, FAILED_COUNT_OF .. join, success and 0 or 1)
  if ok + failed >= spec.total or (spec.need_ok > 0 and ok >= spec.need_ok)
      or (spec.need_failed > 0 and failed >= spec.need_failed) then
    fire(join, spec)
  elseif spec.window > 0 then
    release_next(join)
  end
  return true
end

-- Book `created` new deliveries and one settled in the branch that a delivery lives in. A branch in
-- which nothing is in flight any more, and that has not answered, has failed.
local function book_branch(row, created, silent)
  local branch = row.scope[#row.scope]
  if not branch then return end
  local name = branch[1] .. ':' .. branch[2]
  if created == 1 or redis.call('HEXISTS', JOINS, ANSWER_OF .. name) == 1 then return end
  if redis.call('HINCRBY', JOINS, BRANCH_IN_FLIGHT_OF .. name, created - 1) <= -1 then
    answer_branch(branch[1], branch[2], false, '', silent)
  end
end
