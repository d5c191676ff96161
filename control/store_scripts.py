"""The Lua scripts that Redis runs for the store: each is one round trip, and atomic.

They use commands of Redis 6.2 alone, and only the keys they are given, which share a slot.
"""

import hashlib
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Script:
    text: str
    sha: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "sha", hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest())


REVISION = Script("return redis.call('GET', KEYS[1])")

READ = Script("""
-- keys: revision, policy, signature. Returns {revision, {service, text, ...}, signature}.
return {redis.call('GET', KEYS[1]), redis.call('HGETALL', KEYS[2]), redis.call('GET', KEYS[3])}
""")

READ_SINCE = Script("""
-- keys: revision, policy, history. args: the known revision, the services changed by the next one if known.
-- Returns {revision} if it is the known one, {revision, services, texts} of what changed since, or, where
-- that cannot be told, as READ.
local current = redis.call('GET', KEYS[1])
if current == ARGV[1] then return {current} end
local known, revision = tonumber(ARGV[1]), tonumber(current)
local services = {}
if revision == known + 1 and #ARGV > 1 then
  for i = 2, #ARGV do services[i - 1] = ARGV[i] end
elseif revision and revision > known and revision - known <= 100 then
  local first, last = string.format('%.0f-0', known + 1), string.format('%.0f-0', revision)
  local entries = redis.call('XRANGE', KEYS[3], first, last)
  local seen, size = {}, 0
  for _, entry in ipairs(entries) do
    local fields = entry[2]
    for i = 1, #fields, 2 do
      if fields[i] == 'changes' then
        size = size + #fields[i + 1]
        -- Decoding keeps the server from everything else: at this size all documents are cheaper.
        local ok, changes = size < 1000000, nil
        if ok then ok, changes = pcall(cjson.decode, fields[i + 1]) end
        if not ok or type(changes) ~= 'table' then entries = {} else
          for service in pairs(changes) do
            if not seen[service] then seen[service] = true; services[#services + 1] = service end
          end
        end
      end
    end
  end
  if #entries ~= revision - known then services = {} end
end
if #services == 0 or #services > 1000 then return {current, redis.call('HGETALL', KEYS[2])} end
return {current, services, redis.call('HMGET', KEYS[2], unpack(services))}
""")

CHANGE = Script("""
-- keys: revision, policy, history, signature. args: the revision read, time, author, message, changes, channel,
-- publication, entries to keep, signature ('': none), then for each service: its name, 'set' or 'delete', text.
-- Returns 1, or 0 if the revision is no longer the one read.
local current = redis.call('GET', KEYS[1]) or '0'
if tonumber(current) ~= tonumber(ARGV[1]) then return 0 end
-- A script is not rolled back, and a user's rights are checked command by command. So each command is
-- tried first in a form that changes nothing; what may still be denied stands before the first real write.
redis.call('SET', KEYS[1], current, 'XX')
redis.call('HDEL', KEYS[2], '')
redis.call('HSET', KEYS[2], '', '')
redis.call('HDEL', KEYS[2], '')
redis.call('SET', KEYS[4], redis.call('GET', KEYS[4]) or '', 'XX')
redis.call('PUBLISH', ARGV[6], ARGV[7])
local revision = string.format('%.0f', tonumber(current) + 1)
-- A mesh without signatures has neither such a field nor such a key.
local signed, kept = {}, {'XX'}
if ARGV[9] ~= '' then signed, kept = {'signature', ARGV[9]}, {} end
redis.call('XADD', KEYS[3], 'MAXLEN', '~', ARGV[8], revision .. '-0', 'revision', revision, 'time', ARGV[2],
  'author', ARGV[3], 'message', ARGV[4], 'changes', ARGV[5], unpack(signed))
redis.call('SET', KEYS[1], revision)
redis.call('SET', KEYS[4], ARGV[9], unpack(kept))
for i = 10, #ARGV, 3 do
  if ARGV[i + 1] == 'set' then redis.call('HSET', KEYS[2], ARGV[i], ARGV[i + 2])
  else redis.call('HDEL', KEYS[2], ARGV[i]) end
end
return 1
""")

HISTORY = Script("""
-- keys: history. args: the newest id, the oldest, how many. Returns {{id, {field, value, ...}}, ...}, newest first.
return redis.call('XREVRANGE', KEYS[1], ARGV[1], ARGV[2], 'COUNT', ARGV[3])
""")

REPORT = Script("""
-- keys: the node's. args: milliseconds to live, then fields and values.
redis.call('HSET', KEYS[1], unpack(ARGV, 2))
redis.call('PEXPIRE', KEYS[1], ARGV[1])
""")

TAKE = Script("""
-- keys: buckets of rate limits. args: the time in microseconds ('': this server's), then for each bucket cost, rate,
-- capacity and how many requests want to pass. Returns {{how many pass, microseconds until one more would}, ...}.
-- The same arithmetic as in control/policy/rate_limiting.py: whole numbers, exact up to 2^53.
local now = tonumber(ARGV[1])
if not now then
  local time = redis.call('TIME')
  now = time[1] * 1000000 + time[2]
end
local taken = {}
for i, key in ipairs(KEYS) do
  local first = 4 * i - 2
  local cost, rate = tonumber(ARGV[first]), tonumber(ARGV[first + 1])
  local capacity, count = tonumber(ARGV[first + 2]), tonumber(ARGV[first + 3])
  local saved = redis.call('HMGET', key, 'level', 'at')
  local level, at = tonumber(saved[1]) or 0, tonumber(saved[2]) or now
  level = math.max(0, level - math.max(0, now - at) * rate)
  local granted = math.min(count, math.max(0, math.floor((capacity - level) / cost)))
  level = level + granted * cost
  if granted > 0 then
    redis.call('HSET', key, 'level', string.format('%.0f', level), 'at', string.format('%.0f', now))
    redis.call('PEXPIRE', key, string.format('%.0f', math.min(math.ceil(level / rate / 1000), 1e14) + 1000))
  end
  local wait = 0
  if granted < count then wait = math.ceil((level + cost - capacity) / rate) end
  taken[i] = {string.format('%.0f', granted), string.format('%.0f', wait)}
end
return taken
""")

FORGET = Script("return redis.call('DEL', unpack(KEYS))")

REPORTS = Script("""
-- keys: nodes'. Returns {{fields and values, milliseconds to live}, ...}; no fields for what is no hash.
local reports = {}
for i, key in ipairs(KEYS) do
  local fields = redis.pcall('HGETALL', key)
  if fields.err then fields = {} end
  reports[i] = {fields, redis.call('PTTL', key)}
end
return reports
""")

PROGRESS = Script("""
-- keys: nodes'. Returns {{revision, error}, ...}, nothing for a node that is gone.
local reports = {}
for i, key in ipairs(KEYS) do
  local values = redis.pcall('HMGET', key, 'revision', 'error')
  if values.err then values = {} end
  reports[i] = values
end
return reports
""")
