"""Writing to a book: lock its head, number the events without a gap, insert them in one stream.

The head's row is the lock, the order and the numbering. Whoever appends holds it until commit,
so positions are dense and nobody reads past an unfinished one. Nothing else may write events.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple
from uuid import UUID

from eventsourcing.persistence import StoredEvent

_COPY_HEADER: Final = b"PGCOPY\n\xff\r\n\0" + struct.pack(">ii", 0, 0)
_COPY_TRAILER: Final = struct.pack(">h", -1)
_EVENT_FIXED: Final = struct.Struct(">iqi16sii")
_LENGTH: Final = struct.Struct(">i")
_LENGTH_AND_LONG: Final = struct.Struct(">iq")


class Head(NamedTuple):
    """Where a book stands: its last position, the instant of its last event, the clock now."""

    position: int
    at: datetime | None
    now: datetime


class StoredReply(NamedTuple):
    """The first answer to a caller's idempotency key, kept byte for byte."""

    scope: str
    key: str
    fingerprint: bytes
    code: str
    body: bytes
    position: int


class Capacity(NamedTuple):
    """The stock and budget of one pool of a campaign: counts, and money in minor units."""

    issued: int = 0
    quota: int = 0
    granted_minor: int = 0
    budget_minor: int = 0

    def plus(self, change: Capacity) -> Capacity:
        """Return this capacity after a change, given as a capacity of differences."""
        return Capacity(
            self.issued + change.issued,
            self.quota + change.quota,
            self.granted_minor + change.granted_minor,
            self.budget_minor + change.budget_minor,
        )

    @property
    def within_bounds(self) -> bool:
        """Whether nothing is over-issued, over-granted or negative."""
        return 0 <= self.issued <= self.quota and 0 <= self.granted_minor <= self.budget_minor


PoolKey = tuple[UUID, str]


def lock_head(cursor: Any, book: str) -> Head:
    """Take the book's write lock until the transaction ends; a new book is opened at position 0."""
    while True:
        cursor.execute(
            "SELECT position, nullif(at, '-infinity'), clock_timestamp()"
            " FROM book_head WHERE book = %s FOR UPDATE",
            (book,),
        )
        row = cursor.fetchone()
        if row is not None:
            return Head(*row)
        cursor.execute("INSERT INTO book_head (book) VALUES (%s) ON CONFLICT DO NOTHING", (book,))


def move_head(cursor: Any, book: str, position: int, at: datetime) -> None:
    """Record the book's new last position and instant; the caller holds its lock."""
    cursor.execute(
        "UPDATE book_head SET position = %s, at = %s WHERE book = %s", (position, at, book)
    )


def insert_events(cursor: Any, book: str, after: int, events: Iterable[StoredEvent]) -> int:
    """Insert events at positions after + 1, after + 2, …; return the last position.

    The caller holds the book's lock. A stream version that exists already raises the driver's
    `UniqueViolation`; then nothing of the transaction may be kept.
    """
    head = _text_field(book, columns=6)
    position = after
    rows = [_COPY_HEADER]
    for position, event in enumerate(events, after + 1):
        stream = event.originator_id
        assert isinstance(stream, UUID), "streams are UUIDs"
        rows.append(head)
        rows.append(_EVENT_FIXED.pack(8, position, 16, stream.bytes, 4, event.originator_version))
        rows.append(_text_field(event.topic))
        rows.append(_LENGTH.pack(len(event.state)))
        rows.append(event.state)
    if position > after:
        _copy(
            cursor,
            "COPY event (book, position, originator_id, originator_version, topic, state)"
            " FROM STDIN (FORMAT binary)",
            rows,
        )
    return position


def insert_replies(cursor: Any, book: str, replies: Sequence[StoredReply]) -> None:
    """Keep the first replies to idempotency keys; the caller holds the book's lock."""
    if not replies:
        return
    head = _text_field(book, columns=7)
    rows = [_COPY_HEADER]
    for reply in replies:
        rows.append(head)
        for field in (reply.scope.encode(), reply.key.encode(), reply.fingerprint):
            rows.append(_LENGTH.pack(len(field)))
            rows.append(field)
        rows.append(_text_field(reply.code))
        rows.append(_LENGTH.pack(len(reply.body)))
        rows.append(reply.body)
        rows.append(_LENGTH_AND_LONG.pack(8, reply.position))
    _copy(
        cursor,
        "COPY idempotency (book, scope, key, fingerprint, code, body, position)"
        " FROM STDIN (FORMAT binary)",
        rows,
    )


def set_capacity(cursor: Any, book: str, pools: dict[PoolKey, Capacity]) -> None:
    """Write the new stock and budget of pools; the table's checks refuse any over-issue."""
    for (campaign, pool), capacity in pools.items():
        cursor.execute(
            "INSERT INTO capacity AS c"
            " (book, campaign, pool, issued, quota, granted_minor, budget_minor)"
            " VALUES (%s, %s, %s, %s, %s, %s, %s)"
            " ON CONFLICT (book, campaign, pool) DO UPDATE SET issued = excluded.issued,"
            " quota = excluded.quota, granted_minor = excluded.granted_minor,"
            " budget_minor = excluded.budget_minor",
            (book, campaign, pool, *capacity),
        )


def instant(head: Head, proposed: datetime | None = None) -> datetime:
    """Return the instant of the next event: the clock's, but never before the book's last one."""
    now = (proposed or head.now).astimezone(UTC)
    return max(now, head.at) if head.at is not None else now


def _text_field(text: str, columns: int | None = None) -> bytes:
    data = text.encode()
    start = b"" if columns is None else struct.pack(">h", columns)
    return start + _LENGTH.pack(len(data)) + data


def _copy(cursor: Any, statement: str, rows: list[bytes]) -> None:
    rows.append(_COPY_TRAILER)
    cursor.copy_expert(statement, io.BytesIO(b"".join(rows)), size=1 << 20)
