-- K2: who must acknowledge. -> roster version, {incarnation, packed member, ...}

local _, _, _, version = read_lineage(nil)
return {tonumber(version), redis.call('HGETALL', string.sub(META, 1, -5) .. 'nodes')}
