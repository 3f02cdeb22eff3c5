-- Remove a conversation whose retention is over. ARGV[3] its member, ARGV[4] '1': in any case
local over = redis.call('ZSCORE', RETENTION, ARGV[3])
if not over or (ARGV[4] ~= '1' and tonumber(over) > now) then return 0 end
local current = redis.call('HGET', C, 'member')
if not current or current == ARGV[3] then  -- else its id was used again, after its keys expired
  for _, field in ipairs(redis.call('HKEYS', D)) do
    if string.sub(field, 1, 2) == 'x:' then exhume(string.sub(field, 3)) end
  end
  redis.call('UNLINK', C, D, T, J, L, X)
end
redis.call('ZREM', INDEX, ARGV[3])
redis.call('ZREM', RETENTION, ARGV[3])
return 1
