-- A read command, words first..last of ARGV, with our own keys kept out of what it sees.
local function query(first, last)
  local verb = string.upper(ARGV[first])
  local reply = redis.pcall(unpack(ARGV, first, last))
  if verb == 'DBSIZE' and type(reply) == 'number' then
    local base = string.sub(KEYS[1], 1, -5)
    return reply - redis.call('EXISTS', KEYS[1], KEYS[2], base .. 'nodes', base .. 'dead',
      base .. 'prefixes', base .. 'pending', base .. 'leases', base .. 'ends')
  elseif verb == 'SCAN' and type(reply[2]) == 'table' then
    local seen = {}
    for _, key in ipairs(reply[2]) do
      if string.sub(key, 1, 4) ~= 'coh:' then
        seen[#seen + 1] = key
      end
    end
    return {reply[1], seen}
  end
  return reply
end
