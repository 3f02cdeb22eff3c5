-- Prepended to every script that works on one conversation. All keys share the tag of one shard.
-- KEYS[1] conversation  hash: entry, from, member, status, value, in_flight, waiting, count, ttl,
--                       created, updated, touched: when its retention was last moved on, canvas,
--                       release (parked | due | handing | done), handed, dead: set if a delivery
--                       of it ever was a dead letter, timed: set if a join of it ever had a timer,
--                       postponed: the ms until which a delivery is, the last one
-- KEYS[2] deliveries    hash: r:<id> row (JSON), e:<id> envelope, s:<id> state|attempt|reason|owner;
--                       of a dead letter x:<id> its member of KEYS[10], y:<id> the reason; of a
--                       replayed one z:<id> the attempts before; l:<id> the delivery that the run
--                       which <id>'s message began has come to, if it is another one by now;
--                       n:<thread> slots of its context, m:<thread>:<slot> a delivery
-- KEYS[3] threads       hash: t:<id> row (JSON), k:<id> its children (JSON: listener -> thread);
--                       k: the injectors' own
-- KEYS[4] joins         hash: j:<id> row (JSON), ok:<id>, ko:<id>, fired:<id>, next:<id> the first
--                       index not released yet, lanes:<id> how many are released at a time, if a
--                       lane is free again once the first delivery of its branch is settled, and
--                       not with the answer; idle:<id> free lanes for which nothing was held,
--                       more:<id> the held delivery that is released with index low:<id>;
--                       i:<list>:<index> an item of a stored list;
--                       l:<kind>:<label> the open join of that name, w:<id> set if anything
--                       inside it ever waited; of a branch: h:<id>:<index> its held delivery,
--                       c:<id>:<index> deliveries in flight less one, w:<id>:<index> waits (JSON),
--                       v:<id>:<index> its answer 1|path|payload, x:<id>:<index> set once its
--                       time limit has passed
-- KEYS[5] log           list: ms|event|detail
-- KEYS[6] waits         hash: <id> row (JSON) of each open wait, until the conversation is killed
-- KEYS[7] due           sorted set of the shard, by due ms, of <kind>|<n>|<conversation>|<id>, n its
--                       bytes; kinds: d delivery, j join, b branch <join>:<index>, r release
-- KEYS[8] index         sorted set of the shard, all scores 0: <created ms>:<conversation>
-- KEYS[9] retention     sorted set of the shard, by the ms at which it is over: the same members,
--                       and :<conversation> for threads of a conversation that was never opened
-- KEYS[10] dead         sorted set of the shard, all scores 0: <failed ms>:x|<n>|<conversation>|<id>
-- KEYS[11] sent         sorted set of the shard, by the ms of publishing: what the broker has and
--                       nobody has begun; members as in due
-- A delivery's state: held, waiting, ready (in the outbox), sent, leased, postponed (until it is
-- due), settled, cancelled. In flight are all but the last two and held ones, which follow from
-- others that are.
-- ARGV[1] is the conversation's id, ARGV[2] the ms after which an unpublished message is late.
local C, D, T, J, L, W = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local DUE, INDEX, RETENTION, DEAD, SENT = KEYS[7], KEYS[8], KEYS[9], KEYS[10], KEYS[11]
local conversation, grace = ARGV[1], tonumber(ARGV[2])
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
-- The conversation's counts are read once and written once, by `touch` or `save`.
local kept = redis.call('HMGET', C, 'status', 'in_flight', 'count', 'ttl', 'member', 'postponed',
  'touched', 'entry')
local status = kept[1]  -- false: there is no such conversation
local in_flight, count = tonumber(kept[2] or 0), tonumber(kept[3] or 0)
local ttl, name_in_lists, postponed = tonumber(kept[4] or 0), kept[5], tonumber(kept[6] or 0)
local touched, entry = tonumber(kept[7] or 0), kept[8]
local publish = {}  -- what this script made ready: {id, attempt, reason, raw row, row or nil}

local function member(kind, id)
  return kind .. '|' .. #conversation .. '|' .. conversation .. '|' .. id
end
local function note(event, detail) redis.call('RPUSH', L, now .. '|' .. event .. '|' .. detail) end
local function is_final()
  return status == 'completed' or status == 'error' or status == 'killed'
end

local function state_of(id)
  local s = redis.call('HGET', D, 's:' .. id)
  if not s then return nil end
  local state, attempt, reason, owner = string.match(s, '^(%a+)|(%d+)|([^|]*)|(.*)$')
  return state, tonumber(attempt), owner, reason
end

local function set_state(id, state, attempt, owner, reason)
  redis.call('HSET', D, 's:' .. id,
    state .. '|' .. (attempt or 0) .. '|' .. (reason or '') .. '|' .. (owner or ''))
end

local function save() redis.call('HSET', C, 'in_flight', in_flight, 'count', count) end

-- A conversation lives for its ttl after the last activity, or one that is set to come: then the
-- sweep forgets it, lists and all. The keys' own expiry comes a little later, for the case that no
-- worker sweeps. All that is moved on once a second at most (sooner for a short ttl), unless a
-- key is new.
local MARGIN = 600000
local function touch(new_key)
  redis.call('HSET', C, 'updated', now, 'in_flight', in_flight, 'count', count)
  if not new_key and now - touched < math.min(1000, ttl / 100) then return end
  redis.call('HSET', C, 'touched', now)
  local rest = ttl + math.max(0, postponed - now)
  for i = 1, 6 do redis.call('PEXPIRE', KEYS[i], rest + MARGIN) end
  redis.call('ZADD', RETENTION, now + rest, name_in_lists)
end

local function touch_threads(ttl_ms)
  if status then return touch(true) end
  redis.call('PEXPIRE', T, ttl_ms + MARGIN)
  redis.call('ZADD', RETENTION, now + ttl_ms, ':' .. conversation)
end

-- A delivery's row says only what is not the rule.
local NO_SCOPE = {}
local function read_row(raw)
  local row = cjson.decode(raw)
  row.scope, row.answer_within_ms = row.scope or NO_SCOPE, row.answer_within_ms or 0
  row.local_s = row.local_s or 0
  return row
end

local JOIN_DEFAULTS = {
  need_ok = 0, need_failed = 0, window = 0, deadline_ms = 0, item_timeout_ms = 0, label = '',
}
local function read_join(raw)
  return setmetatable(cjson.decode(raw), {__index = JOIN_DEFAULTS})
end

local function row_of(id) return read_row(redis.call('HGET', D, 'r:' .. id)) end
local function children_of(thread)
  return cjson.decode(redis.call('HGET', T, 'k:' .. thread) or '{}')
end

local function adopt(parent, name, child)
  local known = children_of(parent)
  known[name] = child
  redis.call('HSET', T, 'k:' .. parent, cjson.encode(known))
end

-- Have `outbox` put a delivery there, or `take` hand it to whoever runs this script.
local function make_ready(id, attempt, reason, raw, row)
  publish[#publish + 1] = {id = id, attempt = attempt, reason = reason, row = row,
    raw = raw or redis.call('HGET', D, 'r:' .. id)}
end

-- Put what is ready into the outbox, late at `late` if nobody has published it by then; returns
-- the rows of the messages to publish.
local function outbox(late)
  local rows = {}
  for i, ready in ipairs(publish) do
    set_state(ready.id, 'ready', ready.attempt, '', ready.reason)
    redis.call('ZADD', DUE, late or now + grace, member('d', ready.id))
    rows[i] = ready.raw
  end
  return rows
end

-- Make one ready that was not in flight until now.
local function launch(id, raw, row)
  in_flight = in_flight + 1
  make_ready(id, 0, '', raw, row)
end

local function remember(row)
  row.slot = redis.call('HINCRBY', D, 'n:' .. row.thread, 1) - 1
  redis.call('HSET', D, 'm:' .. row.thread .. ':' .. row.slot, row.id)
  note('message', row.id)
end

-- The conversation's end, once. Whoever injected it is told by a release.
local function finish(how, value)
  if is_final() then return false end
  status = how
  redis.call('HSET', C, 'status', status, 'value', value)
  note('ended', status)
  if redis.call('HGET', C, 'release') == 'parked' then
    redis.call('HSET', C, 'release', 'due')
    redis.call('ZADD', DUE, now + grace, member('r', ''))
  end
  return true
end

-- One delivery less in flight.
local function landed()
  in_flight = in_flight - 1
  if in_flight <= 0 then finish('completed', 'null') end
end

-- How far out the branch is that was decided without this delivery, which need not run then.
local function moot(row)
  for depth, branch in ipairs(row.scope) do
    local name = branch[1] .. ':' .. branch[2]
    local decided = redis.call('HMGET', J, 'fired:' .. branch[1], 'x:' .. name)
    if decided[2] or (decided[1] and redis.call('HEXISTS', J, 'v:' .. name) == 0) then
      return depth
    end
  end
end

-- A join takes no more answers from now on. False if that was so before.
local function close(join, spec)
  if redis.call('HSETNX', J, 'fired:' .. join, now) == 0 then return false end
  if spec.deadline_ms > 0 then redis.call('ZREM', DUE, member('j', join)) end
  if spec.label ~= '' then redis.call('HDEL', J, 'l:' .. spec.kind .. ':' .. spec.label) end
  local more = redis.call('HGET', J, 'more:' .. join)
  if not more then return true end
  -- More items are not needed. The branch around the join has its body in flight still.
  redis.call('HDEL', J, 'more:' .. join)
  set_state(more, 'cancelled')
  local around = row_of(more).scope
  local branch = around[#around]
  if branch then redis.call('HINCRBY', J, 'c:' .. branch[1] .. ':' .. branch[2], -1) end
  return true
end

-- Inside a branch that was decided without them nobody waits for joins any more.
local function close_inside(row, depth)
  for i = depth + 1, #row.scope do
    local join = row.scope[i][1]
    close(join, read_join(redis.call('HGET', J, 'j:' .. join)))
  end
end

-- Release the next index of a join that holds some back; if it is not there yet, once it comes.
local function release_next(join)
  local at = redis.call('HMGET', J, 'next:' .. join, 'fired:' .. join, 'more:' .. join, 'low:' .. join)
  if not at[1] or at[2] then return end
  local slot = 'h:' .. join .. ':' .. at[1]
  local held = redis.call('HGET', J, slot)
  if not held then
    redis.call('HINCRBY', J, 'idle:' .. join, 1)
    return
  end
  redis.call('HSET', J, 'next:' .. join, at[1] + 1)
  redis.call('HDEL', J, slot)
  launch(held)
  if at[3] and tonumber(at[1]) >= tonumber(at[4]) then
    redis.call('HDEL', J, 'more:' .. join)
    launch(at[3])
  end
end

-- The first delivery of a branch has had its run: its lane takes the next index, and if there are
-- fewer lanes than `wanted`, a new one does so as well.
local function free_lane(row, wanted)
  if not row.opens_branch or status == 'killed' then return end
  local join = row.scope[#row.scope][1]
  local lanes = redis.call('HGET', J, 'lanes:' .. join)
  if not lanes then return end
  release_next(join)
  if tonumber(lanes) < wanted then
    redis.call('HINCRBY', J, 'lanes:' .. join, 1)
    release_next(join)
  end
end

local function cancel(id, attempt, row, depth)
  set_state(id, 'cancelled', attempt)
  redis.call('ZREM', DUE, member('d', id))
  redis.call('ZREM', SENT, member('d', id))
  close_inside(row, depth)
  free_lane(row, 0)
  landed()
end

-- Let go of the waits in a branch whose input is not needed any more.
local function drop_waits(branch)
  local waits = redis.call('HGET', J, 'w:' .. branch)
  for _, id in ipairs(waits and cjson.decode(waits) or {}) do
    local row = row_of(id)
    local depth = moot(row)
    if depth and state_of(id) == 'waiting' then
      redis.call('HINCRBY', C, 'waiting', -1)
      redis.call('HDEL', W, id)
      cancel(id, 0, row, depth)
    end
  end
end

local function fire(join, spec)
  if not close(join, spec) then return end
  note('join', 'fired ' .. join)
  if spec.body then launch(spec.body) end
  if redis.call('HEXISTS', J, 'w:' .. join) == 0 then return end
  for index = 0, spec.total - 1 do drop_waits(join .. ':' .. index) end
end

-- The first answer of a branch counts; false for any other, and after the join has fired.
local function answer_branch(join, index, success, path, payload)
  local branch = join .. ':' .. index
  local raw = redis.call('HGET', J, 'j:' .. join)
  if not raw or redis.call('HEXISTS', J, 'fired:' .. join) == 1
      or redis.call('HEXISTS', J, 'v:' .. branch) == 1 then
    return false
  end
  local spec = read_join(raw)
  redis.call('HSET', J, 'v:' .. branch, (success and '1|' or '0|') .. path .. '|' .. payload)
  redis.call('ZREM', DUE, member('b', branch))
  redis.call('HDEL', J, 'c:' .. branch)
  local ok = redis.call('HINCRBY', J, 'ok:' .. join, success and 1 or 0)
  local ko = redis.call('HINCRBY', J, 'ko:' .. join, success and 0 or 1)
  if ok + ko >= spec.total or (spec.need_ok > 0 and ok >= spec.need_ok)
      or (spec.need_failed > 0 and ko >= spec.need_failed) then
    fire(join, spec)
  elseif spec.window > 0 then
    release_next(join)
  end
  return true
end

-- Book `created` new deliveries and one settled in the branch a delivery lives in. A branch in
-- which nothing is in flight any more, and that has not answered, has failed.
local function book_branch(row, created, silent)
  local branch = row.scope[#row.scope]
  if not branch then return end
  local name = branch[1] .. ':' .. branch[2]
  if created == 1 or redis.call('HEXISTS', J, 'v:' .. name) == 1 then return end
  if redis.call('HINCRBY', J, 'c:' .. name, created - 1) <= -1 then
    answer_branch(branch[1], branch[2], false, '', silent)
  end
end

-- Hold an index of a join back, or release it to a lane that waits for one.
local function hold(row)
  local branch = row.scope[#row.scope]
  redis.call('HSET', J, 'h:' .. branch[1] .. ':' .. branch[2], row.id)
  if tonumber(redis.call('HGET', J, 'idle:' .. branch[1]) or 0) > 0 then
    redis.call('HINCRBY', J, 'idle:' .. branch[1], -1)
    release_next(branch[1])
  end
end

-- Create a delivery; nothing, if it opens a branch of a join that has fired.
local function create_delivery(raw, envelope)
  local row = read_row(raw)
  if row.held and row.opens_branch
      and redis.call('HEXISTS', J, 'fired:' .. row.scope[#row.scope][1]) == 1 then
    return row
  end
  redis.call('HSET', D, 'r:' .. row.id, raw, 'e:' .. row.id, envelope)
  count = count + 1
  remember(row)
  if not row.held then
    launch(row.id, raw, row)
    return row
  end
  set_state(row.id, 'held')
  if row.opens_branch then hold(row) end
  return row
end

-- Keep a delivery that failed for good, so many of a shard and the newest ones.
local function bury(id, reason)
  local name = string.format('%015d:', now) .. member('x', id)
  redis.call('ZADD', DEAD, 0, name)
  redis.call('HSET', C, 'dead', 1)
  redis.call('HSET', D, 'x:' .. id, name, 'y:' .. id, reason)
  note('dead_letter', id)
  if redis.call('ZCARD', DEAD) > 1000 then redis.call('ZREMRANGEBYRANK', DEAD, 0, 0) end
end

local function exhume(id)
  local name = redis.call('HGET', D, 'x:' .. id)
  if not name then return false end
  redis.call('ZREM', DEAD, name)
  redis.call('HDEL', D, 'x:' .. id, 'y:' .. id)
  return true
end

-- Hand the conversation's value over, if nobody has and nobody is at it.
local function grant_release(lease)
  local release = redis.call('HGET', C, 'release')
  local at = tonumber(redis.call('ZSCORE', DUE, member('r', '')) or 0)
  if release == 'done' then return {'skip', 'settled'} end
  if release == 'handing' and at > now then return {'skip', 'leased'} end
  redis.call('HSET', C, 'release', 'handing')
  redis.call('ZADD', DUE, now + lease, member('r', ''))
  local ended = redis.call('HMGET', C, 'status', 'value')
  return {'release', ended[1], ended[2], redis.call('HINCRBY', C, 'handed', 1)}
end

-- Why a delivery cannot be run now, as an answer; nil if it can.
local function refusal(id, fields, lease)
  local state, attempt = state_of(id)
  local over = state == 'settled' or state == 'cancelled'
  if not over then
    if state == 'held' or state == 'waiting' then return {'skip', state} end
    if status == 'killed' then
      cancel(id, attempt, fields, #fields.scope)
      over = true
    end
  end
  if over and is_final() and entry == id then return grant_release(lease) end
  if over then return {'skip', status == 'killed' and 'ended' or 'settled'} end
  local depth = moot(fields)
  if depth then
    cancel(id, attempt, fields, depth)
    return {'skip', 'cancelled'}
  end
  if redis.call('HEXISTS', T, 't:' .. fields.thread) == 0 then  -- it was cleaned up
    note('late', id)
    book_branch(fields, 0, '')
    cancel(id, attempt, fields, #fields.scope)
    return {'skip', 'cancelled'}
  end
  local due = tonumber(redis.call('ZSCORE', DUE, member('d', id)) or 0)
  if (state == 'leased' or state == 'postponed') and due > now then return {'skip', state} end
end

-- What somebody who holds the lease on a delivery has to know; without the raw row, who knows row
-- and envelope.
local function told(id, raw, row, attempt, reason, thread)
  thread = thread or redis.call('HMGET', T, 't:' .. row.thread, 'k:' .. row.thread)
  local join = ''
  if #row.scope > 0 then
    local branch = cjson.decode(thread[1]).branch
    join = branch and redis.call('HGET', J, 'j:' .. branch[1]) or ''
  end
  local fields = raw and redis.call('HMGET', D, 'e:' .. id, 'z:' .. id) or {id}
  return {'begun', attempt, raw, fields[1], thread[1], thread[2] or '{}', join, count, reason,
    attempt - tonumber(fields[2] or 0)}
end

-- Give a delivery to `owner` for `lease` ms, and perhaps say whose `run` has come to it.
local function grant(id, raw, row, attempt, reason, owner, lease, run, thread)
  local state = 'leased|' .. attempt + 1 .. '||' .. owner
  if run then
    redis.call('HSET', D, 's:' .. id, state, run, id)
  else
    redis.call('HSET', D, 's:' .. id, state)
  end
  redis.call('ZADD', DUE, now + lease, member('d', id))
  if row.answer_within_ms > 0 then
    local branch = row.scope[#row.scope]
    redis.call('ZADD', DUE, 'NX', now + row.answer_within_ms,
      member('b', branch[1] .. ':' .. branch[2]))
  end
  return told(id, raw, row, attempt + 1, reason, thread)
end

local function begin(id, owner, lease)
  local raw = status and redis.call('HGET', D, 'r:' .. id)
  if not raw then return {'skip', 'unknown'} end
  local row = read_row(raw)
  local refused = refusal(id, row, lease)
  if refused then
    outbox()  -- of a lane that it made free; the sweep publishes it
    save()
    return refused
  end
  local state, attempt, _, reason = state_of(id)
  if state == 'leased' then
    reason = 'lost'
    note('abandoned', cjson.encode({id, reason}))
  end
  redis.call('ZREM', SENT, member('d', id))
  return grant(id, raw, row, attempt, reason, owner, lease)
end
