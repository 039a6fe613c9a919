-- What waits to be sent to an origin, and who sends it. The first of ARGV says what to do.
--
-- KEYS[1] the stream: one entry a write, k its key (r: it was a dead letter)
-- KEYS[2] newest, a hash: key -> what the newest write of it that waits makes of it
-- KEYS[3] dead, a stream: what the origin refused too often: k key, p payload, e why, n tries
-- KEYS[4] the owner: the incarnation of the node that sends, for as long as it says so

local what = ARGV[1]

-- These entries are dealt with; and so is what they said of `key`, unless it is newer now.
local function done(key, payload, first)
  if redis.call('HGET', KEYS[2], key) == payload then
    redis.call('HDEL', KEYS[2], key)
  end
  for i = first, #ARGV do
    redis.call('XACK', KEYS[1], 'senders', ARGV[i])
    redis.call('XDEL', KEYS[1], ARGV[i])
  end
end

if what == 'own' then -- incarnation, for how many ms -> 1, or who owns it
  local owner = redis.call('GET', KEYS[4])
  if owner and owner ~= ARGV[2] then
    return owner
  end
  redis.call('SET', KEYS[4], ARGV[2], 'PX', ARGV[3])
  return 1
elseif what == 'disown' then -- incarnation
  if redis.call('GET', KEYS[4]) == ARGV[2] then
    redis.call('DEL', KEYS[4])
  end
  return 1
elseif what == 'sent' then -- key, payload, ids
  done(ARGV[2], ARGV[3], 4)
  return 1
elseif what == 'bury' then -- key, payload, why, tries, most dead letters, ids
  redis.call('XADD', KEYS[3], 'MAXLEN', '~', ARGV[6], '*', 'k', ARGV[2], 'p', ARGV[3],
    'e', ARGV[4], 'n', ARGV[5])
  done(ARGV[2], ARGV[3], 7)
  return 1
elseif what == 'replay' then -- id -> 1 it waits again, 2 a newer write made it void, 0 no such
  local found = redis.call('XRANGE', KEYS[3], ARGV[2], ARGV[2])
  if #found == 0 then
    return 0
  end
  local fields = found[1][2]
  redis.call('XDEL', KEYS[3], ARGV[2])
  if redis.call('HEXISTS', KEYS[2], fields[2]) == 1 then
    return 2
  end
  redis.call('HSET', KEYS[2], fields[2], fields[4])
  redis.call('XADD', KEYS[1], '*', 'k', fields[2], 'r', '1')
  return 1
elseif what == 'count' then -- -> writes that wait, their keys, dead letters, the owner
  return {redis.call('XLEN', KEYS[1]), redis.call('HLEN', KEYS[2]), redis.call('XLEN', KEYS[3]),
    redis.call('GET', KEYS[4]) or ''}
end
return redis.error_reply('ERR unknown step ' .. what)
