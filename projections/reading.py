"""Reading a book in order: pages of events, proved dense, decoded to what a read model reads.

A position that is missing or an event type that is not known stops the reader. It never skips.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import datetime
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


_HEAD: Final = """
SELECT coalesce((SELECT position FROM tidebook.book_head WHERE book = %s), 0), clock_timestamp()
"""

# The head is read first: what is committed below it is visible to the second statement, whole.
# Binary COPY, because the driver takes twice as long as the database to make rows of a result.
_EVENTS: Final = """
COPY (
    SELECT position, originator_id::text, originator_version, topic,
        CASE WHEN topic <> ALL (%(unread)s) THEN state END
    FROM tidebook.event
    WHERE book = %(book)s AND position > %(after)s AND position <= %(until)s
    ORDER BY position
) TO STDOUT (FORMAT binary)
"""

_ONE: Final = """
SELECT originator_id::text, originator_version, topic, state
FROM tidebook.event WHERE book = %s AND position = %s
"""


class BookReader:
    """Reads one book for one read model."""

    def __init__(self, book: str, reads: Reads, types: EventTypes) -> None:
        self.book = book
        self._types = types
        self._decoders = _Decoders(reads, types)
        self._unread = [topic for topic, view in reads.items() if view is None]

    def head(self, curs: Any) -> tuple[int, datetime]:
        """Return the book's last position and the database's clock."""
        curs.execute(_HEAD, (self.book,))
        position, now = curs.fetchone()
        return position, now

    def page(self, curs: Any, after: int, limit: int, until: int | None = None) -> Page:
        """Return the events after a position: up to `limit`, none past `until`.

        Raises `PositionGap`, `AheadOfBook`, or `Stopped` when the very first event is not
        readable; a later one ends the page before it.
        """
        head, now = self.head(curs)
        if head < after:
            raise AheadOfBook(self.book, after, head)
        last = min(after + limit, head if until is None else min(head, until))
        if last <= after:
            return Page(after, after, head, now, [])
        events, last = self._decode(self._fetch(curs, after, last), after, last)
        return Page(after, last, head, now, events, self._instant_of(curs, last + 1, head))

    def _instant_of(self, curs: Any, position: int, head: int) -> datetime | None:
        """Return when the event at a position happened, if it is there and readable."""
        if position > head:
            return None
        curs.execute(_ONE, (self.book, position))
        row = curs.fetchone()
        with suppress(UnknownEventType, UnreadableEvent):
            if row is not None:
                stream, version, topic, state = row
                return self._types.decode(topic, bytes(state), UUID(stream), version).at
        return None

    def _fetch(self, curs: Any, after: int, until: int) -> bytes:
        parameters = {"unread": self._unread, "book": self.book, "after": after, "until": until}
        data = io.BytesIO()
        curs.copy_expert(curs.mogrify(_EVENTS, parameters), data, size=_COPY_CHUNK)
        return data.getvalue()

    def _decode(self, data: bytes, after: int, last: int) -> tuple[list[View], int]:
        """Return the events that are read, and the position up to which all was in order."""
        events: list[View] = []
        decoders = self._decoders
        expected = after
        try:
            for position, stream, version, topic, state in _rows(data):
                expected += 1
                if position != expected:
                    raise PositionGap(self.book, expected, position)  # noqa: TRY301 - ends the page too
                decode = decoders[topic]
                event = decode(state) if decode is not None else None
                if event is not None:
                    event.position = position
                    event.stream = stream.decode()
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

_Row = tuple[int, bytes, int, bytes, bytes]
"""Position, stream, version, topic and state; the state is empty where it is not read."""

_COPY_CHUNK: Final = 1 << 20
_COPY_HEADER_BYTES: Final = 19
_FIXED: Final = struct.Struct(">hiqi36siii")  # columns, then length and value, up to topic's length
_LENGTH: Final = struct.Struct(">i")


def _rows(data: bytes) -> Iterator[_Row]:
    """Read rows in PostgreSQL's binary COPY format; a row with -1 columns ends them."""
    at = _COPY_HEADER_BYTES
    end = len(data) - 2
    while at < end:
        _, _, position, _, stream, _, version, length = _FIXED.unpack_from(data, at)
        at += _FIXED.size
        topic = data[at : at + length]
        at += length
        (length,) = _LENGTH.unpack_from(data, at)
        at += 4
        if length < 0:
            yield position, stream, version, topic, b""
            continue
        yield position, stream, version, topic, data[at : at + length]
        at += length
