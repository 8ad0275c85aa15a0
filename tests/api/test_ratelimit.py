"""Rate limits: fair through Valkey, there without it, and never in the way of working."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest
import redis

from api.embedded import EmbeddedValkey
from api.ratelimit import Budget, LocalBuckets, Rate, RateLimiter, address_key
from tests.api.conftest import MakeApp
from tests.conftest import free_port
from tests.support.valkeys import Cluster

SLOW = Rate.per_second(0.01, 5)
NOBODY_HOME = f"redis://127.0.0.1:{free_port()}/0"


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        """The time."""
        return self.now


async def taken(limiter: RateLimiter, key: str, rate: Rate | None, times: int) -> list[float]:
    """Take tokens at once; return how long each would have had to wait."""
    return list(await asyncio.gather(*(limiter.take(key, rate) for _ in range(times))))


def admitted(waits: list[float]) -> int:
    """How many did not have to wait."""
    return sum(wait == 0 for wait in waits)


def run(url: str | None, work: Any, **how: Any) -> Any:
    """Run `work(limiter)` with a limiter over `url`."""

    async def main() -> Any:
        limiter = RateLimiter(url, **{"timeout_s": 0.25, **how})
        try:
            return await work(limiter)
        finally:
            await limiter.close()

    return asyncio.run(main())


def test_a_burst_is_admitted_and_no_more(redis_url: str) -> None:
    """Of thirty calls at once, as many go through as the bucket holds."""

    async def burst(limiter: RateLimiter) -> None:
        waits = await taken(limiter, "k", SLOW, 30)
        assert admitted(waits) == 5
        assert 0 < max(waits) <= 101
        assert not limiter.degraded

    run(redis_url, burst)


def test_two_servers_share_a_bucket(redis_url: str) -> None:
    """A caller gains nothing by calling another server."""

    async def both(one: RateLimiter) -> None:
        two = RateLimiter(redis_url, timeout_s=0.25)
        waits = await taken(one, "k", SLOW, 5) + await taken(two, "k", SLOW, 5)
        await two.close()
        assert admitted(waits) == 5

    run(redis_url, both)


def test_tokens_come_back_with_time(redis_url: str) -> None:
    """After the time of a token there is a token."""

    async def wait(limiter: RateLimiter) -> None:
        rate = Rate.per_second(20, 2)
        assert admitted(await taken(limiter, "k", rate, 10)) == 2
        await asyncio.sleep(0.06)
        assert admitted(await taken(limiter, "k", rate, 10)) == 1

    run(redis_url, wait)


def test_callers_have_buckets_of_their_own_that_vanish(redis_url: str) -> None:
    """One caller's haste is not another's, and a full bucket leaves no key behind."""

    async def several(limiter: RateLimiter) -> None:
        rate = Rate.per_second(50, 1)
        for key in ("a", "b", "c"):
            assert admitted(await taken(limiter, key, rate, 2)) == 1

    run(redis_url, several)
    with redis.Redis.from_url(redis_url) as client:
        deadline = time.monotonic() + 5
        while client.dbsize():
            assert time.monotonic() < deadline
            time.sleep(0.02)


def test_checks_of_one_turn_are_one_call(redis_url: str) -> None:
    """A thousand callers at once cost a handful of calls."""
    with redis.Redis.from_url(redis_url) as client:

        async def rush(limiter: RateLimiter) -> None:
            await taken(limiter, "warm", SLOW, 1)
            before = client.info("commandstats")
            rate = Rate.per_second(1, 5)
            waits = await asyncio.gather(*(limiter.take(f"k{n}", rate) for n in range(1_000)))
            after = client.info("commandstats")
            assert admitted(list(waits)) == 1_000
            assert _evals(after) - _evals(before) <= 4

        run(redis_url, rush)


def _evals(stats: Any) -> int:
    return sum(stats.get(f"cmdstat_{name}", {}).get("calls", 0) for name in ("eval", "evalsha"))


def test_a_forgotten_script_is_loaded_again(redis_url: str) -> None:
    """SCRIPT FLUSH costs nobody anything."""
    with redis.Redis.from_url(redis_url) as client:

        async def flushed(limiter: RateLimiter) -> None:
            await taken(limiter, "k", SLOW, 1)
            client.script_flush()
            assert admitted(await taken(limiter, "k", SLOW, 9)) == 4
            assert not limiter.degraded

        run(redis_url, flushed)


def test_a_cluster_counts_as_one_server_does(valkey_cluster: Cluster) -> None:
    """A burst is admitted and no more."""

    async def burst(limiter: RateLimiter) -> None:
        assert admitted(await taken(limiter, "k", SLOW, 30)) == 5
        assert not limiter.degraded

    run(valkey_cluster.url, burst, cluster=True)


def test_no_limit_asks_nobody() -> None:
    """A rate of nothing is no limit."""
    assert Rate.per_second(0, 10) is None
    assert admitted(run(NOBODY_HOME, lambda limiter: taken(limiter, "k", None, 100))) == 100


def test_without_valkey_each_server_counts_alone() -> None:
    """Nobody is refused because Valkey is away, and haste is still noticed."""

    async def alone(limiter: RateLimiter) -> None:
        assert admitted(await taken(limiter, "k", SLOW, 30)) == 5
        assert limiter.degraded

    run(NOBODY_HOME, alone)
    run(None, alone)


def test_a_valkey_that_hangs_is_given_up_soon(server_home: Path) -> None:
    """A stopped server costs one time-out, not one for each call."""
    with EmbeddedValkey(server_home / "hanging") as server:

        async def hang(limiter: RateLimiter) -> None:
            await taken(limiter, "k", SLOW, 1)
            with redis.Redis.from_url(server.url) as client:
                client.execute_command("CLIENT", "PAUSE", "1500", "ALL")
            started = time.monotonic()
            await taken(limiter, "k", SLOW, 50)
            await taken(limiter, "k", SLOW, 50)
            assert time.monotonic() - started < 1.0
            assert limiter.degraded
            while limiter.degraded:  # and it comes back by itself
                assert time.monotonic() - started < 20
                await asyncio.sleep(0.05)

        run(server.url, hang)


def test_nonsense_from_valkey_is_survived(redis_url: str) -> None:
    """A key of another type under our name leads to counting alone, not to an error."""
    with redis.Redis.from_url(redis_url) as client:
        client.rpush("tidebook:{rate}:k", "nonsense")

    async def odd(limiter: RateLimiter) -> None:
        assert admitted(await taken(limiter, "k", SLOW, 30)) == 5

    run(redis_url, odd)


@pytest.mark.parametrize(
    "answer",
    [b"$1\r\n\xc1\r\n", b"+OK\r\n", b":5\r\n", b"*1\r\n:1\r\n", b"$-1\r\n", b"hello\r\n", b"\x00"],
)
def test_an_answer_of_any_kind_is_survived(answer: bytes) -> None:
    """Whatever comes back from the address of Valkey, everybody who waits gets an answer."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(65_536):
            writer.write(answer)
        writer.close()

    async def main() -> None:
        server = await asyncio.start_server(talk, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        limiter = RateLimiter(f"redis://127.0.0.1:{port}/0", timeout_s=0.25)
        assert admitted(await taken(limiter, "k", SLOW, 30)) == 5
        await limiter.close()
        server.close()

    asyncio.run(main())


def test_local_buckets_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A flood of new callers does not fill the memory."""
    monkeypatch.setattr("api.ratelimit.LOCAL_BUCKETS_MAX", 10)
    buckets = LocalBuckets(Clock())
    assert SLOW is not None
    for n in range(100):
        assert buckets.take(f"k{n}", SLOW) == 0
    assert len(buckets._full_at) == 10


def test_local_buckets_fill_again() -> None:
    """Time brings tokens back, and never more than the bucket holds."""
    clock = Clock()
    buckets = LocalBuckets(clock)
    rate = Rate.per_second(1, 3)
    assert rate is not None
    assert [buckets.take("k", rate) == 0 for _ in range(4)] == [True, True, True, False]
    clock.now += 1
    assert [buckets.take("k", rate) == 0 for _ in range(2)] == [True, False]
    clock.now += 1_000
    assert [buckets.take("k", rate) == 0 for _ in range(4)] == [True, True, True, False]


def test_a_spent_budget_shuts_out_for_a_while(redis_url: str) -> None:
    """Charges are taken in the background; the one too many shuts the key out."""

    async def spend(limiter: RateLimiter) -> None:
        clock = Clock()
        budget = Budget(limiter, clock)
        rate = Rate.per_second(1, 3)
        for _ in range(3):
            budget.charge("guesser", rate)
        await asyncio.gather(*budget._charging)
        assert not budget.shuts_out_anybody
        budget.charge("guesser", rate)
        await asyncio.gather(*budget._charging)
        assert 0 < budget.wait("innocent", "guesser") <= 1
        assert budget.wait("innocent") == 0
        clock.now += 2
        assert budget.wait("guesser") == 0

    run(redis_url, spend)


def test_an_address_is_not_readable_from_its_key() -> None:
    """Valkey never holds an address in the clear."""
    assert "203.0.113.7" not in address_key("203.0.113.7")
    assert address_key("203.0.113.7") != address_key("203.0.113.8")


# --- over HTTP ------------------------------------------------------------------------------------


def test_a_hasty_tourist_is_told_when_to_come_back(make_app: MakeApp) -> None:
    """429 with Retry-After for the hasty one, nothing for the others, and no event."""
    app = make_app(rate_tourist_per_s=0.1, rate_tourist_burst=3)
    campaign = app.open_campaign()
    before = app.events()
    statuses = [app.claim(campaign, "hasty", key="same") for _ in range(6)]
    assert [reply.status_code for reply in statuses] == [201, 201, 201, 429, 429, 429]
    late = statuses[-1]
    assert late.json()["code"] == "rate_limited"
    assert 1 <= int(late.headers["retry-after"]) <= 30
    assert app.claim(campaign, "patient").status_code == 201
    assert app.events() == before + 2


def test_guessing_codes_leads_to_429(make_app: MakeApp) -> None:
    """A caller who asks for things that are not there is shut out from everything for a while."""
    app = make_app(rate_missing_per_min=5)
    guesser = app.token("merchant", "guesser")
    statuses = []
    for n in range(8):
        reply = app.get(f"/v1/coupons/cpn_main_{n:032x}", token=guesser)
        statuses.append(reply.status_code)
        time.sleep(0.02)
    assert statuses[:5] == [404] * 5
    assert statuses[-1] == 429
    assert app.get("/v1/merchant/balance", token=guesser).status_code == 429
    other = app.token("merchant", "other till")
    assert app.get("/v1/merchant/balance", token=other).status_code == 200


def test_guessing_from_one_address_with_many_accounts_leads_to_429(make_app: MakeApp) -> None:
    """The address has a budget too, whoever calls from it."""
    app = make_app(rate_missing_address_per_min=5)
    statuses = []
    for n in range(7):
        token = app.token("tourist", f"account {n}")
        reply = app.post(f"/v1/campaigns/cmp_main_{n:032x}/claims", token=token)
        statuses.append(reply.status_code)
        time.sleep(0.02)
    assert (statuses[0], statuses[-1]) == (404, 429)


@pytest.fixture
def lonely(make_app: MakeApp) -> Any:
    """A service whose Valkey is not there."""
    return make_app(redis_url=NOBODY_HOME, rate_tourist_per_s=1, rate_tourist_burst=3)


def test_without_valkey_the_service_works_and_says_so(lonely: Any) -> None:
    """Claims go through, limits hold on this server, /readyz and /metrics tell."""
    campaign = lonely.open_campaign()
    statuses = [lonely.claim(campaign, "hasty", key="same").status_code for _ in range(5)]
    assert statuses == [201, 201, 201, 429, 429]
    ready = lonely.get("/readyz", admin=True)
    assert (ready.status_code, ready.json()["status"]) == (200, "degraded")
    assert ready.json()["rate_limits"] == "alone"
    lonely.wait_until(
        lambda: "tidebook_rate_limits_degraded 1.0" in lonely.get("/metrics", admin=True).text
    )
