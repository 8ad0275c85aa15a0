"""A strict HTTP/1.1 client for one server: kept connections, one question in flight on each.

A connection is used again only when nothing at all was odd about its last exchange. Bytes that
nobody asked for end it, so that an answer sent twice is not taken for the next one.
"""

from __future__ import annotations

import asyncio
import ssl
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

import httptools

HEAD_MAX: Final = 16 * 1024


class NotReached(Exception):
    """No connection could be made: nothing was sent."""


class Broken(Exception):
    """The exchange went wrong after something may have been sent."""


class Reply(NamedTuple):
    """An answer as it was read; names of headers are in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes


class Client:
    """Asks the server of a URL. Use it within one event loop, and close it."""

    def __init__(self, url: str, *, connections: int) -> None:
        parts = urlsplit(url)
        assert parts.hostname, "the settings check the URL"
        secure = parts.scheme == "https"
        self._host, self._port = parts.hostname, parts.port or (443 if secure else 80)
        self._tls = ssl.create_default_context() if secure else None
        self._authority = parts.netloc
        self._base = parts.path.rstrip("/")
        self._idle: list[_Connection] = []
        self._places = asyncio.Semaphore(connections)

    async def ask(
        self,
        method: str,
        target: str,
        headers: dict[str, str],
        body: bytes,
        most: int,
        within_s: float,
    ) -> Reply:
        """Send a question once; return its answer of at most `most` bytes.

        Raises `NotReached` when nothing was sent, `Broken` and `TimeoutError` when something may
        have been.
        """
        async with self._places:
            connection = await self._connected(within_s)
            try:
                async with asyncio.timeout(within_s):
                    reply = await connection.exchange(
                        self._bytes(method, target, headers, body), most
                    )
            except BaseException:
                connection.abort()
                raise
            if connection.usable:
                self._idle.append(connection)
            return reply

    def close(self) -> None:
        """Hang up."""
        for connection in self._idle:
            connection.abort()
        self._idle.clear()

    async def _connected(self, within_s: float) -> _Connection:
        while self._idle:
            connection = self._idle.pop()
            if connection.usable:
                return connection
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(within_s):
                _, made = await loop.create_connection(
                    _Connection, self._host, self._port, ssl=self._tls
                )
        except (OSError, TimeoutError) as error:
            raise NotReached(type(error).__name__) from error
        return made

    def _bytes(self, method: str, target: str, headers: dict[str, str], body: bytes) -> bytes:
        lines = [
            f"{method} {self._base}{target} HTTP/1.1",
            f"host: {self._authority}",
            f"content-length: {len(body)}",
            "content-type: application/json",
            *(f"{name}: {value}" for name, value in headers.items()),
        ]
        return "\r\n".join(lines).encode("ascii") + b"\r\n\r\n" + body


class _Connection(asyncio.Protocol):
    """One connection; the answer to the one question in flight is awaited."""

    def __init__(self) -> None:
        self.usable = True
        self._transport: asyncio.Transport | None = None
        self._waiter: asyncio.Future[Reply] | None = None
        self._parser: Any = None
        self._most = 0
        self._head = 0
        self._headers: dict[str, str] = {}
        self._body = bytearray()

    async def exchange(self, question: bytes, most: int) -> Reply:
        """Write a question and wait for its answer."""
        assert self._waiter is None, "one question at a time"
        if self._transport is None:
            raise Broken("the connection was closed")
        self._parser = httptools.HttpResponseParser(self)
        self._most, self._head = most, 0
        self._headers, self._body = {}, bytearray()
        self._waiter = asyncio.get_running_loop().create_future()
        self._transport.write(question)
        try:
            return await self._waiter
        finally:
            self._waiter = None

    def abort(self) -> None:
        """End the connection at once."""
        self.usable = False
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def connection_lost(self, _error: Exception | None) -> None:
        self._transport = None
        self._break("the connection was closed")

    def data_received(self, data: bytes) -> None:
        if self._waiter is None or self._waiter.done():
            self.abort()  # nobody asked
            return
        self._head += len(data)
        if self._head > HEAD_MAX + self._most:
            self._break(f"an answer of more than {self._most} bytes")
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._break("an answer that is not HTTP")

    # What the parser calls.

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        waiter = self._waiter
        if waiter is None or waiter.done():  # a second answer in the same breath
            self.abort()
            return
        self.usable = self.usable and self._parser.should_keep_alive()
        waiter.set_result(Reply(self._parser.get_status_code(), self._headers, bytes(self._body)))

    def _break(self, why: str) -> None:
        self.usable = False
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(Broken(why))
        self.abort()
