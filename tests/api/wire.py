"""Connections of the server's own protocol over real sockets, with an application that echoes.

The lane and the application answer the same bytes to the same request, so that a caller must not be
able to tell which of them answered.
"""

from __future__ import annotations

import asyncio
import re
import socket
from array import array
from collections.abc import Coroutine, Sequence
from contextlib import suppress
from fcntl import ioctl
from termios import FIONREAD
from typing import Any

import uvloop
from uvicorn.config import Config
from uvicorn.server import ServerState

from api.protocol import HttpProtocol, LaneCall, Limits, Send, Traffic

CALM_TURNS = 60
"""Turns of the loop within which an application that waits for nothing has answered."""
STAMP = b"date: Mon, 23 Nov 2026 15:00:00 GMT\r\n"

Effect = tuple[str, bytes, bytes]


def echo(method: str, path: bytes, headers: Sequence[tuple[bytes, bytes]], body: bytes) -> bytes:
    """What is answered to a request: all that was understood of it."""
    lines = [method.encode(), path, *(b"%b=%b" % header for header in headers), body]
    return b"\n".join(lines)


class EchoLane:
    """A demonstration of a lane: answers POSTs below `/lane/`, at once or some turns later."""

    def __init__(self, effects: list[Effect], later: int = 0) -> None:
        self.effects = effects
        self.later = later
        self.taken = 0

    def take(self, call: LaneCall, send: Send) -> bool:
        """Answer an address of ours; leave all others."""
        if not call.path.startswith(b"/lane/"):
            return False
        self.taken += 1
        self.effects.append(("POST", call.path, call.body))
        body = echo("POST", call.path, list(call.headers.items()), call.body)
        head = b"content-length: %d\r\n\r\n" % len(body)
        self._send_later(self.later, send, head + body)
        return True

    def _send_later(self, turns: int, send: Send, response: bytes) -> None:
        if turns == 0:
            send(b"HTTP/1.1 200 OK\r\n", response)
        else:
            loop = asyncio.get_running_loop()
            loop.call_soon(self._send_later, turns - 1, send, response)


class EchoApp:
    """The ordinary way to the same answers."""

    def __init__(self, effects: list[Effect]) -> None:
        self.effects = effects

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer one call with what was understood of it."""
        body, more = b"", True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body += message.get("body", b"")
            more = message.get("more_body", False)
        self.effects.append((scope["method"], scope["raw_path"], body))
        answer = echo(scope["method"], scope["raw_path"], scope["headers"], body)
        headers = [(b"content-length", b"%d" % len(answer))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": answer})


class Wire:
    """A loop with a server's connections, each over a socket pair."""

    def __init__(self) -> None:
        self.loop = uvloop.new_event_loop()

    def close(self) -> None:
        """End the loop."""
        self.loop.close()

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Run a coroutine in the loop."""
        return self.loop.run_until_complete(work)

    def traffic(self, app: Any, lane: Any = None, **limits: Any) -> Server:
        """A server whose connections share `lane` and limits."""
        return Server(app, Traffic(limits=Limits(**limits), lane=lane))


class Server:
    """What the connections of one worker share, and a way to make one."""

    def __init__(self, app: Any, traffic: Traffic) -> None:
        self.traffic = traffic
        traffic.stamp = STAMP
        self.config = Config(
            app, interface="asgi3", lifespan="off", ws="none", log_config=None, access_log=False
        )
        self.config.load()
        self.state = ServerState()
        self.state.default_headers = [(b"date", STAMP[6:-2])]

    async def connect(self) -> Caller:
        """A new connection."""
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        theirs.setblocking(False)
        made: list[HttpProtocol] = []

        def protocol() -> HttpProtocol:
            made.append(self.traffic.protocol(self.config, self.state, {}))
            return made[0]

        loop = asyncio.get_running_loop()
        await loop.connect_accepted_socket(protocol, theirs)
        return Caller(ours, made[0])


class Caller:
    """The caller's end of a connection."""

    def __init__(self, sock: socket.socket, protocol: HttpProtocol) -> None:
        self.sock = sock
        self.protocol = protocol

    async def send(self, data: bytes) -> None:
        """Send a segment and wait until the server has read it."""
        try:
            await asyncio.get_running_loop().sock_sendall(self.sock, data)
        except OSError:
            return  # the server has ended the connection
        while not self.protocol.transport.is_closing() and self._unread():  # noqa: ASYNC110
            await asyncio.sleep(0)
        await calm(3)

    def _unread(self) -> bool:
        server = self.protocol.transport.get_extra_info("socket")
        waiting = array("i", [0])
        ioctl(server.fileno(), FIONREAD, waiting)
        return waiting[0] > 0

    async def hang_up(self) -> bytes:
        """Wait until everything is answered that can be; end the connection; return all answers."""
        await calm(CALM_TURNS)
        with suppress(OSError):
            self.sock.shutdown(socket.SHUT_WR)
        return await self.rest()

    async def rest(self) -> bytes:
        """Everything that the server sends until it ends the connection."""
        loop = asyncio.get_running_loop()
        answers = b""
        try:
            while data := await loop.sock_recv(self.sock, 1 << 16):
                answers += data
        except ConnectionResetError:
            answers += b"(reset)"
        self.sock.close()
        await calm(3)
        return answers


async def calm(turns: int) -> None:
    """Let the loop take some turns."""
    for _ in range(turns):
        await asyncio.sleep(0)


def without_ids(answers: bytes) -> bytes:
    """Answers without what differs each time."""
    return re.sub(rb"x-request-id: [^\r]*", b"x-request-id: -", answers)
