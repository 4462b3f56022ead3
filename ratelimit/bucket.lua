-- Token bucket arithmetic, placed in front of reserve.lua and settle.lua.
--
-- Everything is an exact integer: one token is `unit` small units (the refill period in ms) and `rate` small units
-- (the tokens refilled per period) come back each millisecond. A bucket is stored as one packed array:
--   {deficit, at, unit, rate, sequence, s1, d1, s2, d2, ...}
-- deficit: small units missing from a full bucket at time `at` (ms). A missing key is a full bucket.
--
-- The (s, d) pairs answer the one question that giving tokens back needs: how low was the deficit since a given
-- reservation? Only that much of the reservation is still missing from the bucket, the rest has been refilled since;
-- giving more back would let more through than the bucket allows. Each pair is a minimum of the deficit and the sequence
-- it was seen at; a minimum followed by a lower one is forgotten. Beyond MARKS pairs two neighbours are merged to the
-- lower level, which can only give back less.

local MARKS, HEAD, BUCKET_GRACE_MS = 8, 5, 60000

local function bucket_read(key, now)
  local raw = redis.call('GET', key)
  if not raw then
    return nil
  end
  local bucket = cmsgpack.unpack(raw)
  if now > bucket[2] then
    bucket[1] = math.max(0, bucket[1] - (now - bucket[2]) * bucket[4])
    bucket[2] = now
  end
  return bucket
end

local function bucket_load(key, now, unit, rate)
  local bucket = bucket_read(key, now)
  if not bucket then
    return {0, now, unit, rate, 0}
  end
  if bucket[3] ~= unit then
    -- The refill period was edited: keep the tokens missing, counted in the new small unit.
    local factor = unit / bucket[3]
    bucket[1] = math.ceil(bucket[1] * factor)
    for i = HEAD + 2, #bucket, 2 do
      bucket[i] = math.floor(bucket[i] * factor)
    end
    bucket[3] = unit
  end
  bucket[4] = rate
  return bucket
end

local function bucket_mark(bucket, now)
  -- The sequence starts from the clock, so that a bucket born again never reuses a number an older reservation holds.
  bucket[5] = math.max(bucket[5] + 1, now)
  local last = #bucket
  while last > HEAD and bucket[last] >= bucket[1] do
    bucket[last], bucket[last - 1] = nil, nil
    last = last - 2
  end
  bucket[last + 1], bucket[last + 2] = bucket[5], bucket[1]
  last = last + 2
  if last > HEAD + 2 * MARKS then
    local closest, gap = HEAD + 1, math.huge
    for i = HEAD + 1, last - 3, 2 do
      if bucket[i + 3] - bucket[i + 1] < gap then
        closest, gap = i, bucket[i + 3] - bucket[i + 1]
      end
    end
    -- Keep the younger sequence with the lower level.
    bucket[closest + 3] = math.min(bucket[closest + 1], bucket[closest + 3])
    table.remove(bucket, closest)
    table.remove(bucket, closest)
  end
end

local function bucket_store(key, bucket, now)
  local ttl = math.ceil(bucket[1] / bucket[4]) + math.max(0, bucket[2] - now) + BUCKET_GRACE_MS
  redis.call('SET', key, cmsgpack.pack(bucket), 'PX', ttl)
end

local function bucket_take(key, bucket, now, units)
  bucket_mark(bucket, now)
  bucket[1] = bucket[1] + units
  bucket_store(key, bucket, now)
  return bucket[5]
end

local function bucket_give_back(key, bucket, now, units, since)
  local back = math.min(units, bucket[1])
  for i = HEAD + 1, #bucket, 2 do
    if bucket[i] > since then
      back = math.min(back, bucket[i + 1])
    end
  end
  -- What comes back was never missing: without it every level since the reservation was that much lower, which the
  -- reservations made since must know when they give back in their turn.
  for i = HEAD + 1, #bucket, 2 do
    if bucket[i] > since then
      bucket[i + 1] = bucket[i + 1] - back
    end
  end
  bucket[1] = bucket[1] - back
  bucket_mark(bucket, now)
  bucket_store(key, bucket, now)
end
