-- @include killing, rows
-- Remove a conversation whose retention is over, a piece at a time. One that has grown too old while
-- it owed an answer is ended instead, and gets as long again for its ending to be told.
-- KEYS: after all others, what is left of its deliveries and of its joins once it is gone
-- ARGV: 3 its name in the shard's lists, 4 '1': in any case, 5 the ms after which it has grown too
--   old, 6 status and 7 value of its ending then
-- Answers 0: it is not over; 1: nothing is left; 2: call again for the rest; 3: it was ended.
local GONE_DELIVERIES, GONE_JOINS = KEYS[OWN_KEYS + SHARED_KEYS + 1], KEYS[OWN_KEYS + SHARED_KEYS + 2]
local CURSOR = 'cursor'  -- the field of what is left that says how far it was looked through
local LOOKED_AT, PIECES = 100, 4  -- fields of a piece, about; pieces of one call
local name, in_any_case = ARGV[3], ARGV[4] == '1'
local over_ms = redis.call('ZSCORE', RETENTION, name)
if not over_ms or (not in_any_case and tonumber(over_ms) > now_ms) then return 0 end
-- Its id may have been used again since it went, or since its keys expired.
local is_there = name_in_lists == name

local function set_aside()
  local left = redis.call('HMGET', CONVERSATION, FIELD_DEAD, FIELD_TIMED)
  if in_flight == 0 and not left[1] and not left[2] then return end
  for key, gone in pairs({[DELIVERIES] = GONE_DELIVERIES, [JOINS] = GONE_JOINS}) do
    if redis.call('EXISTS', key) == 1 then redis.call('RENAME', key, gone) end
  end
end

-- Take what a field of its deliveries stands for off the shard's lists.
local function unlist_delivery(field, value)
  local kind, id = string.sub(field, 1, 2), string.sub(field, 3)
  if kind == DEAD_MEMBER_OF then return redis.call('ZREM', DEAD, value) end
  if status and redis.call('HEXISTS', DELIVERIES, field) == 1 then return end  -- used again
  if kind == STATE_OF then
    redis.call('ZREM', DUE, member(KIND_DELIVERY, id))
    redis.call('ZREM', SENT, member(KIND_DELIVERY, id))
  elseif string.find(value, '"answer_within_ms"', 1, true) then
    local branch = read_row(value).scope
    branch = branch[#branch]
    redis.call('ZREM', DUE, member(KIND_BRANCH, branch[1] .. ':' .. branch[2]))
  end
end

local function unlist_join(field)
  redis.call('ZREM', DUE, member(KIND_JOIN, string.sub(field, 3)))
end

-- Look through a part of what is left; true once all of it was.
local function look_through(key, pattern, unlist)
  if redis.call('EXISTS', key) == 0 then return true end
  local cursor = redis.call('HGET', key, CURSOR) or '0'
  for _ = 1, PIECES do
    local found = redis.call('HSCAN', key, cursor, 'MATCH', pattern, 'COUNT', LOOKED_AT)
    cursor = found[1]
    for i = 1, #found[2], 2 do unlist(found[2][i], found[2][i + 1]) end
    if cursor == '0' then
      redis.call('UNLINK', key)
      return true
    end
  end
  redis.call('HSET', key, CURSOR, cursor)
  return false
end

if is_there and owes() and not in_any_case
    and redis.call('HSETNX', CONVERSATION, FIELD_AGED, 1) == 1 then
  redis.call('ZADD', RETENTION, now_ms + tonumber(ARGV[5]), name)
  return kill(ARGV[6], ARGV[7]) and 3 or 0
end
if is_there or (not status and redis.call('EXISTS', GONE_DELIVERIES, GONE_JOINS) == 0) then
  if is_there then set_aside() end
  redis.call('ZREM', DUE, member(KIND_RELEASE, ''))
  redis.call('UNLINK', CONVERSATION, DELIVERIES, THREADS, JOINS, LOG, WAITS)
  redis.call('ZREM', CREATED, name)
  status = false
end
if not look_through(GONE_DELIVERIES, '[' .. string.sub(STATE_OF, 1, 1) .. string.sub(DEAD_MEMBER_OF, 1, 1)
    .. string.sub(ROW_OF, 1, 1) .. ']:*', unlist_delivery)
    or not look_through(GONE_JOINS, JOIN_OF .. '*', unlist_join) then
  return 2
end
redis.call('ZREM', CREATED, name)
redis.call('ZREM', RETENTION, name)
return 1
