-- @include clock
local function note(event, detail) redis.call('RPUSH', LOG, now_ms .. '|' .. event .. '|' .. detail) end
