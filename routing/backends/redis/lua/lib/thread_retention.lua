-- @include conversation
-- Keep threads for as long as their conversation; those of a conversation that was never opened
-- for the ttl that their creator names.
local function touch_threads(own_ttl_ms)
  if status then return touch(true) end
  redis.call('PEXPIRE', THREADS, own_ttl_ms + RETENTION_MARGIN_MS)
  redis.call('ZADD', RETENTION, now_ms + own_ttl_ms, ':' .. conversation_id)
end
