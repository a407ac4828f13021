-- On which nodes are these users?
-- KEYS    string  "<roster>:<user id>", hash of node -> expiry (ms)
-- ARGV[1] int     now, ms
-- Returns for each key an array of the nodes whose entry has not expired.
local now = tonumber(ARGV[1])
local found = {}
for i = 1, #KEYS do
  local nodes = {}
  local entries = redis.call('HGETALL', KEYS[i])
  for j = 1, #entries, 2 do
    if tonumber(entries[j + 1]) > now then
      nodes[#nodes + 1] = entries[j]
    end
  end
  found[i] = nodes
end
return found
