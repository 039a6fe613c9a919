-- K2: who must acknowledge. -> roster version, {incarnation, packed member, ...}, and what they
-- declare linearizable (K6): {+ or -, glob, pattern, ...} for each who says something else

local _, _, _, version, _, _, _, declared = read_lineage(nil)
local fine, lines = pcall(cmsgpack.unpack, declared or '\144')
return {tonumber(version), redis.call('HGETALL', string.sub(META, 1, -5) .. 'nodes'),
  fine and type(lines) == 'table' and lines or {}}
