-- Which conversation a script works on, and the time.
-- ARGV[1] is the conversation's id.
local conversation_id = ARGV[1]
local clock = redis.call('TIME')
local now_ms = clock[1] * 1000 + math.floor(clock[2] / 1000)
