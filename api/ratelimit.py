"""Rate limits: token buckets, shared by all servers through Valkey.

All checks of one turn of the event loop travel as one call. Valkey holds hints only: when it is
away or slow, each server counts on its own and says so in `/readyz`; nobody is refused for that
and nothing breaks. No key here ever holds an address or an identity in the clear.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

import msgspec
from redis.asyncio import Redis
from redis.asyncio.cluster import RedisCluster
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, RedisError

log = logging.getLogger(__name__)

BATCH_MAX: Final = 512
"""Checks in one call: Valkey serves nobody else for their duration, about a millisecond."""
LOCAL_BUCKETS_MAX: Final = 100_000
PROBE_S: Final = 0.5
"""How often a server that lost Valkey looks whether it is back."""

_KEY_PREFIX: Final = "tidebook:{rate}:"

# A bucket is one number: the instant, in microseconds of Valkey's clock, at which it will be full
# again. The argument holds for each check the key, the time of one token and that of a full bucket;
# the answer how many microseconds to wait, 0 when a token was taken. Both are one packed string,
# because a client in Python takes longer over many small values than Valkey over the checks. All
# keys hash to the slot of KEYS[1].
_SCRIPT: Final = """
local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
local checks = cmsgpack.unpack(ARGV[1])
local waits = {}
for i = 1, #checks, 3 do
  local key, token, full = KEYS[1] .. checks[i], checks[i + 1], checks[i + 2]
  local full_at = tonumber(redis.call('GET', key) or 0)
  if full_at < now then full_at = now end
  local ahead = full_at + token - now
  local wait = 0
  if ahead > full then
    wait = ahead - full
  else
    redis.call('SET', key, string.format('%.0f', full_at + token), 'PX',
               string.format('%.0f', math.ceil(ahead / 1000)))
  end
  waits[#waits + 1] = wait
end
return cmsgpack.pack(waits)
"""
_pack: Final = msgspec.msgpack.Encoder().encode
_unpack: Final = msgspec.msgpack.Decoder(list[float]).decode
_SCRIPT_SHA: Final = hashlib.sha1(_SCRIPT.encode(), usedforsecurity=False).hexdigest()


class Rate(NamedTuple):
    """A bucket's size and filling, as the time of one token and the time to fill it, in µs."""

    token_us: int
    full_us: int

    @classmethod
    def per_second(cls, tokens: float, burst: int) -> Rate | None:
        """Return the rate of so many tokens a second, or None for no limit."""
        if tokens <= 0:
            return None
        token_us = max(1, round(1_000_000 / tokens))
        return cls(token_us, token_us * burst)

    @classmethod
    def per_minute(cls, tokens: float) -> Rate | None:
        """Return the rate of so many tokens a minute, which may all be taken at once."""
        return cls.per_second(tokens / 60, max(1, round(tokens)))


class LocalBuckets:
    """The same buckets in this process, for a bounded number of keys."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._full_at: OrderedDict[str, float] = OrderedDict()

    def take(self, key: str, rate: Rate) -> float:
        """Take a token; return 0.0, or the seconds until there is one."""
        now = self._clock() * 1e6
        full_at = max(self._full_at.get(key, 0.0), now) + rate.token_us
        wait_us = full_at - now - rate.full_us
        if wait_us > 0:
            return wait_us / 1e6
        self._full_at[key] = full_at
        self._full_at.move_to_end(key)
        if len(self._full_at) > LOCAL_BUCKETS_MAX:
            self._full_at.popitem(last=False)
        return 0.0


class _Check(NamedTuple):
    key: str
    rate: Rate
    heard: Callable[[float], None]


class RateLimiter:
    """Buckets in Valkey with those of this process as a fallback. Belongs to one event loop."""

    def __init__(
        self,
        redis_url: str | None,
        *,
        timeout_s: float,
        cluster: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        kind: Any = RedisCluster if cluster else Redis
        self._redis: Any = redis_url and kind.from_url(
            redis_url,
            socket_timeout=timeout_s,
            socket_connect_timeout=timeout_s,
            retry=Retry(NoBackoff(), 0),
            max_connections=4,
            decode_responses=False,
        )
        self._local = LocalBuckets(clock)
        self._timeout_s = timeout_s
        self._waiting: list[_Check] = []
        self._pump: asyncio.Task[None] | None = None
        self._probe: asyncio.Task[None] | None = None
        self.degraded = self._redis is None
        """Whether this server counts on its own now."""

    async def take(self, key: str, rate: Rate | None) -> float:
        """Take a token of the bucket `key`; return 0.0, or the seconds until there is one."""
        if rate is None or self.degraded:
            return self.take_here(key, rate)
        answer: asyncio.Future[float] = asyncio.get_running_loop().create_future()

        def heard(wait_s: float) -> None:
            if not answer.done():
                answer.set_result(wait_s)

        self.ask(key, rate, heard)
        return await answer

    def ask(self, key: str, rate: Rate | None, heard: Callable[[float], None]) -> None:
        """Take a token as `take` does, and say the same to `heard`: now, or in the event loop."""
        if rate is None or self.degraded:
            heard(self.take_here(key, rate))
            return
        self._waiting.append(_Check(key, rate, heard))
        if self._pump is None:
            self._pump = asyncio.create_task(self._ask_for_all())

    def take_here(self, key: str, rate: Rate | None) -> float:
        """Take a token of this process's own bucket, whatever the others know."""
        return self._local.take(key, rate) if rate is not None else 0.0

    async def close(self) -> None:
        """Stop; checks that still wait are answered from this process."""
        for task in (self._probe, self._pump):
            if task is not None:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
        self._answer_locally(self._waiting)
        if self._redis is not None:
            await self._redis.aclose()

    async def _ask_for_all(self) -> None:
        """Ask for everything that waits, in batches; what comes meanwhile is the next batch."""
        try:
            while self._waiting:
                batch, self._waiting = self._waiting[:BATCH_MAX], self._waiting[BATCH_MAX:]
                try:
                    waits_us = await asyncio.wait_for(self._ask(batch), self._timeout_s)
                except Exception as error:  # noqa: BLE001 - whatever it is, nobody waits for it
                    self._lose_valkey(error)
                    self._answer_locally(batch)
                    self._answer_locally(self._waiting)
                    self._waiting = []
                else:
                    for check, wait_us in zip(batch, waits_us, strict=True):
                        _tell(check, wait_us / 1e6)
        finally:
            self._pump = None

    async def _ask(self, batch: Sequence[_Check]) -> list[float]:
        checks = _pack([part for check in batch for part in (check.key, *check.rate)])
        try:
            answer = await self._redis.evalsha(_SCRIPT_SHA, 1, _KEY_PREFIX, checks)
        except NoScriptError:
            answer = await self._redis.eval(_SCRIPT, 1, _KEY_PREFIX, checks)
        waits: list[float] = _unpack(answer)
        if len(waits) != len(batch):
            raise ValueError("Valkey's answer does not fit the question")
        return waits

    def _answer_locally(self, checks: Sequence[_Check]) -> None:
        for check in checks:
            _tell(check, self._local.take(check.key, check.rate))

    def _lose_valkey(self, error: BaseException) -> None:
        if not self.degraded:
            self.degraded = True
            log.warning("rate limits are counted by this server alone: %s", type(error).__name__)
            self._probe = asyncio.create_task(self._watch_for_valkey())

    async def _watch_for_valkey(self) -> None:
        """Look again and again until Valkey answers."""
        while True:
            await asyncio.sleep(PROBE_S)
            try:
                await asyncio.wait_for(self._redis.ping(), self._timeout_s)
            except (RedisError, OSError):
                continue
            self.degraded = False
            log.warning("rate limits are shared through Valkey again")
            return


def _tell(check: _Check, wait_s: float) -> None:
    try:
        check.heard(wait_s)
    except Exception:
        log.exception("whoever asked for a token failed on hearing the answer")


class Budget:
    """A bucket that is charged after the fact, such as the answers 404 that a caller collects.

    A charge costs no waiting. When a bucket has run dry the key is shut out, on this server, until
    it holds a token again; another server finds out with its own first charge.
    """

    def __init__(self, limiter: RateLimiter, clock: Callable[[], float] = time.monotonic) -> None:
        self._limiter = limiter
        self._clock = clock
        self._shut_until: OrderedDict[str, float] = OrderedDict()
        self._charging: set[asyncio.Task[None]] = set()

    @property
    def shuts_out_anybody(self) -> bool:
        """Whether it is worth asking `wait` at all."""
        return bool(self._shut_until)

    def wait(self, *keys: str) -> float:
        """Return the seconds for which any of these keys is shut out, 0.0 for none."""
        now = self._clock()
        return max(0.0, *(self._shut_until.get(key, now) - now for key in keys))

    def charge(self, key: str, rate: Rate | None) -> None:
        """Take a token in the background; shut the key out if there is none."""
        if rate is None:
            return
        task = asyncio.create_task(self._charge(key, rate))
        self._charging.add(task)
        task.add_done_callback(self._charging.discard)

    async def _charge(self, key: str, rate: Rate) -> None:
        wait_s = await self._limiter.take(key, rate)
        if wait_s > 0:
            self._shut_until[key] = self._clock() + wait_s
            self._shut_until.move_to_end(key)
            if len(self._shut_until) > LOCAL_BUCKETS_MAX:
                self._shut_until.popitem(last=False)


def address_key(address: str) -> str:
    """Return a bucket's name for a network address, which is personal data and is not kept."""
    return "a:" + hashlib.blake2b(address.encode(), digest_size=12).hexdigest()
