"""One connection: uvicorn's HTTP/1.1 protocol, with a lane for plain calls around the framework.

A plain POST (see `api.plain`) is offered to the application's lane, which answers with ready bytes;
everything else takes uvicorn's way through httptools and ASGI, unchanged. Here is also what a
connection owes its caller whatever the way: answers in the order of the requests, none twice and
none left out; an end for callers who are too slow; and a last answer that says `Connection: close`
before a connection is given up. No rule of the service is known here.
"""

from __future__ import annotations

import asyncio
import logging
import re
from array import array
from collections.abc import Callable
from dataclasses import dataclass, field
from email.utils import formatdate
from fcntl import ioctl
from http import HTTPStatus
from termios import FIONREAD
from time import perf_counter
from typing import Any, Final, Protocol

import httptools
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from api.errors import CONTENT_TYPE, problem_body, status_of
from api.exchange import NO_STORE, SECURITY_HEADERS
from api.logs import request_id
from api.plain import LaneCall, plain_call

__all__ = ["HttpProtocol", "Lane", "LaneCall", "Limits", "Traffic"]

_log: Final = logging.getLogger("tidebook.protocol")

HELD_BYTES_MAX: Final = 64 * 1024
"""What is read ahead of a lane's answer; then the caller has to wait."""
PARTING_S: Final = 2.0
"""How long a caller who was told `Connection: close` may take to hang up."""

_ODD_METHOD: Final = re.compile(rb"([A-Z]{1,24}) /")


Send = Callable[[bytes, bytes], None]
"""Takes the bytes of a whole response: the status line with its end, then headers and body."""


class Lane(Protocol):
    """What answers plain calls with ready bytes."""

    def take(self, call: LaneCall, send: Send) -> bool:
        """Take a call, or say False to leave it to the ordinary way.

        True promises that `send` is called exactly once, in the event loop. `date` and `connection`
        are added there.
        """
        ...


@dataclass(frozen=True, slots=True)
class Limits:
    """What one connection may cost."""

    request_timeout_s: float = 30.0
    """From a request's first byte to its last; a reader may pause for as long."""
    idle_timeout_s: float = 75.0
    """Between two requests. Longer than the idle time of usual proxies, who then hang up first."""
    connections_max: int = 10_000
    head_bytes_max: int = 32 * 1024


@dataclass(slots=True)
class Traffic:
    """What the connections of one worker share."""

    limits: Limits = field(default_factory=Limits)
    lane: Lane | None = None
    refused: Callable[[str, int, str], None] = lambda _request_id, _status, _code: None
    """Hears of answers that no application gave."""
    connections: set[HttpProtocol] = field(default_factory=set)
    draining: bool = False
    stamp: bytes = b""
    """The header lines that every answer gets here."""

    def __post_init__(self) -> None:
        self.renew_stamp()

    def renew_stamp(self) -> None:
        """Follow the clock; called once a second."""
        ending = b"connection: close\r\n" if self.draining else b""
        self.stamp = b"date: " + formatdate(usegmt=True).encode() + b"\r\n" + ending

    def sweep(self) -> None:
        """Look for callers who are too slow; called once a second. No request has a timer."""
        now = perf_counter()
        for connection in list(self.connections):
            connection.look(now)

    def drain(self) -> None:
        """From now on let every answer be the last one of its connection."""
        self.draining = True
        self.renew_stamp()
        for connection in self.connections:
            connection.prepare_to_part()

    def end_idle(self) -> None:
        """Close the connections on which nobody asks anything at this moment."""
        for connection in list(self.connections):
            connection.end_if_idle()

    def protocol(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> HttpProtocol:
        """Return the protocol of a new connection; uvicorn takes this for a protocol class."""
        return HttpProtocol(config, server_state, app_state, _loop, traffic=self)


class HttpProtocol(HttpToolsProtocol):
    """A connection.

    At each instant it is in one of these states:
    *ready*: every request was answered, none has begun; *out*: a lane has the only request;
    *owing*: requests are with the application; *parting*: the last answer was given.
    """

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        traffic: Traffic,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._traffic = traffic
        self._lane = traffic.lane
        self._limits = traffic.limits
        self._address: str | None = None
        self._ready = True
        self._out = False
        self._held = bytearray()
        self._owed = 0
        """Requests that the application has and has not answered to the end."""
        self._begun = False
        """Whether a request has begun to arrive and has not wholly arrived."""
        self._in_body = False
        self._head_bytes = 0
        self._since = perf_counter()
        """When the present wait began: for a request, for its end, or for the caller to read."""
        self._last_words: tuple[str, str] | None = None
        """The problem that ends the connection as soon as everything before it was answered."""
        self._parting = False
        self._odd_method: str | None = None

    # --- the transport's calls ------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._traffic.connections.add(self)
        self._address = self.client[0] if self.client else None
        if len(self._traffic.connections) > self._limits.connections_max:
            self._lane = None
            self.app = self._shed

    def connection_lost(self, exc: Exception | None) -> None:
        self._traffic.connections.discard(self)
        self._ready = self._out = False
        self._held.clear()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._ready and self._lane is not None and not self.flow.write_paused:
            call = plain_call(data, self._address)
            if call is not None and self._taken(self._lane, call):
                return
        if self._out:
            self._hold(data)
        elif not self._parting and self._last_words is None:
            self._feed(data)

    def pause_writing(self) -> None:
        self._since = perf_counter()
        super().pause_writing()

    # --- the lane -------------------------------------------------------------------------------

    def _taken(self, lane: Lane, call: LaneCall) -> bool:
        self._ready, self._out = False, True
        try:
            if lane.take(call, self._answered):
                return True
        except Exception:  # noqa: BLE001 - whatever broke, the caller must not wait for ever
            # Nobody knows whether the call has an effect: no answer says just that.
            _log.exception("lane.broken")
            self._out = False
            self.transport.abort()
            return True
        self._ready, self._out = True, False
        return False

    def _answered(self, line: bytes, rest: bytes) -> None:
        """Send a lane's answer; without effect when the caller has gone."""
        if not self._out:
            return
        self._out = False
        traffic = self._traffic
        self.transport.write(b"%b%b%b" % (line, traffic.stamp, rest))
        if traffic.draining:
            self.part()
            return
        self._ready = True
        self._since = perf_counter()
        if self._held:
            data = bytes(self._held)
            self._held.clear()
            self.flow.resume_reading()
            self.data_received(data)

    def _hold(self, data: bytes) -> None:
        self._held += data
        if len(self._held) > HELD_BYTES_MAX:
            self.flow.pause_reading()

    # --- the ordinary way -----------------------------------------------------------------------

    def _feed(self, data: bytes) -> None:
        starts = not self._begun
        if not self._in_body:
            self._head_bytes += len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserInvalidMethodError:
            self._feed_odd_method(data, starts=starts)
        except httptools.HttpParserUpgrade:
            self._end_after_answer()  # there is nothing to upgrade to; what follows is not HTTP/1.1
        except httptools.HttpParserError:
            self._refuse_unreadable()
        else:
            if self._begun and not self._in_body and self._is_long(self._head_bytes):
                self._refuse_unreadable()

    def _feed_odd_method(self, data: bytes, *, starts: bool) -> None:
        """Let the application refuse a method of which the parser has never heard."""
        found = _ODD_METHOD.match(data)
        if not starts or found is None or self._owed:
            self._refuse_unreadable()
            return
        self._odd_method = found[1].decode("ascii")
        self.parser = httptools.HttpRequestParser(self)
        self._feed(b"TRACE" + data[found.end(1) :])

    def _end_after_answer(self) -> None:
        self.cycle.keep_alive = False

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._begun, self._ready = True, False
        if not self._owed:
            self._since = perf_counter()

    def on_headers_complete(self) -> None:
        self._head_bytes = 0
        size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
        if self._is_long(size):
            self._head_bytes = size
            raise ValueError("the head is too large")
        super().on_headers_complete()
        self.cycle.transport = _Parting(self)  # type: ignore[assignment]
        self._owed += 1
        self._in_body = True
        if self._odd_method is not None:
            self.scope["method"], self._odd_method = self._odd_method, None
            self._end_after_answer()

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._in_body:  # what stands behind a body is not the request's head
            super().on_header(name, value)

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        if self._traffic.draining and not self.pipeline:
            cycle.keep_alive = False
        super()._start_asgi_task(cycle, app)

    def on_message_complete(self) -> None:
        self._begun = self._in_body = False
        super().on_message_complete()
        self._wait_for_request()

    def on_response_complete(self) -> None:
        self.server_state.total_requests += 1
        self._owed -= 1
        if self._parting or self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            cycle, app = self.pipeline.pop()
            self._start_asgi_task(cycle, app)
        elif self._last_words is not None:
            self._speak()
        elif self._begun:
            self._since = perf_counter()
        else:
            self._wait_for_request()

    def _wait_for_request(self) -> None:
        if not self._owed and self._last_words is None and not self._parting:
            self._ready = True
            self._since = perf_counter()

    def _is_long(self, head_bytes: int) -> bool:
        return head_bytes > self._limits.head_bytes_max

    # --- answers that no application gives -------------------------------------------------------

    def _refuse_unreadable(self) -> None:
        if not self._in_body and self._is_long(self._head_bytes):
            limit = self._limits.head_bytes_max
            self._refuse("header_too_large", f"The head of a request has at most {limit} bytes.")
        else:
            self._refuse("malformed_request", "This is not HTTP/1.1 as RFC 9112 writes it.")

    def _refuse(self, code: str, detail: str) -> None:
        """Answer a request that will not arrive wholly, after those before it, and part."""
        self._ready = False
        self._last_words = (code, detail)
        if self._in_body and not self._taken_back():
            self.transport.close()
        elif not self._owed:
            self._speak()

    def _taken_back(self) -> bool:
        """Take the request whose body is arriving from the application, unless it has answered."""
        cycle = self.cycle
        if cycle.response_started:
            return False
        self._owed -= 1
        if self.pipeline and self.pipeline[0][0] is cycle:
            self.pipeline.popleft()
        cycle.disconnected = True
        cycle.message_event.set()
        return True

    def _speak(self) -> None:
        assert self._last_words is not None, "there is something to say"
        code, detail = self._last_words
        status, body, own_id = status_of(code), problem_body(code, detail), request_id(None)
        headers = (
            (b"content-type", CONTENT_TYPE.encode()),
            (b"content-length", b"%d" % len(body)),
            (b"x-request-id", own_id.encode()),
            (b"connection", b"close"),
            NO_STORE,
            *SECURITY_HEADERS,
            *self.server_state.default_headers,
        )
        line = f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\n".encode()
        head = b"".join(b"%b: %b\r\n" % header for header in headers)
        self.transport.write(line + head + b"\r\n" + body)
        self._traffic.refused(own_id, status, code)
        self.part()

    async def _shed(self, _scope: Any, _receive: Any, send: Any) -> None:
        """The application of a connection that is one too many."""
        body = problem_body("overloaded", "Too many connections are open.")
        own_id = request_id(None)
        headers = [
            (b"content-type", CONTENT_TYPE.encode()),
            (b"content-length", b"%d" % len(body)),
            (b"x-request-id", own_id.encode()),
            (b"retry-after", b"1"),
            (b"connection", b"close"),
            NO_STORE,
            *SECURITY_HEADERS,
        ]
        await send({"type": "http.response.start", "status": 503, "headers": headers})
        await send({"type": "http.response.body", "body": body})
        self._traffic.refused(own_id, 503, "overloaded")

    # --- how a connection ends ------------------------------------------------------------------

    def part(self) -> None:
        """Say no more, and let the caller hang up.

        To close while the caller still sends would reset the connection, and the caller could lose
        the answer that he was just given.
        """
        if self._parting or self.transport.is_closing():
            return
        self._ready, self._parting = False, True
        self._since = perf_counter()
        self.flow.resume_reading()
        self.transport.write_eof()

    def look(self, now: float) -> None:
        """End the connection if its caller has kept us waiting for too long."""
        waited = now - self._since
        if self._parting:
            if waited > PARTING_S:
                self.transport.abort()
        elif self.flow.write_paused:
            if waited > self._limits.request_timeout_s:
                self.transport.abort()
        elif self._ready:
            if waited > self._limits.idle_timeout_s:
                self.transport.close()
        elif self._awaits_caller() and waited > self._limits.request_timeout_s:
            limit = self._limits.request_timeout_s
            self._refuse("request_timeout", f"A request has to arrive within {limit:g} seconds.")

    def _awaits_caller(self) -> bool:
        """Whether nothing but the rest of a request is missing."""
        if not self._begun or self._last_words is not None:
            return False
        return self._owed <= (self._in_body and not self.cycle.response_complete)

    def prepare_to_part(self) -> None:
        """Let the answer that is being made say `Connection: close`, if it can still say it."""
        cycle: Any = self.cycle  # there is none before the first request
        if cycle is not None and not cycle.response_started and not self.pipeline:
            cycle.keep_alive = False

    def end_if_idle(self) -> None:
        """Close the connection if no request is here, nor on its way through this machine."""
        if self._ready and not self._unread():
            self.transport.close()

    def _unread(self) -> bool:
        waiting = array("i", [0])
        ioctl(self.transport.get_extra_info("socket").fileno(), FIONREAD, waiting)
        return waiting[0] > 0

    def shutdown(self) -> None:
        """Called by uvicorn when it stops without draining."""
        self._traffic.draining = True
        self.prepare_to_part()
        self.end_if_idle()


class _Parting:
    """The transport as a response sees it: to close it is to part."""

    __slots__ = ("_protocol", "is_closing", "write")

    def __init__(self, protocol: HttpProtocol) -> None:
        self._protocol = protocol
        self.write = protocol.transport.write
        self.is_closing = protocol.transport.is_closing

    def close(self) -> None:
        self._protocol.part()
