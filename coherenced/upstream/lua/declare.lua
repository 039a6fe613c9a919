-- K6: `who` declares these rules of the lane's keys from now on (false: none). What they all
-- declare is put together anew, without those who are not on the roster any more.
local function declare(who, rules)
  local meta = KEYS[1]
  local base = string.sub(meta, 1, -5)
  local declared = base .. 'declared'
  if type(redis.pcall('HGET', declared, who)) == 'table' then
    redis.call('DEL', declared) -- of another type: each says it again with its next beat
  end
  if rules then
    redis.call('HSET', declared, who, rules)
  else
    redis.call('HDEL', declared, who)
  end
  local lines, known = {}, {}
  for _, node in ipairs(redis.call('HKEYS', declared)) do
    if node ~= '' then
      local line = redis.call('HGET', declared, node)
      local fine, read = pcall(cmsgpack.unpack, line)
      if redis.pcall('HGET', base .. 'nodes', node) == false or not fine then
        redis.call('HDEL', declared, node)
      elseif not known[line] then
        known[line] = true
        lines[#lines + 1] = read
      end
    end
  end
  local all = #lines > 0 and cmsgpack.pack(lines)
  if all then
    redis.call('HSET', declared, '', all)
  else
    redis.call('DEL', declared)
  end
  if redis.call('EXISTS', meta) == 0 then
    return
  elseif all then
    redis.call('HSET', meta, 'lz', all)
  else
    redis.call('HDEL', meta, 'lz')
  end
end
