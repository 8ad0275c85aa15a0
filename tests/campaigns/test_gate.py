"""The gate: what it says and remembers, and that it is unsure of everything else."""

from __future__ import annotations

import asyncio
import json
import socketserver
import struct
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import redis

from campaigns import wire
from campaigns.campaign import POOL
from campaigns.freeing import Freeing
from campaigns.gate import UNSURE as UNSURE_WORD
from campaigns.gate import GateSettings, Rate, Refusable, Verdict
from tests.conftest import free_port, wait_until
from tests.support.gatehouse import Gatehouse
from tests.support.valkeys import Cluster, Valkey

ADMITTED, UNSURE, CLAIMED = Verdict.ADMITTED, Verdict.UNSURE, Verdict.CLAIMED
SOLD_OUT, TOO_FAST = Verdict.SOLD_OUT, Verdict.TOO_FAST
NOBODY_HOME = f"redis://127.0.0.1:{free_port()}/0"


@pytest.fixture
def gatehouse(redis_url: str) -> Iterator[Gatehouse]:
    """A gate over an empty Valkey."""
    with Gatehouse(redis_url) as house:
        yield house


@pytest.fixture
def client(redis_url: str) -> Iterator[Any]:
    """A client of the gate's Valkey, to break things with."""
    with redis.Redis.from_url(redis_url, decode_responses=True) as found:
        yield found


# --- what it says ---------------------------------------------------------------------------------


def test_an_empty_gate_is_unsure_and_asks_for_its_keeper(gatehouse: Gatehouse) -> None:
    """What is not there is neither free nor full."""
    assert gatehouse.verdicts("a", "b") == [UNSURE, UNSURE]
    assert gatehouse.keeper.asked == [(gatehouse.door, False)]


def test_as_many_are_admitted_as_there_are_tokens(gatehouse: Gatehouse) -> None:
    """Who comes after the last token is not refused: only the store knows."""
    assert gatehouse.rule(free=2) == [1, 0, 2]
    assert gatehouse.verdicts("a", "b", "c") == [ADMITTED, ADMITTED, UNSURE]
    assert gatehouse.door.admitted == 2


def test_a_token_that_was_not_needed_returns(gatehouse: Gatehouse) -> None:
    """Whoever was admitted for nothing leaves their place to the next one, and may come again."""
    gatehouse.rule(free=1)
    assert gatehouse.verdicts("a", "b") == [ADMITTED, UNSURE]
    gatehouse.released("a")
    gatehouse.released("b")
    assert gatehouse.verdicts("b") == [ADMITTED]
    gatehouse.claimed_before("b")
    assert gatehouse.verdicts("a") == [ADMITTED]


def test_a_person_who_has_a_coupon_is_known(gatehouse: Gatehouse) -> None:
    """Another request of theirs is refused, the same one goes to the store for its reply."""
    gatehouse.rule()
    assert gatehouse.verdict("a") is ADMITTED
    gatehouse.claimed("a")
    assert gatehouse.verdict("a", "other") is CLAIMED
    assert gatehouse.verdict("a") is UNSURE
    word = gatehouse.ask(gatehouse.knock("a", "third"))[0]
    assert (word.code, word.wait_s) == ("already_claimed", 0.0)


def test_a_person_may_have_as_many_as_the_limit(gatehouse: Gatehouse) -> None:
    """Only who has all is refused."""
    gatehouse.rule(free=9, limit=2)
    for n in (1, 2):
        assert gatehouse.verdict("a", f"k{n}") is ADMITTED
        gatehouse.claimed("a", f"k{n}", n=n, limit=2)
    assert gatehouse.ask(gatehouse.knock("a", "k3"))[0].code == "limit_reached"


def test_a_person_has_two_requests_at_the_store_at_most(gatehouse: Gatehouse) -> None:
    """One is admitted; a second one may be another device; what is more waits."""
    gatehouse.rule(free=9)
    words = gatehouse.ask(*(gatehouse.knock("bot", f"k{n}") for n in range(20)))
    verdicts = [word.verdict for word in words]
    assert verdicts == [ADMITTED, UNSURE, *[TOO_FAST] * 18]
    assert words[-1].wait_s == 1.0
    assert gatehouse.verdict("bot", "k0") is UNSURE


def test_sold_out_is_said_when_the_store_said_so(gatehouse: Gatehouse) -> None:
    """Not before, and with the store's code, position and facts."""
    gatehouse.rule(free=1)
    assert gatehouse.verdicts("a", "b") == [ADMITTED, UNSURE]
    gatehouse.sold_out(7)
    word = gatehouse.ask(gatehouse.knock("c"))[0]
    assert word.verdict is SOLD_OUT
    assert (word.code, word.position, word.facts) == ("sold_out", 7, (("quota", 3),))


def test_sold_out_ends_by_itself(redis_url: str) -> None:
    """Nobody is refused for long because of something that nobody repeats."""
    with Gatehouse(redis_url, GateSettings(sold_out_ms=50)) as gatehouse:
        gatehouse.rule(free=0)
        gatehouse.sold_out(7)
        assert gatehouse.verdict("a") is SOLD_OUT
        time.sleep(0.06)
        assert gatehouse.verdict("b") is UNSURE


def test_freed_stock_ends_sold_out(gatehouse: Gatehouse, redis_url: str) -> None:
    """From the call on, and words from before it count no more."""
    freeing = Freeing(redis_url)
    gatehouse.rule(free=0)
    gatehouse.sold_out(7)
    assert gatehouse.verdict("a") is SOLD_OUT
    freeing.freeing("main", 9, [(gatehouse.campaign, POOL)])
    assert gatehouse.verdict("b") is UNSURE
    gatehouse.sold_out(9)
    assert gatehouse.verdict("c") is UNSURE
    gatehouse.sold_out(10)
    assert gatehouse.verdict("d") is SOLD_OUT
    freeing.close()


def test_freeing_never_fails_and_costs_little(redis_url: str) -> None:
    """A gate that is away costs one time-out, and then nothing for a while."""
    now = [0.0]
    freeing = Freeing(NOBODY_HOME, clock=lambda: now[0])
    for _ in range(3):
        freeing.freeing("main", 1, [(uuid4(), POOL)])
    assert freeing.missed == 3
    assert freeing._client is None
    freeing._url = redis_url
    now[0] = 1.0
    freeing.freeing("main", 1, [(uuid4(), POOL)])
    assert freeing.missed == 3
    freeing.close()


def test_a_paused_campaign_is_left_to_the_store(gatehouse: Gatehouse) -> None:
    """Where no claims are taken, nothing else is said; whoever heard otherwise asks the store."""
    gatehouse.rule(is_open=False)
    gatehouse.sold_out(9)
    word = gatehouse.ask(gatehouse.knock("a"))[0]
    assert (word.verdict, word.code) == (Verdict.NOT_OPEN, "not_open")
    assert gatehouse.verdict("a", begun=True) is UNSURE
    assert gatehouse.door.admitted == 0


def test_before_claims_begin_nobody_takes_a_token(gatehouse: Gatehouse) -> None:
    """It is proposed to say so; who knows from the store that they have begun is admitted."""
    hour = 3_600 * 1_000_000
    gatehouse.rule(free=2, opens=time.time_ns() // 1_000 + hour)
    verdicts = gatehouse.verdicts("a", "a", "a", "a", "b")
    assert verdicts == [Verdict.NOT_OPEN] * 5
    assert gatehouse.verdict("a", begun=True) is ADMITTED
    gatehouse.rule("sweep", free=2, opens=time.time_ns() // 1_000 - hour)
    assert gatehouse.verdict("b") is ADMITTED


def test_who_came_early_by_the_gates_clock_only_is_asked_about_again(
    gatehouse: Gatehouse,
) -> None:
    """The store does not confirm it, so the gate is asked what it says of an open campaign."""
    judged: list[str] = []

    def confirm_nothing(refusables: Sequence[Refusable]) -> None:
        for one in refusables:
            judged.append(one.knock.person)
            one.heard(UNSURE_WORD)

    gatehouse.gate.judge = confirm_nothing
    gatehouse.rule(free=1, opens=time.time_ns() // 1_000 + 3_600 * 1_000_000)
    assert gatehouse.verdicts("a", "b") == [ADMITTED, UNSURE]
    assert judged == ["a", "b"]
    gatehouse.rule("sweep", free=1, is_open=False)
    assert gatehouse.verdict("c") is UNSURE


# --- rates ----------------------------------------------------------------------------------------

SLOW = Rate.per_second(0.01, 3)


def test_a_person_in_haste_is_told_when_to_come_back(redis_url: str) -> None:
    """The fourth knock waits; other people do not."""
    with Gatehouse(redis_url, GateSettings(person_rate=SLOW)) as gatehouse:
        gatehouse.rule(free=9, limit=20)
        words = gatehouse.ask(*(gatehouse.knock("a") for _ in range(4)), gatehouse.knock("b"))
        assert [word.verdict for word in words[-2:]] == [TOO_FAST, ADMITTED]
        assert 0 < words[-2].wait_s <= 100


@pytest.mark.parametrize("kind", ["device", "address"])
def test_a_device_and_an_address_have_rates(redis_url: str, kind: str) -> None:
    """Many people from one device or address share its rate; who shows none has none."""
    rates: dict[str, Any] = {f"{kind}_rate": SLOW}
    with Gatehouse(redis_url, GateSettings(**rates)) as gatehouse:
        gatehouse.rule(free=99)
        knocks = [gatehouse.knock(f"p{n}", **{kind: "mark"}) for n in range(5)]
        verdicts = [word.verdict for word in gatehouse.ask(*knocks)]
        assert verdicts == [*[ADMITTED] * 3, TOO_FAST, TOO_FAST]
        assert gatehouse.verdict("other") is ADMITTED


def test_no_rate_asks_for_no_key(gatehouse: Gatehouse, client: Any) -> None:
    """Without rates nothing is counted."""
    gatehouse.rule()
    gatehouse.verdicts("a", "b")
    assert not list(client.scan_iter("*}:r*"))
    assert Rate.per_second(0, 10) == Rate()


def test_a_clock_that_was_put_back_shuts_nobody_out(redis_url: str, client: Any) -> None:
    """An instant that lies too far ahead was written by another clock (F27)."""
    far_ahead = 99_999_999_999_999
    with Gatehouse(redis_url, GateSettings(person_rate=SLOW, device_rate=SLOW)) as gatehouse:
        gatehouse.rule()
        assert gatehouse.verdict("a", device="d") is ADMITTED
        (key,) = client.scan_iter("*}:r*")
        start, _, slice_ = key.rpartition("r")
        for n in range(-2, 3):
            client.hset(f"{start}r{int(slice_) + n}", "1d", str(far_ahead))
        assert client.hexists(key, "1d")
        client.hset(f"{gatehouse.door.tag}p0", "b", struct.pack(">BBId", 0, 1, 0, far_ahead))
        assert gatehouse.verdict("b", device="d") is ADMITTED


# --- epochs ---------------------------------------------------------------------------------------


def test_an_epoch_ends_the_one_before(gatehouse: Gatehouse) -> None:
    """Who builds under an older epoch is not heard, and older tokens do not return."""
    gatehouse.rule(epoch=5, free=1)
    assert gatehouse.verdicts("a") == [ADMITTED]
    assert gatehouse.rule(epoch=5, free=9) == [5, 0, 0]
    assert gatehouse.rule(epoch=4, free=9) == [5, 0, 0]
    assert gatehouse.rule("sweep", epoch=4, free=9) == [5, 0, 0]
    gatehouse.rule(epoch=6, free=1)
    gatehouse.released("a")  # it was admitted under epoch 5
    assert gatehouse.verdicts("b", "c") == [UNSURE, UNSURE]


def test_a_gate_that_fell_back_is_not_believed(gatehouse: Gatehouse, client: Any) -> None:
    """After a failover to a replica that lagged, the keeper builds it anew (F22)."""
    gatehouse.rule(epoch=5)
    assert gatehouse.verdict("a") is ADMITTED
    client.hset(f"{gatehouse.door.tag}h", "e", "4")
    assert gatehouse.verdict("b") is UNSURE
    assert gatehouse.keeper.asked == [(gatehouse.door, False)]
    assert gatehouse.rule(epoch=6)[0] == 6
    assert gatehouse.verdict("c") is ADMITTED


def test_a_sweep_leaves_out_what_is_in_flight_and_the_dead(
    gatehouse: Gatehouse, redis_url: str, client: Any
) -> None:
    """A worker's tokens come back when it has been silent for too long (F28)."""
    gatehouse.rule(free=5)
    with Gatehouse(redis_url, campaign=gatehouse.campaign) as other:
        assert other.verdicts("x", "y") == [ADMITTED, ADMITTED]
        worker = other.gate.worker
    gatehouse.verdicts("a")
    assert gatehouse.rule("sweep", free=5) == [1, 2, 2]
    client.hset(f"{gatehouse.door.tag}w", worker, f"2 {int(time.time()) - 10}")
    assert gatehouse.rule("sweep", free=5) == [1, 2, 4]
    assert not client.hexists(f"{gatehouse.door.tag}w", worker)


def test_a_sweep_puts_sold_out_right(gatehouse: Gatehouse, client: Any) -> None:
    """What the store does not say is taken back, and what it says is said (F19)."""
    gatehouse.rule(free=0)
    client.set(f"{gatehouse.door.tag}s", b"\x93\x63\xa8sold_out\xa2[]")  # for ever, and a lie
    assert gatehouse.verdict("a") is SOLD_OUT
    gatehouse.rule("sweep", free=4, position=8)
    assert gatehouse.verdict("b") is ADMITTED
    gatehouse.rule("sweep", free=0, position=9, full=(9, "sold_out", '[["quota",4]]'))
    assert gatehouse.verdict("c") is SOLD_OUT
    assert 0 < client.pttl(f"{gatehouse.door.tag}s") <= 3_000


def test_a_heartbeat_gives_the_turn_to_one(gatehouse: Gatehouse, redis_url: str) -> None:
    """Two workers beat, one of them sweeps."""
    gatehouse.rule()
    with Gatehouse(redis_url, campaign=gatehouse.campaign) as other:
        turns = [house.call("beat", (house.gate.worker, 0, 5_000)) for house in (gatehouse, other)]
    assert turns == [[1, True], [1, False]]


def test_a_turn_that_never_ends_is_nobodys(gatehouse: Gatehouse, client: Any) -> None:
    """A clock that jumped must not keep everybody from sweeping (F27)."""
    gatehouse.rule()
    beat = (gatehouse.gate.worker, 0, 5_000)
    assert gatehouse.call("beat", beat) == [1, True]
    assert gatehouse.call("beat", beat) == [1, False]
    client.persist(f"{gatehouse.door.tag}k")
    assert gatehouse.call("beat", beat) == [1, True]
    client.pexpire(f"{gatehouse.door.tag}k", 86_400_000)
    assert gatehouse.call("beat", beat) == [1, True]
    assert gatehouse.call("beat", beat) == [1, False]


def test_what_nobody_settles_is_let_go(gatehouse: Gatehouse) -> None:
    """A request whose outcome stays unknown does not hold a token for ever."""
    gatehouse.rule()
    gatehouse.verdicts("a")
    door = gatehouse.door
    assert (door.forget_the_oldest(), door.admitted) == (0, 1)
    assert (door.forget_the_oldest(), door.admitted) == (1, 0)


# --- memory ---------------------------------------------------------------------------------------


def test_every_key_ends_by_itself(redis_url: str, client: Any) -> None:
    """Whatever happens, nothing is kept for ever."""
    settings = GateSettings(person_rate=SLOW, device_rate=SLOW, address_rate=SLOW)
    with Gatehouse(redis_url, settings) as gatehouse:
        gatehouse.rule(free=1)
        knock = gatehouse.knock("a", device="d", address="n")
        gatehouse.ask(knock, knock, gatehouse.knock("b"))
        gatehouse.claimed("a")
        gatehouse.released("b")
        gatehouse.sold_out(9)
        gatehouse.verdicts("c")
        gatehouse.call("beat", (gatehouse.gate.worker, 0, 1_000))
        keys = list(client.scan_iter())
        assert len(keys) >= 7
        assert [key for key in keys if client.ttl(key) < 0] == []


def test_the_older_half_of_the_persons_is_forgotten(redis_url: str, client: Any) -> None:
    """The memory for persons is bounded; who was forgotten is asked about at the store."""
    with Gatehouse(redis_url, GateSettings(persons_max=10)) as gatehouse:
        gatehouse.rule(free=1_000)
        for n in range(100):
            assert gatehouse.verdict(f"p{n}") is ADMITTED
            gatehouse.claimed(f"p{n}")
        tag = gatehouse.door.tag
        assert client.hlen(f"{tag}p0") + client.hlen(f"{tag}p1") <= 20
        assert gatehouse.verdict("p99", "other") is CLAIMED
        assert gatehouse.verdict("p0", "other") is ADMITTED


def test_a_full_valkey_is_unsure(tmp_path: Path) -> None:
    """Out of memory is no error to anybody, and it is no reason to build anew (F23, F25)."""
    with Valkey(tmp_path) as server, Gatehouse(server.url) as gatehouse:
        gatehouse.rule(free=1_000)
        server.client.config_set("maxmemory", "1mb")
        assert set(gatehouse.verdicts(*(f"p{n}" for n in range(100)))) == {UNSURE}
        assert gatehouse.keeper.asked == [(gatehouse.door, False)]
        with pytest.raises(redis.ResponseError, match="OOM"):
            gatehouse.rule(epoch=2)
        server.client.config_set("maxmemory", "0")
        assert gatehouse.verdict("p0") is ADMITTED


def test_a_door_that_nobody_uses_makes_room(redis_url: str) -> None:
    """A worker keeps up so many pools and no more."""
    with Gatehouse(redis_url, GateSettings(pools_max=3)) as gatehouse:
        for _ in range(10):
            gatehouse.campaign = uuid4()
            gatehouse.verdict("a")
        assert len(gatehouse.gate.doors) == 3


# --- trouble --------------------------------------------------------------------------------------


def test_knocks_of_one_turn_are_one_call(gatehouse: Gatehouse, client: Any) -> None:
    """Five hundred knocks and what the store said of them cost three calls, or two."""
    gatehouse.rule(free=1_000)
    people = [f"p{n}" for n in range(500)]
    before = _calls(client)
    assert set(gatehouse.verdicts(*people)) == {ADMITTED}
    for person in people:
        gatehouse.claimed(person)
    assert gatehouse.verdict("p0", "other") is CLAIMED
    assert _calls(client) - before in (2, 3)  # what was said may travel with the next knock


def test_a_flood_of_settled_requests_is_told_in_parts(gatehouse: Gatehouse) -> None:
    """Five thousand people who were given a coupon elsewhere are known soon."""
    gatehouse.rule(free=10_000)
    gatehouse.verdict("first")
    for n in range(5_000):
        gatehouse.claimed(f"p{n}")
    assert gatehouse.verdict("p0", "other") is CLAIMED
    gatehouse.verdicts("a")
    while gatehouse.door.out or gatehouse.door.settles:
        gatehouse.run(asyncio.sleep(0.01))
    assert gatehouse.verdict("p4999", "other") is CLAIMED


def _calls(client: Any) -> int:
    return int(client.info("commandstats").get("cmdstat_fcall", {}).get("calls", 0))


def test_flushed_functions_are_loaded_again(gatehouse: Gatehouse, client: Any) -> None:
    """FUNCTION FLUSH costs nobody anything (F24)."""
    gatehouse.rule()
    client.function_flush()
    assert gatehouse.verdicts("a") == [ADMITTED]
    client.function_flush()
    Freeing(client.connection_pool.connection_kwargs and _url(client)).freeing(
        "main", 1, [(gatehouse.campaign, POOL)]
    )
    assert len(client.function_list()) == 1


def _url(client: Any) -> str:
    return f"unix://{client.connection_pool.connection_kwargs['path']}"


def test_without_loading_again_the_gate_stays_silent(
    gatehouse: Gatehouse, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Control: functions that were flushed once would be missed for ever (F24)."""
    monkeypatch.setattr(wire, "function_is_missing", lambda _: False)
    gatehouse.rule()
    assert gatehouse.verdict("a") is ADMITTED
    client.function_flush()
    assert [gatehouse.verdict(person) for person in "bcd"] == [UNSURE] * 3


def test_a_flushed_server_is_unsure(gatehouse: Gatehouse, client: Any) -> None:
    """FLUSHALL makes the gate forget, and what is forgotten is neither free nor full (F23)."""
    gatehouse.rule(free=0)
    gatehouse.sold_out(4)
    assert gatehouse.verdict("a") is SOLD_OUT
    client.flushall()
    assert gatehouse.verdict("b") is UNSURE


@pytest.mark.parametrize("part", ["h", "p0", "w", "s"])
def test_a_key_of_another_kind_is_cleared_away(
    gatehouse: Gatehouse, client: Any, part: str
) -> None:
    """Nonsense under one of our names leads to unsure, and to a new beginning."""
    gatehouse.rule(free=5)
    key = f"{gatehouse.door.tag}{part}"
    client.delete(key)
    client.rpush(key, "nonsense")
    assert gatehouse.verdict("a") is UNSURE
    assert gatehouse.keeper.asked == [(gatehouse.door, True)]
    gatehouse.rule("restart", epoch=2, free=5)
    assert gatehouse.verdict("b") is ADMITTED


def test_a_mark_of_freed_stock_that_cannot_be_read_is_cleared_away(
    gatehouse: Gatehouse, client: Any
) -> None:
    """As long as nobody knows when stock came back, nothing is said to be sold out."""
    gatehouse.rule(free=0)
    client.delete(f"{gatehouse.door.tag}f")
    client.rpush(f"{gatehouse.door.tag}f", "nonsense")
    gatehouse.sold_out(9)
    assert gatehouse.verdict("a") is UNSURE
    assert gatehouse.keeper.asked == [(gatehouse.door, True)]
    gatehouse.rule("restart", epoch=2, free=0)
    gatehouse.sold_out(9)
    assert gatehouse.verdict("b") is SOLD_OUT


def test_a_half_written_head_is_no_head(gatehouse: Gatehouse, client: Any) -> None:
    """Every field must be there."""
    for field in ("e", "t", "c", "s", "l"):
        gatehouse.rule(epoch=gatehouse.door.epoch + 1)
        client.hdel(f"{gatehouse.door.tag}h", field)
        assert gatehouse.verdict(f"p{field}") is UNSURE
    assert len(gatehouse.keeper.asked) == 5


def test_a_person_who_cannot_be_read_is_a_new_one(gatehouse: Gatehouse, client: Any) -> None:
    """The store knows them."""
    gatehouse.rule()
    client.hset(f"{gatehouse.door.tag}p0", "a", "??")
    assert gatehouse.verdict("a") is ADMITTED


def test_a_gate_that_is_away_is_unsure_at_once() -> None:
    """Nobody waits for a Valkey that is not there, or that nobody has named."""
    for url in (None, NOBODY_HOME):
        with Gatehouse(url) as gatehouse:
            started = time.monotonic()
            for _ in range(20):
                assert set(gatehouse.verdicts("a", "b")) == {UNSURE}
            assert time.monotonic() - started < 1
            assert gatehouse.gate.away


def test_a_gate_that_hangs_is_given_up_and_comes_back(tmp_path: Path) -> None:
    """One time-out for all, then unsure at once; the probe finds it when it goes on (F26)."""
    with Valkey(tmp_path) as server, Gatehouse(server.url, timeout_s=0.2) as gatehouse:
        gatehouse.rule(free=100)
        server.stop()
        started = time.monotonic()
        assert set(gatehouse.verdicts("a", "b")) == {UNSURE}
        assert gatehouse.gate.away
        assert gatehouse.verdict("c") is UNSURE
        assert time.monotonic() - started < 5
        server.go_on()
        wait_until(lambda: _passes(gatehouse))
        assert gatehouse.verdict("d") is ADMITTED


def test_a_gate_that_was_killed_comes_back_empty(tmp_path: Path) -> None:
    """A new server knows nothing, and says so (F17)."""
    with Valkey(tmp_path) as server, Gatehouse(server.url) as gatehouse:
        gatehouse.rule(free=0)
        gatehouse.sold_out(3)
        assert gatehouse.verdict("a") is SOLD_OUT
        server.kill()
        assert gatehouse.verdict("b") is UNSURE
        server.start()
        wait_until(lambda: _passes(gatehouse))
        assert gatehouse.verdict("c") is UNSURE
        assert gatehouse.keeper.asked[-1] == (gatehouse.door, False)


def _passes(gatehouse: Gatehouse) -> bool:
    gatehouse.run(asyncio.sleep(0.05))
    return not gatehouse.gate.away


@pytest.mark.parametrize(
    "answer",
    [b"$1\r\n\xc1\r\n", b"+OK\r\n", b":5\r\n", b"*1\r\n:1\r\n", b"$-1\r\n", b"hello\r\n", b"\x00"],
)
def test_an_answer_of_any_kind_is_survived(answer: bytes) -> None:
    """Whatever comes back from the address of Valkey, everybody who knocks hears a word."""
    with Babbler(answer) as babbler, Gatehouse(babbler.url, timeout_s=1) as gatehouse:
        assert not gatehouse.gate.away
        for _ in range(3):
            assert gatehouse.verdicts("a", "b") == [UNSURE, UNSURE]


class Babbler(socketserver.ThreadingTCPServer):
    """Lets clients connect as Valkey would, and says the same to every function call."""

    daemon_threads = True

    def __init__(self, answer: bytes) -> None:
        super().__init__(("127.0.0.1", 0), _Babble)
        self.answer = answer
        self.url = f"redis://127.0.0.1:{self.server_address[1]}/0"
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    def server_close(self) -> None:
        """Stop listening, in the thread as well."""
        self.shutdown()
        super().server_close()


class _Babble(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        """Answer commands by their names alone."""
        with suppress(OSError):
            while data := self.request.recv(65_536):
                self.request.sendall(b"+OK\r\n" * (data.count(b"CLIENT\r\n")))
                self.request.sendall(b"+OK\r\n" * data.count(b"$8\r\nFUNCTION\r\n"))
                if b"FCALL" in data:
                    assert isinstance(self.server, Babbler)
                    self.request.sendall(self.server.answer)


def test_one_who_fails_on_hearing_does_not_harm_the_others(gatehouse: Gatehouse) -> None:
    """The next one hears their word."""
    gatehouse.rule()

    def fail(_: object) -> None:
        raise RuntimeError("on purpose")

    gatehouse.gate.ask(gatehouse.knock("a"), fail)
    assert gatehouse.verdict("b") is ADMITTED


def test_facts_that_cannot_be_read_are_not_said(gatehouse: Gatehouse, client: Any) -> None:
    """A «sold out» without readable facts is none."""
    gatehouse.rule(free=0)
    for facts in ("nonsense", "[1]", json.dumps({"quota": 1})):
        text = facts.encode()
        flag = b"\x93\x63\xa8sold_out" + bytes([0xA0 | len(text)]) + text
        client.set(f"{gatehouse.door.tag}s", flag, px=3_000)
        assert gatehouse.verdict(f"p{len(facts)}") is UNSURE


# --- being held ----------------------------------------------------------------------------------

PATIENT = GateSettings(hold_s=60)


def _heard_after(gatehouse: Gatehouse, then: Callable[[], object], *people: str) -> list[Verdict]:
    """Let people knock at a gate that knows nothing; return what they hear `then`, in order."""
    heard: list[Verdict] = []
    for person in people:
        gatehouse.gate.ask(gatehouse.knock(person), lambda word: heard.append(word.verdict))
    while not gatehouse.keeper.asked:
        gatehouse.run(asyncio.sleep(0.001))
    assert gatehouse.door.held
    then()
    while len(heard) < len(people):
        gatehouse.run(asyncio.sleep(0.001))
    return heard


def test_who_is_held_is_asked_about_again_in_order(redis_url: str) -> None:
    """The keeper has built the gate: the first ones get the tokens."""
    with Gatehouse(redis_url, PATIENT) as gatehouse:

        def is_built() -> None:
            gatehouse.rule(free=2)
            gatehouse.gate.built(gatehouse.door)

        heard = _heard_after(gatehouse, is_built, "a", "b", "c")
        assert heard == [ADMITTED, ADMITTED, UNSURE]
        assert gatehouse.keeper.asked == [(gatehouse.door, False)]


def test_who_is_held_in_vain_is_unsure(redis_url: str, client: Any) -> None:
    """The keeper cannot build it; and until it is known again nobody else waits for it."""
    with Gatehouse(redis_url, PATIENT) as gatehouse:
        in_vain = _heard_after(gatehouse, lambda: gatehouse.gate.not_built(gatehouse.door), "a")
        assert in_vain == [UNSURE]
        assert gatehouse.verdicts("b", "c") == [UNSURE, UNSURE]
        gatehouse.rule()
        assert gatehouse.verdict("d") is ADMITTED
        client.flushall()
        gatehouse.keeper.asked.clear()

        def is_built() -> None:
            gatehouse.rule(epoch=9)
            gatehouse.gate.built(gatehouse.door)

        assert _heard_after(gatehouse, is_built, "e") == [ADMITTED]


def test_a_gate_that_was_told_and_still_knows_nothing_is_unsure(redis_url: str) -> None:
    """Nobody waits twice."""
    with Gatehouse(redis_url, PATIENT) as gatehouse:
        heard = _heard_after(gatehouse, lambda: gatehouse.gate.built(gatehouse.door), "a", "b")
        assert heard == [UNSURE, UNSURE]


def test_holding_has_an_end_and_a_bound(redis_url: str) -> None:
    """So long, and so many; who is one too many hears at once, as before."""
    settings = GateSettings(hold_s=0.1, held_max=2)
    with Gatehouse(redis_url, settings) as gatehouse:
        assert gatehouse.verdicts("a", "b", "c") == [UNSURE] * 3
        gatehouse.keeper.asked.clear()
        heard = _heard_after(
            gatehouse, lambda: gatehouse.gate.ask(gatehouse.knock("x"), print), "a"
        )
        assert heard == [UNSURE]
    with Gatehouse(redis_url, settings._replace(hold_s=60)) as gatehouse:
        late: list[Verdict] = []

        def one_too_many() -> None:
            for person in "bc":
                knock = gatehouse.knock(person)
                gatehouse.gate.ask(knock, lambda word: late.append(word.verdict))
            gatehouse.run(asyncio.sleep(0.01))
            assert late == [UNSURE]
            gatehouse.gate.not_built(gatehouse.door)

        assert _heard_after(gatehouse, one_too_many, "a") == [UNSURE]
        assert late == [UNSURE, UNSURE]


def test_nobody_is_held_by_a_gate_that_closes_or_goes_away(redis_url: str, tmp_path: Path) -> None:
    """They hear «unsure», every one of them."""
    with Gatehouse(redis_url, PATIENT) as gatehouse:
        closes = _heard_after(gatehouse, lambda: gatehouse.run(gatehouse.gate.close()), "a", "b")
        assert closes == [UNSURE, UNSURE]
    with Valkey(tmp_path) as server, Gatehouse(server.url, PATIENT, timeout_s=0.2) as gatehouse:

        def is_killed() -> None:
            server.kill()
            gatehouse.gate.built(gatehouse.door)

        assert _heard_after(gatehouse, is_killed, "a", "b") == [UNSURE, UNSURE]


# --- a cluster ------------------------------------------------------------------------------------


def test_campaigns_spread_over_a_cluster(valkey_cluster: Cluster) -> None:
    """Each campaign's keys are on one primary, and every primary has some campaign's."""
    with Gatehouse(valkey_cluster.url, cluster=True) as gatehouse:
        for _ in range(20):
            gatehouse.campaign = uuid4()
            gatehouse.rule(free=1)
            assert gatehouse.verdicts("a", "b") == [ADMITTED, UNSURE]
            gatehouse.claimed("a")
            gatehouse.sold_out(9)
            assert gatehouse.verdict("a", "other") is CLAIMED
            assert gatehouse.verdict("c") is SOLD_OUT
    assert all(node.client.dbsize() > 0 for node in valkey_cluster.primaries)


def test_a_slot_that_moves_takes_its_campaign_along(valkey_cluster: Cluster) -> None:
    """Whoever knocks after the move is answered as before it."""
    freeing = Freeing(valkey_cluster.url, cluster=True)
    with Gatehouse(valkey_cluster.url, cluster=True) as gatehouse:
        gatehouse.rule(free=0)
        gatehouse.sold_out(9)
        assert gatehouse.verdict("a") is SOLD_OUT
        here = valkey_cluster.node_of(gatehouse.door.tag)
        there = next(node for node in valkey_cluster.primaries if node is not here)
        valkey_cluster.move(gatehouse.door.tag, there)
        assert gatehouse.verdict("b") is SOLD_OUT
        assert there.client.exists(f"{gatehouse.door.tag}h")
        freeing.freeing("main", 12, [(gatehouse.campaign, POOL)])
        assert freeing.missed == 0
        assert gatehouse.verdict("c") is UNSURE
    freeing.close()


def test_functions_are_loaded_on_every_primary(valkey_cluster: Cluster) -> None:
    """Also after one of them has lost them."""
    with Gatehouse(valkey_cluster.url, cluster=True) as gatehouse:
        gatehouse.rule()
        for node in valkey_cluster.primaries:
            node.client.function_flush()
        assert gatehouse.verdict("a") is ADMITTED
        assert all(len(node.client.function_list()) == 1 for node in valkey_cluster.primaries)
