"""The driver, closed loop and open, against real sockets and a real server."""

from __future__ import annotations

import contextlib
import itertools
import json
import socket
import threading
import time
from random import Random
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadtest.driver import (
    UNKNOWN,
    ProtocolError,
    Run,
    arrivals,
    build_request,
    drive,
    drive_open,
    problem_code,
    read_reply,
    read_whole,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CREATED = b"HTTP/1.1 201 Created\r\nContent-Length: 2\r\n\r\n{}"
CHUNKED = (
    b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
    b"4;name=value\r\nWiki\r\n5\r\npedia\r\n0\r\n\r\n"
)
SOLD_OUT_BODY = b'{"type":"about:blank","code":"sold_out"}'
SOLD_OUT = (
    b"HTTP/1.1 409 Conflict\r\ncontent-type: application/problem+json\r\n"
    b"content-length: " + str(len(SOLD_OUT_BODY)).encode() + b"\r\n\r\n" + SOLD_OUT_BODY
)
REQUEST = build_request("POST", "/", host="test", body=b"{}")


@contextlib.contextmanager
def server(answer: Callable[[socket.socket, int], bool]) -> Iterator[int]:
    """A server on a free port that calls `answer` per request until it returns False."""
    listener = socket.create_server(("127.0.0.1", 0))

    def converse(peer: socket.socket) -> None:
        count = 0
        with peer, contextlib.suppress(OSError):
            while peer.recv(65536) and answer(peer, count):
                count += 1

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                peer, _ = listener.accept()
                threading.Thread(target=converse, args=(peer,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


def send(peer: socket.socket, *pieces: bytes) -> bool:
    """Send the pieces of one reply and stay on the line."""
    for piece in pieces:
        peer.sendall(piece)
    return True


@pytest.mark.parametrize(
    ("data", "status", "body"),
    [(CREATED, 201, b"{}"), (CHUNKED, 200, b"Wikipedia"), (SOLD_OUT, 409, SOLD_OUT_BODY)],
)
def test_a_reply_is_read_however_it_is_cut(data: bytes, status: int, body: bytes) -> None:
    """Every proper prefix is incomplete, and the whole gives status, body and size."""
    for end in range(len(data)):
        assert read_reply(data[:end]) is None
    reply = read_reply(data + b"HTTP/1.1 200")
    assert reply is not None
    assert (reply.status, reply.body, reply.size) == (status, body, len(data))


@pytest.mark.parametrize(
    "data",
    [
        CREATED,
        SOLD_OUT,
        CHUNKED,
        SOLD_OUT.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"),
        SOLD_OUT.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n"),
        b"HTTP/1.1 204 No Content\r\nserver: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nserver: x\r\n\r\n\r\ncontent-length: 9\r\n\r\n",
    ],
)
def test_the_short_way_reads_what_the_long_way_reads_or_nothing(data: bytes) -> None:
    """Whatever the cut, the quick reader agrees with the careful one or leaves it to that one."""
    for end in range(len(data) + 1):
        quick = read_whole(data[:end])
        assert quick is None or quick == read_reply(data[:end])
    assert read_whole(SOLD_OUT) == read_reply(SOLD_OUT)


def test_a_reply_without_a_body_ends_at_its_head() -> None:
    """A 204 has no length and no body."""
    reply = read_reply(b"HTTP/1.1 204 No Content\r\nserver: x\r\n\r\n")
    assert reply is not None
    assert reply.body == b""


@pytest.mark.parametrize(
    "data",
    [b"SSH-2.0-OpenSSH\r\n\r\n", b"HTTP/1.1 200 OK\r\nserver: x\r\n\r\n", b"x" * 70_000],
)
def test_what_is_no_reply_is_refused(data: bytes) -> None:
    """Another protocol, a reply without a length and an endless head raise ProtocolError."""
    with pytest.raises(ProtocolError):
        read_reply(data)


def test_requests_are_built_byte_for_byte() -> None:
    """A built request holds its headers, its length and its body, and nothing else."""
    request = build_request("POST", "/a", host="h:1", headers=[("Authorization", "B")], body=b"{}")
    assert request == (
        b"POST /a HTTP/1.1\r\nHost: h:1\r\nAuthorization: B\r\n"
        b"Content-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
    )


def test_the_code_of_a_problem_is_read_and_of_anything_else_empty() -> None:
    """Only a JSON object with a code has one."""
    assert problem_code(SOLD_OUT_BODY) == "sold_out"
    assert [problem_code(body) for body in (b"", b"<html>", b"[]", b"{}")] == ["", "", "", ""]


def test_every_request_is_sent_once_and_every_reply_counted() -> None:
    """Two hundred requests over eight connections give two hundred latencies and statuses."""
    with server(lambda peer, _: send(peer, CREATED)) as port:
        run = drive("127.0.0.1", port, [REQUEST] * 200, connections=8, keep_bodies=True)
    assert run.status_counts() == {201: 200}
    assert sorted(run.requests) == list(range(200))
    assert len(run.latencies_s) == 200
    assert set(run.bodies.values()) == {b"{}"}
    assert len(run.bodies) == 200
    assert run.rate(status=201) > 0
    assert run.percentile_ms(0.5) <= run.percentile_ms(0.99)


def test_a_reply_in_pieces_is_put_together() -> None:
    """Head and body that arrive apart are one reply."""
    with server(
        lambda peer, _: send(peer, SOLD_OUT[:30], SOLD_OUT[30:100], SOLD_OUT[100:])
    ) as port:
        run = drive("127.0.0.1", port, [REQUEST] * 20, connections=2)
    assert run.status_counts() == {409: 20}
    assert run.codes == {"409 sold_out": 20}


def test_a_lost_connection_is_an_unknown_and_not_a_retry() -> None:
    """A server that hangs up on each second request leaves half of them unknown, none repeated."""

    def answer(peer: socket.socket, count: int) -> bool:
        return count == 0 and send(peer, CREATED)

    with server(answer) as port:
        run = drive("127.0.0.1", port, [REQUEST] * 10, connections=1)
    assert run.status_counts() == {UNKNOWN: 5, 201: 5}
    assert sorted(run.requests) == list(range(10))


def test_a_server_that_says_close_is_called_again() -> None:
    """`Connection: close` ends the connection, not the run, and nothing is unknown."""
    closing = CREATED.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    with server(lambda peer, _: send(peer, closing) and False) as port:
        run = drive("127.0.0.1", port, [REQUEST] * 6, connections=2)
    assert run.status_counts() == {201: 6}


def test_bytes_that_nobody_asked_for_end_the_run() -> None:
    """Two replies to one request are a broken server, not a measurement."""
    with (
        server(lambda peer, _: send(peer, CREATED + CREATED)) as port,
        pytest.raises(ProtocolError),
    ):
        drive("127.0.0.1", port, [REQUEST] * 2, connections=1)


def test_a_run_ends_at_its_deadline() -> None:
    """An endless stream of requests stops with every request in flight answered."""
    endless = iter(lambda: REQUEST, None)
    with server(lambda peer, _: send(peer, CREATED)) as port:
        run = drive("127.0.0.1", port, endless, connections=4, duration_s=0.2)
    assert run.elapsed_s >= 0.2
    assert set(run.statuses) == {201}


def test_every_call_has_its_begin_and_its_end() -> None:
    """Both lie within the run, on one clock that can be told as the time of day."""
    before = time.time()
    with server(lambda peer, _: send(peer, CREATED)) as port:
        run = drive("127.0.0.1", port, [REQUEST] * 30, connections=3)
    after = time.time()
    assert len(run.sent_s) == len(run.answered_s) == 30
    for sent_s, answered_s, latency_s in zip(
        run.sent_s, run.answered_s, run.latencies_s, strict=True
    ):
        assert run.started_s <= sent_s <= answered_s <= run.ended_s
        assert latency_s == answered_s - sent_s
        assert before - 1 < run.clock_s + sent_s <= run.clock_s + answered_s < after + 1


@settings(max_examples=30, deadline=None)
@given(
    gaps_ms=st.lists(st.integers(0, 3), min_size=1, max_size=25),
    connections=st.integers(1, 4),
    fates=st.lists(st.sampled_from(("answer", "close", "hang up")), min_size=1, max_size=5),
)
def test_an_open_loop_accounts_for_every_request_that_was_meant_to_be_sent(
    gaps_ms: list[int], connections: int, fates: list[str]
) -> None:
    """However the server behaves: each has one line, and its latency counts from its own moment."""
    fate = itertools.cycle(fates)
    lock = threading.Lock()
    heard = itertools.count()

    def answer(peer: socket.socket, _: int) -> bool:
        with lock:
            next(heard)
            now = next(fate)
        if now == "hang up":
            return False
        if now == "close":
            return send(peer, CREATED.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n"))
        return send(peer, CREATED)

    due_s = [gap / 1000 for gap in itertools.accumulate(gaps_ms)]
    with server(answer) as port:
        run = drive_open(
            "127.0.0.1", port, [REQUEST] * len(due_s), due_s=due_s, connections=connections
        )
    assert sorted(run.requests) == list(range(len(due_s)))
    assert next(heard) <= len(due_s)
    lines = zip(
        run.requests, run.statuses, run.sent_s, run.answered_s, run.latencies_s, strict=True
    )
    for index, status, sent_s, answered_s, latency_s in lines:
        assert status in {201, UNKNOWN}
        assert run.started_s + due_s[index] <= sent_s <= answered_s
        assert latency_s == answered_s - (run.started_s + due_s[index])


def test_waiting_for_a_connection_counts_as_latency() -> None:
    """One connection and a server that holds its first reply back: everybody behind it waited."""
    go = threading.Event()

    def answer(peer: socket.socket, count: int) -> bool:
        if count == 0:
            go.wait(10)
        return send(peer, CREATED)

    threading.Timer(0.3, go.set).start()
    with server(answer) as port:
        run = drive_open("127.0.0.1", port, [REQUEST] * 5, due_s=[0.0] * 5, connections=1)
    assert run.status_counts() == {201: 5}
    assert min(run.latencies_s) >= 0.2


def test_what_nobody_is_left_to_send_to_is_put_down_as_such() -> None:
    """A server that is gone after its first word: the rest is unknown, not forgotten."""
    listener = socket.create_server(("127.0.0.1", 0))

    def once() -> None:
        peer, _ = listener.accept()
        listener.close()
        with peer:
            peer.recv(65536)
            send(peer, CREATED)

    threading.Thread(target=once, daemon=True).start()
    run = drive_open(
        "127.0.0.1",
        listener.getsockname()[1],
        [REQUEST] * 4,
        due_s=[0.0, 0.05, 0.05, 0.05],
        connections=1,
    )
    assert sorted(run.requests) == [0, 1, 2, 3]
    assert run.status_counts() == {UNKNOWN: 3, 201: 1}
    assert run.codes["0 not_sent"] >= 2


def test_people_arrive_at_the_rate_that_was_asked_for() -> None:
    """Ten thousand a second for two seconds are about twenty thousand moments, in order."""
    moments = list(arrivals(10_000, 2.0, Random(1)))
    assert moments == sorted(moments)
    assert moments[0] > 0
    assert moments[-1] < 2.0
    assert len(moments) == pytest.approx(20_000, rel=0.05)
    assert moments == list(arrivals(10_000, 2.0, Random(1)))


def test_an_empty_run_has_no_rate() -> None:
    """Nothing sent is nothing measured, and not a division by zero."""
    assert (Run().rate(), Run().percentile_ms(0.99)) == (0.0, 0.0)


def test_the_codes_of_different_refusals_are_counted_apart() -> None:
    """Each refusal is counted under its own status and code."""
    other = json.dumps({"code": "already_claimed"}).encode()
    replies = [SOLD_OUT, b"HTTP/1.1 409 C\r\ncontent-length: %d\r\n\r\n%s" % (len(other), other)]
    with server(lambda peer, count: send(peer, replies[count % 2])) as port:
        run = drive("127.0.0.1", port, [REQUEST] * 10, connections=1)
    assert run.codes == {"409 sold_out": 5, "409 already_claimed": 5}
