"""A closed-loop HTTP/1.1 driver: each of K connections sends its next request once it is answered.

It has to be so cheap that the server under test is the bottleneck: the request bytes are built
before the clock starts, one thread polls plain sockets (faster here than an event loop with its
transports), and a reply is looked at just enough to find its end, its status and its problem code.
It must never retry a request or drop one silently: when its connection breaks it is unknown.
"""

from __future__ import annotations

import argparse
import itertools
import json
import selectors
import socket
import sys
from array import array
from collections import Counter
from dataclasses import dataclass, field
from time import perf_counter
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

MAX_HEAD_BYTES = 64 * 1024
"""A reply whose head is longer than this is not HTTP that we understand."""

CONNECT_TIMEOUT_S = 10.0
"""Loopback answers at once; this only bounds a server that hangs."""

DRAIN_TIMEOUT_S = 60.0
"""A server silent for this long on every connection has hung; its requests end as unknown."""

RECEIVE_BYTES = 64 * 1024
"""One read takes a whole reply; a longer one is put together."""

CODES_MAX = 4096
"""Bodies of refusals whose code is remembered, so that equal ones are parsed once."""

NOTHING = -1
"""The index of a connection that has no request in flight."""

UNKNOWN = 0
"""The status recorded for a request whose reply never came."""


class ProtocolError(Exception):
    """The peer sent bytes that are not a reply of HTTP/1.1 as we know it."""


class Reply(NamedTuple):
    """One complete reply and the number of bytes it took."""

    status: int
    head: bytes
    body: bytes
    size: int
    closes: bool


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
        return Reply(status, head, b"", start, closes)
    at = head.find(b"\r\ncontent-length:")
    if at >= 0:
        stop = head.find(b"\r\n", at + 17)
        length = int(head[at + 17 : stop if stop >= 0 else end])
        if len(data) < start + length:
            return None
        return Reply(status, head, data[start : start + length], start + length, closes)
    if b"\r\ntransfer-encoding: chunked" in head:
        return _read_chunked(data, status, head, start, closes)
    raise ProtocolError("a reply without a length")


def _read_chunked(data: bytes, status: int, head: bytes, start: int, closes: bool) -> Reply | None:
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
            return Reply(status, head, b"".join(body), after, closes)
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
    """What a run saw: one entry per request that was sent, in the order of the replies."""

    started_s: float = 0.0
    ended_s: float = 0.0
    latencies_s: array[float] = field(default_factory=lambda: array("d"))
    requests: array[int] = field(default_factory=lambda: array("L"))
    statuses: array[int] = field(default_factory=lambda: array("H"))
    codes: Counter[str] = field(default_factory=Counter)
    bodies: dict[int, bytes] = field(default_factory=dict)
    cpu_s: dict[str, float] = field(default_factory=dict)

    @property
    def elapsed_s(self) -> float:
        """Seconds from the first byte sent to the last reply."""
        return self.ended_s - self.started_s

    def status_counts(self) -> dict[int, int]:
        """How many replies came with each status; 0 stands for no reply."""
        return dict(sorted(Counter(self.statuses).items()))

    def rate(self, *, status: int | None = None) -> float:
        """Replies per second, all of them or those of one status."""
        count = (
            len(self.statuses) if status is None else sum(1 for s in self.statuses if s == status)
        )
        return count / self.elapsed_s if self.elapsed_s > 0 else 0.0

    def percentile_ms(self, share: float) -> float:
        """The latency in milliseconds that `share` of the requests did not exceed."""
        if not self.latencies_s:
            return 0.0
        ordered = sorted(self.latencies_s)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))] * 1000.0


class _Connection:
    """One keep-alive connection with at most one request in flight."""

    __slots__ = ("buffer", "index", "sent_s", "socket")

    def __init__(self, address: tuple[str, int]) -> None:
        self.socket = socket.create_connection(address, CONNECT_TIMEOUT_S)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # A read happens only after the poll said readable, and a request fits the send buffer.
        self.socket.settimeout(None)
        self.buffer = b""
        self.index = NOTHING
        self.sent_s = 0.0


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
        self._selector = selectors.DefaultSelector()
        self._in_flight = 0
        self._code_of: dict[bytes, str] = {}
        self._run = Run()

    def drive(self, connections: int) -> Run:
        """Run until the requests or the time are used up and every reply is in."""
        assert connections > 0
        ready = [_Connection(self._address) for _ in range(connections)]
        run = self._run
        run.started_s = perf_counter()
        if self._duration_s is not None:
            self._deadline_s = run.started_s + self._duration_s
        for connection in ready:
            self._selector.register(connection.socket, selectors.EVENT_READ, connection)
            self._send_next(connection, perf_counter())
        try:
            self._loop()
        finally:
            run.ended_s = perf_counter()
            for key in list(self._selector.get_map().values()):
                key.data.socket.close()
            self._selector.close()
        return run

    def _loop(self) -> None:
        select, receive = self._selector.select, self._receive
        while self._in_flight:
            ready = select(DRAIN_TIMEOUT_S)
            if not ready:
                self._give_up()
                return
            for key, _ in ready:
                receive(key.data)

    def _send_next(self, connection: _Connection, now_s: float) -> None:
        """Send the next request, or leave the connection idle when there is none."""
        following = None if now_s >= self._deadline_s else next(self._requests, None)
        if following is None:
            return
        connection.index, request = following
        connection.sent_s = now_s
        self._in_flight += 1
        try:
            connection.socket.sendall(request)
        except OSError:
            self._lost(connection)

    def _receive(self, connection: _Connection) -> None:
        try:
            data = connection.socket.recv(RECEIVE_BYTES)
        except OSError:
            data = b""
        if not data:
            self._lost(connection)
            return
        if connection.buffer:
            data = connection.buffer + data
        reply = read_reply(data)
        if reply is None:
            connection.buffer = data
            return
        if connection.index == NOTHING or reply.size != len(data):
            raise ProtocolError("bytes that no request asked for")
        connection.buffer = b""
        now_s = perf_counter()
        self._record(connection, now_s, reply)
        if reply.closes:
            self._replace(connection)
        else:
            self._send_next(connection, now_s)

    def _record(self, connection: _Connection, now_s: float, reply: Reply) -> None:
        run = self._run
        run.requests.append(connection.index)
        run.latencies_s.append(now_s - connection.sent_s)
        run.statuses.append(reply.status)
        if reply.status >= 400:
            run.codes[f"{reply.status} {self._problem_code(reply.body)}".strip()] += 1
        elif self._keep_bodies:
            run.bodies[connection.index] = reply.body
        connection.index = NOTHING
        self._in_flight -= 1

    def _problem_code(self, body: bytes) -> str:
        code = self._code_of.get(body)
        if code is None:
            code = problem_code(body)
            if len(self._code_of) < CODES_MAX:
                self._code_of[body] = code
        return code

    def _lost(self, connection: _Connection) -> None:
        """The request in flight has an unknown outcome; go on with a fresh connection."""
        if connection.index != NOTHING:
            self._unknown(connection)
        self._replace(connection)

    def _unknown(self, connection: _Connection) -> None:
        run = self._run
        run.requests.append(connection.index)
        run.latencies_s.append(perf_counter() - connection.sent_s)
        run.statuses.append(UNKNOWN)
        run.codes["0 connection_lost"] += 1
        connection.index = NOTHING
        self._in_flight -= 1

    def _replace(self, connection: _Connection) -> None:
        """Open another connection; a server that refuses costs us this one for good."""
        self._selector.unregister(connection.socket)
        connection.socket.close()
        if perf_counter() >= self._deadline_s:
            return
        try:
            fresh = _Connection(self._address)
        except OSError:
            self._run.codes["0 connection_refused"] += 1
            return
        self._selector.register(fresh.socket, selectors.EVENT_READ, fresh)
        self._send_next(fresh, perf_counter())

    def _give_up(self) -> None:
        """Whatever is in flight after a silence this long is unknown."""
        for key in self._selector.get_map().values():
            if key.data.index != NOTHING:
                self._unknown(key.data)


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
