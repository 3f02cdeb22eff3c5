-- Forget a message that was put aside.
-- KEYS[1] the list of them, newest first. ARGV: 1 its id
for _, row in ipairs(redis.call('LRANGE', KEYS[1], 0, -1)) do
  if cjson.decode(row).id == ARGV[1] then return redis.call('LREM', KEYS[1], 1, row) end
end
return 0
