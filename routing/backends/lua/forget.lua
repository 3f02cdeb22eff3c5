-- Remove a conversation whose retention is over. ARGV[3] its member, ARGV[4] '1': in any case
local over = redis.call('ZSCORE', RETENTION, ARGV[3])
if not over or (ARGV[4] ~= '1' and tonumber(over) > now) then return 0 end

-- What the shard's lists have of its deliveries; costs a look at each.
local function leave_lists()
  for _, field in ipairs(redis.call('HKEYS', D)) do
    local kind, id = string.sub(field, 1, 2), string.sub(field, 3)
    if kind == 'x:' then exhume(id) end
    if kind == 's:' then
      redis.call('ZREM', DUE, member('d', id))
      redis.call('ZREM', SENT, member('d', id))
    end
  end
end

-- The same of its joins.
local function leave_timers()
  for _, field in ipairs(redis.call('HKEYS', J)) do
    if string.sub(field, 1, 2) == 'j:' then
      local join = string.sub(field, 3)
      redis.call('ZREM', DUE, member('j', join))
      local spec = read_join(redis.call('HGET', J, field))
      for index = 0, (spec.item_timeout_ms > 0 and spec.total or 0) - 1 do
        redis.call('ZREM', DUE, member('b', join .. ':' .. index))
      end
    end
  end
end

local current = redis.call('HGET', C, 'member')
if not current or current == ARGV[3] then  -- else its id was used again, after its keys expired
  local left = redis.call('HMGET', C, 'dead', 'timed')
  if in_flight > 0 or left[1] then leave_lists() end
  if left[2] then leave_timers() end
  redis.call('ZREM', DUE, member('r', ''))
  redis.call('UNLINK', C, D, T, J, L, W)
end
redis.call('ZREM', INDEX, ARGV[3])
redis.call('ZREM', RETENTION, ARGV[3])
return 1
