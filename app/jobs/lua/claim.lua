-- Take the next chunk of a queue in hand: jobs take turns, returned chunks go first.
-- KEYS: ready, in hand    ARGV: prefix of job keys, lane, now
-- Returns job id, chunk number, kind, rows, options, request, payload, suspicion and, of the first chunk of a job, when
-- the job was made; or nothing. A lane has one chunk in hand at most, and gets the same one again until it is rid of it:
-- the reply to its claim may have been lost.
local function claimed(id, number, made)
  local job = ARGV[1] .. id
  local kind, rows, options, request = unpack(redis.call('HMGET', job, 'kind', 'rows', 'options', 'request'))
  local payload = redis.call('HGET', job .. ':chunks', number)
  return {id, number, kind, rows, options, request, payload, redis.call('HGET', job .. ':suspicions', number), made}
end
local held = redis.call('HGET', KEYS[2], ARGV[2])
if held then
  local id, number = string.match(held, '^(.-):(%d+):')
  return claimed(id, number, false)
end
for _ = 1, redis.call('LLEN', KEYS[1]) do
  local id = redis.call('LPOP', KEYS[1])
  local job = ARGV[1] .. id
  if redis.call('HGET', job, 'status') == 'in_progress' then
    local number = redis.call('LPOP', job .. ':returned')
    local next, chunks = unpack(redis.call('HMGET', job, 'next', 'chunks'))
    next, chunks = tonumber(next), tonumber(chunks)
    if not number and next < chunks then
      number = tostring(next)
      next = redis.call('HINCRBY', job, 'next', 1)
    end
    if next < chunks or redis.call('LLEN', job .. ':returned') > 0 then redis.call('RPUSH', KEYS[1], id) end
    if number and redis.call('GETBIT', job .. ':done', number) == 0 then
      local first = redis.call('HSETNX', job, 'started_at', ARGV[3]) == 1
      redis.call('HSET', KEYS[2], ARGV[2], id .. ':' .. number .. ':')
      return claimed(id, number, first and redis.call('HGET', job, 'created_at'))
    end
  end
end
return false
