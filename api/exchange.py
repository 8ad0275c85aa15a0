"""Exchanges: one HTTP call as the handlers see it, and the reply that goes back.

Both ways in, the ordinary routes and the fast path, make the same `Incoming` and send the same
`Reply`, so that a call cannot tell which way it took.
"""

from __future__ import annotations

import re
import time
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any, Final

from api.bodies import check_media_type, read_body
from api.callers import Caller
from api.errors import CONTENT_TYPE, RETRY_AFTER, Problem, problem_body, status_of
from api.logs import request_id

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

JSON: Final = b"application/json"
PROBLEM_JSON: Final = CONTENT_TYPE.encode()

SECURITY_HEADERS: Final[tuple[tuple[bytes, bytes], ...]] = (
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"referrer-policy", b"no-referrer"),
    (b"strict-transport-security", b"max-age=31536000; includeSubDomains"),
    (b"x-content-type-options", b"nosniff"),
)
NO_STORE: Final = (b"cache-control", b"no-store")

KEY_CHARS_MAX: Final = 128
_QUOTED_KEY: Final = re.compile(rb'"((?:[ !#-\[\]-~]|\\["\\])*)"')
_ESCAPED: Final = re.compile(rb"\\(.)")


class Incoming:
    """One HTTP call: its headers by name, its body on demand, and what it turned out to be."""

    __slots__ = (
        "address",
        "caller",
        "code",
        "headers",
        "method",
        "path",
        "receive",
        "repeated",
        "request_id",
        "route",
        "started",
    )

    def __init__(self, scope: Scope, receive: Receive, trusted_proxies: int = 0) -> None:
        raw: Headers = scope["headers"]
        self.headers: dict[bytes, bytes] = dict(raw)
        self.repeated = _repeated(raw) if len(self.headers) != len(raw) else frozenset[bytes]()
        self.method: str = scope["method"]
        self.path: str = scope["path"]
        self.receive = receive
        self.request_id = request_id(self.headers.get(b"x-request-id"))
        client = scope.get("client")
        self.address = address_of(client[0] if client else "", self.headers, trusted_proxies)
        self.started = time.perf_counter()
        self.route = "unmatched"
        """The template of the address, for logs and metrics; never the address itself."""
        self.caller: Caller | None = None
        self.code: str | None = None
        """The code of the problem that the call was answered with."""

    async def body(self) -> bytes:
        """Return the body, once its size and media type are known to be acceptable."""
        body = await read_body(self.receive, self.headers)
        check_media_type(body, self.headers)
        return body


def idempotency_key(headers: Mapping[bytes, bytes], repeated: AbstractSet[bytes]) -> str:
    """Return the Idempotency-Key, unquoted; raise the problem of a missing or bad one."""
    raw = headers.get(b"idempotency-key")
    if raw is None:
        raise Problem(
            "idempotency_key_missing",
            "A POST needs an Idempotency-Key header.",
            headers={"Link": '</problems/idempotency_key_missing>; rel="describedby"'},
        )
    key = _unquoted(raw)
    if key is None or b"idempotency-key" in repeated:
        raise Problem(
            "idempotency_key_invalid",
            f"An Idempotency-Key has 1 to {KEY_CHARS_MAX} printable ASCII characters.",
        )
    return key


@dataclass(slots=True)
class Reply:
    """What goes back: status, the headers of this reply alone, and the body's bytes."""

    status: int
    body: bytes
    headers: Headers
    code: str | None = None
    """The code of the problem, when it is one."""

    @classmethod
    def of_problem(cls, problem: Problem) -> Reply:
        """Return the reply that a problem is told with."""
        headers: Headers = [(b"content-type", PROBLEM_JSON)]
        headers += [(k.lower().encode(), v.encode()) for k, v in problem.headers.items()]
        return cls(problem.status, problem.body, headers, problem.trouble.code)

    @classmethod
    def of_refusal(cls, code: str, body: bytes, headers: Headers) -> Reply:
        """Return the reply of a refusal whose body was rendered when it was decided."""
        wait = RETRY_AFTER.get(code)
        if wait is not None:
            headers = [(b"retry-after", wait.encode()), *headers]
        return cls(status_of(code), body, [(b"content-type", PROBLEM_JSON), *headers], code)


async def send_reply(send: Send, reply: Reply, call: Incoming) -> None:
    """Send a reply with the headers that every reply has."""
    await send(
        {
            "type": "http.response.start",
            "status": reply.status,
            "headers": [
                *reply.headers,
                (b"content-length", b"%d" % len(reply.body)),
                (b"x-request-id", call.request_id.encode()),
                NO_STORE,
                *SECURITY_HEADERS,
            ],
        }
    )
    await send({"type": "http.response.body", "body": reply.body})


def internal_error() -> Reply:
    """Return the reply to a call that met a fault of ours."""
    body = problem_body("internal_error", "Something broke here; the request id finds it.")
    return Reply.of_refusal("internal_error", body, [])


def _repeated(raw: Headers) -> frozenset[bytes]:
    names = [name for name, _ in raw]
    return frozenset(name for name in names if names.count(name) > 1)


def address_of(peer: str, headers: Mapping[bytes, bytes], trusted_proxies: int) -> str:
    """Return the caller's network address: the peer's, or what trusted proxies say."""
    if trusted_proxies:
        hops = headers.get(b"x-forwarded-for", b"").decode("latin-1").split(",")
        if len(hops) >= trusted_proxies:
            return hops[-trusted_proxies].strip()
    return peer


def _unquoted(raw: bytes) -> str | None:
    if raw.startswith(b'"') and (quoted := _QUOTED_KEY.fullmatch(raw)) is not None:
        raw = _ESCAPED.sub(rb"\1", quoted[1])
    if not raw.isascii() or len(raw) > KEY_CHARS_MAX:
        return None
    key = raw.decode("ascii")
    return key if key.isprintable() and not key.isspace() and key else None
