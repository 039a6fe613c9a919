-- A node leaves the roster. ARGV: incarnation, then (to take off a silent one) the beat
-- at which it must still stand. -> 1 when it was taken off

local nodes = string.sub(META, 1, -5) .. 'nodes'
if ARGV[2] then
  local packed = redis.call('HGET', nodes, ARGV[1])
  if not packed then
    return 0
  end
  -- A Member is an array of a bin (the incarnation, its length in the third byte) and
  -- then name, bound, beat: what comes after the bin is all this library can read.
  local rest = string.sub(packed, 4 + (string.byte(packed, 3) or 0))
  local fine, _, _, beat = pcall(cmsgpack.unpack, rest)
  if fine and type(beat) == 'number' and beat ~= tonumber(ARGV[2]) then
    return 0
  end
end
local gone = redis.call('HDEL', nodes, ARGV[1])
if gone == 1 and redis.call('EXISTS', META) == 1 then
  redis.call('HINCRBY', META, 'n', -1)
  redis.call('HINCRBY', META, 'rv', 1)
end
if gone == 1 and redis.pcall('HGET', string.sub(META, 1, -5) .. 'declared', ARGV[1]) then
  declare(ARGV[1], false)
end
return gone

