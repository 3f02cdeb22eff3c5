-- @include members, log
-- Keep a delivery that failed for good: so many of a shard, the newest ones.
local function bury(id, reason)
  local name = string.format('%015d:', now_ms) .. member(KIND_DEAD_LETTER, id)
  redis.call('ZADD', DEAD, 0, name)
  redis.call('HSET', CONVERSATION, FIELD_DEAD, 1)
  redis.call('HSET', DELIVERIES, DEAD_MEMBER_OF .. id, name, DEAD_REASON_OF .. id, reason)
  note(EVENT_DEAD_LETTER, id)
  if redis.call('ZCARD', DEAD) > MOST_DEAD_LETTERS then redis.call('ZREMRANGEBYRANK', DEAD, 0, 0) end
end

-- Take a dead letter off the list; false if it is none.
local function exhume(id)
  local name = redis.call('HGET', DELIVERIES, DEAD_MEMBER_OF .. id)
  if not name then return false end
  redis.call('ZREM', DEAD, name)
  redis.call('HDEL', DELIVERIES, DEAD_MEMBER_OF .. id, DEAD_REASON_OF .. id)
  return true
end
