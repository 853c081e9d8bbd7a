-- End a job early.
-- KEYS: as finish.lua    ARGV: job id, status, now, reason
if redis.call('HGET', KEYS[1], 'status') ~= 'in_progress' then return 0 end
finish(ARGV[1], ARGV[2], ARGV[3], ARGV[4])
return 1
