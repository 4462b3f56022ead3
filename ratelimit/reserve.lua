-- Reserve, extend and peek: check every scope, then apply all or nothing. One call is one round trip.
--
-- KEYS: reservation record, epoch, one key per scope, and the split key when one is drawn.
-- ARGV[1], packed: verb, now ms, epoch, reservation id, record TTL ms, lease to renew ms (0 none), split start (-1
-- none), then per scope: kind, soft (true/false), amount, limit (-1 none), two numbers of the kind, name.
--   bucket: refill period ms, tokens per period     counter: window end ms, 0     gauge: lease ms, 0
-- Answer: status, refused scope (1-based, 0 none), split position (-1 none), then per scope: taken or not (1/0),
-- used, reset at ms (-1 unknown), retry after ms (0 now, -1 never).
-- Nothing is written before every hard scope has passed.

local RESERVE, EXTEND, PEEK = 1, 2, 3
local BUCKET, COUNTER, GAUGE = 1, 2, 3
local REFUSED, ALLOWED, STALE, UNKNOWN = 0, 1, 2, 3
local FIELDS, WIDTH = 7, 7
local HOUR_MS, DAY_MS = 3600000, 86400000
local SPLIT_TTL_MS = 30 * DAY_MS
-- When a gauge frees a slot is not known: ask to come back in a second.
local GAUGE_RETRY_MS = 1000

local request = cmsgpack.unpack(ARGV[1])
local verb, now, epoch, reservation = request[1], request[2], request[3], request[4]
local record_ttl, renew_lease, split_start = request[5], request[6], request[7]
local count = (#request - FIELDS) / WIDTH

if verb ~= PEEK then
  -- The epoch names the server run it was written in: flushed data lose the key, an older copy (snapshot, lagging
  -- replica) runs under another run id. Both must be rebuilt before anything is admitted.
  if redis.call('GET', KEYS[2]) ~= epoch
      or not string.find(redis.call('INFO', 'server'), 'run_id:' .. string.sub(epoch, 1, 40), 1, true) then
    return {STALE, 0, -1}
  end
end

local record, held = nil, nil
if verb ~= PEEK then
  local raw = redis.call('GET', KEYS[1])
  if raw then
    record = cmsgpack.unpack(raw)
    if verb == RESERVE then
      -- The same reservation again (a retry after a lost answer): answer as before, take nothing more.
      held = {}
      for i = 2, #record, WIDTH do
        held[record[i + 1]] = true
      end
    end
  elseif verb == EXTEND then
    return {UNKNOWN, 0, -1}
  end
end

local used, reset_at, retry, buckets = {}, {}, {}, {}
local refused, refused_wait = 0, 0

for i = 1, count do
  local base = FIELDS + (i - 1) * WIDTH
  local kind, soft, amount, limit = request[base + 1], request[base + 2], request[base + 3], request[base + 4]
  local key = KEYS[i + 2]
  local wait = 0
  if kind == BUCKET then
    local unit, rate = request[base + 5], request[base + 6]
    local bucket = bucket_load(key, now, unit, rate)
    buckets[i] = bucket
    used[i] = math.ceil(bucket[1] / unit)
    reset_at[i] = bucket[2] + math.ceil(bucket[1] / rate)
    local over = bucket[1] + (amount - limit) * unit
    if amount > 0 and over > 0 then
      wait = amount > limit and -1 or math.ceil(over / rate) + bucket[2] - now
    end
  elseif kind == COUNTER then
    local stored = redis.call('GET', key)
    buckets[i] = stored
    used[i] = tonumber(stored or 0)
    reset_at[i] = request[base + 5]
    if limit >= 0 and amount > 0 and used[i] + amount > limit then
      wait = amount > limit and -1 or math.max(1, reset_at[i] - now)
    end
  else
    used[i] = redis.call('ZCOUNT', key, string.format('(%.0f', now), '+inf')
    reset_at[i] = -1
    if limit >= 0 and used[i] >= limit then
      if verb ~= EXTEND or not redis.call('ZSCORE', key, reservation) then
        wait = limit == 0 and -1 or GAUGE_RETRY_MS
      end
    end
  end
  retry[i] = wait
  if wait ~= 0 and not soft and refused_wait ~= -1 and (wait == -1 or wait > refused_wait) then
    -- Of several refusals the longest wait is the honest one.
    refused, refused_wait = i, wait
  end
end

local function answer(status, split_position, taken)
  local reply = {status, status == REFUSED and refused or 0, split_position}
  for i = 1, count do
    local at = 4 * i
    reply[at], reply[at + 1], reply[at + 2], reply[at + 3] = taken(i) and 1 or 0, used[i], reset_at[i], retry[i]
  end
  return reply
end

local function fits(i)
  return retry[i] == 0
end

if verb == PEEK then
  return answer(ALLOWED, -1, fits)
end
if held then
  refused = 0
  return answer(ALLOWED, record[1], function(i) return held[KEYS[i + 2]] end)
end
if refused > 0 then
  return answer(REFUSED, -1, fits)
end

record = record or {-1}

if renew_lease > 0 then
  for i = 2, #record, WIDTH do
    if record[i] == GAUGE then
      -- Whoever takes a slot removes the leases that ran out: one still present has not gone to somebody else.
      redis.call('ZADD', record[i + 1], 'XX', now + renew_lease, reservation)
      redis.call('PEXPIRE', record[i + 1], renew_lease + DAY_MS)
    end
  end
end

for i = 1, count do
  if retry[i] == 0 then
    local base = FIELDS + (i - 1) * WIDTH
    local kind, amount, key = request[base + 1], request[base + 3], KEYS[i + 2]
    local first, second, third = 0, 0, 0
    if kind == BUCKET then
      local bucket, unit, rate = buckets[i], request[base + 5], request[base + 6]
      first, second, third = bucket_take(key, bucket, now, amount * unit), unit, rate
      used[i] = math.ceil(bucket[1] / unit)
      reset_at[i] = bucket[2] + math.ceil(bucket[1] / rate)
    elseif kind == COUNTER then
      if buckets[i] then
        redis.call('INCRBY', key, amount)
      else
        redis.call('SET', key, amount, 'PX', math.max(0, request[base + 5] - now) + HOUR_MS)
      end
      used[i] = used[i] + amount
    else
      local lease = request[base + 5]
      redis.call('ZREMRANGEBYSCORE', key, '-inf', now)
      if redis.call('ZADD', key, now + lease, reservation) == 1 then
        used[i] = used[i] + 1
      end
      -- A day more than this lease: a longer lease given before (they end at one day) must not be cut short.
      redis.call('PEXPIRE', key, lease + DAY_MS)
    end
    local at = #record
    record[at + 1], record[at + 2], record[at + 3], record[at + 4] = kind, key, request[base + 7], amount
    record[at + 5], record[at + 6], record[at + 7] = first, second, third
  end
end

if split_start >= 0 then
  local key = KEYS[count + 3]
  record[1] = tonumber(redis.call('GET', key) or split_start)
  redis.call('SET', key, record[1] + 1, 'PX', SPLIT_TTL_MS)
end

-- An extension without a lease must not shorten the record's life.
local ttl = verb == EXTEND and math.max(record_ttl, redis.call('PTTL', KEYS[1])) or record_ttl
redis.call('SET', KEYS[1], cmsgpack.pack(record), 'PX', ttl)
return answer(ALLOWED, split_start >= 0 and record[1] or -1, fits)
