"""The ceiling: a raw ASGI application that answers a constant. It must never do any work.

Whatever a server on this machine does for a claim, it cannot be faster than this. The body is as
long as the reply to a claim, so that the bytes on the wire are alike.
"""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

from granian.constants import Interfaces
from granian.server import Server

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

BODY = b'{"coupon":"' + b"0" * 360 + b'"}'
START = {
    "type": "http.response.start",
    "status": 201,
    "headers": [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(BODY)).encode()),
    ],
}
END = {"type": "http.response.body", "body": BODY}

Message = dict[str, Any]


async def application(
    _scope: Message,
    _receive: Callable[[], Awaitable[Message]],
    send: Callable[[Message], Awaitable[None]],
) -> None:
    """Read nothing, decide nothing, answer."""
    await send(START)
    await send(END)


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve the constant until terminated."""
    parser = argparse.ArgumentParser(
        prog="python -m loadtest.baselines.constant",
        description="Serve a constant answer: the ceiling of any server on this machine.",
    )
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--workers", type=int, default=1)
    options = parser.parse_args(arguments)
    Server(
        "loadtest.baselines.constant:application",
        address=options.host,
        port=options.port,
        workers=options.workers,
        interface=Interfaces.ASGINL,
        log_access=False,
        log_level="error",  # type: ignore[arg-type]
    ).serve()
    return 0


if __name__ == "__main__":
    sys.exit(main())
