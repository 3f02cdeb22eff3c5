-- @include conversation, dead_letters, rows
-- Remove a conversation whose retention is over.
-- ARGV: 3 its name in the shard's lists, 4 '1': in any case
local name, in_any_case = ARGV[3], ARGV[4] == '1'
local over_ms = redis.call('ZSCORE', RETENTION, name)
if not over_ms or (not in_any_case and tonumber(over_ms) > now_ms) then return 0 end

-- The ids of the fields of one kind, such as STATE_OF.
local function each_of(key, field)
  local ids = {}
  for _, name in ipairs(redis.call('HKEYS', key)) do
    if string.sub(name, 1, #field) == field then ids[#ids + 1] = string.sub(name, #field + 1) end
  end
  return ids
end

-- Take its deliveries off the shard's lists; costs a look at each.
local function leave_lists()
  for _, id in ipairs(each_of(DELIVERIES, DEAD_MEMBER_OF)) do exhume(id) end
  for _, id in ipairs(each_of(DELIVERIES, STATE_OF)) do
    redis.call('ZREM', DUE, member(KIND_DELIVERY, id))
    redis.call('ZREM', SENT, member(KIND_DELIVERY, id))
  end
end

-- The same of its joins' deadlines and time limits.
local function leave_timers()
  for _, join in ipairs(each_of(JOINS, JOIN_OF)) do
    redis.call('ZREM', DUE, member(KIND_JOIN, join))
    local spec = read_join(redis.call('HGET', JOINS, JOIN_OF .. join))
    for index = 0, (spec.item_timeout_ms > 0 and spec.total or 0) - 1 do
      redis.call('ZREM', DUE, member(KIND_BRANCH, join .. ':' .. index))
    end
  end
end

local current = redis.call('HGET', CONVERSATION, FIELD_MEMBER)
if not current or current == name then  -- else its id was used again, after its keys expired
  local left = redis.call('HMGET', CONVERSATION, FIELD_DEAD, FIELD_TIMED)
  if in_flight > 0 or left[1] then leave_lists() end
  if left[2] then leave_timers() end
  redis.call('ZREM', DUE, member(KIND_RELEASE, ''))
  redis.call('UNLINK', CONVERSATION, DELIVERIES, THREADS, JOINS, LOG, WAITS)
end
redis.call('ZREM', CREATED, name)
redis.call('ZREM', RETENTION, name)
return 1
