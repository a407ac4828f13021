-- Users have a socket on a node now (or still have one: the refresh is the same call).
-- KEYS[1]    string  "node-<roster>:<node>", set of the ids that this node holds
-- KEYS[2..]  string  "<roster>:<user id>", hash of node -> expiry (ms)
-- ARGV[1]    string  the node's channel
-- ARGV[2]    int     now, ms
-- ARGV[3]    int     until when the entries hold, ms
-- ARGV[4..]  string  the user ids, in the order of KEYS[2..]
-- Returns the ids that had no live entry on any node before.
local node, now, expiry = ARGV[1], tonumber(ARGV[2]), ARGV[3]
local ttl = tonumber(expiry) - now
local came = {}
for i = 2, #KEYS do
  local live = false
  local entries = redis.call('HGETALL', KEYS[i])
  for j = 1, #entries, 2 do
    if tonumber(entries[j + 1]) > now then
      live = true
    else
      redis.call('HDEL', KEYS[i], entries[j])
    end
  end
  redis.call('HSET', KEYS[i], node, expiry)
  redis.call('PEXPIRE', KEYS[i], ttl)
  redis.call('SADD', KEYS[1], ARGV[i + 2])
  if not live then
    came[#came + 1] = ARGV[i + 2]
  end
end
redis.call('PEXPIRE', KEYS[1], 86400000)
return came
