-- Rows as `routing/records.py` writes them: fields at their default are omitted.
local NO_SCOPE = {}

local function read_row(raw)
  local row = cjson.decode(raw)
  row.scope, row.answer_within_ms = row.scope or NO_SCOPE, row.answer_within_ms or 0
  row.local_s = row.local_s or 0
  return row
end

local function read_join(raw)
  local join = cjson.decode(raw)
  join.need_ok, join.need_failed = join.need_ok or 0, join.need_failed or 0
  join.window, join.label = join.window or 0, join.label or ''
  join.deadline_ms, join.item_timeout_ms = join.deadline_ms or 0, join.item_timeout_ms or 0
  return join
end

local function row_of(id) return read_row(redis.call('HGET', DELIVERIES, ROW_OF .. id)) end
