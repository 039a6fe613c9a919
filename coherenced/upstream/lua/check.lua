-- Whether this user may do what the other scripts do: on keys of its own, gone afterwards.
-- KEYS: a hash, a stream, a string (none of them exists). ARGV: a channel nobody listens to.
-- -> what was refused, one line each

local refused = {}
local function try(...)
  local reply = redis.pcall(...)
  if type(reply) == 'table' and reply.err then
    refused[#refused + 1] = select(1, ...) .. ': ' .. reply.err
  end
end

local hash, stream, text = KEYS[1], KEYS[2], KEYS[3]
try('TIME')
try('HSET', hash, 'a', '1')
try('HSETNX', hash, 'b', '1')
try('HINCRBY', hash, 'a', '1')
try('HGET', hash, 'a')
try('HMGET', hash, 'a', 'b')
try('HGETALL', hash)
try('HKEYS', hash)
try('HLEN', hash)
try('HDEL', hash, 'a')
try('XADD', stream, 'MAXLEN', '~', '100', '1-0', 'a', '1')
try('XRANGE', stream, '-', '+', 'COUNT', '1')
try('SET', text, '1', 'PX', '1000')
try('GET', text)
try('PTTL', text)
try('PEXPIRE', text, '1000')
try('PEXPIRETIME', text)
try('EXISTS', text)
try('UNLINK', text)
try('DEL', hash, stream, text)
try('ZADD', text, '1', 'a')
try('ZRANGEBYSCORE', text, '-inf', '1', 'LIMIT', 0, 1)
try('ZSCORE', text, 'a')
try('ZCARD', text)
try('ZRANDMEMBER', text)
try('ZREM', text, 'a')
try('PEXPIREAT', text, '1')
try('PUBLISH', ARGV[1], '')
return refused
