"""A person's own stream: particulars kept and shown, and the erasure.

A particular is sealed under the person's own key before it becomes part of an event, so that what
is hashed into the log is unreadable without that key. Nothing here can open it, and nothing here
may ever hold one that is not sealed.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, ClassVar, Final, Literal, get_args
from uuid import UUID, uuid5

import msgspec
from msgspec import UNSET, UnsetType
from msgspec.structs import replace

from ledger.events import Event

PERSON_NAMESPACE: Final = UUID("c2d9f6d4-8a3f-5d0e-b7c1-4b8e6f2a9d35")

Field = Literal["telephone", "address", "payee_name"]
FIELDS: Final[tuple[Field, ...]] = get_args(Field)

Purpose = Literal["contact", "delivery", "payout", "complaint", "legal_duty"]
"""Why an operator looks at particulars. No free words: these would hold particulars themselves."""

Basis = Literal["written_request", "guardian", "legal_duty"]
"""On what an operator asks for an erasure on behalf of a person."""

State = Literal["known", "erasing", "erased"]

INSPECTED_FOR: Final = timedelta(minutes=15)
"""How long an operator may read what was shown; then it is asked for, and recorded, again."""

INSPECTIONS_SHOWN: Final = 100
"""The last inspections that a person is shown; all of them stay in the book."""


def person_id(person: str) -> UUID:
    """Return the stream of a person, which is the same in every book."""
    return uuid5(PERSON_NAMESPACE, person)


class ParticularsKept(Event, frozen=True, kw_only=True):
    """A person gave particulars, each sealed under the person's own key."""

    TOPIC: ClassVar[str] = "person.particulars_kept"
    person: str
    sealed: dict[Field, str]


class ParticularsInspected(Event, frozen=True, kw_only=True):
    """An operator may read some of a person's particulars until an instant, for a purpose."""

    TOPIC: ClassVar[str] = "person.particulars_inspected"
    person: str
    fields: list[Field]
    purpose: Purpose
    until: datetime


class ErasureProposed(Event, frozen=True, kw_only=True):
    """An operator asked for an erasure on behalf of a person; a second one must approve it."""

    TOPIC: ClassVar[str] = "person.erasure_proposed"
    person: str
    basis: Basis


class ErasureRequested(Event, frozen=True, kw_only=True):
    """The person, or a second operator on behalf of the person, asked for the erasure."""

    TOPIC: ClassVar[str] = "person.erasure_requested"
    person: str
    proposed_by: str | UnsetType = UNSET
    basis: Basis | UnsetType = UNSET


class PersonErased(Event, frozen=True, kw_only=True):
    """The person's key was destroyed, and what was held in this book had been given up before."""

    TOPIC: ClassVar[str] = "person.erased"
    person: str


PERSON_EVENTS: Final[tuple[type[Event], ...]] = (
    ParticularsKept,
    ParticularsInspected,
    ErasureProposed,
    ErasureRequested,
    PersonErased,
)


class Inspection(msgspec.Struct, frozen=True):
    """That somebody was allowed to read particulars: who, which, why, from when until when."""

    by: str
    fields: tuple[Field, ...]
    purpose: Purpose
    at: datetime
    until: datetime


class Proposal(msgspec.Struct, frozen=True):
    """An erasure that waits for a second operator."""

    basis: Basis
    by: str


class Person(msgspec.Struct, frozen=True, kw_only=True):
    """A person as the events of one book made it. `sealed` has the last of each particular."""

    id: UUID
    version: int
    person: str
    state: State = "known"
    sealed: dict[Field, str] = {}
    inspections: tuple[Inspection, ...] = ()
    proposal: Proposal | None = None


class PersonFold:
    """Folds a person's events into a `Person`."""

    def evolve(self, state: Person | None, event: Any) -> Person:
        """Return the person after `event`."""
        known = state or Person(id=event.originator_id, version=0, person=event.person)
        known = replace(known, version=event.originator_version)
        match event:
            case ParticularsKept():
                return replace(known, sealed=known.sealed | event.sealed)
            case ParticularsInspected():
                inspection = Inspection(
                    event.by.id, tuple(event.fields), event.purpose, event.at, event.until
                )
                last = (*known.inspections, inspection)[-INSPECTIONS_SHOWN:]
                return replace(known, inspections=last)
            case ErasureProposed():
                return replace(known, proposal=Proposal(event.basis, event.by.id))
            case ErasureRequested():
                return replace(known, state="erasing", proposal=None)
            case PersonErased():
                return replace(known, state="erased", proposal=None)
            case _:
                raise AssertionError(f"{event.TOPIC} is no event of a person")


PERSON_FOLD: Final = PersonFold()
