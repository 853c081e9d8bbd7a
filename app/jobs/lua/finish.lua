-- Ends a job; prefixed to the scripts that end one. Its keys are KEYS 1 to 6:
-- job, tokens, done channel, webhooks due, expiring, ended
local function finish(id, status, now, reason)
  local job = KEYS[1]
  redis.call('HSET', job, 'status', status, 'completed_at', now)
  if reason ~= '' then redis.call('HSET', job, 'error', reason) end
  redis.call('DECRBY', KEYS[2], redis.call('HGET', job, 'tokens_left'))
  redis.call('HSET', job, 'tokens_left', 0)
  local wanted = {'keep_seconds', 'tombstone_seconds', 'rows', 'file', 'kind'}
  local keep, tombstone, rows, file, kind = unpack(redis.call('HMGET', job, unpack(wanted)))
  redis.call('HSET', job, 'expires_at', tonumber(now) + tonumber(keep))
  redis.call('EXPIRE', job, tonumber(keep) + tonumber(tombstone))
  if kind ~= 'annotate' then redis.call('DEL', job .. ':chunks') end
  for _, part in ipairs({':chunks', ':answers', ':done'}) do redis.call('EXPIRE', job .. part, keep) end
  redis.call('DEL', job .. ':returned', job .. ':suspicions')
  if rows then redis.call('ZADD', KEYS[5], tonumber(now) + tonumber(keep), 'job:' .. id) end
  if file then redis.call('ZADD', KEYS[5], 'XX', 'GT', tonumber(now) + tonumber(keep), 'file:' .. file) end
  if redis.call('HEXISTS', job, 'webhook') == 1 then redis.call('ZADD', KEYS[4], now, id) end
  redis.call('HINCRBY', KEYS[6], kind .. ':' .. status, 1)
  redis.call('PUBLISH', KEYS[3], id)
end
