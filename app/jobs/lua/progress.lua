-- Say how far a job of one chunk is.
-- KEYS: job    ARGV: done, total
if redis.call('HGET', KEYS[1], 'status') ~= 'in_progress' then return 0 end
redis.call('HSET', KEYS[1], 'completed', ARGV[1], 'total', ARGV[2])
return 1
