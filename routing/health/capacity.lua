-- Take, wait for, or give back places under a provider's caps, over all processes.
--
-- KEYS: one per cap, then its queue and the queue's heartbeats (three keys per cap).
-- ARGV: verb, now_ms, member, rank, beat_ms, lease_ms, then for each cap: kind, limit, window_ms.
--   rank: place in a queue, lower goes first.  beat_ms: how long a waiting member counts without being heard of, 0: does not wait.
-- take    {1, permille of the tightest cap left} and every cap counts the member, or {0, position of the cap that is full, wait_ms} (wait_ms -1: not known)
-- give    the gauges let the member go; verb `undo` takes it out of the windows too
-- leave   the member waits no longer
local WINDOW, GAUGE, PARTS = 1, 2, 60
local verb, now, member = ARGV[1], tonumber(ARGV[2]), ARGV[3]
local rank, beat, lease = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
local caps = #KEYS / 3

local function cap(at)
  local first = 6 + (at - 1) * 3
  return tonumber(ARGV[first + 1]), tonumber(ARGV[first + 2]), tonumber(ARGV[first + 3])
end

local function leave(at)
  redis.call('ZREM', KEYS[at * 3 - 1], member)
  redis.call('ZREM', KEYS[at * 3], member)
end

-- Calls counted under a cap, and when the next place comes free, as far as that is known.
local function used(at, kind, window)
  local key = KEYS[at * 3 - 2]
  if kind == GAUGE then
    redis.call('ZREMRANGEBYSCORE', key, '-inf', now)
    return redis.call('ZCARD', key), -1
  end
  local part = window / PARTS
  local present = math.floor(now / part)
  local counts, sum, oldest = redis.call('HGETALL', key), 0, nil
  for index = 1, #counts, 2 do
    local slice = tonumber(counts[index])
    if slice + PARTS < present then
      redis.call('HDEL', key, counts[index])
    else
      local count = tonumber(counts[index + 1])
      sum = sum + count
      if count > 0 and (oldest == nil or slice < oldest) then oldest = slice end
    end
  end
  return sum, oldest and (oldest + PARTS + 1) * part - now or -1
end

if verb == 'take' then
  local full, wait, left = 0, -1, 1000
  for at = 1, caps do
    local kind, limit, window = cap(at)
    local count, free_in = used(at, kind, window)
    local queue, beats = KEYS[at * 3 - 1], KEYS[at * 3]
    local ahead = 0
    if redis.call('EXISTS', queue) == 1 then
      for _, silent in ipairs(redis.call('ZRANGEBYSCORE', beats, '-inf', now)) do
        redis.call('ZREM', queue, silent)
      end
      redis.call('ZREMRANGEBYSCORE', beats, '-inf', now)
      ahead = redis.call('ZCOUNT', queue, '-inf', '(' .. ARGV[4])
    end
    if limit > 0 then left = math.min(left, math.floor((limit - count - 1) * 1000 / limit)) end
    if limit - count <= ahead then
      if full == 0 or free_in > wait then wait = free_in end
      if full == 0 then full = at end
      if beat > 0 then
        redis.call('ZADD', queue, rank, member)
        redis.call('ZADD', beats, now + beat, member)
        redis.call('PEXPIRE', queue, beat + 60000)
        redis.call('PEXPIRE', beats, beat + 60000)
      end
    end
  end
  if full > 0 then return {0, full, math.ceil(wait)} end
  for at = 1, caps do
    local kind, _, window = cap(at)
    local key = KEYS[at * 3 - 2]
    leave(at)
    if kind == GAUGE then
      redis.call('ZADD', key, now + lease, member)
      redis.call('PEXPIRE', key, lease + 60000)
    else
      redis.call('HINCRBY', key, string.format('%d', math.floor(now / (window / PARTS))), 1)
      redis.call('PEXPIRE', key, window * 2)
    end
  end
  return {1, left}
end

for at = 1, caps do
  local kind, _, window = cap(at)
  local key = KEYS[at * 3 - 2]
  if verb ~= 'leave' and kind == GAUGE then
    redis.call('ZREM', key, member)
  elseif verb == 'undo' then
    -- ARGV's time is the one it was taken at.
    local slice = string.format('%d', math.floor(now / (window / PARTS)))
    if (tonumber(redis.call('HGET', key, slice)) or 0) > 0 then redis.call('HINCRBY', key, slice, -1) end
  end
  leave(at)
end
return {1}
