-- @include clock, log
-- The conversation's own row. Its counts are read once here and written once, by `touch`.
local kept = redis.call('HMGET', CONVERSATION, FIELD_STATUS, FIELD_IN_FLIGHT, FIELD_COUNT, FIELD_TTL,
  FIELD_MEMBER, FIELD_RELEASE, FIELD_TOUCHED, FIELD_ENTRY)
local status = kept[1]  -- false: there is no such conversation
local in_flight, delivery_count = tonumber(kept[2] or 0), tonumber(kept[3] or 0)
local ttl_ms, name_in_lists, release = tonumber(kept[4] or 0), kept[5], kept[6]
local touched_ms, entry_id = tonumber(kept[7] or 0), kept[8]

local function is_final()
  return status == STATUS_COMPLETED or status == STATUS_ERROR or status == STATUS_KILLED
end

-- Whether somebody still waits for something of it: it has not ended, or nobody was told so yet, or
-- a part of it is still under way. Of a killed one nothing runs any more.
local function owes()
  return not is_final() or release ~= RELEASE_DONE or (in_flight > 0 and status ~= STATUS_KILLED)
end

-- What owes an answer is kept: RETENTION has the time at which it has grown too old, and its keys
-- have no expiry. What owes nothing lives for its ttl after its last activity; then the sweep forgets
-- it. The keys' own expiry comes a little later, for the case that no worker sweeps; a large
-- conversation's have none, since Redis would free each of them at one moment. All that is moved on
-- once a second at most (sooner for a short ttl), unless a key is new.
local function touch(new_key)
  redis.call('HSET', CONVERSATION, FIELD_UPDATED, now_ms, FIELD_IN_FLIGHT, in_flight,
    FIELD_COUNT, delivery_count)
  if owes() then return end
  if not new_key and now_ms - touched_ms < math.min(1000, ttl_ms / 100) then return end
  redis.call('HSET', CONVERSATION, FIELD_TOUCHED, now_ms)
  if delivery_count <= LARGE then
    for key = 1, OWN_KEYS do redis.call('PEXPIRE', KEYS[key], ttl_ms + RETENTION_MARGIN_MS) end
  end
  redis.call('ZADD', RETENTION, now_ms + ttl_ms, name_in_lists)
end
