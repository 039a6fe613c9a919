-- V1, V2: the lane's lineage, the server's clock, and this node's line in the roster.
-- ARGV: new epoch, the epoch that forked (or nothing), then (to join or stay) incarnation,
-- packed member up to its last field, what it declares (three words for each namespace).
-- -> epoch, seq, tag, roster version, server time in ms

local epoch, seq, tag, roster, _, _, _, declared = read_lineage(ARGV[1])
local ms = server_ms()
if epoch == ARGV[2] then
  -- S1: its numbers have named two histories; from here on they name one again.
  epoch, seq, tag, roster = start_epoch(ARGV[1], seq)
end
if ARGV[3] then
  -- K2: joining and proving are one atomic step.
  local nodes, line = string.sub(META, 1, -5) .. 'nodes', ARGV[4] .. cmsgpack.pack(ms)
  local added = redis.pcall('HSET', nodes, ARGV[3], line)
  local joined = added == 1 and redis.call('HINCRBY', META, 'n', 1)
    or added == 0 and tonumber(redis.call('HGET', META, 'n') or '')
  if joined and joined == redis.call('HLEN', nodes) then
    if added == 1 then
      roster = redis.call('HINCRBY', META, 'rv', 1)
    end
  else
    -- The roster was lost, in part or altogether, or replaced: who is on it is unknown until
    -- everyone has come back, which is what a new epoch says (K7).
    redis.pcall('HDEL', nodes, ARGV[3])
    epoch, seq, tag, roster = start_epoch(ARGV[1], seq)
    redis.call('HSET', nodes, ARGV[3], line)
    redis.call('HINCRBY', META, 'n', 1)
  end
  local rules = ARGV[5] and cmsgpack.pack({unpack(ARGV, 5)})
  if (rules or declared) and (added ~= 0 or rules and not declared
    or (rules or false) ~= redis.pcall('HGET', string.sub(META, 1, -5) .. 'declared', ARGV[3])) then
    declare(ARGV[3], rules)
  end
end
return {epoch, seq, tag, tonumber(roster), ms}
