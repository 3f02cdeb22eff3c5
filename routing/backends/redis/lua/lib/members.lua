-- @include clock
-- How a thing of this conversation is named in the shard's lists DUE, SENT and DEAD. Ids may hold
-- any character, so the name says how many bytes the conversation's id has.
local function member(kind, id)
  return kind .. '|' .. #conversation_id .. '|' .. conversation_id .. '|' .. id
end
