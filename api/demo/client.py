"""A lean HTTP/1.1 client: many kept connections, one request in flight on each.

It shares two cores with the server that it asks, so it does no more than the demo needs. A request
whose outcome is unknown is repeated with the same bytes, and so with the same idempotency key; that
is all that a careful customer has to do.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, NamedTuple, Self, TypeVar, cast

T = TypeVar("T")

PATIENCE_S: Final = 120.0
"""A request that has not been answered for good by then will not be: the demo stops."""

PAUSE_S: Final = 0.1
PAUSE_MAX_S: Final = 5.0

_RETRIED: Final = frozenset({429, 503})
_IN_FLIGHT: Final = "idempotency_in_flight"


class Unanswered(Exception):
    """A request was not answered for good in spite of all patience."""


class Request(NamedTuple):
    """One request, ready to be sent again."""

    method: str
    path: str
    headers: Sequence[tuple[str, str]] = ()
    body: bytes = b""


class Reply(NamedTuple):
    """One reply."""

    status: int
    head: bytes
    body: bytes

    def header(self, name: str) -> str | None:
        """The value of a header, or None without one."""
        start = self.head.lower().find(f"\r\n{name.lower()}:".encode())
        if start < 0:
            return None
        value = self.head[start + len(name) + 3 :].partition(b"\r\n")[0]
        return value.decode("latin-1").strip()

    def json(self) -> Any:
        """The body, parsed."""
        return json.loads(self.body)

    @property
    def code(self) -> str:
        """The code of a problem; empty for a success."""
        if self.status < 400:
            return ""
        try:
            problem = self.json()
        except ValueError:
            return ""
        return str(problem.get("code", "")) if isinstance(problem, dict) else ""

    @property
    def final(self) -> bool:
        """Whether asking again could not tell anything else."""
        if self.status in _RETRIED:
            return False
        return self.status < 500 and not (self.status == 409 and self.code == _IN_FLIGHT)


class Client:
    """Asks one server. Use it as `async with Client(host, port) as client`."""

    def __init__(
        self, host: str, port: int, *, connections: int = 64, patience_s: float = PATIENCE_S
    ) -> None:
        assert connections > 0
        self._host, self._port = host, port
        self._patience_s = patience_s
        self._idle: list[_Connection] = []
        self._places = asyncio.Semaphore(connections)
        self._connections = connections

    async def __aenter__(self) -> Self:
        """Nothing is opened before it is needed."""
        return self

    async def __aexit__(self, *_: object) -> None:
        for connection in self._idle:
            connection.close()
        self._idle.clear()

    async def ask(self, request: Request) -> Reply:
        """Return the final reply to a request, however often it has to be sent."""
        data = self._bytes(request)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._patience_s
        async with self._places:
            while True:
                reply = await self._try(data, deadline - loop.time())
                if reply is not None and reply.final:
                    return reply
                pause_s = _pause_s(reply)
                if loop.time() + pause_s > deadline:
                    last = "no reply" if reply is None else f"{reply.status} {reply.code}"
                    raise Unanswered(f"{request.method} {request.path}: {last}")
                await asyncio.sleep(pause_s)

    async def ask_all(self, items: Sequence[T], ask: Callable[[T], Awaitable[None]]) -> None:
        """Run `ask` on every item, as many at once as there are connections."""
        waiting = iter(items)

        async def work() -> None:
            for item in waiting:
                await ask(item)

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(self._connections, len(items))):
                    group.create_task(work())
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None

    async def _try(self, data: bytes, timeout_s: float) -> Reply | None:
        """Send once. None: the connection broke or time ran out, so the outcome is unknown."""
        try:
            async with asyncio.timeout(timeout_s):
                connection = self._idle.pop() if self._idle else await self._connect()
                try:
                    reply = await connection.exchange(data)
                except BaseException:
                    connection.close()
                    raise
        except (OSError, TimeoutError):
            return None
        if connection.usable:
            self._idle.append(connection)
        return reply

    async def _connect(self) -> _Connection:
        _, connection = await asyncio.get_running_loop().create_connection(
            _Connection, self._host, self._port
        )
        return connection

    def _bytes(self, request: Request) -> bytes:
        lines = [
            f"{request.method} {request.path} HTTP/1.1",
            f"Host: {self._host}:{self._port}",
            *(f"{name}: {value}" for name, value in request.headers),
        ]
        if request.method != "GET":
            lines.append(f"Content-Length: {len(request.body)}")
        if request.body:
            lines.append("Content-Type: application/json")
        return "\r\n".join(lines).encode("ascii") + b"\r\n\r\n" + request.body


class _Connection(asyncio.Protocol):
    """One connection; the reply to the one request in flight is awaited."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._buffer = b""
        self._reply: asyncio.Future[Reply] | None = None
        self.usable = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self.usable = True

    def exchange(self, data: bytes) -> asyncio.Future[Reply]:
        assert self._reply is None, "one request at a time"
        self._reply = asyncio.get_running_loop().create_future()
        if self._transport is None or not self.usable:
            self._reply.set_exception(ConnectionError("the connection was closed"))
        else:
            self._transport.write(data)
        return self._reply

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            return
        head = self._buffer[:end]
        length = int(Reply(0, head, b"").header("content-length") or 0)
        if len(self._buffer) < end + 4 + length:
            return
        reply = Reply(int(head[9:12]), head, self._buffer[end + 4 : end + 4 + length])
        self._buffer = b""
        if (reply.header("connection") or "").lower() == "close":
            self.usable = False
            self.close()
        waiter, self._reply = self._reply, None
        if waiter is not None and not waiter.done():
            waiter.set_result(reply)

    def connection_lost(self, error: Exception | None) -> None:
        self.usable = False
        waiter, self._reply = self._reply, None
        if waiter is not None and not waiter.done():
            waiter.set_exception(error or ConnectionError("the server closed the connection"))

    def close(self) -> None:
        self.usable = False
        if self._transport is not None:
            self._transport.close()


def _pause_s(reply: Reply | None) -> float:
    wished = reply.header("retry-after") if reply is not None else None
    if wished is None or not wished.isdigit():
        return PAUSE_S
    return min(max(float(wished), PAUSE_S), PAUSE_MAX_S)
