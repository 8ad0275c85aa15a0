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
local FREED_S = 60       -- longer than what was said before a freeing can be under way
local WORKER_S = 5       -- a worker that was silent for so long is dead
local PENDING_S = 5      -- a request that was not settled for so long no longer counts as under way
local PENDING_MAX = 2    -- requests of one person that may be at the store at once
local PENDING_WAIT_MS = 1000
local MARKS = 4 * 12     -- the last four requests of a person, in hex digits

-- A person is: coupons claimed, requests under way, when the last one came, when the bucket is full;
-- then the marks of requests. It is one field, because each field read or written costs a microsecond.
local PERSON = '>BBI4d'
local HEADER = 14

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

-- Fields of two hashes, read and written in one go for a whole batch: the young one wins. What is
-- read is in the order of the names; what was changed since is found by its name.
local function fetch(young, old, names)
  local half = {young = young, names = names, found = {}, changes = {}, at = {}}
  if #names == 0 then return half end
  local found = redis.call('HMGET', young, unpack(names))
  half.found = found
  if redis.call('EXISTS', old) == 1 then
    local missing, places = {}, {}
    for i = 1, #names do
      if not found[i] then
        missing[#missing + 1] = names[i]
        places[#places + 1] = i
      end
    end
    if #missing > 0 then
      local older = redis.call('HMGET', old, unpack(missing))
      for i = 1, #missing do found[places[i]] = older[i] end
    end
  end
  return half
end

local function value_of(half, i)
  local at = half.at[half.names[i]]
  if at then return half.changes[at] end
  return half.found[i]
end

local function change(half, i, value)
  local name = half.names[i]
  local changes, at = half.changes, half.at[name]
  if not at then
    at = #changes + 2
    changes[at - 1] = name
    half.at[name] = at
  end
  changes[at] = value
end

local function write(half, expire_s)
  if #half.changes == 0 then return end
  if redis.call('HSET', half.young, unpack(half.changes)) > 0 then
    redis.call('EXPIRE', half.young, expire_s)
  end
end

-- Return until when a bucket is full, with one token more taken; or the ticks to wait for that one.
-- An instant too far ahead was written by a clock that has since been put back.
local function take(full_at, token, full, now)
  if full_at < now or full_at > now + full then full_at = now end
  full_at = full_at + token
  if full_at - now > full then return nil, full_at - now - full end
  return full_at
end

-- Read the buckets of devices and addresses that a batch needs; nil when they have no rates.
local function paces(tag, rules, others, now_s)
  if not others then return nil end
  local slice = math.floor(now_s / rules[10])
  local names = {}
  for i = 1, #others do names[i] = others[i] and (2 - i % 2 .. others[i]) or '' end
  return fetch(tag .. 'r' .. slice, tag .. 'r' .. (slice - 1), names)
end

-- Take a token for the device and the address of a knock, or none; return the ticks to wait, if any.
local function pace(buckets, rules, i, now)
  local taken = {}
  for kind = 1, 2 do
    local place, token, full = 2 * i - 2 + kind, rules[2 * kind + 1], rules[2 * kind + 2]
    if token > 0 and buckets.names[place] ~= '' then
      local full_at, wait = take(tonumber(value_of(buckets, place) or 0) or 0, token, full, now)
      if wait then return wait end
      taken[place] = full_at
    end
  end
  for place, full_at in pairs(taken) do change(buckets, place, full_at .. '') end
end

-- What the store said of requests; `counts` has the person's coupons, 0 where nothing was done.
local function settle(persons, marks, counts, now_s)
  local sub, find, pack, unpacked = string.sub, string.find, struct.pack, struct.unpack
  for i = 1, #counts do
    local raw, mark, count = value_of(persons, i), marks[i], counts[i]
    local n, pending, at, full_at, kept = 0, 0, now_s, 0, ''
    if raw and #raw >= HEADER then
      n, pending, at, full_at = unpacked(PERSON, raw)
      kept = sub(raw, HEADER + 1)
    end
    if pending > 0 then pending = pending - 1 end
    local there = find(kept, mark, 1, true)
    if count > 0 then
      if count > n then n = count end
      if not there then kept = sub(kept .. mark, -MARKS) end
    elseif there then
      kept = sub(kept, 1, there - 1) .. sub(kept, there + #mark)
    end
    change(persons, i, pack(PERSON, n, pending, at, full_at) .. kept)
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

-- Return the word for one knock, and the milliseconds to wait. `given` is 1 for a pass of the waiting
-- room and 2 when the store says that claims have begun, whatever we believe.
local function word_for(pool, given, n, pending, is_repeat)
  if not pool.open then return given < 2 and 'N' or 'U' end
  if is_repeat then return 'U' end
  if n >= pool.limit then return 'C' end
  if pending >= PENDING_MAX then return 'F', PENDING_WAIT_MS end
  if pool.flag then return 'S' end
  if pool.per_s > 0 and given % 2 == 0 then return 'W' end
  if pool.early and given < 2 then return 'N' end
  if pool.tokens > 0 and pending == 0 then return 'A' end
  return 'T'
end

-- Say a word to each who knocks; `first` is how many were settled, whose names come before.
local function answer(pool, persons, marks, first, buckets, rules, flags, now_s, now)
  local sub, find, pack, unpacked = string.sub, string.find, struct.pack, struct.unpack
  local token, full = rules[1], rules[2]
  local words, waits = {}, {}
  for i = 1, #persons.names - first do
    local raw, mark = value_of(persons, first + i), marks[first + i]
    local n, pending, at, full_at, kept, is_repeat = 0, 0, 0, 0, '', nil
    if raw and #raw >= HEADER then
      n, pending, at, full_at = unpacked(PERSON, raw)
      kept = sub(raw, HEADER + 1)
      is_repeat = find(kept, mark, 1, true)
      if pending > 0 and math.abs(now_s - at) > PENDING_S then pending = 0 end
    end
    local word, wait
    if token > 0 then full_at, wait = take(full_at, token, full, now) end
    if buckets and not wait then wait = pace(buckets, rules, i, now) end
    if wait then
      word, wait = 'F', wait / TICKS * 1000
    else
      local given = flags and string.byte(flags, i) - 48 or 0
      word, wait = word_for(pool, given, n, pending, is_repeat)
      if word == 'A' or word == 'T' then
        if word == 'A' then
          pool.tokens = pool.tokens - 1
          pool.admitted = pool.admitted + 1
        end
        kept = sub(kept .. mark, -MARKS)
        change(persons, first + i, pack(PERSON, n, pending + 1, now_s, full_at) .. kept)
      elseif token > 0 then
        change(persons, first + i, pack(PERSON, n, pending, at, full_at) .. kept)
      end
    end
    words[i] = word
    if wait then waits[#waits + 1] = wait end
  end
  return table.concat(words), waits
end

-- A batch of one worker: first what the store has said since, then who knocks now. Names and marks
-- are of those who are settled, then of those who knock.
local function knock(keys, args)
  local tag = keys[1]
  local worker, in_flight, rules, names, marks, counts, back, sold, others, flags =
    unpack(cmsgpack.unpack(args[1]))
  local head = read_head(tag)
  if not head then return cmsgpack.pack({0, '', {}, false, 0}) end
  local now_s, now_us = clock()
  local now = (now_s - SINCE) * TICKS + math.floor(now_us / 10)
  turn_over(tag, head, now_s, rules)
  local persons = fetch(tag .. 'p' .. head.young, tag .. 'p' .. (1 - head.young), names)
  settle(persons, marks, counts, now_s)
  if sold then say_sold_out(tag, sold, rules[9]) end
  local pool = {
    open = head.open, limit = head.limit, per_s = head.per_s, tokens = head.tokens, admitted = 0,
    flag = sold_out(tag), early = head.opens > now_s * 1000000 + now_us,
  }
  -- Both a refusal and a claim that was there before give back the token that was taken.
  if back and back[1] == head.epoch then pool.tokens = pool.tokens + back[2] end
  local buckets = paces(tag, rules, others, now_s)
  local words, waits = answer(pool, persons, marks, #counts, buckets, rules, flags, now_s, now)
  if pool.tokens ~= head.tokens then redis.call('HSET', tag .. 'h', 't', pool.tokens) end
  write(persons, 2 * rules[8])
  if buckets then write(buckets, 2 * rules[10]) end
  local at_store = (in_flight + pool.admitted) .. ' ' .. now_s
  if redis.call('HSET', tag .. 'w', worker, at_store) > 0 then
    redis.call('EXPIRE', tag .. 'w', HEAD_S)
  end
  local said = pool.flag and string.find(words, 'S', 1, true) and pool.flag
  return cmsgpack.pack({head.epoch, words, waits, said or false, head.limit})
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
  if not turn then
    local ends_ms = redis.call('PTTL', tag .. 'k')
    if ends_ms < 0 or ends_ms > ask[3] then  -- a turn that does not end is nobody's
      turn = redis.call('SET', tag .. 'k', ask[1], 'PX', ask[3])
    end
  end
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
