-- F1: read keys and answer read commands, atomically with the lineage.
-- ARGV: new epoch, number of keys, the keys, then for each query: number of words,
-- number of keys, the words, the keys.
-- -> epoch, seq, tag, then for each key: value, TTL in ms, extra (0, or {pending 0|1,
--    tag...}); then each query's reply.

local epoch, seq, tag, _, labelled, pending = read_lineage(ARGV[1])
local out = {epoch, seq, tag}
local n, i = 3, 3
local count = tonumber(ARGV[2])
while i <= 2 + count do
  local key, extra = ARGV[i], 0
  if labelled then
    local label = purge(key, epoch)
    extra = label and {0, unpack(label, 3)} or 0
  end
  local mark = pending and redis.pcall('HGET', string.sub(META, 1, -5) .. 'pending', key)
  if mark and (type(mark) == 'table'
    or tonumber(string.match(mark, '^%d+') or 0) > server_ms()) then
    extra = extra == 0 and {1} or {1, unpack(extra, 2)}
  end
  local value = redis.pcall('GET', key)
  out[n + 1] = value
  out[n + 2] = value and redis.call('PTTL', key) or -1
  out[n + 3] = extra
  i, n = i + 1, n + 3
end
while ARGV[i] do
  local words, keys = tonumber(ARGV[i]), tonumber(ARGV[i + 1])
  local last = i + 1 + words
  if labelled then
    for k = last + 1, last + keys do
      purge(ARGV[k], epoch)
    end
  end
  n = n + 1
  out[n] = query(i + 2, last)
  i = last + keys + 1
end
return out
