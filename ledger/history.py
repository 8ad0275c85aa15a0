"""Reading a book in order: pages of stored events, proved dense, in bounded memory.

A reader never skips: a missing position and an event type that nobody taught this program stop
it. No transaction is held open between two pages, because what is below the head never changes.
Nothing here writes.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Collection, Iterable, Iterator
from datetime import datetime
from typing import Any, Final, NamedTuple, TypeVar
from uuid import UUID

from ledger.appending import Capacity, PoolKey
from ledger.datastore import Datastore
from ledger.events import Event, EventMapper
from ledger.requests import Fold

S = TypeVar("S")

PAGE_EVENTS: Final = 5_000
"""Events read at once: a few megabytes, and far enough apart that round trips cost nothing."""

ENDLESS: Final = 2**63 - 1
"""The largest position that there can be: up to here is up to the end."""


class PositionGap(Exception):
    """A book lacks a position below its head; what comes after it cannot be trusted."""

    def __init__(self, book: str, expected: int, found: int | None) -> None:
        what = "ends before it" if found is None else f"goes on with {found}"
        super().__init__(f"book {book} has no position {expected}: it {what}")
        self.book = book
        self.expected = expected
        self.found = found


class Entry(NamedTuple):
    """An event as stored: its position, its stream and place there, its topic and its bytes.

    `request` is set where the event is the record of its own request. It is no part of the log: it
    follows from the event.
    """

    position: int
    stream: UUID
    version: int
    topic: str
    state: bytes
    request: bytes | None = None


class Positioned(NamedTuple):
    """A decoded event at its position."""

    position: int
    event: Event


class KeptReply(NamedTuple):
    """An idempotency row, and the book's head when it was read.

    `told_at` is the position of an event that is the record of the same key. The body is there only
    where the event at the reply's position was asked for as well.
    """

    scope: str
    key: str
    fingerprint: str  # hex, as events carry it
    code: str
    position: int
    head: int
    told_at: int | None = None
    body: bytes | None = None


class Standing(NamedTuple):
    """What the store says about a book beside its events, all of one moment."""

    position: int = 0
    at: datetime | None = None
    last: int = 0  # the last position that has an event: the head's, or something is wrong
    capacity: dict[PoolKey, Capacity] = {}  # noqa: RUF012 - a default that nobody changes


class History:
    """One book, to be read in order, by stream or up to an instant."""

    def __init__(
        self, datastore: Datastore, book: str, mapper: EventMapper, page_events: int = PAGE_EVENTS
    ) -> None:
        self.book = book
        self._datastore = datastore
        self._mapper = mapper
        self._page_events = page_events

    def standing(self) -> Standing:
        """Return the book's head and capacity as of one moment; position 0 for an unknown book."""
        with self._datastore.transaction() as cursor:
            cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
            cursor.execute(_HEAD, (self.book,))
            position, at = cursor.fetchone() or (0, None)
            cursor.execute(_LAST, (self.book,))
            (last,) = cursor.fetchone()
            cursor.execute(_CAPACITY, (self.book,))
            capacity = {(row[0], row[1]): Capacity(*row[2:]) for row in cursor.fetchall()}
        return Standing(position, at, last, capacity)

    def head(self) -> int:
        """Return the book's last position; 0 while it is empty."""
        with self._datastore.transaction() as cursor:
            cursor.execute(_HEAD, (self.book,))
            row = cursor.fetchone()
        return int(row[0]) if row else 0

    def entries(self, after: int = 0, until: int | None = None) -> Iterator[Entry]:
        """Yield the events stored at positions after `after`, up to `until` or the end.

        Whatever is stored is yielded, in order of position; `dense` proves that nothing is missing.
        """
        while True:
            page = self._page(after, until)
            yield from page
            if len(page) < self._page_events:
                return
            after = page[-1].position

    def events(self, until: int | None = None) -> Iterator[Positioned]:
        """Yield the book's decoded events up to `until`, or to the head as it is now.

        Raises `PositionGap` at a missing position, `UnknownEventType` and `UnreadableEvent`.
        """
        last = self.head() if until is None else until
        return decoded(dense(self.book, self.entries(0, last), last), self._mapper)

    def stream(self, stream: UUID, until: int = ENDLESS) -> list[Positioned]:
        """Return the decoded events of one stream up to a position; reads by primary key only."""
        return self.streams([stream], until).get(stream, [])

    def streams(self, streams: list[UUID], until: int = ENDLESS) -> dict[UUID, list[Positioned]]:
        """Return the decoded events of streams up to a position; empty streams are left out."""
        with self._datastore.transaction() as cursor:
            return streams_by_key(cursor, self.book, self._mapper, streams, until)

    def position_at(self, instant: datetime) -> int:
        """Return the last position whose event's instant is not after `instant`; 0 when none is.

        Instants never decrease in a book, so a few reads by position find it.
        """
        low, high = 0, self.head()
        while low < high:
            middle = (low + high + 1) // 2
            if self.instant_of(middle) <= instant:
                low = middle
            else:
                high = middle - 1
        return low

    def instant_of(self, position: int) -> datetime:
        """Return the instant of the event at a position; raise `PositionGap` when it is missing."""
        entries = self.entries(position - 1, position)
        return next(
            decoded(dense(self.book, entries, position, position - 1), self._mapper)
        ).event.at

    def replies(
        self, events_of: Collection[str] | None = None
    ) -> Iterator[tuple[KeptReply, Entry | None]]:
        """Yield every kept reply in order of scope and key, with the event at its position.

        Only replies of the codes in `events_of` come with their event and body, when it is given.
        """
        codes = None if events_of is None else list(events_of)
        after = ("", "")
        while True:
            with self._datastore.transaction() as cursor:
                cursor.execute(
                    _REPLIES, (self.book, self.book, *after, self._page_events, codes, codes)
                )
                rows = cursor.fetchall()
            yield from map(_reply_and_event, rows)
            if len(rows) < self._page_events:
                return
            after = rows[-1][:2]

    def reply_positions(self, keys: list[tuple[str, str]]) -> dict[tuple[str, str], int]:
        """Return the positions of the replies kept under scopes and keys, where there are any."""
        with self._datastore.transaction() as cursor:
            cursor.execute(
                _REPLY_POSITIONS,
                ([scope for scope, _ in keys], [key for _, key in keys], self.book),
            )
            return {(scope, key): position for scope, key, position in cursor.fetchall()}

    def _page(self, after: int, until: int | None) -> list[Entry]:
        with self._datastore.transaction() as cursor:
            parameters = (self.book, after, ENDLESS if until is None else until, self._page_events)
            return _copied(cursor, _PAGE, parameters)


def dense(book: str, entries: Iterable[Entry], last: int, after: int = 0) -> Iterator[Entry]:
    """Yield the entries; raise `PositionGap` unless they are after + 1, after + 2, … `last`."""
    expected = after + 1
    for entry in entries:
        if entry.position != expected:
            raise PositionGap(book, expected, entry.position)
        expected += 1
        yield entry
    if expected <= last:
        raise PositionGap(book, expected, None)


def decoded(entries: Iterable[Entry], mapper: EventMapper) -> Iterator[Positioned]:
    """Yield each entry's event; raise `UnknownEventType` or `UnreadableEvent` where one is not."""
    decode = mapper.decode
    for position, stream, version, topic, state, _ in entries:
        yield Positioned(position, decode(topic, state, stream, version))


def state_of(life: Iterable[Positioned], fold: Fold[S]) -> S | None:
    """Return what the events of a stream make of it; None when there are none."""
    state: S | None = None
    for _, event in life:
        state = fold.evolve(state, event)
    return state


def streams_by_key(
    cursor: Any, book: str, mapper: EventMapper, streams: list[UUID], until: int = ENDLESS
) -> dict[UUID, list[Positioned]]:
    """Return the decoded events of streams up to a position, read with a cursor of the caller's."""
    found: dict[UUID, list[Positioned]] = {}
    for positioned in decoded(_copied(cursor, _STREAMS, (streams, book, until)), mapper):
        found.setdefault(positioned.event.originator_id, []).append(positioned)
    return found


_HEAD: Final = "SELECT position, nullif(at, '-infinity') FROM book_head WHERE book = %s"
_LAST: Final = "SELECT coalesce(max(position), 0) FROM event WHERE book = %s"
_CAPACITY: Final = (
    "SELECT campaign, pool, issued, quota, granted_minor, budget_minor"
    " FROM capacity WHERE book = %s"
)
_COLUMNS: Final = (
    "SELECT position, originator_id, originator_version, topic, state, request FROM event"
)
_PAGE: Final = (
    _COLUMNS + " WHERE book = %s AND position > %s AND position <= %s ORDER BY position LIMIT %s"
)
_STREAMS: Final = (
    "SELECT e.position, e.originator_id, e.originator_version, e.topic, e.state, e.request"
    " FROM unnest(%s::uuid[]) AS w (stream), LATERAL (SELECT * FROM event WHERE book = %s"
    " AND originator_id = w.stream AND position <= %s OFFSET 0) e"
    " ORDER BY e.originator_id, e.originator_version"
)
_REPLIES: Final = (
    "SELECT i.scope, i.key, i.fingerprint, i.code, i.position, i.head, t.position,"
    " CASE WHEN e.position IS NOT NULL THEN i.body END,"
    " e.originator_id, e.originator_version, e.topic, e.state"
    " FROM (SELECT book, scope, key, encode(fingerprint, 'hex') AS fingerprint, code, body,"
    " position, coalesce((SELECT position FROM book_head WHERE book = %s), 0) AS head"
    " FROM idempotency WHERE book = %s AND (scope, key) > (%s, %s)"
    " ORDER BY scope, key LIMIT %s) i"
    " LEFT JOIN LATERAL (SELECT position FROM event WHERE book = i.book"
    " AND request = encode(substr(sha256(convert_to(i.scope, 'UTF8') || '\\x00'::bytea"
    " || convert_to(i.key, 'UTF8')), 1, 16), 'hex')::uuid OFFSET 0) t ON true"
    " LEFT JOIN event e ON e.book = i.book AND e.position = i.position"
    " AND (%s::text[] IS NULL OR i.code = ANY (%s::text[]))"
    " ORDER BY i.scope, i.key"
)
_REPLY_POSITIONS: Final = (
    "SELECT i.scope, i.key, i.position FROM unnest(%s::text[], %s::text[]) AS w (scope, key),"
    " LATERAL (SELECT * FROM idempotency WHERE book = %s AND scope = w.scope AND key = w.key"
    " OFFSET 0) i"
)

# The binary form of COPY: a header, then per row the number of columns and per column its length
# and bytes, then -1. It is byte-exact and twice as fast as fetching rows.
_COPY_HEADER_BYTES: Final = 19
_FIXED: Final = struct.Struct(">hiqi16sii")
_LENGTH: Final = struct.Struct(">i")
_END: Final = b"\xff\xff"
_NULL: Final = b"\xff\xff\xff\xff"


def _copied(cursor: Any, query: str, parameters: tuple[Any, ...]) -> list[Entry]:
    """Run a query for the columns of `Entry` and return its rows."""
    buffer = io.BytesIO()
    select = cursor.mogrify(query, parameters).decode()
    cursor.copy_expert(f"COPY ({select}) TO STDOUT (FORMAT binary)", buffer, size=1 << 20)
    return list(_entries_in(buffer.getvalue()))


def _entries_in(data: bytes) -> Iterator[Entry]:
    fixed, length = _FIXED.unpack_from, _LENGTH.unpack_from
    at = _COPY_HEADER_BYTES
    while data[at : at + 2] != _END:
        _, _, position, _, stream, _, version = fixed(data, at)
        at += _FIXED.size
        start = at + 4
        at = start + length(data, at)[0]
        topic = data[start:at].decode()
        start = at + 4
        at = start + length(data, at)[0]
        state = data[start:at]
        start = at + 4
        if data[at:start] == _NULL:
            request, at = None, start
        else:
            at = start + 16
            request = data[start:at]
        yield Entry(position, UUID(bytes=stream), version, topic, state, request)


def _reply_and_event(row: tuple[Any, ...]) -> tuple[KeptReply, Entry | None]:
    scope, key, fingerprint, code, position, head, told_at, body, *event = row
    if body is None:
        return KeptReply(scope, key, fingerprint, code, position, head, told_at), None
    stream, version, topic, state = event
    kept = KeptReply(scope, key, fingerprint, code, position, head, told_at, bytes(body))
    return kept, Entry(position, stream, version, topic, bytes(state))
