"""Over the server's own protocol the lane and the ordinary way give the same bytes, all of them."""

from __future__ import annotations

import contextlib
import gc
import json
import re
import socket
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

import psycopg2
import pytest

from api.fastpath import Front
from api.lane import Lane, _Ride
from api.nogate import NoGate
from api.plain import LaneCall
from api.protocol import Send, Traffic
from campaigns.gate import UNSURE, Knock, Verdict, Word
from tests.api.harness import App, draft_body, settings_for, yuan
from tests.api.wire import Server
from tests.conftest import Databases, wait_until

NOON = datetime(2026, 5, 1, 12, 0, tzinfo=UTC)
ID = "request-0001"


class CountingLane:
    """A lane that counts what it takes and what it leaves."""

    def __init__(self, lane: Lane) -> None:
        self.lane = lane
        self.taken = self.left = 0

    def take(self, call: LaneCall, send: Send) -> bool:
        """Take a call or leave it. It is counted before its answer can be read."""
        self.taken += 1
        taken = self.lane.take(call, send)
        self.taken -= not taken
        self.left += not taken
        return taken


class ScriptedGate(NoGate):
    """A gate that says one word to everybody and remembers what it was told."""

    def __init__(self, word: Word) -> None:
        self.word = word
        self.told: list[tuple[Any, ...]] = []

    def ask(self, knock: Knock, heard: Callable[[Word], None]) -> None:
        """Say it."""
        heard(self.word)

    def claimed(self, *told: Any) -> None:
        """Note it."""
        self.told.append(("claimed", *told[2:]))

    def claimed_before(self, *told: Any) -> None:
        """Note it."""
        self.told.append(("claimed_before", *told[2:]))

    def released(self, *told: Any) -> None:
        """Note it."""
        self.told.append(("released", *told[2:]))

    def sold_out(self, *told: Any) -> None:
        """Note it."""
        self.told.append(("sold_out", *told[2:]))


class Served:
    """A service behind the server's protocol, listening on loopback."""

    def __init__(self, app: App) -> None:
        self.app = app
        asgi = app.asgi
        assert isinstance(asgi, Front)
        self.lane = CountingLane(asgi.lane) if asgi.lane is not None else None
        server = Server(asgi, Traffic(lane=self.lane))

        async def listen() -> Any:
            def protocol() -> Any:
                return server.traffic.protocol(server.config, server.state, {})

            return await app.loop.loop.create_server(protocol, "127.0.0.1", 0)

        self.listening = app.loop.run(listen())
        self.address = self.listening.sockets[0].getsockname()

    def exchange(self, request: bytes) -> bytes:
        """Send a request on a new connection; return the bytes of the answer."""
        with socket.create_connection(self.address, timeout=60) as connection:
            connection.sendall(request)
            answer = b""
            while not _is_whole(answer):
                data = connection.recv(65_536)
                assert data, "the connection ended before the answer did"
                answer += data
        return answer

    def close(self) -> None:
        """Stop listening and end the service."""
        self.app.loop.loop.call_soon_threadsafe(self.listening.close)
        self.app.close()


def _is_whole(answer: bytes) -> bool:
    head, end, body = answer.partition(b"\r\n\r\n")
    if not end:
        return False
    length = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
    return len(body) >= int(length)


class Pair:
    """The same service twice, one with a lane and one without; they hear the same calls."""

    def __init__(self, with_lane: Served, without: Served) -> None:
        self.with_lane = with_lane
        self.without = without

    @property
    def apps(self) -> tuple[App, App]:
        """Both services."""
        return self.with_lane.app, self.without.app

    def taken(self) -> int:
        """How many calls the lane took."""
        assert self.with_lane.lane is not None
        return self.with_lane.lane.taken

    def session(self, role: str, who: str = "", **more: Any) -> str:
        """A token for both."""
        app = self.apps[0]
        reply = app.post("/v1/sessions", token=app.token(role, who, **more), key="")
        token: str = reply.json()["session_token"]
        return token

    def opened(self, quota: int = 5, **changes: Any) -> str:
        """The same open campaign in both."""
        (campaign,) = {app.open_campaign(quota, **draft_body(NOON, **changes)) for app in self.apps}
        return campaign

    def same(self, request: bytes, *, by_lane: bool = True) -> tuple[int, Any]:
        """Send a request both ways; fail unless the bytes are equal; return status and body."""
        before = self.taken()
        one = self.with_lane.exchange(request)
        two = self.without.exchange(request)
        assert one == two
        assert (self.taken() - before) == by_lane
        head, _, body = one.partition(b"\r\n\r\n")
        return int(head[9:12]), (json.loads(body) if body else None)

    def behind(self, word: Word) -> tuple[ScriptedGate, ScriptedGate]:
        """Put gates that say this before both."""
        gates = ScriptedGate(word), ScriptedGate(word)
        for app, gate in zip(self.apps, gates, strict=True):
            app.service.passages.gate = gate
        return gates


def post(
    path: str,
    token: str,
    key: str,
    body: Any = None,
    headers: Sequence[tuple[str, str]] = (),
) -> bytes:
    """The bytes of a plain POST."""
    content = b"" if body is None else json.dumps(body).encode()
    lines = [
        f"POST {path} HTTP/1.1",
        "Host: tidebook.test",
        f"Authorization: Bearer {token}",
        f"Idempotency-Key: {key}",
        f"X-Request-Id: {ID}",
        f"Tidebook-Time: {NOON.isoformat()}",
        *(["Content-Type: application/json"] if content else []),
        f"Content-Length: {len(content)}",
        *(f"{name}: {value}" for name, value in headers),
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + content


def claim(campaign: str, token: str, key: str, **how: Any) -> bytes:
    """The bytes of a claim."""
    return post(f"/v1/campaigns/{campaign}/claims", token, key, **how)


@pytest.fixture(scope="module")
def make_pair(
    databases: Databases, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., Pair]]:
    """Start pairs of services in simulated time, each over a database of its own."""
    with contextlib.ExitStack() as stack:

        def make(**settings: Any) -> Pair:
            home = tmp_path_factory.mktemp("home")
            served = []
            for fast in (True, False):
                url = stack.enter_context(databases.fresh())
                app = App(settings_for(url, None, home, clock="request", **settings), fast=fast)
                app.time = NOON.isoformat()
                served.append(Served(app))
                stack.callback(served[-1].close)
            return Pair(*served)

        yield make


@pytest.fixture(scope="module")
def pair(make_pair: Callable[..., Pair]) -> Pair:
    """A pair for most tests."""
    return make_pair()


@pytest.fixture(autouse=True)
def no_gate(request: pytest.FixtureRequest) -> Iterator[None]:
    """Take the gates of a test away after it."""
    yield
    if "pair" in request.fixturenames:
        for app in request.getfixturevalue("pair").apps:
            app.service.passages.gate = NoGate()


def test_claims_and_their_refusals(pair: Pair) -> None:
    """Granted, replayed, claimed before, key reused, sold out, absent, closed: the same bytes."""
    campaign, other = pair.opened(quota=1), pair.opened(name="paused")
    for app in pair.apps:
        app.post(
            f"/v1/campaigns/{other}/pause",
            {"reason": "a pause"},
            token=app.token("operator"),
            key="pausing",
        )
    me, you = pair.session("tourist", "me"), pair.session("tourist", "you")
    told = [
        pair.same(claim(campaign, me, "one")),
        pair.same(claim(campaign, me, "one")),
        pair.same(claim(campaign, me, '"one"', body={})),
        pair.same(claim(campaign, me, "two")),
        pair.same(claim(other, me, "one")),
        pair.same(claim(campaign, you, "one")),
        pair.same(claim(campaign, you, "one")),
        pair.same(claim("cmp_main_" + "0" * 32, you, "three")),
        pair.same(claim(other, you, "four")),
    ]
    assert [status for status, _ in told] == [201, 201, 201, 409, 422, 409, 409, 404, 409]
    assert [body.get("code") for _, body in told[3:]] == [
        "already_claimed",
        "idempotency_key_reused",
        "sold_out",
        "sold_out",
        "not_found",
        "not_open",
    ]


def test_limits_and_budgets(pair: Pair) -> None:
    """The refusals that name a number name the same one."""
    several = pair.opened(quota=9, per_person_limit=2, name="two each")
    me = pair.session("tourist", "me")
    told = [pair.same(claim(several, me, f"several-{n}")) for n in range(3)]
    assert [status for status, _ in told] == [201, 201, 409]
    assert told[-1][1]["code"] == "limit_reached"


def test_redemptions_and_their_refusals(pair: Pair) -> None:
    """Redeemed, replayed, redeemed before, too small, absent."""
    campaign = pair.opened()
    me, till = pair.session("tourist", "me"), pair.session("merchant", merchant="shop-1")
    coupons = {
        json.loads(served.exchange(claim(campaign, me, "to-use")).partition(b"\r\n\r\n")[2])[
            "coupon"
        ]
        for served in (pair.with_lane, pair.without)
    }
    (coupon,) = coupons

    def redeem(key: str, what: str = coupon, total: int = 80, **more: Any) -> tuple[int, Any]:
        body = {"order": "o-1", "order_total": yuan(total), **more}
        return pair.same(post(f"/v1/coupons/{what}/redemptions", till, key, body))

    told = [
        redeem("small", total=10),
        redeem("one", shop="shop-1.north"),
        redeem("one", shop="shop-1.north"),
        redeem("two"),
        redeem("three", what="cpn_main_" + "0" * 32),
    ]
    assert [status for status, _ in told] == [409, 200, 200, 409, 404]
    assert told[1] == told[2]
    status, problem = pair.same(
        post(f"/v1/coupons/{coupon}/redemptions", till, "four", {"order": "", "extra": 1}),
        by_lane=False,
    )
    assert (status, problem["code"]) == (422, "invalid_body")


@pytest.mark.parametrize(
    ("how", "status"),
    [
        ({"body": {"n": 1}}, 422),
        ({"body": []}, 400),
        ({"key": " "}, 400),
        ({"key": "k" * 129}, 400),
        ({"token": "tbs1.forged"}, 401),
        ({"headers": [("Tidebook-Min-Position", "main:1")]}, None),
        ({"headers": [("X-Forwarded-For", "192.0.2.1")]}, None),
        ({"headers": [("Content-Encoding", "gzip")], "body": {}}, 415),
    ],
)
def test_what_is_wrong_is_left_to_the_ordinary_way(
    pair: Pair, how: dict[str, Any], status: int | None
) -> None:
    """The lane has done nothing by then, so that the answer is the same."""
    given = {"token": pair.session("tourist", "me"), "key": "wrong", **how}
    campaign = "cmp_main_" + "1" * 32
    found, _ = pair.same(claim(campaign, **given), by_lane=status is None)
    assert found == (status or 404)


def test_a_token_of_the_issuer_is_taken_once_it_was_checked(pair: Pair) -> None:
    """The first call takes the ordinary way, the next one the lane."""
    token = pair.apps[0].token("tourist", "somebody new")
    campaign = "cmp_main_" + "2" * 32
    assert pair.same(claim(campaign, token, "one"), by_lane=False)[0] == 404
    assert pair.same(claim(campaign, token, "one"))[0] == 404


@pytest.mark.parametrize(
    ("word", "status", "code"),
    [
        (Word(Verdict.SOLD_OUT, 0, "sold_out", 7, (("quota", 5),)), 409, "sold_out"),
        (
            Word(Verdict.SOLD_OUT, 0, "budget_exhausted", 7, (("budget_minor", 5),)),
            409,
            "budget_exhausted",
        ),
        (
            Word(Verdict.CLAIMED, 0, "limit_reached", 8, (("per_person_limit", 2),)),
            409,
            "limit_reached",
        ),
        (
            Word(Verdict.CLAIMED, 0, "already_claimed", 0, (("coupon", "cpn_main_1"),)),
            409,
            "already_claimed",
        ),
        (Word(Verdict.TOO_FAST, wait_s=2.5), 429, "rate_limited"),
    ],
)
def test_the_gates_words(pair: Pair, word: Word, status: int, code: str) -> None:
    """What the gate refuses is told alike, and nothing of it reaches the store."""
    campaign = pair.opened(name=f"gate {code}")
    events = [app.events() for app in pair.apps]
    gates = pair.behind(word)
    request = claim(campaign, pair.session("tourist", "me"), f"gate-{code}")
    found, problem = pair.same(request)
    assert (found, problem["code"]) == (status, code)
    answer = pair.with_lane.exchange(request)
    assert (b"tidebook-position: main:%d\r\n" % word.position in answer) == bool(word.position)
    assert (b"retry-after: 3\r\n" in answer) == (word.verdict is Verdict.TOO_FAST)
    assert [app.events() for app in pair.apps] == events
    assert not any(gate.told for gate in gates)


def test_a_gates_refusal_has_the_bytes_of_the_stores(pair: Pair) -> None:
    """Nobody can tell who said no, but by asking again with the same key later."""
    campaign = pair.opened(quota=1, name="both say no")
    me, you = pair.session("tourist", "me"), pair.session("tourist", "you")
    pair.same(claim(campaign, me, "first"))
    refused = claim(campaign, you, "second")
    stores = pair.with_lane.exchange(refused)
    assert stores == pair.without.exchange(refused)
    position = int(stores.partition(b"tidebook-position: main:")[2].partition(b"\r\n")[0])
    pair.behind(Word(Verdict.SOLD_OUT, 0, "sold_out", position, (("quota", 1),)))
    assert pair.with_lane.exchange(claim(campaign, you, "third")) == stores
    mine = pair.with_lane.exchange
    pair.behind(UNSURE)
    again = mine(claim(campaign, me, "fourth"))
    coupon = json.loads(again.partition(b"\r\n\r\n")[2])["coupon"]
    pair.behind(Word(Verdict.CLAIMED, 0, "already_claimed", position, (("coupon", coupon),)))
    assert mine(claim(campaign, me, "fifth")) == again


def test_a_key_that_the_gate_refused_is_unused(pair: Pair) -> None:
    """The refusal is kept nowhere: when there is stock again, the same key gets a coupon."""
    campaign = pair.opened(name="unused key")
    request = claim(campaign, pair.session("tourist", "me"), "used-later")
    pair.behind(Word(Verdict.SOLD_OUT, 0, "sold_out", 1, (("quota", 1),)))
    assert pair.same(request)[0] == 409
    pair.behind(UNSURE)
    assert pair.same(request)[0] == 201


def test_the_gate_hears_what_the_store_said(pair: Pair) -> None:
    """A coupon, a person who has it, no stock, and for everything else that nothing happened."""
    campaign = pair.opened(quota=1, name="told")
    me, you = pair.session("tourist", "me"), pair.session("tourist", "you")
    gates = pair.behind(UNSURE)
    pair.same(claim(campaign, me, "a"))
    pair.same(claim(campaign, me, "b"))
    pair.same(claim(campaign, you, "c"))
    pair.same(claim("cmp_main_" + "3" * 32, you, "d"))
    for gate in gates:
        words = [(told[0], *told[-2:]) for told in gate.told]
        assert words[0] == ("claimed", 1, 0)
        assert words[1][0] == "claimed_before"
        assert words[1][-1] == 1
        assert words[2][0] == "released"
        assert words[3][0] == "sold_out"
        assert words[3][-1] == (("quota", 1),)
        assert words[4][0] == "released"
        assert len(words) == 5
    assert all(not app.service.passages.in_slow_lane for app in pair.apps)


@contextlib.contextmanager
def held(pair: Pair) -> Iterator[None]:
    """Hold the book's lock in both databases, so that nobody commits."""
    connections = []
    for app in pair.apps:
        assert app.settings.database_url is not None
        connection = psycopg2.connect(app.settings.database_url.get_secret_value())
        with connection.cursor() as cursor:
            cursor.execute("SELECT FROM tidebook.book_head WHERE book = 'main' FOR UPDATE")
        connections.append(connection)
    try:
        yield
    finally:
        for connection in connections:
            connection.close()


def test_a_store_that_is_slow_is_told_alike(make_pair: Callable[..., Pair]) -> None:
    """Unknown after the time-out, in flight for a copy, a full slow lane, and then the answer."""
    pair = make_pair(commit_timeout_s=0.5, slow_lane_max=1, queue_max=1)
    campaign = pair.opened()
    me, you = pair.session("tourist", "me"), pair.session("tourist", "you")
    with held(pair):
        first = pair.same(claim(campaign, me, "k"))
        copy = pair.same(claim(campaign, me, "k"))
        pair.behind(UNSURE)
        for app in pair.apps:
            app.service.passages.in_slow_lane = 1
        full = pair.same(claim(campaign, you, "k2"))
        for app in pair.apps:
            app.service.passages.in_slow_lane = 0
    told = [(status, problem["code"]) for status, problem in (first, copy, full)]
    assert told == [
        (503, "outcome_unknown"),
        (409, "idempotency_in_flight"),
        (503, "overloaded"),
    ]
    wait_until(lambda: all(not app.service.writers["main"].queued for app in pair.apps))  # type: ignore[index]
    status, coupon = pair.same(claim(campaign, me, "k"))
    assert (status, coupon["state"]) == (201, "held")


def test_a_late_answer_still_reaches_the_gate(make_pair: Callable[..., Pair]) -> None:
    """Whoever was told «unknown» has a coupon, and the gate knows it."""
    pair = make_pair(commit_timeout_s=0.3)
    campaign = pair.opened()
    gates = pair.behind(Word(Verdict.ADMITTED))
    with held(pair):
        status, _ = pair.same(claim(campaign, pair.session("tourist", "me"), "k"))
    assert status == 503
    wait_until(lambda: all(gate.told for gate in gates))
    assert [gate.told[0][0] for gate in gates] == ["claimed", "claimed"]


class SilentGate(ScriptedGate):
    """A gate that has not answered yet."""

    def __init__(self) -> None:
        super().__init__(Word(Verdict.ADMITTED))
        self.waiting: list[Callable[[Word], None]] = []

    def ask(self, knock: Knock, heard: Callable[[Word], None]) -> None:
        """Keep whoever asks waiting."""
        self.waiting.append(heard)


def test_a_gate_that_is_silent_leaves_nothing_behind(make_pair: Callable[..., Pair]) -> None:
    """The claim surely was not made, and a token that comes too late is given back."""
    pair = make_pair(commit_timeout_s=0.3)
    campaign = pair.opened()
    gates = SilentGate(), SilentGate()
    for app, gate in zip(pair.apps, gates, strict=True):
        app.service.passages.gate = gate
    events = [app.events() for app in pair.apps]
    status, problem = pair.same(claim(campaign, pair.session("tourist", "me"), "k"))
    assert (status, problem["code"]) == (503, "overloaded")
    for app, gate in zip(pair.apps, gates, strict=True):
        app.loop.loop.call_soon_threadsafe(gate.waiting[0], gate.word)
    wait_until(lambda: all(gate.told for gate in gates))
    assert [gate.told[0][0] for gate in gates] == ["released", "released"]
    assert [app.events() for app in pair.apps] == events


def test_a_claim_leaves_nothing_to_the_garbage_collector(
    make_pair: Callable[..., Pair],
) -> None:
    """Rings would stop the server again and again, for as long as the search for them takes."""
    pair = make_pair()
    campaign = pair.opened(quota=20)
    app = pair.with_lane.app
    passages = app.service.passages
    gc.collect()
    before = sum(isinstance(each, _Ride) for each in gc.get_objects())
    gc.disable()
    try:
        for n in range(20):
            pair.with_lane.exchange(claim(campaign, pair.session("tourist", f"ann {n}"), f"k{n}"))
        wait_until(lambda: not passages._under_way)
        left = sum(isinstance(each, _Ride) for each in gc.get_objects()) - before
        assert left < 5, "the last ones may still be in some frame"
    finally:
        gc.enable()


def test_who_is_too_fast_is_told_alike(make_pair: Callable[..., Pair]) -> None:
    """Without a gate the lane asks the same buckets as the ordinary way."""
    pair = make_pair(rate_tourist_per_s=0.001, rate_tourist_burst=3)
    me = pair.session("tourist", "me")
    other = pair.apps[1]
    other.post("/v1/sessions", token=other.token("tourist", "me"), key="")
    requests = [claim("cmp_main_" + "4" * 32, me, f"k{n}") for n in range(3)]
    assert [pair.same(request)[0] for request in requests[:2]] == [404, 404]
    one, two = (
        re.sub(rb"retry-after: \d+", b"retry-after: -", served.exchange(requests[2]))
        for served in (pair.with_lane, pair.without)
    )
    assert one == two
    assert one.startswith(b"HTTP/1.1 429 Too Many Requests\r\n")


def test_somebody_who_guesses_is_shut_out_of_the_lane(make_pair: Callable[..., Pair]) -> None:
    """Answers 404 that the lane gave count like all others."""
    pair = make_pair(rate_missing_per_min=3)
    me = pair.session("tourist", "me")
    statuses = [
        int(pair.with_lane.exchange(claim("cmp_main_" + "5" * 32, me, f"k{n}"))[9:12])
        for n in range(6)
    ]
    assert statuses[0] == 404
    assert statuses[-1] == 429


def test_a_fault_of_ours_is_told_alike(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error in a decision is 500 both ways, and the next call is answered."""
    from campaigns.commands import ClaimCoupon

    campaign = pair.opened(name="broken")
    me = pair.session("tourist", "me")
    with monkeypatch.context() as broken:
        broken.setattr(ClaimCoupon, "decide", lambda *_: 1 // 0)
        status, problem = pair.same(claim(campaign, me, "broken"))
    assert (status, problem["code"]) == (500, "internal_error")
    assert pair.same(claim(campaign, me, "whole"))[0] == 201
