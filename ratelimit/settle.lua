-- Settle or release one reservation by its record; the record is deleted, so a second call changes nothing.
--
-- KEYS[1]: reservation record; the other keys are named in it and share its hash tag.
-- ARGV[1], packed: release (1) or settle (0), now ms, reservation id, then name, actual amount, name, actual ...
-- A name that is not given keeps its reserved amount. Answer: 1 done, 0 nothing to do.

local BUCKET, COUNTER, GAUGE = 1, 2, 3
local WIDTH = 7

local request = cmsgpack.unpack(ARGV[1])
local release, now, reservation = request[1] == 1, request[2], request[3]

local raw = redis.call('GET', KEYS[1])
if not raw then
  return 0
end
redis.call('DEL', KEYS[1])
local record = cmsgpack.unpack(raw)

local change = {}
if release then
  for i = 2, #record, WIDTH do
    change[record[i + 2]] = (change[record[i + 2]] or 0) - record[i + 3]
  end
else
  for i = 4, #request, 2 do
    change[request[i]] = request[i + 1]
  end
  for i = 2, #record, WIDTH do
    local name = record[i + 2]
    if change[name] then
      change[name] = change[name] - record[i + 3]
    end
  end
end

-- From the last entry: what an extension added goes back first, and an excess lands where the call last was.
for i = #record - WIDTH + 1, 2, -WIDTH do
  local kind, key, name, amount = record[i], record[i + 1], record[i + 2], record[i + 3]
  if kind == GAUGE then
    redis.call('ZREM', key, reservation)
  else
    local part = math.max(change[name] or 0, -amount)
    if part ~= 0 then
      change[name] = change[name] - part
      if kind == COUNTER then
        -- A window whose key is gone has ended (or was lost and is rebuilt elsewhere): never create it here.
        local stored = redis.call('GET', key)
        if stored then
          redis.call('INCRBY', key, math.max(part, -tonumber(stored)))
        end
      else
        -- In the bucket's own units: its limits may have been edited since.
        local bucket = bucket_read(key, now)
        if part > 0 then
          bucket = bucket or {0, now, record[i + 5], record[i + 6], 0}
          bucket_take(key, bucket, now, part * bucket[3])
        elseif bucket then
          bucket_give_back(key, bucket, now, -part * bucket[3], record[i + 4])
        end
      end
    end
  end
end
return 1
