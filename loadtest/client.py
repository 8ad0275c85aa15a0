"""One person or machine that calls the service: a token, JSON in and out, nothing hidden.

For setting the stage and for checks, where speed does not matter. It must never repair an answer:
whatever is not the expected status is raised with what the service said.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Self
from uuid import uuid4

import httpx

if TYPE_CHECKING:
    from collections.abc import Iterator

TIMEOUT_S: Final = 30.0
PAGE: Final = 200
"""Events per page of the feed: as many as the service gives at once."""

PROXIED: Final = {"X-Forwarded-For": "127.0.0.1"}
"""What a proxy of this machine adds; a service without trusted proxies does not look at it."""

Json = dict[str, Any]


class UnexpectedAnswer(Exception):
    """The service answered with another status than the caller can go on with."""

    def __init__(self, what: str, status: int, text: str) -> None:
        super().__init__(f"{what} was answered {status}: {text[:500]}")
        self.status = status


class Caller:
    """A client with the token of one identity in one role."""

    def __init__(self, url: str, token: str | None = None) -> None:
        headers = {**PROXIED, **({"Authorization": f"Bearer {token}"} if token else {})}
        self.url = url
        self._http = httpx.Client(base_url=url, headers=headers, timeout=TIMEOUT_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def get(self, path: str, *, min_position: str | None = None, **query: str | int) -> Json:
        """The JSON of a GET that must be answered 200, of a moment not before `min_position`."""
        headers = {"Tidebook-Min-Position": min_position} if min_position else {}
        reply = self._http.get(path, params=query, headers=headers)
        return self._json(f"GET {path}", reply, 200)

    def post(self, path: str, body: Json | None = None, *, key: str | None = None) -> Json:
        """The JSON of a POST, with a fresh idempotency key, that must be answered 2xx."""
        headers = {"Idempotency-Key": key or uuid4().hex}
        reply = self._http.post(path, json=body or {}, headers=headers)
        return self._json(f"POST {path}", reply, 200, 201, 202)

    def events(self, book: str, *, after: int = 0) -> Iterator[Json]:
        """Every event of a book from a position on, in order, page by page."""
        while True:
            page = self.get(f"/v1/books/{book}/events", after=after, limit=PAGE)
            yield from page["items"]
            if page["next"] is None:
                return
            after = page["next"]

    @staticmethod
    def _json(what: str, reply: httpx.Response, *expected: int) -> Json:
        if reply.status_code not in expected:
            raise UnexpectedAnswer(what, reply.status_code, reply.text)
        result: Json = reply.json()
        return result


def sign_in(url: str, role: str, identity: str, *, merchant: str | None = None) -> Caller:
    """A caller with a token of the development issuer."""
    body: Json = {"role": role, "identity": identity}
    if merchant is not None:
        body["merchant"] = merchant
    with Caller(url) as anybody:
        token = anybody.post("/dev/token", body)["access_token"]
    return Caller(url, token)
