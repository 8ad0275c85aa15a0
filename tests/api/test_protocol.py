"""The server's own protocol: the lane answers what the ordinary way would have answered."""

from __future__ import annotations

import asyncio
import json
import re
import socket
from collections.abc import Iterator
from itertools import pairwise
from time import perf_counter
from typing import Any

import httptools
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from api import plain
from api.plain import plain_call
from tests.api.wire import CALM_TURNS, EchoApp, EchoLane, Effect, Wire, calm, without_ids

CLAIM = (
    b"POST /lane/claims HTTP/1.1\r\nHost: tidebook.test\r\nAuthorization: Bearer tbs1.abc\r\n"
    b"Idempotency-Key: k-1\r\nX-Request-Id: request-0001\r\n"
)
EMPTY = CLAIM + b"Content-Length: 0\r\n\r\n"
WITH_BODY = CLAIM + b"Content-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
OTHERS = (
    b"POST /other HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc",
    b"POST /lane/x HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    b"POST /lane/x HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nHost: x\r\n\r\n",
    b"GET /lane/x?q=1 HTTP/1.1\r\nHost: x\r\n\r\n",
    b"HEAD /lane/x HTTP/1.1\r\n\r\n",
    b"POST /lane/x HTTP/1.0\r\nConnection: keep-alive\r\nContent-Length: 0\r\n\r\n",
    b"POST /lane/x HTTP/1.1\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
    b"POST /lane/x HTTP/1.1\r\nConnection: upgrade\r\nUpgrade: h2c\r\nContent-Length: 0\r\n\r\n",
    b"POST /lane/x HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\nok",
    b"POST http://elsewhere/lane/x HTTP/1.1\r\nContent-Length: 0\r\n\r\n",
    b"POST /lane/%78 HTTP/1.1\r\nContent-Length: 0\r\n\r\n",
    b"BREW /lane/pot HTTP/1.1\r\nHost: x\r\n\r\n",
)
ODDITIES = (
    b"\r", b"\n", b"\r\n", b"\r\n\r\n", b"\0", b" ", b"\t", b":", b": ", b"\xff", b"%2e", b"?",
    b"Content-Length: 5\r\n", b"Content-Length: 0\r\n", b"content-length:0\r\n", b"Host: y\r\n",
    b"Transfer-Encoding: chunked\r\n", b"Transfer-Encoding: identity\r\n", b"Connection: close\r\n",
    b"Expect: 100-continue\r\n", b" folded\r\n", b"X : y\r\n", b"X:y\r\n", b"X:  y\r\n", b"X: \r\n",
    b"0", b"+1", b"1", b"-", b" HTTP/1.0", b"HTTP/1.1", b"POST", b"/lane/",
)  # fmt: skip


@pytest.fixture(scope="module")
def wire() -> Iterator[Wire]:
    """A loop for connections."""
    made = Wire()
    yield made
    made.close()


async def _answers(
    wire: Wire, segments: list[bytes], later: int | None
) -> tuple[bytes, list[Effect]]:
    effects: list[Effect] = []
    lane = EchoLane(effects, later) if later is not None else None
    server = wire.traffic(EchoApp(effects), lane)
    caller = await server.connect()
    for segment in segments:
        await caller.send(segment)
    return without_ids(await caller.hang_up()), effects


def in_segments(data: bytes, cuts: list[int]) -> list[bytes]:
    """Data cut at places, each given as a number that is taken modulo the length."""
    places = sorted({cut % (len(data) + 1) for cut in cuts} | {0, len(data)})
    return [data[a:b] for a, b in pairwise(places) if a < b]


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """Requests one after the other, most of them claims, with a few places changed."""
    requests = st.one_of(st.sampled_from((EMPTY, WITH_BODY)), st.sampled_from(OTHERS))
    data = b"".join(draw(st.lists(requests, min_size=1, max_size=3)))
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(data)))
        cut = draw(st.integers(0, 3))
        data = data[:at] + draw(st.sampled_from((b"", *ODDITIES))) + data[at + cut :]
    return data


@given(data=mutated(), cuts=st.lists(st.integers(0, 4_000), max_size=4), later=st.integers(0, 3))
@example(data=EMPTY, cuts=[], later=0)
@example(data=EMPTY + EMPTY, cuts=[len(EMPTY)], later=2)
@example(data=EMPTY + OTHERS[3] + WITH_BODY, cuts=[len(EMPTY)], later=3)
@settings(max_examples=200, deadline=None)
def test_a_lane_cannot_be_told_from_the_ordinary_way(
    wire: Wire, data: bytes, cuts: list[int], later: int
) -> None:
    """Whatever is sent, in whatever segments: the same answers and the same effects, in order."""
    segments = in_segments(data, cuts)
    with_lane = wire.run(_answers(wire, segments, later))
    without = wire.run(_answers(wire, segments, None))
    assert with_lane == without


class Understood:
    """What httptools makes of some bytes."""

    def __init__(self, data: bytes) -> None:
        self.headers: list[tuple[bytes, bytes]] = []
        self.body = self.url = b""
        self.complete = 0
        self.parser = httptools.HttpRequestParser(self)
        self.parser.feed_data(data)

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        self.keeps_alive = self.parser.should_keep_alive()
        self.upgrades = self.parser.should_upgrade()

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        self.complete += 1


ANY_BYTES = st.one_of(mutated(), st.binary(max_size=40).map(lambda tail: EMPTY + tail))


def assert_read_alike(data: bytes) -> None:
    """A plain call is exactly one whole request to the parser, which reads the same in it."""
    call = plain_call(data)
    if call is None:
        return
    parsed = Understood(data)
    assert parsed.complete == 1
    assert (parsed.parser.get_method(), parsed.parser.get_http_version()) == (b"POST", "1.1")
    assert (call.path, call.body) == (parsed.url, parsed.body)
    assert list(call.headers.items()) == parsed.headers
    assert parsed.keeps_alive
    assert not parsed.upgrades


def looser(strict: bytes, loose: bytes) -> re.Pattern[bytes]:
    """The pattern of a plain head with a part of it made looser."""
    assert strict in plain._HEAD.pattern
    return re.compile(plain._HEAD.pattern.replace(strict, loose))


@given(data=ANY_BYTES)
@settings(max_examples=500, deadline=None)
def test_what_is_plain_is_read_as_the_parser_reads_it(data: bytes) -> None:
    """The same address, headers and body, and a connection that is kept."""
    assert_read_alike(data)


@pytest.fixture
def quick_shapes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A memory of shapes of this test's own, in which each head leaves its pattern at once."""
    monkeypatch.setattr(plain, "SHAPE_AFTER", 1)
    monkeypatch.setattr(plain, "_shapes", [])


@pytest.mark.usefixtures("quick_shapes")
@given(first=ANY_BYTES, second=ANY_BYTES)
@settings(
    max_examples=500,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_a_head_of_a_known_shape_is_read_as_the_parser_reads_it(
    first: bytes, second: bytes
) -> None:
    """Whatever came before and whatever patterns it left: they take what the general one takes."""
    plain_call(first)
    assert_read_alike(second)
    known, shapes = plain_call(second), plain._shapes[:]
    plain._shapes.clear()
    general = plain_call(second)
    plain._shapes[:] = shapes
    assert (known is None) == (general is None)
    if known is not None and general is not None:
        assert (known.path, known.headers, known.body) == (
            general.path,
            general.headers,
            general.body,
        )


@pytest.mark.parametrize(
    ("loose", "data"),
    [
        (rb"[ -~]+", EMPTY[:-2] + b"X:  y\r\n\r\n"),
        (rb"[^\r]+", EMPTY[:-2] + b"X: y\nZ: z\r\n\r\n"),
    ],
)
@pytest.mark.usefixtures("quick_shapes")
def test_a_looser_shape_is_caught(
    monkeypatch: pytest.MonkeyPatch, loose: bytes, data: bytes
) -> None:
    """The control: a pattern of a shape that takes more values than the general one does."""
    monkeypatch.setattr(plain, "_SAME_VALUE", loose)
    assert plain_call(data) is None
    assert plain_call(EMPTY[:-2] + b"X: y\r\n\r\n") is not None
    with pytest.raises((AssertionError, httptools.HttpParserError)):
        assert_read_alike(data)


@pytest.mark.usefixtures("quick_shapes")
def test_shapes_that_callers_make_up_are_forgotten() -> None:
    """The memory of shapes is bounded, and the latest are kept."""
    for number in range(2 * plain.SHAPES_MAX):
        assert plain_call(EMPTY[:-2] + b"X-Shape-%d: y\r\n\r\n" % number) is not None
    assert len(plain._shapes) == plain.SHAPES_MAX
    assert plain._shapes[0].names[-1] == b"x-shape-%d" % (2 * plain.SHAPES_MAX - 1)


def test_a_shape_is_learnt_from_many(monkeypatch: pytest.MonkeyPatch) -> None:
    """A head that comes once leaves no pattern; and what is counted of it is bounded."""
    monkeypatch.setattr(plain, "_shapes", [])
    for number in range(2 * plain.NAMES_MAX):
        plain_call(EMPTY[:-2] + b"X-Once-%d: y\r\n\r\n" % number)
    assert not plain._shapes
    assert len(plain._seen) <= plain.NAMES_MAX
    for _ in range(plain.SHAPE_AFTER):
        plain_call(EMPTY)
    assert len(plain._shapes) == 1


@pytest.mark.parametrize(
    ("rule", "without", "data"),
    [
        ("_HEAD", looser(plain._VALUE, rb"[ -~]+"), EMPTY[:-2] + b"X:  y\r\n\r\n"),
        ("_HEAD", looser(plain._VALUE, rb"[^\r]+"), EMPTY[:-2] + b"X: y\nZ: z\r\n\r\n"),
        ("_HEAD", looser(plain._PATH, rb"/[ -~]*"), EMPTY.replace(b"/claims", b"/cl aims")),
        ("_is_long_as", lambda _length, _body: True, CLAIM + b"Content-Length: 3\r\n\r\nab"),
        ("_NOT_PLAIN", frozenset(), CLAIM + b"Transfer-Encoding: chunked\r\n\r\n"),
        ("_KEEP_ALIVE", {b"close"}, EMPTY[:-2] + b"Connection: close\r\n\r\n"),
    ],
)
def test_without_any_of_its_rules_the_reader_is_caught(
    monkeypatch: pytest.MonkeyPatch, rule: str, without: Any, data: bytes
) -> None:
    """The control: each rule of what is plain keeps out a request that is read differently."""
    assert plain_call(data) is None
    monkeypatch.setattr(plain, rule, without)
    monkeypatch.setattr(plain, "_names", {})
    monkeypatch.setattr(plain, "_shapes", [])
    with pytest.raises((AssertionError, httptools.HttpParserError)):
        assert_read_alike(data)


@pytest.mark.parametrize("request_", [EMPTY, WITH_BODY])
def test_a_plain_call_is_taken(wire: Wire, request_: bytes) -> None:
    """The control: the lane of these tests does answer."""
    assert plain_call(request_) is not None

    async def scene() -> None:
        lane = EchoLane([])
        caller = await wire.traffic(EchoApp([]), lane).connect()
        for _ in range(3):
            await caller.send(request_)
        answers = await caller.hang_up()
        assert (lane.taken, answers.count(b"HTTP/1.1 200 OK\r\n")) == (3, 3)

    wire.run(scene())


@pytest.mark.parametrize("request_", OTHERS)
def test_other_requests_are_not_plain(request_: bytes) -> None:
    """They may be for an address of the lane: the parser reads them."""
    if not request_.startswith(b"POST /other"):
        assert plain_call(request_) is None


@pytest.mark.parametrize(
    "line",
    [
        b"Content-Length: 0", b"Transfer-Encoding: chunked", b"Expect: 100-continue", b" folded",
        b"Upgrade: h2c", b"Connection: close", b"Connection: keep-alive, upgrade", b"X : y", b"X:y",
        b"X:  y", b"X: y ", b"X: \ty", b"X: \0", b"X: \xe4", b"X: \x7f", b"X\0: y", b": y", b"X",
        b"Host: again", b"Proxy-Connection: close", b"X: a\nY: b", b"X: a\rY: b", b"TE: trailers",
    ],
)  # fmt: skip
def test_an_odd_line_leaves_a_request_to_the_parser(line: bytes) -> None:
    """One line that is not as plain as the others is enough."""
    assert plain_call(EMPTY.replace(b"\r\n\r\n", b"\r\n" + line + b"\r\n\r\n")) is None


def test_names_that_callers_make_up_are_forgotten() -> None:
    """The memory of header names is bounded."""
    for number in range(2 * plain.NAMES_MAX):
        head = EMPTY[:-2] + b"X-Made-Up-%d: y\r\n\r\n" % number
        assert plain_call(head) is not None
    assert len(plain._names) <= plain.NAMES_MAX


def test_pipelined_requests_are_answered_in_order(wire: Wire) -> None:
    """Claims in one segment, and claims sent while the lane has another one."""

    async def scene(later: int, segments: list[bytes]) -> list[bytes]:
        answers, _ = await _answers(wire, segments, later)
        return re.findall(rb"x-n=(\d+)", answers)

    numbered = [EMPTY[:-2] + b"X-N: %d\r\n\r\n" % n for n in range(40)]
    expected = [b"%d" % n for n in range(40)]
    for later in (0, 1, 3):
        assert wire.run(scene(later, [b"".join(numbered)])) == expected
        assert wire.run(scene(later, numbered)) == expected
        assert wire.run(scene(later, [numbered[0], b"".join(numbered[1:])])) == expected


def test_a_caller_who_hung_up_is_not_written_to(wire: Wire) -> None:
    """The lane may answer; nobody is there."""

    async def scene() -> None:
        kept: list[Any] = []

        class Silent:
            def take(self, _call: Any, send: Any) -> bool:
                kept.append(send)
                return True

        caller = await wire.traffic(EchoApp([]), Silent()).connect()
        await caller.send(EMPTY)
        caller.sock.close()
        await calm(10)
        kept[0](b"HTTP/1.1 200 OK\r\n", b"\r\n")

    wire.run(scene())


# --- answers that no application gives ------------------------------------------------------------


HEAD_ONLY = CLAIM[:60]
BODY_MISSING = b"POST /other HTTP/1.1\r\nContent-Length: 10\r\n\r\nabc"


def problems(answers: bytes) -> list[tuple[int, str]]:
    """Status and code of each problem among some answers."""
    pieces = [
        piece for piece in re.split(rb"HTTP/1\.1 (?=\d)", answers) if b"problem+json" in piece
    ]
    bodies = [piece.partition(b"\r\n\r\n")[2] for piece in pieces]
    return [
        (int(piece[:3]), json.loads(body)["code"])
        for piece, body in zip(pieces, bodies, strict=True)
    ]


@pytest.mark.parametrize("sent", [b"P", HEAD_ONLY, BODY_MISSING])
def test_a_request_that_does_not_come_to_its_end_is_ended(wire: Wire, sent: bytes) -> None:
    """Slow heads and slow bodies: 408 after the time for it, not before, and the end."""

    async def scene() -> None:
        effects: list[Effect] = []
        server = wire.traffic(EchoApp(effects), request_timeout_s=30)
        caller = await server.connect()
        await caller.send(EMPTY)
        await caller.send(sent)
        caller.protocol.look(perf_counter() + 29)
        assert not caller.protocol.transport.is_closing()
        caller.protocol.look(perf_counter() + 31)
        await calm(5)
        caller.sock.shutdown(socket.SHUT_WR)
        answers = await caller.rest()
        assert answers.startswith(b"HTTP/1.1 200 OK\r\n")
        assert problems(answers) == [(408, "request_timeout")]
        assert answers.count(b"\r\nconnection: close\r\n") == 1
        assert [path for _, path, _ in effects] == [b"/lane/claims"]

    wire.run(scene())


def test_single_bytes_do_not_buy_time(wire: Wire) -> None:
    """The time runs from the first byte: who sends one now and then is slow."""

    async def scene() -> None:
        caller = await wire.traffic(EchoApp([]), request_timeout_s=30).connect()
        begun = perf_counter()
        for byte in HEAD_ONLY:
            await caller.send(bytes([byte]))
        caller.protocol.look(begun + 31 + (perf_counter() - begun))
        await calm(5)
        caller.sock.shutdown(socket.SHUT_WR)
        assert problems(await caller.rest()) == [(408, "request_timeout")]

    wire.run(scene())


def test_a_caller_who_is_waited_for_is_not_slow(wire: Wire) -> None:
    """Neither one whose answer takes long, nor one who asks nothing for less than the idle time."""

    async def scene() -> None:
        waits = Waiting()
        caller = await wire.traffic(waits, request_timeout_s=1, idle_timeout_s=75).connect()
        caller.protocol.look(perf_counter() + 74)
        await caller.send(EMPTY)
        caller.protocol.look(perf_counter() + 1_000)
        waits.answer.set()
        await calm(CALM_TURNS)
        assert not caller.protocol.transport.is_closing()
        caller.protocol.look(perf_counter() + 76)
        assert (await caller.rest()).startswith(b"HTTP/1.1 200 OK\r\n")

    wire.run(scene())


class Waiting(EchoApp):
    """An application that answers when it is told to."""

    def __init__(self) -> None:
        super().__init__([])
        self.answer = asyncio.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Wait, then answer."""
        await self.answer.wait()
        await super().__call__(scope, receive, send)


def test_what_is_not_http_is_refused_in_its_turn(wire: Wire) -> None:
    """A request in front of it gets its own answer, never the refusal: that one may be done."""

    async def scene() -> None:
        waits = Waiting()
        caller = await wire.traffic(waits).connect()
        await caller.send(EMPTY + b"NOT HTTP\r\n\r\n" + EMPTY)
        waits.answer.set()
        answers = await caller.hang_up()
        assert re.findall(rb"HTTP/1\.1 (\d+)", answers) == [b"200", b"400"]
        assert problems(answers) == [(400, "malformed_request")]
        assert len(waits.effects) == 1

    wire.run(scene())


def test_a_body_that_breaks_takes_its_request_along(wire: Wire) -> None:
    """The application hears that the caller is gone, and the refusal is the only answer."""

    async def scene() -> None:
        effects: list[Effect] = []
        caller = await wire.traffic(EchoApp(effects)).connect()
        await caller.send(EMPTY + b"POST /x HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nab")
        await caller.send(b"c\r\nnot a size\r\n")
        answers = await caller.hang_up()
        assert re.findall(rb"HTTP/1\.1 (\d+)", answers) == [b"200", b"400"]
        assert len(effects) == 1

    wire.run(scene())


@pytest.mark.parametrize("pieces", [1, 40])
def test_a_head_without_end_is_cut(wire: Wire, pieces: int) -> None:
    """One long header or many, in one segment or in many: 431."""

    async def scene() -> None:
        caller = await wire.traffic(EchoApp([]), head_bytes_max=4_000).connect()
        head = b"GET / HTTP/1.1\r\n" + b"X-Long: " + b"x" * 2_000 + b"\r\n" + b"Y: z\r\n" * 500
        size = len(head) // pieces
        for at in range(0, len(head), size):
            await caller.send(head[at : at + size])
        await caller.send(b"\r\n")
        answers = await caller.hang_up()
        assert problems(answers) == [(431, "header_too_large")]

    wire.run(scene())


def test_one_connection_too_many_is_told_so(wire: Wire) -> None:
    """503 in the service's own form; those that were there go on, and freed places count."""

    async def scene() -> None:
        lane = EchoLane([])
        server = wire.traffic(EchoApp([]), lane, connections_max=2)
        one, two, three = [await server.connect() for _ in range(3)]
        await three.send(EMPTY)
        assert problems(await three.hang_up()) == [(503, "overloaded")]
        await one.send(EMPTY)
        assert (await one.hang_up()).startswith(b"HTTP/1.1 200 OK\r\n")
        four = await server.connect()
        await four.send(EMPTY)
        assert (await four.hang_up()).startswith(b"HTTP/1.1 200 OK\r\n")
        await two.hang_up()
        assert lane.taken == 2

    wire.run(scene())


@pytest.mark.parametrize("with_lane", [True, False])
def test_a_drained_connection_gets_one_more_answer(wire: Wire, with_lane: bool) -> None:
    """Its last one says so. A request that arrives afterwards is not read."""

    async def scene() -> None:
        effects: list[Effect] = []
        server = wire.traffic(EchoApp(effects), EchoLane(effects, later=2) if with_lane else None)
        caller = await server.connect()
        await caller.send(EMPTY)
        await calm(CALM_TURNS)
        server.traffic.drain()
        await caller.send(EMPTY)
        await caller.send(EMPTY)
        answers = await caller.hang_up()
        first, last = answers.split(b"HTTP/1.1 200 OK\r\n")[1:]
        assert b"connection: close" not in first
        assert b"\r\nconnection: close\r\n" in last
        assert b"(reset)" not in answers
        assert len(effects) == 2
        assert not server.traffic.connections

    wire.run(scene())


def test_an_answer_under_way_still_says_that_it_is_the_last(wire: Wire) -> None:
    """A request that the application has when draining begins."""

    async def scene() -> None:
        waits = Waiting()
        server = wire.traffic(waits)
        caller = await server.connect()
        await caller.send(EMPTY)
        server.traffic.drain()
        waits.answer.set()
        answers = await caller.hang_up()
        assert b"\r\nconnection: close\r\n" in answers

    wire.run(scene())


def test_idle_connections_are_closed_unless_something_is_on_its_way(wire: Wire) -> None:
    """What lies in the socket unread is a request that shall be answered."""

    async def scene() -> None:
        server = wire.traffic(EchoApp([]), EchoLane([]))
        idle, asking = await server.connect(), await server.connect()
        server.traffic.drain()
        asking.sock.send(EMPTY)  # the loop has not had its turn to read it
        server.traffic.end_idle()
        assert idle.protocol.transport.is_closing()
        assert await idle.rest() == b""
        assert (await asking.hang_up()).startswith(b"HTTP/1.1 200 OK\r\n")

    wire.run(scene())


def test_a_broken_lane_ends_the_connection_without_a_claim_about_the_call(wire: Wire) -> None:
    """Nobody knows whether it had an effect: no answer means exactly that."""

    class Broken:
        def take(self, _call: Any, _send: Any) -> bool:
            raise ZeroDivisionError

    async def scene() -> None:
        caller = await wire.traffic(EchoApp([]), Broken()).connect()
        await caller.send(EMPTY)
        assert await caller.rest() in {b"", b"(reset)"}

    wire.run(scene())


@pytest.mark.parametrize("method", [b"HEAD", b"TRACE", b"BREW", b"PROPFIND"])
def test_the_application_hears_of_any_method(wire: Wire, method: bytes) -> None:
    """It refuses those that it does not offer, in its own words."""

    async def scene() -> None:
        effects: list[Effect] = []
        caller = await wire.traffic(EchoApp(effects)).connect()
        await caller.send(method + b" /lane/x HTTP/1.1\r\nHost: x\r\n\r\n")
        answers = await caller.hang_up()
        assert answers.startswith(b"HTTP/1.1 200 OK\r\n")
        assert effects == [(method.decode(), b"/lane/x", b"")]
        assert answers.endswith(b"\r\n\r\n") == (method == b"HEAD")

    wire.run(scene())


def test_what_stands_behind_a_body_is_not_a_header(wire: Wire) -> None:
    """Nobody gets a header past a proxy in front by hiding it in a trailer."""

    async def scene() -> None:
        waits = Waiting()
        caller = await wire.traffic(waits).connect()
        await caller.send(
            b"POST /x HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"
            b"1\r\na\r\n0\r\nX-Forwarded-For: 127.0.0.1\r\n\r\n"
        )
        waits.answer.set()
        assert b"127.0.0.1" not in await caller.hang_up()

    wire.run(scene())
