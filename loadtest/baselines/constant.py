"""The ceiling of any ASGI server here: a raw application that answers a constant, and does no work.

The body is as long as the reply to a claim, so that the bytes on the wire are alike. The ceiling of
our own server is measured apart from it: that one has a lane of its own.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from loadtest.baselines import serving

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
    parser = serving.parser(
        "python -m loadtest.baselines.constant",
        "Serve a constant answer: the ceiling of any ASGI server on this machine.",
        workers=1,
    )
    serving.serve("loadtest.baselines.constant:application", parser.parse_args(arguments))
    return 0


if __name__ == "__main__":
    sys.exit(main())
