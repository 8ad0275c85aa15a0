"""Fills a campaign with claims that were made one by one nowhere but look as if they had been.

One real claim, made over HTTP, is the model: its row is read from the store, and every filled row
is that row with another person, coupon, key and request. What is derived (the coupon's id, the
request's id) is derived for the model first and must come out as the service stored it, so that
`tidebook verify` finds nothing in a filled store. The rows are inserted in the order of their
positions with all indexes in place: on disk they lie as claims do that came over months.
It must never touch a store that anybody but this load test uses: it writes past the service.
"""

from __future__ import annotations

import hashlib
import io
import json
import struct
import time
from contextlib import closing
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from uuid import UUID, uuid5

import psycopg2
import psycopg2.extras

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROWS_PER_COMMIT: Final = 10_000
COPY_CHUNK_BYTES: Final = 1 << 20

_COLUMNS: Final = (
    "book, position, originator_id, originator_version, topic, state, request"  # as in the COPY
)
_MODEL: Final = f"""
SELECT {_COLUMNS} FROM tidebook.event WHERE book = %s AND originator_id = %s
"""  # noqa: S608 - names of columns

_HEAD: Final = "SELECT position FROM tidebook.book_head WHERE book = %s FOR UPDATE"
_MOVE_HEAD: Final = "UPDATE tidebook.book_head SET position = %s WHERE book = %s"
_TAKE: Final = """
UPDATE tidebook.capacity SET issued = issued + %(count)s,
    granted_minor = granted_minor + %(count)s * %(face_minor)s
WHERE book = %(book)s AND campaign = %(campaign)s
"""
_COPY: Final = f"COPY tidebook.event ({_COLUMNS}) FROM STDIN (FORMAT binary)"
COPY_HEAD: Final = b"PGCOPY\n\xff\r\n\0" + struct.pack(">ii", 0, 0)
COPY_END: Final = struct.pack(">h", -1)


class NotAsExpected(Exception):
    """The model is not what this filler knows how to copy: the service has changed."""


class Stored(NamedTuple):
    """An event's row."""

    book: str
    position: int
    stream: UUID
    version: int
    topic: str
    state: bytes
    request: UUID


class Mould:
    """Casts rows of claims after a model."""

    def __init__(self, model: Stored) -> None:
        said: dict[str, Any] = json.loads(model.state)
        self.model = model
        self.campaign = UUID(said["campaign"])
        self.face_minor: int = said["face_minor"]
        self._person: str = said["person"]
        self._key: str = said["why"]["key"]
        self._request: str = said["why"]["request"]
        self._role: str = said["by"]["role"]
        form = model.state.replace(b"%", b"%%")
        for text, name in ((self._person, b"%b"), (self._key, b"%b"), (self._request, b"%b")):
            form = form.replace(text.encode(), name)
        self._form = form
        if self._state(self._person, self._key, self._request) != model.state:
            raise NotAsExpected("the fields of a claim are in another order")
        ids = (self._stream(self._person), UUID(bytes=self._request_id(self._person, self._key)))
        if ids != (model.stream, model.request):
            raise NotAsExpected("ids of coupons or requests are made in another way")

    def rows(self, start: int, first: int, count: int) -> Iterator[bytes]:
        """Binary rows for COPY: claims of people from number `first` on, at `start` and after."""
        book, topic = self.model.book.encode(), self.model.topic.encode()
        begin = struct.pack(">hi", 7, len(book)) + book
        middle = struct.Struct(">iqi16sii")
        end = struct.pack(">i", len(topic)) + topic
        length = struct.Struct(">i")
        width = len(self._request)
        for number in range(first, first + count):
            person = hashlib.sha256(b"holder %d" % number).hexdigest()[: len(self._person)]
            key = f"filled-{number:029d}"
            state = self._state(person, key, f"{number:0{width}x}"[-width:])
            yield begin
            yield middle.pack(
                8, start + number - first, 16, self._stream(person).bytes, 4, self.model.version
            )
            yield end
            yield length.pack(len(state)) + state
            yield length.pack(16) + self._request_id(person, key)

    def _state(self, person: str, key: str, request: str) -> bytes:
        by, why_request, why_key = person.encode(), request.encode(), key.encode()
        return self._form % (by, why_request, why_key, by)

    def _stream(self, person: str) -> UUID:
        return uuid5(self.campaign, f"{person}:1")

    def _request_id(self, person: str, key: str) -> bytes:
        return hashlib.sha256(f"{self._role}:{person}\0{key}".encode()).digest()[:16]


def read_model(url: str, book: str, coupon: UUID) -> Stored:
    """The row of a claim that was made over HTTP."""
    with closing(connect(url)) as connection, connection.cursor() as cursor:
        cursor.execute(_MODEL, (book, coupon))
        [row] = cursor.fetchall()
    model = Stored._make(row)
    return model._replace(state=bytes(model.state))


def fill(url: str, mould: Mould, count: int, on_progress: Callable[[int], None]) -> float:
    """Add so many claims behind the model, which must be the book's last event; return seconds.

    Each commit leaves a store that is as whole as the service's own commits leave it.
    """
    started = time.perf_counter()
    book = mould.model.book
    with closing(connect(url)) as connection, connection.cursor() as cursor:
        cursor.execute("SET synchronous_commit = off")
        connection.commit()
        done = 0
        while done < count:
            batch = min(ROWS_PER_COMMIT, count - done)
            cursor.execute(_HEAD, (book,))
            (head,) = cursor.fetchone()
            if head != mould.model.position + done:
                raise NotAsExpected("somebody else writes to the book that is filled")
            data = b"".join((COPY_HEAD, *mould.rows(head + 1, done, batch), COPY_END))
            cursor.copy_expert(_COPY, io.BytesIO(data), size=COPY_CHUNK_BYTES)
            cursor.execute(_MOVE_HEAD, (head + batch, book))
            cursor.execute(
                _TAKE,
                {
                    "count": batch,
                    "face_minor": mould.face_minor,
                    "book": book,
                    "campaign": mould.campaign,
                },
            )
            connection.commit()
            done += batch
            on_progress(batch)
        connection.autocommit = True
        cursor.execute("VACUUM (ANALYZE) tidebook.event")
        cursor.execute("CHECKPOINT")
    return time.perf_counter() - started


def connect(url: str) -> Any:
    psycopg2.extras.register_uuid()  # type: ignore[no-untyped-call]
    return psycopg2.connect(url)
