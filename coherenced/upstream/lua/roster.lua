-- K2: who must acknowledge. -> roster version, {incarnation, packed member, ...}, what they
-- declare linearizable (K6): {+ or -, glob, pattern, ...} for each who says something else, and
-- 1 unless some of them are not named: the roster, or the metadata that counts them, was lost

local epoch, _, _, version, _, _, _, declared = read_lineage(nil)
local fine, lines = pcall(cmsgpack.unpack, declared or '\144')
local nodes = redis.call('HGETALL', string.sub(META, 1, -5) .. 'nodes')
local joined = epoch ~= '' and tonumber(redis.call('HGET', META, 'n') or '')
return {tonumber(version), nodes, fine and type(lines) == 'table' and lines or {},
  joined == #nodes / 2 and 1 or 0}
