"""Erasures: who asked to be erased, and of whom that is done, book by book.

The eraser reads here what is left to do, and an auditor what was done. A row is a pseudonym and
two positions: nothing of the person, and no particular, sealed or not, is ever here.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final, NamedTuple

import msgspec

from campaigns.event_types import EVENT_TYPES
from projections.projection import Batch, Projection, View, read_statements
from projections.rows import change_rows

NAME: Final = "erasures"

_SQL: Final = read_statements(NAME)

# What is read of the events


class Requested(View):
    at: str
    person: str


class Erased(View):
    at: str
    person: str


_OWN: Final[dict[str, type[View] | None]] = {
    "person.erasure_requested": Requested,
    "person.erased": Erased,
}

READS: Final[dict[str, type[View] | None]] = {**dict.fromkeys(EVENT_TYPES.topics), **_OWN}
"""Whatever else this program knows erases nobody."""

# Rows, and how a batch becomes rows


class ErasureRow(msgspec.Struct, gc=False):
    book: str
    person: str
    requested_at: str | None = None
    requested_position: int | None = None
    erased_at: str | None = None
    erased_position: int | None = None


def fold(book: str, batch: Batch) -> list[ErasureRow]:
    """Return what a batch says of each person."""
    rows: dict[str, ErasureRow] = {}
    for event in batch:
        assert isinstance(event, Requested | Erased)
        row = rows.setdefault(event.person, ErasureRow(book, event.person))
        if isinstance(event, Requested):
            row.requested_at, row.requested_position = event.at, event.position
        else:
            row.erased_at, row.erased_position = event.at, event.position
    return list(rows.values())


def apply(curs: Any, book: str, batch: Batch) -> None:
    """Write a batch."""
    change_rows(curs, _SQL["change"], book, fold(book, batch))


class ErasureLoader:
    """Erasures are few: a rebuild writes their rows as they are."""

    def load(self, curs: Any, book: str, batch: Batch) -> None:
        """Write a batch."""
        apply(curs, book, batch)

    def settle(self, curs: Any) -> None:
        """Nothing waits."""


ERASURES: Final = Projection(NAME, READS, _SQL, apply, ErasureLoader)

# Queries


class Erasure(NamedTuple):
    """The erasure of a person in a book; one that was not asked for there has no request."""

    book: str
    person: str
    requested_at: datetime | None
    requested_position: int | None
    erased_at: datetime | None
    erased_position: int | None

    @property
    def state(self) -> str:
        """`erasing` until it is done, then `erased`."""
        return "erasing" if self.erased_at is None else "erased"


_FIELDS: Final = ", ".join(Erasure._fields)

_PENDING: Final = f"""
SELECT {_FIELDS} FROM rm_erasures.person
WHERE erased_at IS NULL ORDER BY requested_at, book, person LIMIT %s
"""  # noqa: S608 - names of columns

_ALL: Final = f"""
SELECT {_FIELDS} FROM rm_erasures.person
WHERE book = ANY (%s) ORDER BY book, coalesce(requested_position, erased_position)
"""  # noqa: S608 - names of columns

_OF_PERSON: Final = f"""
SELECT {_FIELDS} FROM rm_erasures.person WHERE person = %s ORDER BY book
"""  # noqa: S608 - names of columns

_RECORDED: Final = """
SELECT person FROM rm_erasures.person WHERE book = %s AND erased_at IS NOT NULL
"""


def pending(curs: Any, limit: int) -> list[Erasure]:
    """Return the erasures that were asked for and are not done, the oldest first."""
    curs.execute(_PENDING, (limit,))
    return [Erasure._make(row) for row in curs.fetchall()]


def erasures(curs: Any, books: list[str]) -> list[Erasure]:
    """Return all erasures of books, in order."""
    curs.execute(_ALL, (books,))
    return [Erasure._make(row) for row in curs.fetchall()]


def erasures_of(curs: Any, person: str) -> list[Erasure]:
    """Return what is recorded of a person's erasure, book by book."""
    curs.execute(_OF_PERSON, (person,))
    return [Erasure._make(row) for row in curs.fetchall()]


def recorded(curs: Any, book: str) -> set[str]:
    """Return everybody whose erasure is recorded in a book."""
    curs.execute(_RECORDED, (book,))
    return {person for (person,) in curs.fetchall()}
