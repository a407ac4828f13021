-- Users have no socket on a node any more.
-- KEYS[1]    string  "node-<roster>:<node>", set of the ids that this node holds
-- KEYS[2..]  string  "<roster>:<user id>", hash of node -> expiry (ms)
-- ARGV[1]    string  the node's channel
-- ARGV[2]    int     now, ms
-- ARGV[3]    int     the expiry that an entry made now would have, ms: one that holds longer was made after this was asked
-- ARGV[4..]  string  the user ids, in the order of KEYS[2..]
-- Returns the ids that were on this node and have no live entry on any other node.
-- This may be carried out long after its time, when the connection broke meanwhile, and behind an arrival that came after.
local node, now, newest = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local gone = {}
for i = 2, #KEYS do
  local entry = tonumber(redis.call('HGET', KEYS[i], node) or '0')
  if entry <= newest then
    local was_here = redis.call('HDEL', KEYS[i], node)
    redis.call('SREM', KEYS[1], ARGV[i + 2])
    local live = false
    local entries = redis.call('HVALS', KEYS[i])
    for j = 1, #entries do
      if tonumber(entries[j]) > now then
        live = true
      end
    end
    if was_here == 1 and not live then
      gone[#gone + 1] = ARGV[i + 2]
    end
  end
end
return gone
