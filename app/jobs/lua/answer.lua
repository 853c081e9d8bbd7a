-- Take the answer to a chunk, once, count it, and end the job with its last one.
-- KEYS: as finish.lua, then in hand, answers, done, pace
-- ARGV: job id, chunk number, lane, answer (empty where it lies in the artifact store), done, failed, tokens, now
local entry = ARGV[1] .. ':' .. ARGV[2] .. ':'
local held = redis.call('HGET', KEYS[7], ARGV[3])
if held and string.sub(held, 1, #entry) == entry then redis.call('HDEL', KEYS[7], ARGV[3]) end
if redis.call('HGET', KEYS[1], 'status') ~= 'in_progress' then return 0 end
if redis.call('SETBIT', KEYS[9], ARGV[2], 1) == 1 then return 0 end
if ARGV[4] ~= '' then redis.call('HSET', KEYS[8], ARGV[2], ARGV[4]) end
redis.call('HINCRBY', KEYS[1], 'completed', ARGV[5])
redis.call('HINCRBY', KEYS[1], 'failed', ARGV[6])
redis.call('HINCRBY', KEYS[1], 'tokens_left', -ARGV[7])
redis.call('DECRBY', KEYS[2], ARGV[7])
redis.call('INCRBY', KEYS[10], ARGV[7])
redis.call('EXPIRE', KEYS[10], 120)
if redis.call('HINCRBY', KEYS[1], 'open', -1) == 0 then finish(ARGV[1], 'completed', ARGV[8], '') end
return 1
