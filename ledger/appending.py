"""Writing to a book: lock its head, number the events without a gap, insert them in one stream.

The head's row is the lock, the order and the numbering. Whoever appends holds it until commit,
so positions are dense and nobody reads past an unfinished one. Nothing else may write events.
"""

from __future__ import annotations

import hashlib
import io
import struct
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple
from uuid import UUID

from eventsourcing.persistence import StoredEvent

COPY_EVENTS: Final = (
    "COPY event (book, position, originator_id, originator_version, topic, state, request)"
    " FROM STDIN (FORMAT binary)"
)
COPY_REPLIES: Final = (
    "COPY idempotency (book, scope, key, fingerprint, code, body, position)"
    " FROM STDIN (FORMAT binary)"
)

# The binary form of COPY: a header, then per row the number of columns and per column its length
# and bytes, then -1.
_COPY_HEADER: Final = b"PGCOPY\n\xff\r\n\0" + struct.pack(">ii", 0, 0)
_COPY_TRAILER: Final = struct.pack(">h", -1)
_EVENT_FIXED: Final = struct.Struct(">iqi16sii")
_LENGTH: Final = struct.Struct(">i")
_LENGTH_AND_LONG: Final = struct.Struct(">iq")
_LENGTH_AND_ID: Final = struct.Struct(">i16s")
_NULL: Final = _LENGTH.pack(-1)


class Head(NamedTuple):
    """Where a book stands: its last position, the instant of its last event, the clock now."""

    position: int
    at: datetime | None
    now: datetime


class NewEvent(NamedTuple):
    """An event to be stored; `request` is set when it is the record of its own request."""

    stream: UUID
    version: int
    topic: str
    state: bytes
    request: bytes | None = None


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


def request_id(scope: str, key: str) -> bytes:
    """Return the 16 bytes that stand for a caller's idempotency key in the store."""
    return hashlib.sha256(b"%b\0%b" % (scope.encode(), key.encode())).digest()[:16]


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
    cursor.execute(head_statement(cursor, book, position, at))


def insert_events(cursor: Any, book: str, after: int, events: Iterable[StoredEvent]) -> int:
    """Insert events at positions after + 1, after + 2, …; return the last position.

    The caller holds the book's lock. A stream version that exists already raises the driver's
    `UniqueViolation`; then nothing of the transaction may be kept.
    """
    new = [_new_event(event) for event in events]
    if new:
        _copy(cursor, COPY_EVENTS, event_rows(book, after, new))
    return after + len(new)


def insert_replies(cursor: Any, book: str, replies: Sequence[StoredReply]) -> None:
    """Keep the first replies to idempotency keys; the caller holds the book's lock."""
    if replies:
        _copy(cursor, COPY_REPLIES, reply_rows(book, replies))


def event_rows(book: str, after: int, events: Iterable[NewEvent]) -> bytes:
    """Return what `COPY_EVENTS` reads: events at positions after + 1, after + 2, …."""
    head = _text_field(book, columns=7)
    topics = _TextFields()
    rows = [_COPY_HEADER]
    add = rows.append
    for position, (stream, version, topic, state, request) in enumerate(events, after + 1):
        add(head)
        add(_EVENT_FIXED.pack(8, position, 16, stream.bytes, 4, version))
        add(topics[topic])
        add(_LENGTH.pack(len(state)))
        add(state)
        add(_NULL if request is None else _LENGTH_AND_ID.pack(16, request))
    add(_COPY_TRAILER)
    return b"".join(rows)


def reply_rows(book: str, replies: Iterable[StoredReply]) -> bytes:
    """Return what `COPY_REPLIES` reads."""
    head = _text_field(book, columns=7)
    length, place = _LENGTH.pack, _LENGTH_AND_LONG.pack
    words = _TextFields()
    rows = [_COPY_HEADER]
    for scope, key, fingerprint, code, body, position in replies:
        name = key.encode()
        rows += (
            head,
            words[scope],
            length(len(name)),
            name,
            length(len(fingerprint)),
            fingerprint,
            words[code],
            length(len(body)),
            body,
            place(8, position),
        )
    rows.append(_COPY_TRAILER)
    return b"".join(rows)


def set_capacity(cursor: Any, book: str, pools: Mapping[PoolKey, Capacity]) -> None:
    """Write the new stock and budget of pools; the table's checks refuse any over-issue."""
    if pools:
        cursor.execute(capacity_statement(cursor, book, pools))


def head_statement(cursor: Any, book: str, position: int, at: datetime) -> bytes:
    """Return the statement that moves a book's head."""
    statement: bytes = cursor.mogrify(_MOVE_HEAD, (position, at, book))
    return statement


def capacity_statement(cursor: Any, book: str, pools: Mapping[PoolKey, Capacity]) -> bytes:
    """Return the statement that writes the stock and budget of one pool or more."""
    rows = b", ".join(
        cursor.mogrify("(%s, %s, %s, %s, %s, %s, %s)", (book, campaign, pool, *capacity))
        for (campaign, pool), capacity in pools.items()
    )
    return _SET_CAPACITY % rows


def instant(head: Head, proposed: datetime | None = None) -> datetime:
    """Return the instant of the next event: the clock's, but never before the book's last one."""
    now = (proposed or head.now).astimezone(UTC)
    return max(now, head.at) if head.at is not None else now


def _text_field(text: str, columns: int | None = None) -> bytes:
    data = text.encode()
    start = b"" if columns is None else struct.pack(">h", columns)
    return start + _LENGTH.pack(len(data)) + data


class _TextFields(dict[str, bytes]):
    """The fields of words that come again and again, made once."""

    def __missing__(self, text: str) -> bytes:
        field = self[text] = _text_field(text)
        return field


def _new_event(event: StoredEvent) -> NewEvent:
    stream = event.originator_id
    assert isinstance(stream, UUID), "streams are UUIDs"
    return NewEvent(stream, event.originator_version, event.topic, event.state)


def _copy(cursor: Any, statement: str, rows: bytes) -> None:
    cursor.copy_expert(statement, io.BytesIO(rows), size=1 << 20)


_MOVE_HEAD: Final = "UPDATE book_head SET position = %s, at = %s WHERE book = %s"
_SET_CAPACITY: Final = (
    b"INSERT INTO capacity AS c"
    b" (book, campaign, pool, issued, quota, granted_minor, budget_minor) VALUES %b"
    b" ON CONFLICT (book, campaign, pool) DO UPDATE SET issued = excluded.issued,"
    b" quota = excluded.quota, granted_minor = excluded.granted_minor,"
    b" budget_minor = excluded.budget_minor"
)
