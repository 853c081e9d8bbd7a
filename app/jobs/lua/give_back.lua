-- Put a chunk that a lane has in hand where the next one to claim will find it, once.
-- KEYS: in hand, job, ready, returned, suspicions
-- ARGV: lane, what it has in hand, job id, chunk number, suspicion (may be empty)
if redis.call('HGET', KEYS[1], ARGV[1]) ~= ARGV[2] then return 0 end
redis.call('HDEL', KEYS[1], ARGV[1])
if redis.call('HGET', KEYS[2], 'status') ~= 'in_progress' then return 0 end
if ARGV[5] ~= '' then redis.call('HSET', KEYS[5], ARGV[4], ARGV[5]) end
redis.call('RPUSH', KEYS[4], ARGV[4])
redis.call('LREM', KEYS[3], 0, ARGV[3]) -- a job has one turn a round
redis.call('LPUSH', KEYS[3], ARGV[3])
return 1
