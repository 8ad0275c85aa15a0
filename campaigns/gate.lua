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
--   rp…, rd…, ra…   rates of a person, a device, an address: the instant at which each is full again
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

local function instant()
  local clock = redis.call('TIME')
  return tonumber(clock[1]), tonumber(clock[1]) * 1000000 + tonumber(clock[2])
end

local function read_head(tag)
  local h = redis.call('HMGET', tag .. 'h', 'e', 't', 'c', 's', 'l', 'o')
  local head = {
    epoch = tonumber(h[1]), tokens = tonumber(h[2]), young = tonumber(h[3]),
    since = tonumber(h[4]), limit = tonumber(h[5]), open = h[6] == '1',
  }
  if not (head.epoch and head.tokens and head.young and head.since and head.limit) then
    return nil
  end
  return head
end

local function person_of(young, old, name)
  local raw = redis.call('HGET', young, name) or redis.call('HGET', old, name)
  if not raw or #raw < 6 then return 0, 0, 0, '' end
  local n, pending, at = struct.unpack(PERSON, raw)
  return n, pending, at, string.sub(raw, 7)
end

local function keep_person(young, name, n, pending, at, marks)
  redis.call('HSET', young, name, struct.pack(PERSON, n, pending, at) .. marks)
end

local function marked(marks, request)
  for i = 1, #marks, MARK do
    if string.sub(marks, i, i + MARK - 1) == request then return i end
  end
end

-- Return the microseconds to wait, or 0 and what the rate will be once the token is taken. An
-- instant too far ahead was written by a clock that has since been put back.
local function ahead(key, token, full, now, taken)
  local full_at = taken[key]
  if not full_at then full_at = tonumber(redis.call('GET', key)) or 0 end
  if full_at < now or full_at > now + full then full_at = now end
  local wait = full_at + token - now - full
  if wait > 0 then return wait end
  return 0, full_at + token
end

local function too_fast(tag, rules, names, now, taken)
  local changes = {}
  for i = 1, 3 do
    local name, token = names[i], rules[2 * i - 1]
    if name and token > 0 then
      local key = tag .. names[i + 3] .. name
      local wait, full_at = ahead(key, token, rules[2 * i], now, taken)
      if wait > 0 then return wait end
      changes[key] = full_at
    end
  end
  for key, full_at in pairs(changes) do
    taken[key] = full_at
    redis.call('SET', key, string.format('%.0f', full_at), 'PX',
               math.ceil((full_at - now) / 1000))
  end
  return 0
end

local function settle(head, young, old, now_s, settles)
  for i = 1, #settles, 5 do
    local kind, name, request, count, epoch =
      settles[i], settles[i + 1], settles[i + 2], settles[i + 3], settles[i + 4]
    local n, pending, at, marks = person_of(young, old, name)
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
      redis.call('HDEL', young, name)
      redis.call('HDEL', old, name)
    else
      keep_person(young, name, n, pending, at > 0 and at or now_s, marks)
    end
  end
end

local function say_sold_out(tag, sold, ttl_ms)
  local freed = tonumber(redis.call('GET', tag .. 'f'))
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
  local sold, width, knocks = ask[5], ask[6], ask[7]
  local head = read_head(tag)
  if not head then return cmsgpack.pack({0, '', {}, false, 0}) end
  local now_s, now = instant()
  turn_over(tag, head, now_s, rules)
  local young, old = tag .. 'p' .. head.young, tag .. 'p' .. (1 - head.young)
  local tokens = head.tokens
  settle(head, young, old, now_s, settles)
  if sold then say_sold_out(tag, sold, rules[9]) end
  local flag = sold_out(tag)

  local words, waits, taken, said = {}, {}, {}, false
  local admitted, remembered = 0, #settles > 0
  for i = 1, #knocks, width do
    local name, request = knocks[i], knocks[i + 1]
    local word = 'U'
    local wait = too_fast(tag, rules, {name, knocks[i + 2], knocks[i + 3], 'rp', 'rd', 'ra'},
                          now, taken) / 1000
    if wait > 0 then
      word = 'F'
    elseif head.open then
      local n, pending, at, marks = person_of(young, old, name)
      if pending > 0 and math.abs(now_s - at) > PENDING_S then pending = 0 end
      if marked(marks, request) then
        word = 'U'
      elseif n >= head.limit then
        word = 'C'
      elseif pending >= PENDING_MAX then
        word, wait = 'F', PENDING_WAIT_MS
      elseif flag then
        word, said = 'S', true
      else
        if head.tokens > 0 and pending == 0 then
          word = 'A'
          head.tokens = head.tokens - 1
          admitted = admitted + 1
        end
        keep_person(young, name, n, pending + 1, now_s, string.sub(marks .. request, -MARKS))
        remembered = true
      end
    end
    words[#words + 1] = word
    if word == 'F' then waits[#waits + 1] = wait end
  end

  if head.tokens ~= tokens then redis.call('HSET', tag .. 'h', 't', head.tokens) end
  if remembered then redis.call('EXPIRE', young, 2 * rules[8]) end
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
  local now_s = instant()
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
  local mode, epoch, free, position, limit, open, full, ttl_ms =
    ask[1], ask[2], ask[3], ask[4], ask[5], ask[6], ask[7], ask[8]
  if mode == 'restart' then
    for _, key in ipairs({'h', 's', 'f', 'p0', 'p1', 'w', 'k'}) do
      redis.call('UNLINK', tag .. key)
    end
  end
  local head = read_head(tag)
  if mode == 'sweep' then
    if not head or head.epoch ~= epoch then return cmsgpack.pack({head and head.epoch or 0, 0, 0}) end
  elseif head and head.epoch >= epoch then
    return cmsgpack.pack({head.epoch, 0, 0})
  end
  local now_s = instant()
  local before = head and head.tokens or 0
  local tokens = math.max(0, free - in_flight(tag, now_s))
  redis.call('HSET', tag .. 'h', 'e', string.format('%.0f', epoch), 't', tokens,
             'c', head and head.young or 0, 's', head and head.since or now_s,
             'l', limit, 'o', open and 1 or 0)
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
