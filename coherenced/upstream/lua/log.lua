-- A2: records from ARGV[1] on (inclusive), at most ARGV[2], with the head they belong to.
-- -> epoch, seq, tag, entries as XRANGE gives them (none when there is no metadata)

local epoch, seq, tag = read_lineage(nil)
local entries = {}
if epoch ~= '' then
  entries = redis.pcall('XRANGE', LOG, ARGV[1] .. '-0', '+', 'COUNT', ARGV[2])
  if entries.err then
    entries = {}
  end
end
return {epoch, seq, tag, entries}
