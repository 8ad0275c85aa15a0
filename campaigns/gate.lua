#!lua name=tidebook_gate_@VERSION@

-- The gate's side in Valkey: hints about one pool of one campaign, and nothing that must be true.
--
-- All keys of a pool begin with one tag, so that a cluster keeps them together:
--
--   h   what is known of the pool: epoch, tokens, which half of the persons is young and since
--       when, the limit for a person, whether claims are taken
--   s   said to be sold out: position, code and facts, for a few seconds
--   f   the last position before which stock came back: what was said up to there counts no more
--   p0, p1   the persons of the young and of the old half, forgotten as a whole
--   w   per worker: requests admitted and not settled, and when it last said so
--   k   whose turn it is to sweep
--   r…  the rates of persons, devices and addresses in a slice of time: when each is full again
--
-- Every key ends by itself. What is missing or makes no sense means «unsure», never «free» or
-- «full». The arguments and answers are one packed string each: a client takes longer over many
-- small values than we do over the work.

local HEAD_S = 60        -- a pool that nobody keeps up is forgotten
local FREED_S = 60       -- longer than any word about the stock can be on its way
local WORKER_S = 5       -- a worker that was silent for so long is dead, and its tokens come back
local PENDING_S = 5      -- a request that was not settled for so long no longer counts as under way
local PENDING_MAX = 2    -- requests of one person that may be at the store at once
local PENDING_WAIT_MS = 1000
local MARK = 12          -- a request's mark, in hex digits
local MARKS = 4 * MARK   -- the last four requests of a person

-- A person is: coupons claimed, requests under way, when the last one came; then the requests.
local PERSON = '>BBI4'

-- Rates are kept in ticks of 10 µs since 2020: as a number they are exact, and short as a string.
local TICKS = 100000
local SINCE = 1577836800

local function clock()
  local now = redis.call('TIME')
  return tonumber(now[1]), tonumber(now[2])
end

local function read_head(tag)
  local h = redis.call('HMGET', tag .. 'h', 'e', 't', 'c', 's', 'l', 'o', 'r', 'b')
  local head = {
    epoch = tonumber(h[1]), tokens = tonumber(h[2]), young = tonumber(h[3]),
    since = tonumber(h[4]), limit = tonumber(h[5]), open = h[6] == '1',
    per_s = tonumber(h[7]) or 0, opens = tonumber(h[8]) or 0,
  }
  if not (head.epoch and head.tokens and head.young and head.since and head.limit) then
    return nil
  end
  return head
end

-- Fields of two hashes, read and written in one go for a whole batch: the young one wins.
local function halves(young, old)
  return {young = young, old = old, old_is_there = redis.call('EXISTS', old) == 1,
          read = {}, changed = {}, changes = 0}
end

local function fetch(half, names)
  local wanted, asked = {}, {}
  for i = 1, #names do
    local name = names[i]
    if not asked[name] then
      asked[name] = true
      wanted[#wanted + 1] = name
    end
  end
  if #wanted == 0 then return end
  local read, missing = half.read, {}
  local found = redis.call('HMGET', half.young, unpack(wanted))
  for i = 1, #wanted do
    read[wanted[i]] = found[i]
    if not found[i] then missing[#missing + 1] = wanted[i] end
  end
  if half.old_is_there and #missing > 0 then
    found = redis.call('HMGET', half.old, unpack(missing))
    for i = 1, #missing do read[missing[i]] = found[i] end
  end
end

local function change(half, name, value)
  half.read[name] = value
  half.changed[name] = value
  half.changes = half.changes + 1
end

local function write(half, expire_s)
  if half.changes == 0 then return end
  local set, gone = {}, {}
  for name, value in pairs(half.changed) do
    if value then
      set[#set + 1] = name
      set[#set + 1] = value
    else
      gone[#gone + 1] = name
    end
  end
  if #set > 0 then
    redis.call('HSET', half.young, unpack(set))
    redis.call('EXPIRE', half.young, expire_s)
  end
  if #gone > 0 then
    redis.call('HDEL', half.young, unpack(gone))
    if half.old_is_there then redis.call('HDEL', half.old, unpack(gone)) end
  end
end

local function person_of(persons, name)
  local raw = persons.read[name]
  if not raw or #raw < 6 then return 0, 0, 0, '' end
  local n, pending, at = struct.unpack(PERSON, raw)
  return n, pending, at, string.sub(raw, 7)
end

local function marked(marks, request)
  for i = 1, #marks, MARK do
    if string.sub(marks, i, i + MARK - 1) == request then return i end
  end
end

-- Return the ticks to wait until there is a token, or 0 and until when the bucket is not full.
-- An instant too far ahead was written by a clock that has since been put back.
local function ahead(buckets, name, token, full, now)
  local full_at = tonumber(buckets.read[name] or 0) or 0
  if full_at < now or full_at > now + full then full_at = now end
  full_at = full_at + token
  if full_at - now > full then return full_at - now - full end
  return 0, full_at
end

-- Take a token for the person, the device and the address of a knock, or none of them.
local function pace(buckets, rules, at, now)
  local names, full_at = buckets.names, buckets.full_at
  for kind = 1, buckets.kinds do
    local name = names[at + kind]
    if name then
      local wait
      wait, full_at[kind] = ahead(buckets, name, rules[2 * kind - 1], rules[2 * kind], now)
      if wait > 0 then return wait end
    end
  end
  for kind = 1, buckets.kinds do
    local name = names[at + kind]
    if name then change(buckets, name, full_at[kind] .. '') end
  end
  return 0
end

-- Read the buckets that a batch needs; nil when there are no rates.
local function paces(tag, rules, knocks, width, now_s)
  if rules[1] + rules[3] + rules[5] == 0 then return nil end
  local slice = math.floor(now_s / rules[10])
  local buckets = halves(tag .. 'r' .. slice, tag .. 'r' .. (slice - 1))
  local names, wanted, kinds = {}, {}, width == 2 and 1 or 3
  for at = 1, #knocks, width do
    for kind = 1, kinds do
      local mark = knocks[kind == 1 and at or at + kind]
      local name = mark and rules[2 * kind - 1] > 0 and kind .. mark
      names[#names + 1] = name
      if name then wanted[#wanted + 1] = name end
    end
  end
  buckets.names, buckets.kinds, buckets.full_at = names, kinds, {}
  fetch(buckets, wanted)
  return buckets
end

local function settle(head, persons, now_s, settles)
  for i = 1, #settles, 5 do
    local kind, name, request, count, epoch =
      settles[i], settles[i + 1], settles[i + 2], settles[i + 3], settles[i + 4]
    local n, pending, at, marks = person_of(persons, name)
    local mark = marked(marks, request)
    if pending > 0 then pending = pending - 1 end
    if kind == 'c' then
      if count > n then n = count end
      if not mark then marks = string.sub(marks .. request, -MARKS) end
    elseif mark then
      marks = string.sub(marks, 1, mark - 1) .. string.sub(marks, mark + MARK)
    end
    -- Both a refusal and a claim that was there before give back the token that was taken.
    if epoch == head.epoch then head.tokens = head.tokens + 1 end
    if n == 0 and pending == 0 and marks == '' then
      change(persons, name, false)
    else
      change(persons, name, struct.pack(PERSON, n, pending, at > 0 and at or now_s) .. marks)
    end
  end
end

local function say_sold_out(tag, sold, ttl_ms)
  local freed = tonumber(redis.call('GET', tag .. 'f') or nil)
  if freed and sold[1] <= freed then return end
  redis.call('SET', tag .. 's', cmsgpack.pack(sold), 'PX', ttl_ms)
end

local function sold_out(tag)
  local raw = redis.call('GET', tag .. 's')
  return raw and cmsgpack.unpack(raw) or false
end

-- Forget the older half of the persons when the younger one is full or has had its time.
local function turn_over(tag, head, now_s, rules)
  local young = tag .. 'p' .. head.young
  local age = now_s - head.since
  if age >= 0 and age < rules[8] and redis.call('HLEN', young) < rules[7] then return end
  head.young, head.since = 1 - head.young, now_s
  redis.call('UNLINK', tag .. 'p' .. head.young)
  redis.call('HSET', tag .. 'h', 'c', head.young, 's', now_s)
end

-- A batch of one worker: first what the store has said since, then who knocks now.
local function knock(keys, args)
  local tag = keys[1]
  local ask = cmsgpack.unpack(args[1])
  local worker, in_flight, rules, settles = ask[1], ask[2], ask[3], ask[4]
  local sold, width, knocks, passes = ask[5], ask[6], ask[7], ask[8]
  local head = read_head(tag)
  if not head then return cmsgpack.pack({0, '', {}, false, 0}) end
  local now_s, now_us = clock()
  local now = (now_s - SINCE) * TICKS + math.floor(now_us / 10)
  turn_over(tag, head, now_s, rules)
  local persons = halves(tag .. 'p' .. head.young, tag .. 'p' .. (1 - head.young))
  local names = {}
  for i = 2, #settles, 5 do names[#names + 1] = settles[i] end
  for i = 1, #knocks, width do names[#names + 1] = knocks[i] end
  fetch(persons, names)
  local tokens = head.tokens
  settle(head, persons, now_s, settles)
  if sold then say_sold_out(tag, sold, rules[9]) end
  local flag = sold_out(tag)
  local buckets = paces(tag, rules, knocks, width, now_s)

  local words, waits, said, admitted = {}, {}, false, 0
  for i = 1, #knocks, width do
    local name, request, word = knocks[i], knocks[i + 1], 'U'
    local wait = 0
    if buckets then
      wait = pace(buckets, rules, (i - 1) / width * buckets.kinds, now) / TICKS * 1000
    end
    if wait > 0 then
      word = 'F'
    elseif head.open then
      local n, pending, at, marks = person_of(persons, name)
      if pending > 0 and math.abs(now_s - at) > PENDING_S then pending = 0 end
      if marked(marks, request) then
        word = 'U'
      elseif n >= head.limit then
        word = 'C'
      elseif pending >= PENDING_MAX then
        word, wait = 'F', PENDING_WAIT_MS
      elseif flag then
        word, said = 'S', true
      elseif head.per_s > 0 and not (passes and string.sub(passes, (i - 1) / width + 1,
                                                           (i - 1) / width + 1) == '1') then
        word = 'W'
      else
        if head.tokens > 0 and pending == 0 then
          word = 'A'
          head.tokens = head.tokens - 1
          admitted = admitted + 1
        end
        marks = string.sub(marks .. request, -MARKS)
        change(persons, name, struct.pack(PERSON, n, pending + 1, now_s) .. marks)
      end
    end
    words[#words + 1] = word
    if word == 'F' then waits[#waits + 1] = wait end
  end

  if head.tokens ~= tokens then redis.call('HSET', tag .. 'h', 't', head.tokens) end
  write(persons, 2 * rules[8])
  if buckets then write(buckets, 2 * rules[10]) end
  redis.call('HSET', tag .. 'w', worker, (in_flight + admitted) .. ' ' .. now_s)
  redis.call('EXPIRE', tag .. 'w', HEAD_S)
  return cmsgpack.pack({head.epoch, table.concat(words), waits, said and flag, head.limit})
end

-- A worker lives: how many requests it has at the store, and is it its turn to sweep?
local function beat(keys, args)
  local tag = keys[1]
  local ask = cmsgpack.unpack(args[1])
  local head = read_head(tag)
  if not head then return cmsgpack.pack({0, false}) end
  local now_s = clock()
  redis.call('HSET', tag .. 'w', ask[1], ask[2] .. ' ' .. now_s)
  redis.call('EXPIRE', tag .. 'w', HEAD_S)
  redis.call('EXPIRE', tag .. 'h', HEAD_S)
  local turn = redis.call('SET', tag .. 'k', ask[1], 'NX', 'PX', ask[3])
  return cmsgpack.pack({head.epoch, turn and true or false})
end

local function in_flight(tag, now_s)
  local sum, workers = 0, redis.call('HGETALL', tag .. 'w')
  for i = 1, #workers, 2 do
    local count, at = string.match(workers[i + 1], '^(%d+) (%d+)$')
    if count and math.abs(now_s - at) <= WORKER_S then
      sum = sum + count
    else
      redis.call('HDEL', tag .. 'w', workers[i])
    end
  end
  return sum
end

-- What the store says of the pool: begin a new epoch («load»), or put the present one right.
local function rule(keys, args)
  local tag = keys[1]
  local ask = cmsgpack.unpack(args[1])
  local mode, epoch, free, position, limit, open, full, ttl_ms, per_s, opens =
    ask[1], ask[2], ask[3], ask[4], ask[5], ask[6], ask[7], ask[8], ask[9], ask[10]
  if mode == 'restart' then
    for _, key in ipairs({'h', 's', 'f', 'p0', 'p1', 'w', 'k', 'q', 'qe', 'ql'}) do
      redis.call('UNLINK', tag .. key)
    end
  end
  local head = read_head(tag)
  if mode == 'sweep' then
    if not head or head.epoch ~= epoch then return cmsgpack.pack({head and head.epoch or 0, 0, 0}) end
  elseif head and head.epoch >= epoch then
    return cmsgpack.pack({head.epoch, 0, 0})
  end
  local now_s = clock()
  local before = head and head.tokens or 0
  local tokens = math.max(0, free - in_flight(tag, now_s))
  redis.call('HSET', tag .. 'h', 'e', string.format('%.0f', epoch), 't', tokens,
             'c', head and head.young or 0, 's', head and head.since or now_s,
             'l', limit, 'o', open and 1 or 0, 'r', per_s or 0, 'b', string.format('%.0f', opens or 0))
  redis.call('EXPIRE', tag .. 'h', HEAD_S)
  if full then
    say_sold_out(tag, full, ttl_ms)
  else
    redis.call('DEL', tag .. 's')
    local freed = tonumber(redis.call('GET', tag .. 'f')) or 0
    redis.call('SET', tag .. 'f', string.format('%.0f', math.max(freed, position)), 'EX', FREED_S)
  end
  return cmsgpack.pack({epoch, before, tokens})
end

-- A waiting room: who is early draws lots by `qe`, who is late comes behind; `per_s` a second come
-- to their turn from the opening on, by our clock. What is lost is an order, never a coupon.
local QUEUE_S = 6 * 3600

local function served(tag, head, places, now)
  local q = redis.call('HMGET', tag .. 'q', 's', 'u')
  local last, at = tonumber(q[1]), tonumber(q[2])
  if not last or not at or at > now then last, at = head.per_s, math.max(head.opens, 0) end
  at = math.max(at, head.opens)
  if now < head.opens then return 0 end
  -- An empty room lets one second's worth in at once, and saves up no more than that.
  local due = math.min(last + head.per_s * (now - at) / 1000000, places + head.per_s)
  redis.call('HSET', tag .. 'q', 's', string.format('%.3f', due), 'u', string.format('%.0f', now))
  return due
end

local function number_of(tag, head, name, take, chance, now)
  if name == '' then return 0 end
  local rank = redis.call('ZRANK', tag .. 'qe', name)
  if rank then return now < head.opens and 0 or rank + 1 end
  if now < head.opens then
    if not take then return -1 end
    redis.call('ZADD', tag .. 'qe', 'NX', chance, name)
    return 0
  end
  local number = tonumber(redis.call('HGET', tag .. 'ql', name))
  if number or not take then return number or -1 end
  number = redis.call('ZCARD', tag .. 'qe') + redis.call('HINCRBY', tag .. 'q', 'n', 1)
  redis.call('HSET', tag .. 'ql', name, number)
  return number
end

local function place(keys, args)
  local tag = keys[1]
  local ask = cmsgpack.unpack(args[1])
  local head = read_head(tag)
  if not head then return cmsgpack.pack({0, 0, 0, 0, 0, 0, false, 0}) end
  if head.per_s == 0 then return cmsgpack.pack({head.epoch, 0, 0, 0, 0, 0, false, 0}) end
  local now_s, now_us = clock()
  local now = now_s * 1000000 + now_us
  local number = number_of(tag, head, ask[1], ask[2], ask[3], now)
  local places = redis.call('ZCARD', tag .. 'qe')
                 + (tonumber(redis.call('HGET', tag .. 'q', 'n')) or 0)
  local due = served(tag, head, places, now)
  for _, key in ipairs({'q', 'qe', 'ql'}) do redis.call('EXPIRE', tag .. key, QUEUE_S) end
  redis.call('EXPIRE', tag .. 'h', HEAD_S)
  return cmsgpack.pack({head.epoch, head.per_s, number, due, places, head.tokens,
                        sold_out(tag) and true or false,
                        math.max(0, head.opens - now) / 1000000})
end

-- Stock is about to come back behind this position: nothing said up to it counts any more.
local function freeing(keys, args)
  local tag, position = keys[1], tonumber(args[1])
  local freed = tonumber(redis.call('GET', tag .. 'f')) or 0
  redis.call('SET', tag .. 'f', string.format('%.0f', math.max(freed, position)), 'EX', FREED_S)
  return redis.call('DEL', tag .. 's')
end

redis.register_function('gate_knock_@VERSION@', knock)
redis.register_function('gate_beat_@VERSION@', beat)
redis.register_function('gate_rule_@VERSION@', rule)
redis.register_function('gate_freeing_@VERSION@', freeing)
redis.register_function('gate_place_@VERSION@', place)
