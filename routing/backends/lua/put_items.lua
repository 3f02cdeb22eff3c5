-- Store items of a list. ARGV[3] the list, ARGV[4] the index of the first, ARGV[5...] the items
if not status then return 0 end
for i = 5, #ARGV do
  redis.call('HSET', J, 'i:' .. ARGV[3] .. ':' .. (ARGV[4] + i - 5), ARGV[i])
end
touch(true)
return 1
