"""Replies about persons: what a caller gets, and a replay gives again. None holds a particular."""

from __future__ import annotations

from datetime import datetime
from typing import Final

import msgspec

from campaigns.persons.person import FIELDS, ParticularsInspected, Person
from ledger.books import Book, PublicId

PERSON_PREFIX: Final = "per"


class PersonReply(msgspec.Struct, frozen=True):
    """How a person stands in a book, and which particulars are kept."""

    person: str
    state: str
    kept: list[str]


class InspectionReply(msgspec.Struct, frozen=True):
    """Which particulars an operator may read, for what, and until when."""

    person: str
    fields: list[str]
    purpose: str
    until: datetime


def person_name(book: Book, person: str) -> str:
    """Return the public id of a person in a book: it holds the pseudonym, which no log may."""
    return f"{PERSON_PREFIX}_{book}_{person}"


def person_reply(book: Book, person: Person) -> PersonReply:
    """Return what is told of a person."""
    kept: list[str] = [field for field in FIELDS if field in person.sealed]
    return PersonReply(person_name(book, person.person), person.state, kept)


def inspection_reply(book: Book, event: ParticularsInspected) -> InspectionReply:
    """Return what is told of an inspection; what may be seen is read by itself."""
    name = person_name(book, event.person)
    return InspectionReply(name, list(event.fields), event.purpose, event.until)


def person_of(target: PublicId) -> str:
    """Return the pseudonym that a person's public id holds."""
    return target.uuid.hex
