-- @include clock, log
-- The conversation's own row. Its counts are read once here and written once, by `touch` or `save`.
local kept = redis.call('HMGET', CONVERSATION, FIELD_STATUS, FIELD_IN_FLIGHT, FIELD_COUNT, FIELD_TTL,
  FIELD_MEMBER, FIELD_POSTPONED, FIELD_TOUCHED, FIELD_ENTRY)
local status = kept[1]  -- false: there is no such conversation
local in_flight, delivery_count = tonumber(kept[2] or 0), tonumber(kept[3] or 0)
local ttl_ms, name_in_lists, postponed_ms = tonumber(kept[4] or 0), kept[5], tonumber(kept[6] or 0)
local touched_ms, entry_id = tonumber(kept[7] or 0), kept[8]

local function is_final()
  return status == STATUS_COMPLETED or status == STATUS_ERROR or status == STATUS_KILLED
end

local function save()
  redis.call('HSET', CONVERSATION, FIELD_IN_FLIGHT, in_flight, FIELD_COUNT, delivery_count)
end

-- A conversation lives for its ttl after its last activity, or after a retry that is set to come;
-- then the sweep forgets it and what the shard's lists have of it. The keys' own expiry comes a
-- little later, for the case that no worker sweeps. All that is moved on once a second at most
-- (sooner for a short ttl), unless a key is new.
local function touch(new_key)
  redis.call('HSET', CONVERSATION, FIELD_UPDATED, now_ms, FIELD_IN_FLIGHT, in_flight,
    FIELD_COUNT, delivery_count)
  if not new_key and now_ms - touched_ms < math.min(1000, ttl_ms / 100) then return end
  redis.call('HSET', CONVERSATION, FIELD_TOUCHED, now_ms)
  local rest_ms = ttl_ms + math.max(0, postponed_ms - now_ms)
  for key = 1, OWN_KEYS do redis.call('PEXPIRE', KEYS[key], rest_ms + RETENTION_MARGIN_MS) end
  redis.call('ZADD', RETENTION, now_ms + rest_ms, name_in_lists)
end
