"""A small HTTP/1.1 server whose every byte is ours, because a good framework cannot misbehave.

It reads bounded requests and writes what it is told to: an answer, two answers, or nothing and
the end of the connection. A request that was read is carried out even when its caller has gone.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Final, NamedTuple

import httptools

HEAD_MAX: Final = 16 * 1024
BODY_MAX: Final = 16 * 1024
CONNECTIONS_MAX: Final = 1_000
IDLE_S: Final = 75.0

_log = logging.getLogger("tidebook.sandbox")


@dataclass
class Request:
    """A request as it was read."""

    method: str = ""
    target: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""


class Answer(NamedTuple):
    """What is written: nothing and the end when there is no status."""

    status: int | None
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()
    times: int = 1


HANG_UP: Final = Answer(None)

Handler = Callable[[Request], Awaitable[Answer]]


class Server:
    """Listens on one address, from `start()` to `stop()`."""

    def __init__(self, handler: Handler) -> None:
        self._handler = handler
        self._connections: set[_Connection] = set()
        self._work: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def start(self, host: str, port: int) -> int:
        """Listen; return the port, which is a free one for 0."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self._connection, host, port)
        found: int = self._server.sockets[0].getsockname()[1]
        return found

    async def stop(self) -> None:
        """Take nothing new, finish what is under way, hang up."""
        assert self._server is not None
        self._server.close()
        await asyncio.gather(*self._work, return_exceptions=True)
        for one in list(self._connections):
            one.hang_up()

    def _connection(self) -> _Connection:
        return _Connection(self._handler, self._connections, self._work)


class _Connection(asyncio.Protocol):
    """One connection; a request waits for the answer to the one before it."""

    def __init__(
        self,
        handler: Handler,
        connections: set[_Connection],
        work: set[asyncio.Task[None]],
    ) -> None:
        self._handler = handler
        self._connections = connections
        self._work = work
        self._last: asyncio.Task[None] | None = None
        self._parser = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport | None = None
        self._request = Request()
        self._size = 0
        self._idle: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._connections.add(self)
        if len(self._connections) > CONNECTIONS_MAX:
            transport.abort()
        self._wait()

    def connection_lost(self, _error: Exception | None) -> None:
        self._connections.discard(self)
        self._transport = None
        self._stop_waiting()

    def data_received(self, data: bytes) -> None:
        self._stop_waiting()
        self._size += len(data)
        if self._size > HEAD_MAX + BODY_MAX:
            self._refuse(413)
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._refuse(400)

    # What the parser calls.

    def on_message_begin(self) -> None:
        self._request = Request()

    def on_url(self, url: bytes) -> None:
        self._request.target += url.decode("latin-1")

    def on_header(self, name: bytes, value: bytes) -> None:
        self._request.headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_body(self, body: bytes) -> None:
        self._request.body += body

    def on_message_complete(self) -> None:
        request = self._request
        request.method = self._parser.get_method().decode("latin-1")
        self._size = 0
        task = asyncio.get_running_loop().create_task(self._serve(request, self._last))
        self._last = task
        self._work.add(task)  # it is finished even when its caller has gone
        task.add_done_callback(self._work.discard)

    async def _serve(self, request: Request, before: asyncio.Task[None] | None) -> None:
        if before is not None:
            await asyncio.wait([before])
        try:
            answer = await self._handler(request)
        except Exception:  # noqa: BLE001 - whoever asks is told, and the others go on
            _log.exception("a request of the sandbox operator failed")
            answer = Answer(500, b'{"code":"internal_error"}')
        self._write(answer)

    def _write(self, answer: Answer) -> None:
        if self._transport is None:
            return
        if answer.status is None:
            self._transport.abort()
            return
        self._transport.write(_wire(answer) * answer.times)
        self._wait()

    def _refuse(self, status: int) -> None:
        if self._transport is not None:
            self._transport.write(_wire(Answer(status, headers=(("connection", "close"),))))
            self._transport.close()

    def _wait(self) -> None:
        self._stop_waiting()
        self._idle = asyncio.get_running_loop().call_later(IDLE_S, self.hang_up)

    def _stop_waiting(self) -> None:
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None

    def hang_up(self) -> None:
        if self._transport is not None:
            self._transport.close()


def _wire(answer: Answer) -> bytes:
    assert answer.status is not None
    lines = [
        f"HTTP/1.1 {answer.status} {HTTPStatus(answer.status).phrase}",
        "content-type: application/json",
        f"content-length: {len(answer.body)}",
        *(f"{name}: {value}" for name, value in answer.headers),
    ]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + answer.body
