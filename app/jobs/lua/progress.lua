-- Say how far a job of one chunk is.
-- KEYS: job    ARGV: done, total, stage, loss (empty where there is none)
if redis.call('HGET', KEYS[1], 'status') ~= 'in_progress' then return 0 end
redis.call('HSET', KEYS[1], 'completed', ARGV[1], 'total', ARGV[2], 'stage', ARGV[3])
if ARGV[4] == '' then redis.call('HDEL', KEYS[1], 'loss') else redis.call('HSET', KEYS[1], 'loss', ARGV[4]) end
return 1
