-- Claim one node whose lease has ended, so that exactly one other node takes its users offline.
-- KEYS[1] string  "nodes", sorted set of nodes by the end of their lease (ms)
-- ARGV[1] int     now, ms
-- ARGV[2] int     until when the claim holds (should the claimer die as well, the next one tries then), ms
-- Returns the node's channel, or false.
local dead = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', ARGV[1], 'LIMIT', 0, 1)[1]
if dead then
  redis.call('ZADD', KEYS[1], ARGV[2], dead)
end
return dead
