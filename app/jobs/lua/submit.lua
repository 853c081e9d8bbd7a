-- Create a job and make it ready, unless its queue is full.
-- KEYS: job, ready, tokens, chunks, jobs of the owner, tasks
-- ARGV: job id, limit in tokens, tokens of the job, now, number of fields, fields and values…, payloads…
-- Returns {1, waiting tasks}, or {0, waiting tokens} where the queue is full. A client repeats a call whose reply was
-- lost: that changes nothing.
local tasks = redis.call('LLEN', KEYS[6])
if redis.call('EXISTS', KEYS[1]) == 1 then return {1, tasks} end
local waiting = tonumber(redis.call('GET', KEYS[3]) or '0')
local cost = tonumber(ARGV[3])
if waiting > 0 and waiting + cost > tonumber(ARGV[2]) then return {0, waiting} end
local last = 5 + tonumber(ARGV[5])
for i = 6, last, 2 do redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1]) end
for i = last + 1, #ARGV do redis.call('HSET', KEYS[4], i - last - 1, ARGV[i]) end
redis.call('INCRBY', KEYS[3], cost)
for _, old in ipairs(redis.call('ZRANGE', KEYS[5], 0, 1)) do -- so that the list grows no longer than the jobs live
  if redis.call('EXISTS', string.sub(KEYS[1], 1, -#ARGV[1] - 1) .. old) == 0 then redis.call('ZREM', KEYS[5], old) end
end
redis.call('ZADD', KEYS[5], ARGV[4], ARGV[1])
if redis.call('HGET', KEYS[1], 'open') == '0' then return {1, tasks} end
redis.call('RPUSH', KEYS[2], ARGV[1])
return {1, tasks}
