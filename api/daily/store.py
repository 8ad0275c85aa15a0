"""What the database keeps of daily proofs, and what they are made of.

The row of the head is lease, fence and tracking in one: whoever writes renews it by its own epoch
and from the position that it knows, in the transaction that writes. A proof is inserted once; the
table refuses everything else.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, datetime, timedelta
from typing import Any, Final, NamedTuple
from uuid import UUID

from psycopg2.extras import execute_values

from ledger.transparency.notes import Note

LEASE_TTL_S: Final = 60.0
"""How long a silent maker keeps others away: some times what a day's events take."""


class Held(Exception):
    """Somebody else makes the daily proofs of a book."""


class Lost(Exception):
    """The making was taken over; what was under way must not be committed."""


class Head(NamedTuple):
    """How far proofs are made, with the sums up to there, and the fence of whoever makes them."""

    position: int
    until: datetime | None
    sums: bytes
    epoch: int


class Stored(NamedTuple):
    """A proof as it is kept."""

    campaign: UUID
    day: date
    position: int
    until: datetime
    sha256: bytes
    note: bytes


class BookEnd(NamedTuple):
    """The head of a book and the clock, as of one moment."""

    position: int
    at: datetime | None
    now: datetime


_ACQUIRE: Final = """
INSERT INTO daily_head AS d (book, holder, expires_at)
VALUES (%(book)s, %(holder)s, clock_timestamp() + %(ttl)s)
ON CONFLICT (book) DO UPDATE
SET epoch = d.epoch + 1, holder = excluded.holder, expires_at = excluded.expires_at
WHERE d.holder = excluded.holder OR d.expires_at <= clock_timestamp()
RETURNING position, until, sums, epoch
"""
_FENCE: Final = """
UPDATE daily_head SET position = %(position)s, until = %(until)s, sums = %(sums)s,
    expires_at = clock_timestamp() + %(ttl)s
WHERE book = %(book)s AND epoch = %(epoch)s AND position = %(before)s
"""
_RELEASE: Final = "UPDATE daily_head SET expires_at = '-infinity' WHERE book = %s AND epoch = %s"
_INSERT: Final = """
INSERT INTO daily_proof (book, campaign, day, position, until, sha256, note) VALUES %s
"""
_COLUMNS: Final = "SELECT campaign, day, position, until, sha256, note FROM daily_proof"
_LIST: Final = (
    _COLUMNS + " WHERE book = %(book)s AND (%(campaign)s::uuid IS NULL OR campaign = %(campaign)s)"
    " ORDER BY campaign, day"
)
_ONE: Final = _COLUMNS + " WHERE book = %s AND campaign = %s AND day = %s"
_END: Final = """
SELECT position, nullif(at, '-infinity'), clock_timestamp() FROM book_head WHERE book = %s
"""
_ZONES: Final = """
SELECT DISTINCT convert_from(e.state, 'UTF8')::jsonb #>> '{terms,zone}'
FROM (SELECT DISTINCT campaign FROM capacity WHERE book = %(book)s) c,
LATERAL (SELECT topic, state FROM event
    WHERE book = %(book)s AND originator_id = c.campaign AND originator_version = 1 OFFSET 0) e
WHERE e.topic = 'campaign.drafted'
"""


def acquire(curs: Any, book: str, holder: str, ttl_s: float = LEASE_TTL_S) -> Head:
    """Take the making of a book's proofs at the next epoch; raise `Held`."""
    curs.execute(_ACQUIRE, {"book": book, "holder": holder, "ttl": timedelta(seconds=ttl_s)})
    row = curs.fetchone()
    if row is None:
        raise Held(f"the daily proofs of book {book} are being made by somebody else")
    position, until, sums, epoch = row
    return Head(position, until, bytes(sums), epoch)


def advance(curs: Any, book: str, head: Head, moved: Head, ttl_s: float = LEASE_TTL_S) -> None:
    """Move the head, in the transaction that writes; raise `Lost`."""
    values = {
        "book": book,
        "epoch": head.epoch,
        "before": head.position,
        "position": moved.position,
        "until": moved.until,
        "sums": moved.sums,
        "ttl": timedelta(seconds=ttl_s),
    }
    curs.execute(_FENCE, values)
    if curs.rowcount != 1:
        raise Lost(f"epoch {head.epoch} of the daily proofs of book {book} is over")


def release(curs: Any, book: str, head: Head) -> None:
    """Let the next maker in at once."""
    curs.execute(_RELEASE, (book, head.epoch))


def insert(curs: Any, book: str, proofs: Sequence[tuple[Stored, Note]]) -> None:
    """Keep proofs; the driver raises `UniqueViolation` where a day has one already."""
    if proofs:
        rows = [(book, *proof._replace(note=note.encode())) for proof, note in proofs]
        execute_values(curs, _INSERT, rows, page_size=500)


def proofs(curs: Any, book: str, campaign: UUID | None = None) -> list[Stored]:
    """Return the proofs of a campaign, or of all, in order of days."""
    curs.execute(_LIST, {"book": book, "campaign": campaign})
    return [_stored(row) for row in curs.fetchall()]


def proof(curs: Any, book: str, campaign: UUID, day: date) -> Stored | None:
    """Return the proof of one day."""
    curs.execute(_ONE, (book, campaign, day))
    row = curs.fetchone()
    return None if row is None else _stored(row)


def book_end(curs: Any, book: str, *, settled: bool = False) -> BookEnd | None:
    """Return where a book ends; None for one that is not there.

    When it is to be `settled`, commits that are under way are waited for: until this transaction
    ends nobody writes, and whoever does so later is later by the clock as well.
    """
    curs.execute(_END + (" FOR SHARE" if settled else ""), (book,))
    row = curs.fetchone()
    return None if row is None else BookEnd(*row)


def zones(curs: Any, book: str) -> list[str]:
    """Return the zones of a book's campaigns."""
    curs.execute(_ZONES, {"book": book})
    return sorted(zone for (zone,) in curs.fetchall() if zone)


def _stored(row: Any) -> Stored:
    campaign, day, position, until, digest, note = row
    return Stored(campaign, day, position, until, bytes(digest), bytes(note))
