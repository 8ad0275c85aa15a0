"""Our server without our service: a lane that answers every plain call with the same bytes.

    python -m api.constant --port 8080 --workers 2

The ceiling of every claim over this server, for `make bench`: the same processes, protocol and
reading of a request, and not one step more. The bytes are as long as the answer to a claim. It must
never look at what it was asked.
"""

from __future__ import annotations

import argparse
import os
import socket
import sys
from collections.abc import Awaitable, Callable
from typing import Any, Final

from api.plain import LaneCall
from api.protocol import Send, Traffic
from api.worker import Inherited, work
from api.workers import BACKLOG, Workers

BODY: Final = b'{"coupon":"' + b"0" * 360 + b'"}'
HEADERS: Final = (
    (b"content-type", b"application/json"),
    (b"content-length", str(len(BODY)).encode()),
    (b"cache-control", b"no-store"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"referrer-policy", b"no-referrer"),
    (b"strict-transport-security", b"max-age=31536000; includeSubDomains"),
    (b"x-content-type-options", b"nosniff"),
    (b"x-request-id", b"0" * 32),
    (b"tidebook-position", b"main:1000000"),
)
_HEAD: Final = b"".join(b"%s: %s\r\n" % header for header in HEADERS)
LINE: Final = b"HTTP/1.1 201 Created\r\n"
ANSWER: Final = _HEAD + b"\r\n" + BODY

DRAIN_S: Final = 0.5

Message = dict[str, Any]


class Constant:
    """The lane, and an application for whatever is no plain call; both answer alike."""

    def take(self, _call: LaneCall, send: Send) -> bool:
        """Answer."""
        send(LINE, ANSWER)
        return True

    async def __call__(
        self,
        scope: Message,
        receive: Callable[[], Awaitable[Message]],
        send: Callable[[Message], Awaitable[None]],
    ) -> None:
        """Answer over ASGI, and go through a lifespan in which nothing happens."""
        if scope["type"] == "lifespan":
            for _ in range(2):
                message = await receive()
                await send({"type": f"{message['type']}.complete"})
            return
        await send({"type": "http.response.start", "status": 201, "headers": list(HEADERS)})
        await send({"type": "http.response.body", "body": BODY})


def serve(host: str, port: int, workers: int) -> int:
    """Serve until told to stop."""
    with socket.create_server((host, port), backlog=BACKLOG) as listener:
        return Workers(
            argv=(sys.executable, "-m", "api.constant"),
            count=workers,
            listener=listener,
            env=dict(os.environ),
            on_serving=lambda: None,
        ).run()


def main(arguments: list[str]) -> int:
    """Serve, or be one of the processes that do."""
    if len(arguments) == 3 and all(word.isdecimal() for word in arguments):
        constant = Constant()
        work(constant, Traffic(lane=constant), Inherited.from_arguments(arguments), DRAIN_S)
        return 0
    parser = argparse.ArgumentParser(prog="python -m api.constant")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args(arguments)
    return serve(options.host, options.port, options.workers)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
