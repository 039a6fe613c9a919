-- Labelled values. -> purge(key, epoch): removes `key` if it is a dead labelled value;
-- else its label {epoch, sequence, tag...}, or nil when the value is plain. T1: a labelled
-- value is dead when a record newer than its label covers it.
-- With `lease`, a label that no value has yet: whether it would be alive; removes nothing.
local function purge(key, epoch, lease)
  local base = string.sub(KEYS[1], 1, -5)
  local fine, label = true, lease
  if not lease then
    local packed = redis.pcall('GET', base .. 'label:' .. key)
    if not packed then
      return nil
    elseif type(packed) == 'table' and string.sub(packed.err, 1, 9) ~= 'WRONGTYPE' then
      error({err = 'NOTRUN ' .. packed.err}) -- who may not read labels cannot tell what is plain
    end
    fine, label = pcall(cmsgpack.unpack, packed)
    fine = fine and redis.call('EXISTS', key) == 1 -- else only the label is left
  end
  local written = fine and type(label) == 'table' and label[1] == epoch and tonumber(label[2])
  local dead = not written
  if not dead then
    local fields = {'*'}
    for i = 3, #label do
      fields[i - 1] = 't:' .. label[i]
    end
    local marks = redis.pcall('HMGET', base .. 'dead', unpack(fields))
    local prefixes = redis.pcall('HGETALL', base .. 'prefixes')
    dead = marks.err or prefixes.err -- of another type: what they said is lost
    for _, at in ipairs(marks) do
      dead = dead or at and tonumber(at) > written
    end
    for i = 1, #prefixes, 2 do
      local prefix = prefixes[i]
      dead = dead or tonumber(prefixes[i + 1]) > written and string.sub(key, 1, #prefix) == prefix
    end
  end
  if dead then
    if not lease then
      redis.call('UNLINK', key, base .. 'label:' .. key)
      redis.pcall('ZREM', base .. 'labels', key)
    end
    return nil
  end
  return label
end
