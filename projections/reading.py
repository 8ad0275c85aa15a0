"""Reading a book in order: pages of events, proved dense, decoded to what a read model reads.

A position that is missing or an event type that is not known stops the reader. It never skips.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NamedTuple
from uuid import UUID

import msgspec

from ledger.events import EventTypes, UnknownEventType, UnreadableEvent
from ledger.history import PositionGap
from projections.projection import Reads, View


class AheadOfBook(Exception):
    """A read model stands for more events than its book has: the store lost events."""

    def __init__(self, book: str, position: int, head: int) -> None:
        super().__init__(f"rows stand for position {position} of book {book}, which ends at {head}")
        self.book = book
        self.position = position
        self.head = head


class Stopped(Exception):
    """An event cannot be read, so the reader stops before it; says where, with the cause."""

    def __init__(self, book: str, position: int, cause: Exception) -> None:
        super().__init__(f"book {book} cannot be read past position {position - 1}: {cause}")
        self.book = book
        self.position = position
        self.cause = cause


_Row = tuple[int, str, int, bytes, bytes]
"""Position, stream, version, topic and state; the state is empty where nobody asked for it."""


class Stretch(NamedTuple):
    """Events of a book as they are stored, after `after` up to `last`, for any number of readers.

    `following` is the event behind the last one, if there is one. `head` and `now`, the database's
    clock, are as of the reading.
    """

    after: int
    last: int
    head: int
    now: datetime
    rows: list[_Row]
    following: _Row | None = None


class Page(NamedTuple):
    """Events of a book after `after` up to `last`; `head` and `now` are as of the reading.

    `waiting_since` is the instant of the first event after the page, None when there is none.
    """

    after: int
    last: int
    head: int
    now: datetime
    events: list[View]
    waiting_since: datetime | None = None

    @property
    def size(self) -> int:
        """How many events the page covers, those that the read model does not need included."""
        return self.last - self.after


# One statement, so one snapshot and one round trip: what is committed below the head is in it,
# whole. The row at position 0 has the head and the clock for its topic. The rows come as they lie
# in the index, and Python sees to their order: sorting what is sorted already costs it nothing.
# Binary COPY, because the driver takes twice as long as the database to make rows of a result.
_STRETCH: Final = """
COPY (
    WITH head AS MATERIALIZED (
        SELECT coalesce(
            (SELECT position FROM tidebook.book_head WHERE book = %(book)s), 0
        ) AS position
    )
    SELECT 0::bigint AS position, '00000000-0000-0000-0000-000000000000' AS stream, 0 AS version,
        head.position || ' ' || (extract(epoch FROM clock_timestamp()) * 1000000)::bigint AS topic,
        NULL::bytea AS state
    FROM head
    UNION ALL
    SELECT position, originator_id::text, originator_version, topic, CASE
        WHEN topic <> ALL (%(unread)s) OR position > %(until)s THEN state
    END
    FROM tidebook.event
    WHERE book = %(book)s AND position > %(after)s
        AND position <= least(%(until)s + 1, (SELECT position FROM head))
) TO STDOUT (FORMAT binary)
"""


def fetch(curs: Any, book: str, after: int, limit: int, *, unread: Sequence[str] = ()) -> Stretch:
    """Return up to `limit` events after a position, without the states of `unread` topics.

    Raises `AheadOfBook`. Whether a position is missing is for a reader to find.
    """
    parameters = {"book": book, "after": after, "until": after + limit, "unread": list(unread)}
    data = io.BytesIO()
    curs.copy_expert(curs.mogrify(_STRETCH, parameters), data, size=_COPY_CHUNK)
    rows = sorted(_rows(data.getvalue()))
    head, now = map(int, rows.pop(0)[_TOPIC].split())
    if head < after:
        raise AheadOfBook(book, after, head)
    last = min(after + limit, head)
    following = rows.pop() if rows and rows[-1][0] > last else None
    return Stretch(after, last, head, _EPOCH + timedelta(microseconds=now), rows, following)


class BookReader:
    """Reads one book for one read model."""

    def __init__(self, book: str, reads: Reads, types: EventTypes) -> None:
        self.book = book
        self.unread = frozenset(topic for topic, view in reads.items() if view is None)
        self._types = types
        self._decoders = _Decoders(reads, types)

    def page(self, curs: Any, after: int, limit: int, until: int | None = None) -> Page:
        """Return the events after a position: up to `limit`, none past `until`.

        Raises `PositionGap`, `AheadOfBook`, or `Stopped` when the very first event is not
        readable; a later one ends the page before it.
        """
        limit = limit if until is None else max(0, min(limit, until - after))
        return self.decode(fetch(curs, self.book, after, limit, unread=sorted(self.unread)))

    def decode(self, stretch: Stretch) -> Page:
        """Return what the read model reads of a stretch; raises as `page` does."""
        after, last, head, now, rows, following = stretch
        events, last = self._decode(rows, after, last)
        if last != stretch.last:
            following = rows[last - after] if len(rows) > last - after else None
        return Page(after, last, head, now, events, self._instant_of(following))

    def _instant_of(self, row: _Row | None) -> datetime | None:
        """Return when an event happened, if it is there and readable."""
        with suppress(UnknownEventType, UnreadableEvent):
            if row is not None:
                _, stream, version, topic, state = row
                return self._types.decode(topic.decode(), state, UUID(stream), version).at
        return None

    def _decode(self, rows: Sequence[_Row], after: int, last: int) -> tuple[list[View], int]:
        """Return the events that are read, and the position up to which all was in order."""
        events: list[View] = []
        decoders = self._decoders
        expected = after
        try:
            for position, stream, version, topic, state in rows:
                expected += 1
                if position != expected:
                    raise PositionGap(self.book, expected, position)  # noqa: TRY301 - ends the page too
                decode = decoders[topic]
                event = decode(state) if decode is not None else None
                if event is not None:
                    event.position = position
                    event.stream = stream
                    event.version = version
                    events.append(event)
            if expected != last:
                expected += 1
                raise PositionGap(self.book, expected, None)  # noqa: TRY301 - ends the page too
        except (msgspec.DecodeError, PositionGap, UnknownEventType, UnreadableEvent) as error:
            if expected > after + 1:
                return events, expected - 1
            if isinstance(error, PositionGap):
                raise
            raise Stopped(self.book, expected, error) from error
        return events, last


_Decode = Callable[[bytes], View | None]


class _Decoders(dict[bytes, _Decode | None]):
    """Topic → how its state becomes what is read of it, None where it is not read.

    An old topic goes through its upcasts to the topic that it is today. A topic that the program
    or the read model was not taught raises `UnknownEventType`.
    """

    def __init__(self, reads: Reads, types: EventTypes) -> None:
        super().__init__()
        self._types = types
        for topic, view in reads.items():
            self[topic.encode()] = None if view is None else msgspec.json.Decoder(view).decode
        self._taught = dict(self)

    def __missing__(self, topic: bytes) -> _Decode:
        name = topic.decode()
        if name not in self._types.topics:
            raise UnknownEventType(name)

        def decode_old(state: bytes) -> View | None:
            event = self._types.decode(name, state, _NO_STREAM, 0)
            if event.TOPIC.encode() not in self._taught:
                raise UnknownEventType(event.TOPIC)
            decode = self._taught[event.TOPIC.encode()]
            return decode(self._types.encode(event)) if decode is not None else None

        self[topic] = decode_old
        return decode_old


_NO_STREAM: Final = UUID(int=0)

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_TOPIC: Final = 3
_COPY_CHUNK: Final = 1 << 20
_COPY_HEADER_BYTES: Final = 19
_FIXED: Final = struct.Struct(">hiqi36siii")  # columns, then length and value, up to topic's length
_LENGTH: Final = struct.Struct(">i")


def _rows(data: bytes) -> Iterator[_Row]:
    """Read rows in PostgreSQL's binary COPY format; a row with -1 columns ends them."""
    at = _COPY_HEADER_BYTES
    end = len(data) - 2
    fixed, size, length_at = _FIXED.unpack_from, _FIXED.size, _LENGTH.unpack_from
    while at < end:
        _, _, position, _, stream, _, version, length = fixed(data, at)
        at += size
        topic = data[at : at + length]
        at += length
        (length,) = length_at(data, at)
        at += 4
        if length < 0:
            yield position, stream.decode(), version, topic, b""
            continue
        yield position, stream.decode(), version, topic, data[at : at + length]
        at += length
