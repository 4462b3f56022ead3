-- Recovery after data loss: look at the epoch, raise counters, commit a new epoch.
--
-- KEYS: epoch, rebuild lock, then one counter per row. ARGV[1]: verb; the rest depends on it.
--   look                              -> run id, stored epoch ('' when missing); refreshes the epoch's TTL when it is valid
--   lock,   token, 'always' or 'lost' -> 1, or 0 when another process rebuilds, or (lost) has just done so
--   raise,  token, value, ttl ms, ... -> counters raised, -1 when the lock was lost; renews the lock
--   commit, token, epoch              -> 1 and unlocked, or 0 when the lock was lost or the server restarted meanwhile
--   unlock, token                     -> 1, or 0 when the lock was lost
-- Counters are only ever raised: a rebuild that reads a late source cannot hand out what was already used.

local EPOCH_TTL_MS, LOCK_TTL_MS = 30 * 86400000, 15000

local run_id = string.match(redis.call('INFO', 'server'), 'run_id:(%x+)')
local stored = redis.call('GET', KEYS[1])
local valid = stored and string.sub(stored, 1, 40) == run_id

if ARGV[1] == 'look' then
  if valid then
    redis.call('PEXPIRE', KEYS[1], EPOCH_TTL_MS)
  end
  return {run_id, stored or ''}
end

if ARGV[1] == 'lock' then
  if valid and ARGV[3] == 'lost' then
    return 0
  end
  return redis.call('SET', KEYS[2], ARGV[2], 'NX', 'PX', LOCK_TTL_MS) and 1 or 0
end

if redis.call('GET', KEYS[2]) ~= ARGV[2] then
  return ARGV[1] == 'raise' and -1 or 0
end

if ARGV[1] == 'raise' then
  local raised = 0
  redis.call('PEXPIRE', KEYS[2], LOCK_TTL_MS)
  for i = 3, #KEYS do
    local at = 2 * i - 3
    local current = redis.call('GET', KEYS[i])
    if not current or tonumber(current) < tonumber(ARGV[at]) then
      redis.call('SET', KEYS[i], ARGV[at], 'PX', ARGV[at + 1])
      raised = raised + 1
    end
  end
  return raised
end

if ARGV[1] == 'unlock' then
  return redis.call('DEL', KEYS[2])
end

if string.sub(ARGV[3], 1, 40) ~= run_id then
  return 0
end
redis.call('SET', KEYS[1], ARGV[3], 'PX', EPOCH_TTL_MS)
redis.call('DEL', KEYS[2])
return 1
