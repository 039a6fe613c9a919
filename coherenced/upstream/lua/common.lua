-- What every script of a lane shares; put before each script's own body.
--
-- KEYS[1] the lane's metadata (a hash), KEYS[2] its log (a stream). Everything
-- else of the lane has the same prefix, `coh:{lane}:`.
--
--   meta      e epoch, s sequence, t tag of the last mutation, rv version of the
--             roster, n nodes in it, lb 1 once a labelled value was stored, pd 1
--             while there may be pending marks, ls 1 while there may be leases, lz what the
--             nodes declare linearizable, as long as any does
--   log       one entry a record, id seq-0: p tag before, t tag, b body, r reply
--   nodes     the roster: incarnation -> msgpack Member
--   label:K   the tags of the value under K, and the sequence at which it was written. It has
--             no expiry of its own: a server that evicts what has one (volatile-*) would take it
--             before its value, which would pass for a plain one
--   labels    the keys that have one, by when their values end
--   dead      tag invalidations that labelled values may not know of: t:TAG -> seq,
--             and * -> seq for everything
--   prefixes  the same for prefixes: PREFIX -> seq
--   pending   keys between the two phases of a linearizable write (K6): KEY -> when its
--             mark ends in ms of the server's clock, a space, the token
--   declared  K6, which keys are linearizable: incarnation -> what that node declares, a msgpack
--             array of three words for each of its namespaces, in their order: + or -, the glob,
--             the same as a pattern of Lua. And '' -> lz: an array of all of these, each once
--   leases    keys that somebody is loading (L1): KEY -> when the lease ends, the sequence
--             at which it was given, what was there then (a nothing, v a value; n: nothing
--             is there, as a loader has found, and nobody holds it), the token
--   ends      the same keys by when their leases end
--
-- A labelled value is a cache entry: dead as soon as a record covers it. A plain
-- value is the application's own data, whose home is Redis: no invalidation ends it.

--
-- These functions capture nothing, and what is rare is defined where it is needed: a
-- script is run as one piece, and a closure costs as much as a Redis command.

local META, LOG = KEYS[1], KEYS[2]

local function server_ms()
  local now = redis.call('TIME')
  return tonumber(now[1]) * 1000 + math.floor(tonumber(now[2]) / 1000)
end

-- W2: a lane without (readable) metadata starts a new epoch, and its log goes: no
-- node may take what follows for a continuation. `last` is the sequence to go on
-- from. The roster's version starts from the clock, 1,000 for each ms, so that it cannot repeat
-- one that a node remembers, and tells how old the epoch is. Labels of an earlier epoch are dead.
-- -> epoch, sequence, tag, roster version, whether there may be labels, no marks, no leases,
--    what is declared
local function start_epoch(epoch, last)
  local meta = KEYS[1]
  local base = string.sub(meta, 1, -5)
  local had_labels = redis.call('EXISTS', base .. 'dead') == 1
  redis.call('DEL', meta, KEYS[2], base .. 'dead', base .. 'prefixes', base .. 'pending',
    base .. 'leases', base .. 'ends')
  local nodes = redis.pcall('HLEN', base .. 'nodes')
  if type(nodes) == 'table' then
    redis.call('DEL', base .. 'nodes')
    nodes = 0
  end
  local now = redis.call('TIME')
  local roster = string.format('%d', now[1] * 1000 + math.floor(now[2] / 1000)) .. '000'
  redis.call('HSET', meta, 'e', epoch, 's', string.format('%d', last), 't', epoch,
    'rv', roster, 'n', tostring(nodes))
  if had_labels then
    redis.call('HSET', meta, 'lb', '1')
    redis.call('HSET', base .. 'dead', '*', '0')
  end
  local declared = redis.pcall('HGET', base .. 'declared', '')
  declared = type(declared) == 'string' and declared
  if declared then
    redis.call('HSET', meta, 'lz', declared)
  end
  return epoch, last, epoch, roster, had_labels, false, false, declared
end

-- -> epoch, sequence, tag, roster version, whether there are labels, pending marks, leases,
--    what is declared linearizable (packed, or false)
local function read_lineage(new_epoch)
  local m = redis.pcall('HMGET', KEYS[1], 'e', 's', 't', 'rv', 'lb', 'pd', 'ls', 'lz')
  local epoch, seq, tag = m[1], tonumber(m[2] or ''), m[3]
  if epoch and seq and tag and #epoch == 16 and #tag == 16 then
    return epoch, seq, tag, m[4] or '0', m[5] == '1', m[6] == '1', m[7] == '1', m[8]
  elseif m.err and string.sub(m.err, 1, 9) ~= 'WRONGTYPE' then
    error({err = 'NOTRUN ' .. m.err})
  elseif new_epoch then
    return start_epoch(new_epoch, 0)
  end
  return '', 0, '', '0', false, false, false, false
end
