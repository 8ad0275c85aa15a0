"""Writes: the one way from a POST to a committed reply.

The order of the checks is the order of precedence: who calls, how often, the idempotency key, the
role, the address, the body; everything after that is decided by the writer under the book's lock.
Nothing is answered here that is not committed.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any, Final, Generic, NamedTuple, TypeVar

import msgspec
from pydantic import BaseModel

from api.bodies import NOTHING, canonical, parse_body
from api.callers import Caller, Role
from api.errors import Problem, not_found, render_refusal
from api.exchange import JSON, Headers, Incoming, Reply, idempotency_key
from api.passage import NO_POSITION, Passage
from api.ratelimit import address_key
from api.schemas import EmptyBody
from api.service import Service, check_role
from campaigns import commands
from campaigns.campaign import POOL
from campaigns.gate import Knock
from ledger.appending import request_id as request_mark
from ledger.books import Book, MalformedId, PublicId
from ledger.commit import Answer, Request

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
    "registered": 201,
    "withdrawn": 200,
    "entry_voided": 200,
    "claimed": 201,
    "redeemed": 200,
    "refunded": 200,
    "voided": 200,
    "paid": 200,
    "wallet_closed": 200,
    "filling_proposed": 202,
    "purse_filled": 200,
    "purse_emptied": 200,
    "group_funded": 201,
    "share_taken": 201,
    "giving_up_proposed": 202,
    "group_returned": 200,
    "particulars_kept": 200,
    "particulars_inspected": 201,
    "erasure_proposed": 202,
    "erasure_requested": 202,
    "correction_proposed": 202,
    "corrected": 200,
}
"""What happened → the status that says so."""

_REPLAYED: Final = (b"idempotency-replayed", b"true")
_CONTENT_JSON: Final = (b"content-type", JSON)


class Order(msgspec.Struct, Generic[BodyT], frozen=True, gc=False):
    """What one caller asks for: the body as checked, the thing it is about, and the key."""

    caller: Caller
    target: PublicId | None
    body: BodyT
    key: str


class Heading(msgspec.Struct, frozen=True, gc=False):
    """What a call's headers and address say, once they are known to be right."""

    caller: Caller
    key: str
    target: PublicId | None
    at: datetime | None
    shown: bytes | None
    """The pass of a waiting room, as it was sent."""

    def order(self, body: BodyT) -> Order[BodyT]:
        """Return what is asked for with this body."""
        return Order(self.caller, self.target, body, self.key)


class Errand(msgspec.Struct, frozen=True, gc=False):
    """What a request to the store is made of, when it is asked: most claims end at the gate."""

    write: Write[Any]
    service: Service
    heading: Heading
    body: BaseModel
    path: str
    request_id: str
    mark: bytes
    command: commands.Command | None = None
    """None when it is made with the request."""

    def request(self) -> Request:
        """Return the request; raise what the command finds wrong beforehand."""
        write, heading = self.write, self.heading
        command = self.command
        if command is None:
            command = write.command(heading.order(self.body), self.service)[1]
        return command.request(
            commands.Call(
                by=heading.caller.actor,
                request_id=self.request_id,
                render=render_refusal,
                key=heading.key,
                fingerprint=write.fingerprint(self.path, self.body),
                at=heading.at,
                mark=self.mark,
            )
        )


class Asked(NamedTuple):
    """A call whose every check was passed: what the writer of a book is to decide."""

    book: Book
    request: Callable[[], Request]
    """Made when the store is to be asked: most claims of a rush end at the gate."""
    knock: Knock | None
    """What the gate is asked first, where there is one for this kind of write."""


@dataclass(frozen=True, slots=True)
class Write(Generic[BodyT]):
    """A kind of write: its address, who may ask, the body's form, and the command it becomes."""

    route: str
    role: Role
    body: type[BodyT]
    prefix: str | None
    """The kind of id in the address; None when the address has none."""
    command: Callable[[Order[BodyT], Service], tuple[Book, commands.Command]]
    rush: bool = False
    """Whether it is a claim: then it passes the gate."""
    nothing: BodyT | None = None
    """The body of a call that says nothing, where that is enough."""

    async def answer(self, service: Service, call: Incoming, target: str | None = None) -> Reply:
        """Take one call all the way; every problem on it becomes a reply."""
        call.route = self.route
        reply = await self._reply(service, call, target)
        call.code = reply.code
        return reply

    async def _reply(self, service: Service, call: Incoming, target: str | None) -> Reply:
        try:
            caller = await service.identify(call)
            heading = self.heading(service, call.headers, call.repeated, caller, target)
            body = self.parse(await call.body())
            asked = self.asked(service, heading, call.path, body, call.request_id, call.address)
            return await _Awaited(service, caller, asked, call.started).reply()
        except Problem as problem:
            return Reply.of_problem(problem)

    # --- the checks, in their order after who calls and how fast -----------------------------

    def heading(
        self,
        service: Service,
        headers: Mapping[bytes, bytes],
        repeated: AbstractSet[bytes],
        caller: Caller,
        target: str | None,
    ) -> Heading:
        """Check key, role, address and time; `repeated` has the headers that came twice."""
        key = idempotency_key(headers, repeated)
        if caller.role != self.role:
            check_role(caller, (self.role,))
        found = self._target(service, target)
        at = service.simulated_instant(headers, repeated)
        return Heading(caller, key, found, at, headers.get(b"tidebook-pass"))

    def parse(self, body: bytes) -> BodyT:
        """Return the body as its form says, or raise what is wrong with it."""
        if self.nothing is not None and body in NOTHING:
            return self.nothing
        return parse_body(body, self.body)

    def asked(
        self,
        service: Service,
        heading: Heading,
        path: str,
        body: BodyT,
        request_id: str,
        address: str,
    ) -> Asked:
        """Return what the writer is to decide; raise what the command finds wrong beforehand."""
        caller, target, key = heading.caller, heading.target, heading.key
        mark = request_mark(caller.scope, key)
        if not self.rush:
            book, command = self.command(heading.order(body), service)
            errand = Errand(self, service, heading, body, path, request_id, mark, command)
            return Asked(book, errand.request, None)
        assert target is not None, "a claim names its campaign"
        _, book, campaign = target
        errand = Errand(self, service, heading, body, path, request_id, mark)
        shown = heading.shown
        passed = shown is not None and service.passes.admits(shown, campaign, caller.person)
        place = _address_mark(address)
        who, scope, device = caller.person, caller.scope, caller.device
        knock = Knock(book, campaign, POOL, who, mark, scope, key, device, place, passed)
        return Asked(book, errand.request, knock)

    def _target(self, service: Service, text: str | None) -> PublicId | None:
        if self.prefix is None or text is None:
            return None
        found = public_id(text, self.prefix)
        if found is None or found.book not in service.writers:
            raise not_found()
        return found

    def fingerprint(self, path: str, body: BaseModel) -> bytes:
        """Return what tells this call from another one under the same key."""
        if body is self.nothing:
            return _fingerprint_of_nothing(path)
        return hashlib.sha256(canonical(path, body)).digest()


@lru_cache(maxsize=4_096)
def _fingerprint_of_nothing(path: str) -> bytes:
    """All claims of a campaign are one call, by as many callers."""
    return hashlib.sha256(canonical(path, EmptyBody())).digest()


@lru_cache(maxsize=4_096)
def _address_mark(address: str) -> str | None:
    return address_key(address) if address else None


class _Awaited(Passage):
    """A passage for whose end a coroutine waits."""

    __slots__ = ("_book", "_waiter")

    def __init__(self, service: Service, caller: Caller, asked: Asked, began: float) -> None:
        loop = asyncio.get_running_loop()
        book, request, knock = asked
        writer = service.writers[book]
        super().__init__(service.passages, loop, caller, writer, request, knock, began)
        self._book = book
        self._waiter: asyncio.Future[Reply] = loop.create_future()

    async def reply(self) -> Reply:
        """Go, and return the reply at the end, or raise the problem or fault."""
        self.go()
        return await self._waiter

    def tell(self, answer: Answer) -> None:
        if not self._waiter.done():
            self._waiter.set_result(reply_of(self._book, answer))

    def tell_problem(self, problem: Problem) -> None:
        if not self._waiter.done():
            self._waiter.set_exception(problem)

    def tell_fault(self, error: Exception) -> None:
        if not self._waiter.done():
            self._waiter.set_exception(error)


async def awaited(service: Service, caller: Caller, asked: Asked, began: float) -> Reply:
    """Ask the writer and return the reply, or raise the problem or fault."""
    return await _Awaited(service, caller, asked, began).reply()


@lru_cache(maxsize=4_096)
def public_id(text: str, prefix: str) -> PublicId | None:
    """Return the id that `text` writes, or None. A rush asks for the same campaign each time."""
    try:
        return PublicId.parse(text, prefix)
    except MalformedId:
        return None


def reply_of(book: Book, answer: Answer) -> Reply:
    """Return the reply that tells an answer."""
    headers: Headers = []
    if answer.position != NO_POSITION:
        headers.append((b"tidebook-position", b"%b:%d" % (book.encode(), answer.position)))
    if answer.replayed:
        headers.append(_REPLAYED)
    status = SUCCESS.get(answer.code)
    if status is None:
        return Reply.of_refusal(answer.code, answer.body, headers)
    return Reply(status, answer.body, [_CONTENT_JSON, *headers])
