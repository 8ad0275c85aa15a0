"""Writes: the one way from a POST to a committed reply.

The order of the checks is the order of precedence: who calls, how often, the idempotency key, the
role, the address, the body; everything after that is decided by the writer under the book's lock.
Nothing is answered here that is not committed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Generic, TypeVar

from pydantic import BaseModel

from api.bodies import canonical, parse_body
from api.callers import Caller, Role
from api.errors import RETRY_SOON, Problem, not_found, render_refusal
from api.exchange import JSON, Headers, Incoming, Reply
from api.service import Service, check_role
from campaigns import commands
from ledger.books import Book, MalformedId, PublicId
from ledger.commit import (
    Answer,
    GroupCommit,
    KeyInFlight,
    KeyReused,
    OutcomeUnknown,
    QueueFull,
    StoreUnavailable,
)

BodyT = TypeVar("BodyT", bound=BaseModel)

SUCCESS: Final[dict[str, int]] = {
    "drafted": 201,
    "funding_proposed": 202,
    "funded": 200,
    "opened": 200,
    "paused": 200,
    "resumed": 200,
    "closed": 200,
    "entered": 202,
    "claimed": 201,
    "redeemed": 200,
    "refunded": 200,
    "voided": 200,
}
"""What happened → the status that says so."""

_REPLAYED: Final = (b"idempotency-replayed", b"true")
_CONTENT_JSON: Final = (b"content-type", JSON)


@dataclass(frozen=True, slots=True)
class Order(Generic[BodyT]):
    """What one caller asks for: the body as checked, the thing it is about, and the key."""

    caller: Caller
    target: PublicId | None
    body: BodyT
    key: str


@dataclass(frozen=True, slots=True)
class Write(Generic[BodyT]):
    """A kind of write: its address, who may ask, the body's form, and the command it becomes."""

    route: str
    role: Role
    body: type[BodyT]
    prefix: str | None
    """The kind of id in the address; None when the address has none."""
    command: Callable[[Order[BodyT], Service], tuple[Book, commands.Command]]

    async def answer(self, service: Service, call: Incoming, target: str | None = None) -> Reply:
        """Take one call all the way; every problem on it becomes a reply."""
        call.route = self.route
        try:
            return await self._answer(service, call, target)
        except Problem as problem:
            return Reply.of_problem(problem)

    async def _answer(self, service: Service, call: Incoming, target: str | None) -> Reply:
        caller = await service.identify(call)
        key = call.idempotency_key()
        check_role(caller, (self.role,))
        found = self._target(service, target)
        at = service.simulated_instant(call)
        body = parse_body(await call.body(), self.body)
        book, command = self.command(Order(caller, found, body, key), service)
        asked = commands.Call(
            by=caller.actor,
            request_id=call.request_id,
            render=render_refusal,
            key=key,
            fingerprint=hashlib.sha256(canonical(call.path, body)).digest(),
            at=at,
        )
        answer = await _commit(
            service.writers[book], command, asked, service.settings.commit_timeout_s
        )
        return _reply(book, answer)

    def _target(self, service: Service, text: str | None) -> PublicId | None:
        if self.prefix is None or text is None:
            return None
        found = public_id(text, self.prefix)
        if found is None or found.book not in service.writers:
            raise not_found()
        return found


@lru_cache(maxsize=4_096)
def public_id(text: str, prefix: str) -> PublicId | None:
    """Return the id that `text` writes, or None. A rush asks for the same campaign each time."""
    try:
        return PublicId.parse(text, prefix)
    except MalformedId:
        return None


async def _commit(
    writer: GroupCommit, command: commands.Command, asked: commands.Call, timeout_s: float
) -> Answer:
    """Return the committed answer, or raise the problem that tells what is known of the outcome."""
    try:
        return await writer.answer(command.request(asked), timeout_s)
    except QueueFull:
        raise Problem("overloaded", "Too many requests wait already.", headers=RETRY_SOON) from None
    except KeyReused:
        raise Problem(
            "idempotency_key_reused", "This key was used with another call or body."
        ) from None
    except KeyInFlight:
        raise Problem(
            "idempotency_in_flight", "The first call with this key still runs.", headers=RETRY_SOON
        ) from None
    except StoreUnavailable:
        raise Problem(
            "store_unavailable",
            "The store cannot be reached; nothing was done.",
            headers=RETRY_SOON,
        ) from None
    except OutcomeUnknown:
        raise Problem(
            "outcome_unknown",
            "The store's answer was lost or late; the same key tells.",
            headers=RETRY_SOON,
        ) from None


def _reply(book: Book, answer: Answer) -> Reply:
    headers: Headers = [(b"tidebook-position", f"{book}:{answer.position}".encode())]
    if answer.replayed:
        headers.append(_REPLAYED)
    status = SUCCESS.get(answer.code)
    if status is None:
        return Reply.of_refusal(answer.code, answer.body, headers)
    headers.append(_CONTENT_JSON)
    return Reply(status, answer.body, headers)
