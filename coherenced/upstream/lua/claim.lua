-- L1: read a key, and lease it to the caller if it has to be loaded.
-- ARGV: new epoch, key, token, how long the lease lives in ms, how much life of a value is
-- little enough to load it anew in ms (-1: never).
-- -> epoch, seq, tag, value, TTL in ms, extra (as a fetch gives them), state, ms left
--    states: 0 nothing to load (no value: for the ms left it is known that there is none)
--            1 leased to the caller   2 to somebody else   3 too many leases

local MOST_LEASES, SWEPT = 100000, 50
local epoch, seq, tag, _, labelled, pending, leased = read_lineage(ARGV[1])
local base, key, token, now = string.sub(META, 1, -5), ARGV[2], ARGV[3], server_ms()
local LEASES, ENDS = base .. 'leases', base .. 'ends'

local label = labelled and purge(key, epoch)
local mark = pending and redis.pcall('HGET', base .. 'pending', key)
local marked = mark and (type(mark) == 'table'
  or tonumber(string.match(mark, '^%d+') or 0) > now)
local extra = (label or marked) and {marked and 1 or 0, unpack(label or {}, 3)} or 0
local value = redis.pcall('GET', key)
local ttl = value and redis.pcall('PTTL', key) or -1
if type(ttl) == 'table' then -- this user may not read it
  value, ttl = ttl, -1
end
local out = {epoch, seq, tag, value, ttl, extra, 0, 0}
local due = tonumber(ARGV[5])
if type(value) == 'table' or value and (ttl < 0 or ttl > due) then
  return out
end

local line = leased and redis.pcall('HGET', LEASES, key)
if type(line) == 'table' then -- of another type: what it said is lost
  redis.call('DEL', LEASES, ENDS)
  line = nil
end
local ends, at, kind, holder = string.match(line or '', '^(%d+) (%d+) (%a) (.*)$')
local lives = ends and tonumber(ends) > now and purge(key, epoch, {epoch, at})
if lives and holder ~= token and not (kind == 'n' and value) then
  out[7], out[8] = kind == 'n' and 0 or 2, tonumber(ends) - now
  return out
end

for _, over in ipairs(redis.call('ZRANGEBYSCORE', ENDS, '-inf', now, 'LIMIT', 0, SWEPT)) do
  redis.call('HDEL', LEASES, over)
  redis.call('ZREM', ENDS, over)
end
if not lives and redis.call('HLEN', LEASES) >= MOST_LEASES then
  out[7] = 3
  return out
end
local last = now + tonumber(ARGV[4])
redis.call('HSET', LEASES, key, string.format('%d %d ', last, seq) .. (value and 'v ' or 'a ')
  .. token)
redis.call('ZADD', ENDS, last, key)
-- The leases of loaders that died end with the last of them.
if redis.call('PEXPIRETIME', LEASES) < last then
  redis.call('PEXPIREAT', LEASES, last)
end
if not leased then
  redis.call('HSET', META, 'ls', '1')
end
out[7], out[8] = 1, last - now
return out
