-- W1: execute and record a batch of mutations, in order, as one atomic step.
--
-- ARGV: packed head of the message (array of 5, lane), new epoch, channel, length of the
-- log, and one of three layouts.
-- 'p': nothing but SETs without options. For each: tag, record body, key, value.
-- 's' when no mode below has another letter than n z d k e m, else '': for each mutation number
-- of words of its command (0: a pure invalidation), mode, tag, record body, the words, and
-- what the mode's letters ask for:
--   n  a nil reply means that nothing changed    z  so does an integer 0
--   e  the reply is a 64-bit integer             k  the command keeps the value's label
--   d  with n or z, a delete or a SET XX: of what is leased it is recorded though nothing was there
--   m  and digits: an APPEND, refused where the value would be longer than so many bytes
--   r  a read in its place inside a transaction: never recorded
--   i  an invalidation                           f  FLUSHDB
--   l  label: count, then the tags               v  compare and set: epoch, sequence
--   p  K6, prepare: token, ttl in ms             t  commit: token        a  abort: token
--   h  L1, under a lease: token                  u  its release: how long nothing is there, ms
--   w  with a commit: token, and a key that bears it
--   x  refused by the caller: the words are the error's text
-- -> epoch, seq, tag, roster version, tag before the batch, then for each mutation its
--    sequence (0: not recorded) and its reply; or, where each is recorded and its reply is OK,
--    the first sequence alone; or an error whose first word is ONEPHASE, and nothing was done

local epoch, seq, tag, roster, labelled, pending, leased, declared = read_lineage(ARGV[2])
local out = {epoch, seq, tag, tonumber(roster), tag}
local parts, recorded, size = {}, 0, 0
local broken, flushed = false, nil -- flushed: how many nodes had joined
local before, execute, after, finish, are_leased, strings_at

local sets = ARGV[5] == 'p'
local special = labelled or pending or leased or not sets and ARGV[5] ~= 's'
if special or declared then
  -- The byte strings of a msgpack array of bins, and where it ends: the msgpack library
  -- of the server reads no bins.
  strings_at = function(body, at)
    local head, length = string.byte(body, at), 0
    at = at + 1
    if head == 220 then
      length, at = struct.unpack('>I2', body, at)
    elseif head == 221 then
      length, at = struct.unpack('>I4', body, at)
    else
      length = head - 144
    end
    local found = {}
    for i = 1, length do
      local kind, bytes = string.byte(body, at), 0
      if kind == 196 then
        bytes, at = string.byte(body, at + 1), at + 2
      elseif kind == 197 then
        bytes, at = struct.unpack('>I2', body, at + 1)
      else
        bytes, at = struct.unpack('>I4', body, at + 1)
      end
      found[i] = string.sub(body, at, at + bytes - 1)
      at = at + bytes
    end
    return found, at
  end
end

if declared then
  -- K6: who writes a key that any node declares linearizable has marked it before, or is refused
  -- before anything is done: a batch is refused as a whole.
  local lines = nil

  -- -> the glob by which `key` is linearizable; nil when it is not
  local function linearizable(key)
    for _, line in ipairs(lines) do
      for i = 1, #line, 3 do
        if string.find(key, line[i + 2]) then
          if line[i] == '+' then
            return line[i + 1]
          end
          break
        end
      end
    end
    return nil
  end

  -- Of one mutation. Whose mark has expired altogether is told so when its turn comes.
  local function unmarked(keys, token)
    local bare, marked = nil, false
    for _, key in ipairs(keys) do
      local mark = token and redis.pcall('HGET', string.sub(META, 1, -5) .. 'pending', key)
      if type(mark) == 'string' and string.match(mark, '^%d+ (.*)$') == token then
        marked = true
      else
        bare = bare or linearizable(key)
      end
    end
    return (marked or not token) and bare or nil
  end

  local function refused()
    lines = cmsgpack.unpack(declared)
    local at, glob = 6, nil
    while at <= #ARGV and not glob do
      if sets then
        glob = linearizable(ARGV[at + 2])
        at = at + 4
      else
        local mode, body, token = ARGV[at + 1], ARGV[at + 3], nil
        local words = tonumber(ARGV[at])
        at = at + 4 + words
        if string.find(mode, 'l', 1, true) then
          at = at + 1 + tonumber(ARGV[at])
        end
        if string.find(mode, 'v', 1, true) then
          at = at + 2
        end
        if string.find(mode, '[pta]') then
          token, at = ARGV[at], at + (string.find(mode, 'p', 1, true) and 2 or 1)
        end
        if string.find(mode, 'h', 1, true) then
          at = at + (string.find(mode, 'u', 1, true) and 2 or 1)
        end
        if string.find(mode, 'w', 1, true) then
          at = at + 2
        end
        if words > 0 and not string.find(mode, '[rfxu]') then
          glob = unmarked(strings_at(body, 5 + string.byte(body, 4)), token)
        end
      end
    end
    return glob
  end

  local fine, glob = pcall(refused)
  if not fine then
    redis.call('HDEL', META, 'lz') -- damaged: the next beat of one who declares something mends it
    declared, glob = false, nil
  end
  if glob then
    return {err = 'ONEPHASE a node declares the namespace ' .. glob .. ' linearizable'}
  end
end

if special then
  local PREPARE, ABORT = 4, 7 -- operations of records
  local EVERYTHING, MOST_CHECKED, MOST_TAGS, MOST_PREFIXES, SWEPT = 2, 1000, 100000, 256, 50
  local LONGEST_MS = 2592000000 -- 30 days
  local BASE = string.sub(META, 1, -5)
  local NODES, DEAD, PREFIXES = BASE .. 'nodes', BASE .. 'dead', BASE .. 'prefixes'
  local LABELS, added = BASE .. 'labels', 0
  local PENDING, released, guarded, clock = BASE .. 'pending', {}, {}, nil
  local MARK_GONE = {err = 'TRYAGAIN the mark of this write has expired or was taken away'}
  local LEASES, ENDS = BASE .. 'leases', BASE .. 'ends'

  -- Operation and flags of a body are one byte each, the writer is a short bin.
  local function parse(body)
    local keys, at = strings_at(body, 5 + string.byte(body, 4))
    local tags, prefixes
    tags, at = strings_at(body, at)
    prefixes = strings_at(body, at)
    return {
      keys = keys, tags = tags, prefixes = prefixes,
      everything = bit.band(string.byte(body, 2), EVERYTHING) ~= 0,
    }
  end

  -- Whether the log proves that nothing after sequence `since` of `in_epoch` touched `keys`.
  local function unchanged(keys, in_epoch, since)
    local newer = seq - since
    if in_epoch ~= epoch or newer < 0 or newer > MOST_CHECKED then
      return false
    elseif newer == 0 then
      return true
    end
    local entries = redis.pcall('XRANGE', LOG, string.format('%d-0', since + 1), '+')
    if entries.err or #entries ~= newer then
      return false
    end
    local mine = {}
    for _, key in ipairs(keys) do
      mine[key] = true
    end
    for _, entry in ipairs(entries) do
      local body = entry[2][6]
      local op = string.byte(body, 1)
      -- A mark that comes or goes changes no value; whoever writes under one has its own before.
      local other = op ~= PREPARE and op ~= ABORT and parse(body) or nil
      if other then
        if other.everything or labelled and (#other.tags > 0 or #other.prefixes > 0) then
          return false
        end
        for _, key in ipairs(other.keys) do
          if mine[key] then
            return false
          end
        end
      end
    end
    return true
  end

  -- -> whether there was one
  local function unlabel(key)
    local had = redis.call('UNLINK', BASE .. 'label:' .. key) == 1
    if had then
      redis.pcall('ZREM', LABELS, key)
    end
    return had
  end

  local function note_end(key, last)
    if type(redis.pcall('ZADD', LABELS, last, key)) == 'table' then
      redis.call('DEL', LABELS) -- of another type: what it said is lost
      redis.call('ZADD', LABELS, last, key)
    end
  end

  -- Whether the value of a label is gone, and then the label, too; else when it ends.
  local function is_gone(key)
    local last = redis.call('PEXPIRETIME', key)
    if last == -2 then
      unlabel(key)
      redis.pcall('ZREM', LABELS, key)
    end
    return last == -2, last
  end

  -- The labels of values that have expired, a few at a time; and of those that the server has
  -- evicted: when the first of some at random is such a one, more are looked at than were added.
  local function sweep()
    clock = clock or server_ms()
    for _, key in ipairs(redis.pcall('ZRANGEBYSCORE', LABELS, '-inf', clock, 'LIMIT', 0, SWEPT)) do
      local gone, last = is_gone(key)
      if not gone then -- another program lets it live on
        note_end(key, last == -1 and clock + LONGEST_MS or last)
      end
    end
    local one = redis.pcall('ZRANDMEMBER', LABELS)
    if type(one) == 'string' and is_gone(one) then
      for _, key in ipairs(redis.pcall('ZRANDMEMBER', LABELS, 16 * added + 16)) do
        is_gone(key)
      end
    end
  end

  -- T1: labelled values that this invalidation covers are dead from `seq` on, and leases
  -- that were given before are worth nothing.
  local function bury(covered)
    local at = string.format('%d', seq)
    for _, key in ipairs(covered.keys) do
      if unlabel(key) then
        redis.call('UNLINK', key)
      end
    end
    for _, name in ipairs(covered.tags) do
      redis.call('HSET', DEAD, 't:' .. name, at)
    end
    for _, prefix in ipairs(covered.prefixes) do
      redis.call('HSET', PREFIXES, prefix, at)
    end
    if covered.everything or redis.call('HLEN', DEAD) > MOST_TAGS
      or redis.call('HLEN', PREFIXES) > MOST_PREFIXES then
      redis.call('DEL', DEAD, PREFIXES)
      redis.call('HSET', DEAD, '*', at)
    end
  end

  -- A label whose value is to live `more` ms longer than it was: its age stays what it is.
  local function live_on(packed, more)
    if more ~= 0 and string.find(packed, 'coh:life=', 1, true) then
      local label = cmsgpack.unpack(packed)
      for i = 3, #label do
        local life, grace = string.match(label[i], '^coh:life=(%d+)(.*)$')
        if life then
          label[i] = string.format('coh:life=%d', math.max(0, life + more)) .. grace
        end
      end
      packed = cmsgpack.pack(label)
    end
    return packed
  end

  -- What a write does to the labels of its keys. A label lives as long as its value, and a
  -- labelled value never lives without a bound.
  local function relabel(keys, keeps, tags)
    for _, key in ipairs(keys) do
      local name = BASE .. 'label:' .. key
      local packed = tags and cmsgpack.pack({epoch, seq, unpack(tags)})
        or keeps and redis.pcall('GET', name)
      local ends = type(packed) == 'string' and redis.call('PTTL', key) or -2
      if ends == -1 or ends > LONGEST_MS then
        redis.call('PEXPIRE', key, LONGEST_MS)
        ends = LONGEST_MS
      end
      if ends == -2 then
        unlabel(key)
      else
        local last = redis.call('PEXPIRETIME', key)
        if not tags then
          packed = live_on(packed, last - (tonumber(redis.call('ZSCORE', LABELS, key)) or last))
        end
        redis.call('SET', name, packed)
        note_end(key, last)
        added = added + (tags and 1 or 0)
      end
    end
    if tags and not labelled then
      labelled = true
      redis.call('HSET', META, 'lb', '1')
      redis.call('HSETNX', DEAD, '*', '0')
    end
  end

  -- K6: the token of the mark on `key`, nil when it bears none that is still alive.
  local function holder(key)
    local mark = redis.call('HGET', PENDING, key)
    local ends, token = string.match(mark or '', '^(%d+) (.*)$')
    clock = clock or server_ms()
    if ends and tonumber(ends) > clock then
      return token
    elseif mark then
      redis.call('HDEL', PENDING, key)
    end
    return nil
  end

  -- Whether `key` bore this token when the batch came to it: a FLUSHDB on the way ends no write.
  local function is_guarded(token, key)
    if guarded[token] == nil then
      guarded[token] = pending and holder(key) == token
    end
    return guarded[token]
  end

  -- Why a mutation of `keys` must not be carried out while they are, or are not, pending.
  local function refusal(mode, keys, token)
    local ends_it, harmless = string.find(mode, '[ta]'), string.find(mode, '[riu]')
    local mine = 0
    for _, key in ipairs(keys) do
      local held = holder(key)
      if held and held == token then
        mine = mine + 1
      elseif held and not harmless then
        return {err = 'TRYAGAIN another write is between its two phases on this key'}
      end
    end
    -- Only the linearizable ones of its keys were marked, all at once and for as long.
    if ends_it and mine == 0 and not guarded[token] then
      return MARK_GONE
    elseif ends_it and guarded[token] == nil then
      guarded[token] = true
    end
    if ends_it then
      -- Only when the batch is done: a later command of it may be about the same key.
      for _, key in ipairs(keys) do
        released[#released + 1] = key
      end
    end
    return nil
  end

  local function mark(keys, token, ttl_ms)
    clock = clock or server_ms()
    local line = string.format('%d ', clock + tonumber(ttl_ms)) .. token
    if seq % 64 == 0 then -- marks that dead writers left
      for _, key in ipairs(redis.call('HKEYS', PENDING)) do
        holder(key)
      end
    end
    for _, key in ipairs(keys) do
      redis.call('HSET', PENDING, key, line)
    end
    if not pending then
      pending = true
      redis.call('HSET', META, 'pd', '1')
    end
  end

  -- L1: what was there when `key` was leased under `token` (and, given `tags`, what carries
  -- them may be stored under it still); nil when it is not leased under it.
  local function lease(key, token, tags)
    local line = leased and redis.call('HGET', LEASES, key)
    local ends, at, kind, held = string.match(line or '', '^(%d+) (%d+) (%a) (.*)$')
    clock = clock or server_ms()
    if held ~= token or kind == 'n' or tonumber(ends) <= clock then
      return nil
    end
    return purge(key, epoch, {epoch, at, unpack(tags)}) and kind
  end

  -- L1: whether somebody is loading one of these, or knows that it is not there.
  are_leased = function(keys)
    local lines = redis.pcall('HMGET', LEASES, unpack(keys))
    if lines.err then
      return true -- of another type: `unlease` finds it out
    end
    clock = clock or server_ms()
    for _, line in ipairs(lines) do
      if line and tonumber(string.match(line, '^%d+') or 0) > clock then
        return true
      end
    end
    return false
  end

  -- L1: whatever changes a key ends its lease.
  local function unlease(keys)
    if redis.call('HDEL', LEASES, unpack(keys)) > 0 then
      redis.call('ZREM', ENDS, unpack(keys))
    end
  end

  -- L1: `key` is known not to exist. Claims look at it like at a lease that nobody holds.
  local function note_absent(key, ms)
    local ends = clock + tonumber(ms)
    redis.call('HSET', LEASES, key, string.format('%d %d n -', ends, seq))
    redis.call('ZADD', ENDS, ends, key)
    if redis.call('PEXPIRETIME', LEASES) < ends then
      redis.call('PEXPIREAT', LEASES, ends)
    end
  end

  finish = function()
    if labelled then
      sweep()
    end
    for _, key in ipairs(released) do
      redis.call('HDEL', PENDING, key)
    end
    if #released > 0 and redis.call('EXISTS', PENDING) == 0 then
      redis.call('HDEL', META, 'pd')
    end
    if leased and redis.call('EXISTS', LEASES) == 0 then
      redis.call('DEL', ENDS)
      redis.call('HDEL', META, 'ls')
      if not labelled then
        redis.call('DEL', DEAD, PREFIXES)
      end
    end
  end

  -- Before the command. -> what the steps after it need, an error reply or nil
  before = function(mode, body, label, expected, token, held, guard)
    local covers = (labelled or pending or leased or label or expected or token or held or guard)
      and parse(body)
    if labelled then
      for _, key in ipairs(covers.keys) do
        purge(key, epoch)
      end
    end
    if pending or token then
      local refused = refusal(mode, covers.keys, token)
      if refused then
        return covers, refused
      end
    end
    if guard and not is_guarded(ARGV[guard], ARGV[guard + 1]) then
      return covers, MARK_GONE
    end
    if expected then
      local since = tonumber(ARGV[expected + 1])
      local fine, same = pcall(unchanged, covers.keys, ARGV[expected], since)
      if not fine or not same then
        return covers, {err = 'CONFLICT the key has changed since that version'}
      end
    end
    if held then
      local key, releases = covers.keys[1], string.find(mode, 'u', 1, true)
      local was = lease(key, held, label or {})
      if releases then
        return covers, was and 1 or 0
      elseif not was or was == 'a' and redis.call('EXISTS', key) == 1 then
        return covers, {err = 'LOST the lease is over, or its key or tag was changed meanwhile'}
      end
    end
    return covers
  end

  execute = function(mode, first, last)
    if last < first then
      return false
    elseif string.find(mode, 'x', 1, true) then
      return {err = ARGV[first]}
    elseif string.find(mode, 'r', 1, true) then
      return query(first, last)
    elseif not string.find(mode, 'f', 1, true) then
      return redis.pcall(unpack(ARGV, first, last))
    end
    -- FLUSHDB keeps what is ours: the roster here, the metadata when the batch ends. The
    -- log starts again with this record, and no labelled value is left.
    local members = redis.pcall('HGETALL', NODES)
    local joined = flushed or redis.call('HGET', META, 'n')
    local told = declared and redis.pcall('HGETALL', BASE .. 'declared') or {}
    local reply = redis.pcall(unpack(ARGV, first, last))
    if not reply.err then
      flushed, labelled, pending, leased = joined or '0', false, false, false
      for i = 1, #members, 2 do
        redis.call('HSET', NODES, members[i], members[i + 1])
      end
      for i = 1, #told, 2 do
        redis.call('HSET', BASE .. 'declared', told[i], told[i + 1])
      end
    end
    return reply
  end

  after = function(mode, label, covers, token, ttl_ms)
    if string.find(mode, 'p', 1, true) then
      mark(covers.keys, token, ttl_ms)
      return
    elseif string.find(mode, 'i', 1, true) then
      if labelled or leased then
        bury(covers)
      end
    elseif string.find(mode, 'a', 1, true) then
      return
    elseif (labelled or label) and not string.find(mode, 'u', 1, true) then
      relabel(covers.keys, string.find(mode, 'k', 1, true), label)
    end
    if leased and covers.keys[1] then
      unlease(covers.keys)
      if string.find(mode, 'u', 1, true) and ttl_ms ~= '0' then
        note_absent(covers.keys[1], ttl_ms)
      end
    end
  end
end

local find, format = string.find, string.format
local i, n, words_in_all, began = 6, 5, #ARGV, seq

if sets and not before then
  -- What most batches are, with nothing more to be done about any of its keys: one command, and
  -- as little as can be for each record. (An error is told one by one, below.)
  local command, length = {'MSET'}, 1
  for at = 8, words_in_all, 4 do
    command[length + 1], command[length + 2] = ARGV[at], ARGV[at + 1]
    length = length + 2
  end
  if not redis.pcall(unpack(command)).err then
    out[6] = seq + 1
    for at = 6, words_in_all, 4 do
      local new_tag, body, added = ARGV[at], ARGV[at + 1], nil
      seq = seq + 1
      if (at - 6) % 128 == 0 then -- the log is trimmed once a batch, as below
        added = redis.pcall('XADD', LOG, 'MAXLEN', '~', ARGV[4], format('%d-0', seq), 'p', tag,
          't', new_tag, 'b', body)
      else
        added = redis.pcall('XADD', LOG, format('%d-0', seq), 'p', tag, 't', new_tag, 'b', body)
      end
      broken = broken or type(added) == 'table'
      size = size + #body + 48
      recorded = recorded + 1
      parts[recorded] = '\153' .. cmsgpack.pack(seq) .. '\196\016' .. tag .. '\196\016'
        .. new_tag .. body
      tag = new_tag
    end
    i = words_in_all + 1
  end
end

while i <= words_in_all do
  local words, mode, new_tag, body, first, last
  if sets then
    mode, new_tag, body, first, last = '', ARGV[i], ARGV[i + 1], i + 2, i + 3
  else
    words, mode, new_tag, body = tonumber(ARGV[i]), ARGV[i + 1], ARGV[i + 2], ARGV[i + 3]
    first, last = i + 4, i + 3 + words
  end
  local label, expected, token, ttl_ms, held, guard, covers, reply
  i = last + 1
  if before then
    if find(mode, 'l', 1, true) then
      local tags = tonumber(ARGV[i])
      label = {unpack(ARGV, i + 1, i + tags)}
      i = i + 1 + tags
    end
    if find(mode, 'v', 1, true) then
      expected, i = i, i + 2
    end
    if find(mode, '[pta]') then
      token, i = ARGV[i], i + 1
      if find(mode, 'p', 1, true) then
        ttl_ms, i = ARGV[i], i + 1
      end
    end
    if find(mode, 'h', 1, true) then
      held, i = ARGV[i], i + 1
      if find(mode, 'u', 1, true) then
        ttl_ms, i = ARGV[i], i + 1
      end
    end
    if find(mode, 'w', 1, true) then
      guard, i = i, i + 2
    end
    local fine
    fine, covers, reply = pcall(before, mode, body, label, expected, token, held, guard)
    if not fine then
      broken, reply = true, {err = 'ERR the metadata of coherenced is damaged, try again'}
    end
  end
  if reply == nil and mode ~= '' and find(mode, 'm', 1, true) then
    local had = redis.pcall('STRLEN', ARGV[first + 1])
    if type(had) == 'number' and had + #ARGV[last] > tonumber(string.match(mode, '%d+')) then
      reply = {err = 'ERR string exceeds maximum allowed size (proto-max-bulk-len)'}
    end
  end
  if reply == nil then
    if sets then
      reply = redis.pcall('SET', ARGV[first], ARGV[last])
    elseif before then
      reply = execute(mode, first, last)
    else
      reply = redis.pcall(unpack(ARGV, first, last))
    end
  end

  -- Is a record due, and which integer goes with it? (W3: a reply that gets lost can be told.)
  local kind, digits = type(reply), nil
  local due = kind ~= 'table' or not reply.err
  if mode ~= '' then
    local nothing = reply == false and find(mode, 'n', 1, true)
      or reply == 0 and find(mode, 'z', 1, true)
    if nothing and leased and find(mode, 'd', 1, true) then
      nothing = not are_leased(covers.keys)
    end
    due = due and not (nothing or find(mode, 'r', 1, true))
  end
  if kind == 'number' then
    digits = format('%d', reply)
    if find(mode, 'e', 1, true) then
      -- This language's numbers hold 53 bits: the digits beyond must be read back.
      if reply >= 9007199254740992 or reply <= -9007199254740992 then
        local exact = last - first == 3 -- of a field: HINCRBY
          and redis.pcall('HGET', ARGV[first + 1], ARGV[first + 2])
          or redis.pcall('GET', ARGV[first + 1])
        digits = type(exact) == 'string' and exact or digits
      end
      reply = digits
    end
  end

  out[n + 1], out[n + 2] = 0, reply
  if due then
    local at = seq + 1
    local id = format('%d-0', at)
    local added
    if (seq - began) % 32 ~= 0 then
      -- The log is trimmed once a batch, a long one's more often: each word costs something.
      if digits then
        added = redis.pcall('XADD', LOG, id, 'p', tag, 't', new_tag, 'b', body, 'r', digits)
      else
        added = redis.pcall('XADD', LOG, id, 'p', tag, 't', new_tag, 'b', body)
      end
    elseif digits then
      added = redis.pcall('XADD', LOG, 'MAXLEN', '~', ARGV[4], id, 'p', tag, 't', new_tag,
        'b', body, 'r', digits)
    else
      added = redis.pcall('XADD', LOG, 'MAXLEN', '~', ARGV[4], id, 'p', tag, 't', new_tag,
        'b', body)
    end
    -- A log that refuses the record is not the log of this metadata.
    broken = broken or type(added) == 'table'
    seq = at
    size = size + #body + 48
    if size <= 4096 then
      recorded = recorded + 1
      parts[recorded] = '\153' .. cmsgpack.pack(at) .. '\196\016' .. tag .. '\196\016'
        .. new_tag .. body
    end
    tag = new_tag
    out[n + 1] = at
    if after then
      broken = not pcall(after, mode, label, covers, token, ttl_ms) or broken
    end
  end
  n = n + 2
end

if finish then
  broken = not pcall(finish) or broken
end
if broken then
  -- Something was changed that the log does not tell: with a new epoch every node drops
  -- the lane, which is safe whatever has happened.
  epoch, seq, tag, roster = start_epoch(ARGV[2], seq)
  size = 4097
elseif seq == out[2] then
  return out
elseif flushed then
  redis.call('HSET', META, 'e', epoch, 's', format('%d', seq), 't', tag, 'rv', roster,
    'lb', labelled and '1' or '0', 'n', flushed)
  if declared then
    redis.call('HSET', META, 'lz', declared)
  end
else
  redis.call('HSET', META, 's', format('%d', seq), 't', tag)
end

-- W6: a message that would be too long says "read the log" by carrying no records.
if size > 4096 then
  parts, recorded = {}, 0
end
-- A publication that is refused costs time, not coherence: the next probe finds the gap.
redis.pcall('PUBLISH', ARGV[3], ARGV[1] .. '\196\016' .. epoch .. cmsgpack.pack(seq)
  .. '\196\016' .. tag .. '\220' .. struct.pack('>I2', recorded) .. table.concat(parts))
out[1], out[2], out[3], out[4] = epoch, seq, tag, tonumber(roster)
return out
