-- F1: read keys and answer read commands, atomically with the lineage.
-- ARGV: new epoch, after how many keys it is looked how large they were (0: never; else also after
-- the first), the lengths of the keys (msgpack), the keys (one string), then for each query:
-- number of words, number of keys, the words, the keys.
-- -> epoch, seq, tag, the TTLs in ms (0: there is none), the extras (0: there is none; of
--    each key 0, or {pending 0|1, tag...}), then each key's value; then each query's reply. It ends
--    where it has become large, and what follows has not been read.

local MOST_BYTES = 8388608

local epoch, seq, tag, _, labelled, pending = read_lineage(ARGV[1])
local out, ttls, extras = {epoch, seq, tag, 0, 0}, {}, {}
local step, most, size = tonumber(ARGV[2]), MOST_BYTES, 0
if step == 0 then
  step, most = 7000, math.huge -- a call has room for so many words
end
local lengths, at, n, i = cmsgpack.unpack(ARGV[3]), 1, 5, 5
local keys, values, first, last = {}, nil, 1, 0
for k = 1, #lengths do
  keys[k] = string.sub(ARGV[4], at, at + lengths[k] - 1)
  at = at + lengths[k]
end
for k = 1, #keys do
  if k > last then
    if size > most then
      return out
    end
    first, last, values = k, k, nil
    -- Labelled ones may have to go before they are read. One alone tells whether all are large.
    if step > 1 and k < #keys and not labelled and (k > 1 or most == math.huge) then
      last = math.min(k + step - 1, #keys)
      values = redis.pcall('MGET', unpack(keys, first, last))
      values = not values.err and values
    end
  end
  local key, extra = keys[k], 0
  if labelled then
    local label = purge(key, epoch)
    extra = label and {0, unpack(label, 3)} or 0
  end
  local mark = pending and redis.pcall('HGET', string.sub(META, 1, -5) .. 'pending', key)
  if mark and (type(mark) == 'table'
    or tonumber(string.match(mark, '^%d+') or 0) > server_ms()) then
    extra = extra == 0 and {1} or {1, unpack(extra, 2)}
  end
  -- What is no string is nothing to MGET, and an error to GET.
  local value = values and values[k - first + 1] or redis.pcall('GET', key)
  local ttl = value and redis.pcall('PTTL', key) or -1
  if type(ttl) == 'table' then -- this user may not: no reason to fail those of the other keys
    value, ttl = ttl, -1
  end
  n = n + 1
  out[n], ttls[k], extras[k] = value, ttl, extra
  if type(value) == 'string' then
    size = size + #value
  end
  if ttl ~= -1 then
    out[4] = ttls
  end
  if extra ~= 0 then
    out[5] = extras
  end
end
while ARGV[i] do
  if size > most then
    return out
  end
  local words, keys = tonumber(ARGV[i]), tonumber(ARGV[i + 1])
  local last = i + 1 + words
  if labelled then
    for k = last + 1, last + keys do
      purge(ARGV[k], epoch)
    end
  end
  n = n + 1
  out[n] = query(i + 2, last)
  for _, part in ipairs(type(out[n]) == 'table' and out[n] or {out[n]}) do
    size = size + (type(part) == 'string' and #part or 0)
  end
  i = last + keys + 1
end
return out
