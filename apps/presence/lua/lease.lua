-- A node says that it lives.
-- KEYS[1] string  "lease:<node>", the count of its last renewal
-- KEYS[2] string  "nodes", sorted set of nodes by the end of their lease (ms)
-- KEYS[3] string  "node-info", hash of node -> JSON about it
-- ARGV[1] string  the node's channel
-- ARGV[2] int     the count of this renewal
-- ARGV[3] int     until when the lease holds, ms
-- ARGV[4] int     how long that is, ms
-- ARGV[5] string  JSON about the node
-- Returns the count of the renewal that Redis knew before, or -1. Another one than the node's own last count means that
-- Redis lost or rolled back what it held, or that the node slept past its lease.
local before = redis.call('GET', KEYS[1])
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[4])
redis.call('ZADD', KEYS[2], ARGV[3], ARGV[1])
redis.call('HSET', KEYS[3], ARGV[1], ARGV[5])
return tonumber(before or '-1')
