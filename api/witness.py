"""The witness as a process of its own: two addresses over HTTP, and nothing else.

It shares no database, no key and no memory with the ledger whose heads it cosigns, so that it can
run on somebody else's machine. Only what is in `ledger/transparency/` is needed for it.
"""

from __future__ import annotations

import asyncio
import logging
import re
import sqlite3
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any, Final

from ledger.transparency.submissions import SUBMISSION_BYTES_MAX
from ledger.transparency.witnessing import Answer, UnreadableLogs, Witness

_LATEST: Final = re.compile(r"/([0-9a-f]{64})/checkpoint", re.ASCII)
_NOT_FOUND: Final = Answer(HTTPStatus.NOT_FOUND, b"there is nothing here\n")
_NOT_ALLOWED: Final = Answer(HTTPStatus.METHOD_NOT_ALLOWED, b"another method is wanted\n")
_TOO_LARGE: Final = Answer(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, b"the body is too large\n")
_UNAVAILABLE: Final = Answer(HTTPStatus.SERVICE_UNAVAILABLE, b"nothing was cosigned; try again\n")

_log = logging.getLogger("tidebook.witness")

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]


class WitnessApp:
    """The ASGI application of a witness."""

    def __init__(self, witness: Witness) -> None:
        self._witness = witness

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one call."""
        if scope["type"] != "http":
            raise NotImplementedError(scope["type"])
        try:
            answer = await self._answer(scope, receive)
        except (sqlite3.Error, UnreadableLogs) as error:
            _log.error("the witness cannot answer: %s", error)
            answer = _UNAVAILABLE
        await _send(send, answer)
        _log.info("%s %s %d", scope["method"], scope["path"][:80], answer.status)

    async def _answer(self, scope: Scope, receive: Receive) -> Answer:
        method, path = scope["method"], scope["path"]
        if path == "/add-checkpoint":
            if method != "POST":
                return _NOT_ALLOWED
            body = await _body(receive)
            if body is None:
                return _TOO_LARGE
            return await asyncio.to_thread(self._witness.add_checkpoint, body)
        latest = _LATEST.fullmatch(path)
        if latest is None:
            return _NOT_FOUND
        if method != "GET":
            return _NOT_ALLOWED
        return await asyncio.to_thread(self._witness.latest, latest[1])


async def _body(receive: Receive) -> bytes | None:
    """Return the body, None when it is larger than any submission."""
    body = b""
    more = True
    while more:
        message = await receive()
        if message["type"] != "http.request":
            return None
        body += message.get("body", b"")
        if len(body) > SUBMISSION_BYTES_MAX:
            return None
        more = message.get("more_body", False)
    return body


async def _send(send: Send, answer: Answer) -> None:
    await send(
        {
            "type": "http.response.start",
            "status": int(answer.status),
            "headers": [
                (b"content-type", answer.content_type.encode()),
                (b"content-length", b"%d" % len(answer.body)),
                (b"cache-control", b"no-store"),
                (b"x-content-type-options", b"nosniff"),
            ],
        }
    )
    await send({"type": "http.response.body", "body": answer.body})
