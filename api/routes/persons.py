"""Persons: give particulars, look at them for a purpose, and be erased.

A particular is sealed before anything is made of a body, so that no event, fingerprint or kept
reply can be searched for one. The replies of writes hold none; reading is a call of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from fastapi import APIRouter, Request, Response

from api import examples
from api.callers import Caller
from api.errors import Problem
from api.exchange import Incoming, Reply
from api.personviews import ParticularsView, particulars_view
from api.routes.ordinary import PersonName, Words, add_write, service_of
from api.routes.reading import Staff, Tourist, as_json, public_id_of, read_docs
from api.schemas import (
    BasisBody,
    Body,
    ErasureBody,
    InspectionBody,
    ParticularsBody,
)
from api.service import Service
from api.sessions import suspend
from api.vault.sealing import Place, seal
from api.writes import Order, Write, awaited
from campaigns import commands
from campaigns.event_types import MAPPER
from campaigns.persons.commands import (
    ApproveErasure,
    InspectParticulars,
    KeepParticulars,
    ProposeErasure,
    RequestErasure,
)
from campaigns.persons.person import FIELDS, PERSON_FOLD, Field, Person, person_id
from campaigns.persons.replies import PERSON_PREFIX, InspectionReply, PersonReply, person_of
from ledger.appending import request_id
from ledger.books import Book, PublicId
from ledger.history import streams_by_key

router: Final = APIRouter(tags=["persons"])

Command = tuple[Book, commands.Command]


class SealedBody(Body):
    """Particulars as they are recorded; the only form that goes on from here."""

    sealed: dict[Field, str]


def home_book(service: Service) -> Book:
    """Return the book in which this ledger keeps what it keeps of persons: the first."""
    return service.settings.books[0]


@dataclass(frozen=True, slots=True)
class _Keeping(Write[Any]):
    """Keeping particulars: sealed under the person's key before anything is made of them."""

    async def _reply(self, service: Service, call: Incoming, target: str | None) -> Reply:
        try:
            caller = await service.identify(call)
            heading = self.heading(service, call.headers, call.repeated, caller, target)
            given = self.parse(await call.body())
            body = await _sealed(service, caller, heading.key, given)
            asked = self.asked(service, heading, call.path, body, call.request_id, call.address)
            return await awaited(service, caller, asked, call.started)
        except Problem as problem:
            return Reply.of_problem(problem)


@dataclass(frozen=True, slots=True)
class _Erasing(Write[Any]):
    """Asking for an erasure, after which nobody calls as this person any more.

    Whoever dies in between leaves it to the eraser, who does the same.
    """

    async def answer(self, service: Service, call: Incoming, target: str | None = None) -> Reply:
        """Take the call all the way, and end the sessions of whoever is to be erased."""
        reply = await Write.answer(self, service, call, target)
        if reply.code is None and call.caller is not None:
            person = call.caller.person if target is None else target.rpartition("_")[2]
            scope = f"tourist:{person}"
            service.sessions.revocations.note_scope(scope)
            await service.in_store(lambda cursor: suspend(cursor, scope))
        return reply


async def _sealed(
    service: Service, caller: Caller, idempotency_key: str, given: ParticularsBody
) -> SealedBody:
    """Return particulars sealed under the person's key; raise the problem of one who has none."""
    person, book = caller.person, home_book(service)
    key = await service.in_store(lambda cursor: service.vault.made_key(cursor, person))
    if key is None:
        raise Problem("person_erased", "Nothing is kept of this person any more.")
    mark = request_id(caller.scope, idempotency_key)
    return SealedBody(
        sealed={
            field: seal(key, value, Place(book, person, field), mark)
            for field in FIELDS
            if (value := getattr(given, field)) is not None
        }
    )


def _target(order: Order[Any]) -> PublicId:
    assert order.target is not None, "the address of this write names a person"
    return order.target


def _keep(order: Order[Any], service: Service) -> Command:
    book = home_book(service)
    return book, KeepParticulars(book, order.caller.person, order.body.sealed)


def _inspect(order: Order[InspectionBody], _service: Service) -> Command:
    target, body = _target(order), order.body
    fields = tuple(body.fields)
    return target.book, InspectParticulars(target.book, person_of(target), fields, body.purpose)


def _request(order: Order[ErasureBody], service: Service) -> Command:
    book = home_book(service)
    return book, RequestErasure(book, order.caller.person)


def _propose(order: Order[BasisBody], _service: Service) -> Command:
    target = _target(order)
    return target.book, ProposeErasure(target.book, person_of(target), order.body.basis)


def _approve(order: Order[BasisBody], _service: Service) -> Command:
    target = _target(order)
    return target.book, ApproveErasure(target.book, person_of(target), order.body.basis)


_ONE: Final = "/v1/persons/{person}"

KEEP: Final = _Keeping("/v1/me/particulars", "tourist", ParticularsBody, None, _keep)
INSPECT: Final = Write(f"{_ONE}/inspections", "operator", InspectionBody, PERSON_PREFIX, _inspect)
REQUEST: Final = _Erasing("/v1/me/erasure", "tourist", ErasureBody, None, _request)
PROPOSE: Final = Write(f"{_ONE}/erasure", "operator", BasisBody, PERSON_PREFIX, _propose)
APPROVE: Final = _Erasing(
    f"{_ONE}/erasure/approval", "operator", BasisBody, PERSON_PREFIX, _approve
)

_WORDS: Final[tuple[tuple[Write[Any], Words], ...]] = (
    (
        KEEP,
        Words(
            "Give particulars",
            "keep_particulars",
            "particulars_kept",
            PersonReply,
            examples.PARTICULARS,
            examples.person("known"),
        ),
    ),
    (
        INSPECT,
        Words(
            "Ask to read a person's particulars, for a purpose that is recorded",
            "inspect_particulars",
            "particulars_inspected",
            InspectionReply,
            examples.INSPECTION,
            examples.INSPECTED,
        ),
    ),
    (
        REQUEST,
        Words(
            "Ask to be erased, and give up what one holds",
            "request_erasure",
            "erasure_requested",
            PersonReply,
            {"give_up": True},
            examples.person("erasing"),
        ),
    ),
    (
        PROPOSE,
        Words(
            "Propose an erasure on behalf of a person",
            "propose_erasure",
            "erasure_proposed",
            PersonReply,
            examples.BASIS,
            examples.person("known"),
        ),
    ),
    (
        APPROVE,
        Words(
            "Approve an erasure, as a second operator",
            "approve_erasure",
            "erasure_requested",
            PersonReply,
            examples.BASIS,
            examples.person("erasing"),
        ),
    ),
)

for _write, _words in _WORDS:
    add_write(router, _write, _words)


# --- reading --------------------------------------------------------------------------------------


@router.get(
    "/v1/me/particulars",
    summary="Look at what is kept of oneself, and at who looked at it",
    operation_id="get_particulars",
    **read_docs(ParticularsView, examples.PARTICULARS_VIEW, fresh=False),
)
async def get_particulars(request: Request, caller: Tourist) -> Response:
    """For tourists. It is read from the book, never from a read model."""
    service = service_of(request)
    person, key, _ = await _kept(service, home_book(service), caller.person)
    view = particulars_view(home_book(service), caller.person, person, key, set(FIELDS))
    return as_json(view)


@router.get(
    f"{_ONE}/particulars",
    summary="Read what one was allowed to read of a person",
    operation_id="read_particulars",
    **read_docs(ParticularsView, examples.PARTICULARS_VIEW, "not_found", fresh=False),
)
async def read_particulars(request: Request, person: PersonName, caller: Staff) -> Response:
    """For the operator who asked for it, until the inspection ends.

    Everybody else of the staff sees who looked at what and why, and every particular as null.
    """
    target = public_id_of(request, person, PERSON_PREFIX)
    service = service_of(request)
    found, key, now = await _kept(service, target.book, person_of(target))
    readable = _readable(caller, found, now)
    return as_json(particulars_view(target.book, person_of(target), found, key, readable))


def _readable(caller: Caller, person: Person | None, now: datetime) -> set[str]:
    if person is None:
        return set()
    return {
        field
        for one in person.inspections
        if one.by == caller.actor.id and now < one.until
        for field in one.fields
    }


async def _kept(
    service: Service, book: Book, name: str
) -> tuple[Person | None, bytes | None, datetime]:
    """Return a person as the book has them, their key if there still is one, and the time."""

    def look(cursor: Any) -> tuple[Person | None, bytes | None, datetime]:
        person: Person | None = None
        stream = person_id(name)
        for positioned in streams_by_key(cursor, book, MAPPER, [stream]).get(stream, []):
            person = PERSON_FOLD.evolve(person, positioned.event)
        key = service.vault.key(cursor, name)
        cursor.execute("SELECT clock_timestamp()")
        return person, key, cursor.fetchone()[0]

    return await service.read(look)
