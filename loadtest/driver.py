"""An HTTP/1.1 driver: closed loop (the next request once one is answered) or open (by the clock).

It has to be so cheap that the server under test is the bottleneck: the request bytes are built
before the clock starts, one thread polls plain sockets (faster here than an event loop with its
transports), and a reply is looked at just enough to find its end, its status and its problem code.
It must never retry a request or drop one silently: when its connection breaks it is unknown, and in
the open loop every request that was meant to be sent has its line in the run.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import json
import select
import socket
import sys
from array import array
from collections import Counter
from dataclasses import dataclass, field
from time import perf_counter, process_time, sleep, time
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from random import Random

MAX_HEAD_BYTES = 64 * 1024
"""A reply whose head is longer than this is not HTTP that we understand."""

CONNECT_TIMEOUT_S = 10.0
"""Loopback answers at once; this only bounds a server that hangs."""

REST_S: Final = 0.0005
"""An open loop looks no more often than that. Awake for each reply it would take the processor from
the server on the same machine. What is late by it counts as late."""
DRAIN_TIMEOUT_S = 60.0
"""A server silent for this long on every connection has hung; its requests end as unknown."""

RECEIVE_BYTES = 64 * 1024
"""One read takes a whole reply; a longer one is put together."""

LABELS_MAX = 4096
"""Refusals whose code is remembered, so that those that begin alike are parsed once."""
_CODE: Final = b'"code":"'

NOTHING = -1
"""The index of a connection that has no request in flight."""

UNKNOWN = 0
"""The status recorded for a request whose reply never came."""

LOST: Final = b'{"code":"connection_lost"}'
NOT_SENT: Final = b'{"code":"not_sent"}'
"""What is put down instead of a body: the reply never came; nobody was left to send it to."""


class ProtocolError(Exception):
    """The peer sent bytes that are not a reply of HTTP/1.1 as we know it."""


class Reply(NamedTuple):
    """One complete reply and the number of bytes it took."""

    status: int
    body: bytes
    size: int
    closes: bool


def read_whole(data: bytes) -> tuple[int, bytes, int, bool] | None:
    """As `read_reply`, in a quarter of its time, if `data` is one reply of the usual form."""
    end = data.rfind(b"\r\n\r\n")  # in a body it would make the size a wrong one
    at = data.find(b"\r\ncontent-length: ", 0, end + 1)
    if at < 0 or end < 0 or data[:9] != b"HTTP/1.1 ":
        return None
    size = end + 4 + int(data[at + 18 : data.find(b"\r", at + 18)])
    if size != len(data):
        return None
    closes = data.find(b"onnection: close", 0, end) >= 0
    return int(data[9:12]), data[end + 4 :], size, closes


def read_reply(data: bytes) -> Reply | None:
    """The first complete reply in `data`, or None while its end has not arrived."""
    end = data.find(b"\r\n\r\n")
    if end < 0:
        if len(data) > MAX_HEAD_BYTES:
            raise ProtocolError("no end of the head")
        return None
    if data[:7] != b"HTTP/1.":
        raise ProtocolError(f"not HTTP/1.1: {data[:16]!r}")
    status = int(data[9:12])
    head = data[:end].lower()
    closes = b"\r\nconnection: close" in head
    start = end + 4
    if status in (204, 304):
        return Reply(status, b"", start, closes)
    at = head.find(b"\r\ncontent-length:")
    if at >= 0:
        stop = head.find(b"\r\n", at + 17)
        length = int(head[at + 17 : stop if stop >= 0 else end])
        if len(data) < start + length:
            return None
        return Reply(status, data[start : start + length], start + length, closes)
    if b"\r\ntransfer-encoding: chunked" in head:
        return _read_chunked(data, status, start, closes)
    raise ProtocolError("a reply without a length")


def _read_chunked(data: bytes, status: int, start: int, closes: bool) -> Reply | None:
    body: list[bytes] = []
    at = start
    while True:
        line = data.find(b"\r\n", at)
        if line < 0:
            return None
        length = int(data[at:line].split(b";")[0], 16)
        after = line + 2 + length + 2
        if len(data) < after:
            return None
        if length == 0:
            return Reply(status, b"".join(body), after, closes)
        body.append(data[line + 2 : line + 2 + length])
        at = after


def problem_code(body: bytes) -> str:
    """The stable `code` of a problem+json body, or an empty text when it has none."""
    try:
        problem = json.loads(body)
    except ValueError:
        return ""
    return str(problem.get("code", "")) if isinstance(problem, dict) else ""


def build_request(
    method: str,
    path: str,
    *,
    host: str,
    headers: Sequence[tuple[str, str]] = (),
    body: bytes = b"",
) -> bytes:
    """The exact bytes of one request, ready to be sent over and over."""
    lines = [f"{method} {path} HTTP/1.1", f"Host: {host}"]
    lines += [f"{name}: {value}" for name, value in headers]
    if body or method in ("POST", "PUT", "PATCH"):
        lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
    return "\r\n".join(lines).encode("ascii") + b"\r\n\r\n" + body


@dataclass
class Run:
    """What a run saw: one entry per request that was sent, in the order of the replies.

    Moments are of `perf_counter`; `clock_s` added to one gives seconds since 1970. In an open loop
    the latency counts from the moment at which the request was meant to be sent.
    """

    started_s: float = 0.0
    ended_s: float = 0.0
    latencies_s: array[float] = field(default_factory=lambda: array("d"))
    requests: array[int] = field(default_factory=lambda: array("L"))
    statuses: array[int] = field(default_factory=lambda: array("H"))
    sent_s: array[float] = field(default_factory=lambda: array("d"))
    answered_s: array[float] = field(default_factory=lambda: array("d"))
    codes: Counter[str] = field(default_factory=Counter)
    bodies: dict[int, bytes] = field(default_factory=dict)
    cpu_s: dict[str, float] = field(default_factory=dict)
    driver_cpu_s: float = 0.0
    clock_s: float = 0.0

    @property
    def elapsed_s(self) -> float:
        """Seconds from the first byte sent to the last reply."""
        return self.ended_s - self.started_s

    def status_counts(self) -> dict[int, int]:
        """How many replies came with each status; 0 stands for no reply."""
        return dict(sorted(Counter(self.statuses).items()))

    def rate(self, *, status: int | None = None) -> float:
        """Replies per second, all of them or those of one status."""
        count = len(self.statuses) if status is None else self.statuses.count(status)
        return count / self.elapsed_s if self.elapsed_s > 0 else 0.0

    def percentile_ms(self, share: float) -> float:
        """The latency in milliseconds that `share` of the requests did not exceed."""
        if not self.latencies_s:
            return 0.0
        ordered = sorted(self.latencies_s)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))] * 1000.0


class _Connection:
    """One keep-alive connection with at most one request in flight."""

    __slots__ = ("buffer", "due_s", "index", "receive", "send", "sent_s", "socket")

    def __init__(self, address: tuple[str, int]) -> None:
        self.socket = socket.create_connection(address, CONNECT_TIMEOUT_S)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # A read happens only after the poll said readable, and a request fits the send buffer.
        self.socket.settimeout(None)
        self.receive = self.socket.recv
        self.send = self.socket.sendall
        self.buffer = b""
        self.index = NOTHING
        self.sent_s = self.due_s = 0.0


class Driver:
    """Sends one stream of requests over K connections and keeps what came back."""

    def __init__(
        self,
        host: str,
        port: int,
        requests: Iterable[bytes],
        *,
        duration_s: float | None = None,
        keep_bodies: bool = False,
    ) -> None:
        self._address = (host, port)
        self._requests = enumerate(requests)
        self._duration_s = duration_s
        self._keep_bodies = keep_bodies
        self._deadline_s = float("inf")
        self._poll = select.epoll()
        self._connections: dict[int, _Connection] = {}
        self._in_flight = 0
        self._labels: dict[tuple[int, bytes], str] = {}
        self._run = Run(clock_s=time() - perf_counter())

    def drive(self, connections: int) -> Run:
        """Run until the requests or the time are used up and every reply is in."""
        assert connections > 0
        for _ in range(connections):
            self._connect()
        run, cpu_s, collecting = self._run, process_time(), gc.isenabled()
        # Nothing here makes cycles, and a look through a million requests would stop the clock.
        gc.disable()
        run.started_s = perf_counter()
        if self._duration_s is not None:
            self._deadline_s = run.started_s + self._duration_s
        try:
            self._start()
            self._loop()
        finally:
            run.ended_s = perf_counter()
            run.driver_cpu_s = process_time() - cpu_s
            if collecting:
                gc.enable()
            for connection in self._connections.values():
                connection.socket.close()
            self._poll.close()
        return run

    def _start(self) -> None:
        for connection in list(self._connections.values()):
            self._next(connection, perf_counter())

    def _loop(self) -> None:
        poll, connections, receive = self._poll.poll, self._connections, self._receive
        while self._in_flight:
            ready = poll(DRAIN_TIMEOUT_S)
            if not ready:
                self._give_up()
                return
            for descriptor, _ in ready:
                receive(connections[descriptor])

    def _next(self, connection: _Connection, now_s: float) -> None:
        """Send the next request, or leave the connection idle when there is none."""
        if now_s >= self._deadline_s:
            return
        for index, request in self._requests:
            self._send(connection, index, request, now_s, now_s)
            return

    def _send(
        self, connection: _Connection, index: int, request: bytes, now_s: float, due_s: float
    ) -> None:
        connection.index = index
        connection.sent_s = now_s
        connection.due_s = due_s
        self._in_flight += 1
        try:
            connection.send(request)
        except OSError:
            self._lost(connection)

    def _receive(self, connection: _Connection) -> None:
        try:
            data = connection.receive(RECEIVE_BYTES, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return  # it was replaced since the poll
        except OSError:
            data = b""
        if not data:
            self._lost(connection)
            return
        if connection.buffer:
            data = connection.buffer + data
        reply = read_whole(data) or read_reply(data)
        if reply is None:
            connection.buffer = data
            return
        status, body, size, closes = reply
        if connection.index == NOTHING or size != len(data):
            raise ProtocolError("bytes that no request asked for")
        connection.buffer = b""
        now_s = perf_counter()
        self._finish(connection, now_s, status, body)
        if closes:
            self._replace(connection)
        else:
            self._next(connection, now_s)

    def _finish(self, connection: _Connection, now_s: float, status: int, body: bytes) -> None:
        """The request in flight is over, one way or the other."""
        self._record(connection.index, connection.due_s, connection.sent_s, now_s, status, body)
        connection.index = NOTHING
        self._in_flight -= 1

    def _record(
        self, index: int, due_s: float, sent_s: float, now_s: float, status: int, body: bytes
    ) -> None:
        run = self._run
        run.requests.append(index)
        run.latencies_s.append(now_s - due_s)
        run.statuses.append(status)
        run.sent_s.append(sent_s)
        run.answered_s.append(now_s)
        if status >= 400 or status == UNKNOWN:
            told = status, body[: body.find(b'"', body.find(_CODE) + len(_CODE))]
            run.codes[self._labels.get(told) or self._label(told, body)] += 1
        elif self._keep_bodies:
            run.bodies[index] = body

    def _label(self, told: tuple[int, bytes], body: bytes) -> str:
        """The status and the code; a body that begins alike, up to its code, has the same."""
        status, start = told
        code = problem_code(body)
        label = f"{status} {code}".strip()
        is_whole = start.endswith(_CODE + code.encode()) and start.count(b"{") == 1
        if is_whole and len(self._labels) < LABELS_MAX:
            self._labels[told] = label
        return label

    def _lost(self, connection: _Connection) -> None:
        """The request in flight has an unknown outcome; go on with a fresh connection."""
        if connection.index != NOTHING:
            self._finish(connection, perf_counter(), UNKNOWN, LOST)
        self._replace(connection)

    def _connect(self) -> _Connection:
        connection = _Connection(self._address)
        self._connections[connection.socket.fileno()] = connection
        self._poll.register(connection.socket, select.EPOLLIN)
        return connection

    def _replace(self, connection: _Connection) -> None:
        """Open another connection; a server that refuses costs us this one for good."""
        del self._connections[connection.socket.fileno()]
        connection.socket.close()
        if perf_counter() >= self._deadline_s:
            return
        try:
            fresh = self._connect()
        except OSError:
            self._run.codes["0 connection_refused"] += 1
            return
        self._next(fresh, perf_counter())

    def _give_up(self) -> None:
        """Whatever is in flight after a silence this long is unknown."""
        for connection in self._connections.values():
            if connection.index != NOTHING:
                self._finish(connection, perf_counter(), UNKNOWN, LOST)


class OpenDriver(Driver):
    """Sends each request at its own moment, whether or not the ones before it are answered.

    A request that finds every connection busy waits here, and its waiting counts: otherwise a
    server that stalls would be asked less just then, and look better than it is.
    """

    def __init__(
        self,
        host: str,
        port: int,
        requests: Iterable[bytes],
        *,
        due_s: Iterable[float],
        keep_bodies: bool = False,
    ) -> None:
        """`due_s` are the intended moments in seconds from the start, in order."""
        super().__init__(host, port, requests, keep_bodies=keep_bodies)
        self._due = zip(due_s, self._requests, strict=False)
        self._following = next(self._due, None)
        self._idle: list[_Connection] = []

    def drive(self, connections: int) -> Run:
        """Run until every request that was meant to be sent has its line."""
        run = super().drive(connections)
        while self._following is not None:  # nobody was left to send it to
            due_s, (index, _) = self._following
            due_s += run.started_s
            self._record(index, due_s, due_s, max(due_s, run.ended_s), UNKNOWN, NOT_SENT)
            self._following = next(self._due, None)
        return run

    def _start(self) -> None:
        self._idle = list(self._connections.values())

    def _next(self, connection: _Connection, now_s: float) -> None:
        """A free connection takes what is overdue, or waits for what comes."""
        self._idle.append(connection)
        self._send_due(now_s)

    def _send_due(self, now_s: float) -> None:
        started_s = self._run.started_s
        while self._idle and self._following is not None:
            due_s, (index, request) = self._following
            due_s += started_s
            if due_s > now_s:
                return
            self._following = next(self._due, None)
            self._send(self._idle.pop(), index, request, now_s, due_s)

    def _loop(self) -> None:
        poll, connections, receive = self._poll.poll, self._connections, self._receive
        while self._in_flight or (self._following is not None and self._connections):
            silent_s = self._patience_s()
            ready = poll(silent_s)
            if not ready and silent_s >= DRAIN_TIMEOUT_S:
                self._give_up()
                return
            for descriptor, _ in ready:
                if descriptor in connections:  # else it was lost since the poll
                    receive(connections[descriptor])
            self._send_due(perf_counter())
            sleep(REST_S)

    def _replace(self, connection: _Connection) -> None:
        """An idle connection that the server hung up on must not be sent to."""
        if connection in self._idle:
            self._idle.remove(connection)
        super()._replace(connection)

    def _patience_s(self) -> float:
        """How long there is nothing to do but wait."""
        if not self._idle or self._following is None:
            return DRAIN_TIMEOUT_S
        return max(0.0, self._following[0] + self._run.started_s - perf_counter())


def drive(
    host: str,
    port: int,
    requests: Iterable[bytes],
    *,
    connections: int,
    duration_s: float | None = None,
    keep_bodies: bool = False,
) -> Run:
    """Send `requests` over `connections` in a closed loop until they or the time run out."""
    driver = Driver(host, port, requests, duration_s=duration_s, keep_bodies=keep_bodies)
    return driver.drive(connections)


def drive_open(
    host: str,
    port: int,
    requests: Iterable[bytes],
    *,
    due_s: Iterable[float],
    connections: int,
    keep_bodies: bool = False,
) -> Run:
    """Send each of `requests` at its moment, over at most so many connections."""
    driver = OpenDriver(host, port, requests, due_s=due_s, keep_bodies=keep_bodies)
    return driver.drive(connections)


def arrivals(rate_per_s: float, duration_s: float, chance: Random) -> Iterator[float]:
    """Moments at which people come who know nothing of each other: so many a second on average."""
    at_s = chance.expovariate(rate_per_s)
    while at_s < duration_s:
        yield at_s
        at_s += chance.expovariate(rate_per_s)


def main(arguments: Sequence[str] | None = None) -> int:
    """Send one request over and over and print what came back."""
    parser = argparse.ArgumentParser(
        prog="python -m loadtest.driver",
        description="Send one GET request over and over in a closed loop; print the rate.",
    )
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--path", default="/")
    parser.add_argument("--connections", type=int, default=64, help="requests in flight")
    parser.add_argument("--seconds", type=float, default=3.0)
    options = parser.parse_args(arguments)
    request = build_request("GET", options.path, host=f"{options.host}:{options.port}")

    run = drive(
        options.host,
        options.port,
        itertools.repeat(request),
        connections=options.connections,
        duration_s=options.seconds,
    )
    report = {
        "requests_per_s": round(run.rate(), 1),
        "p50_ms": round(run.percentile_ms(0.50), 3),
        "p99_ms": round(run.percentile_ms(0.99), 3),
        "statuses": {str(status): count for status, count in run.status_counts().items()},
    }
    print(json.dumps(report))
    return 0


if __name__ == "__main__":
    sys.exit(main())
