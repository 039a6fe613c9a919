-- A read command, words first..last of ARGV, with our own keys kept out of what it sees.
local function query(first, last)
  local verb = string.upper(ARGV[first])
  local reply = redis.pcall(unpack(ARGV, first, last))
  if verb == 'DBSIZE' and type(reply) == 'number' then
    local base = string.sub(KEYS[1], 1, -5)
    local labels = redis.pcall('ZCARD', base .. 'labels')
    reply = type(labels) == 'number' and reply - labels or reply
    return reply - redis.call('EXISTS', KEYS[1], KEYS[2], base .. 'nodes', base .. 'dead',
      base .. 'prefixes', base .. 'pending', base .. 'leases', base .. 'ends', base .. 'labels',
      base .. 'declared')
  end
  local keys = verb == 'SCAN' and type(reply[2]) == 'table' and reply[2]
    or verb == 'KEYS' and not reply.err and reply
  if not keys then
    return reply
  end
  local seen = {}
  for _, key in ipairs(keys) do
    if string.sub(key, 1, 4) ~= 'coh:' then
      seen[#seen + 1] = key
    end
  end
  return verb == 'SCAN' and {reply[1], seen} or seen
end
