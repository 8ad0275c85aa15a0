"""Fills a lottery with entries that nobody made but that look as if they had been made.

One real entry, made over HTTP, is the model: its event and its kept reply are read from the store,
and every filled entry is that one with another person, coupon, key and request. What is derived is
derived for the model first and must come out as the service stored it, so that `tidebook verify`
finds nothing in a filled store. All entries have the model's instant: they lie in the intake.
It must never touch a store that anybody but this load test uses: it writes past the service.
"""

from __future__ import annotations

import hashlib
import io
import json
import struct
from contextlib import closing
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from uuid import UUID, uuid5

from loadtest.filling import COPY_END, COPY_HEAD, NotAsExpected, connect

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ENTRIES_PER_COMMIT: Final = 10_000

_EVENT_COLUMNS: Final = "book, position, originator_id, originator_version, topic, state"
_REPLY_COLUMNS: Final = "book, scope, key, fingerprint, code, body, position"
_MODEL: Final = """
SELECT e.book, e.position, e.originator_id, e.topic, e.state, i.scope, i.key, i.fingerprint, i.code,
    i.body
FROM tidebook.event AS e JOIN tidebook.idempotency AS i USING (book, position)
WHERE e.book = %s AND e.originator_id = %s
"""
_HEAD: Final = "SELECT position FROM tidebook.book_head WHERE book = %s FOR UPDATE"
_MOVE_HEAD: Final = "UPDATE tidebook.book_head SET position = %s WHERE book = %s"
_KEY_HEX: Final = 32


class StoredEntry(NamedTuple):
    """The event of an entry, and the reply that is kept for its key."""

    book: str
    position: int
    coupon: UUID
    topic: str
    state: bytes
    scope: str
    key: str
    fingerprint: bytes
    code: str
    body: bytes


class EntryMould:
    """Casts entries after a model."""

    def __init__(self, model: StoredEntry) -> None:
        said: dict[str, Any] = json.loads(model.state)
        self.model = model
        self._campaign = UUID(said["campaign"])
        self._person: str = said["person"]
        self._request: str = said["why"]["request"]
        self._role = model.scope.partition(":")[0]
        self._state = _form(model.state, self._person, model.key, self._request)
        self._body = _form(model.body, model.coupon.hex)
        if self._filled(self._person, model.key, self._request) != model.state:
            raise NotAsExpected("the fields of an entry are in another order")
        if (self._coupon(self._person), self._scope(self._person)) != (model.coupon, model.scope):
            raise NotAsExpected("ids of coupons or scopes of keys are made in another way")

    def rows(self, start: int, first: int, count: int) -> tuple[Iterator[bytes], Iterator[bytes]]:
        """Binary rows for COPY: events of people from number `first` on, and their replies."""
        return self._events(start, first, count), self._replies(start, first, count)

    def _events(self, start: int, first: int, count: int) -> Iterator[bytes]:
        model, version = self.model, struct.pack(">i", 1)
        book, topic = model.book.encode(), model.topic.encode()
        width = len(self._request)
        for number in range(first, first + count):
            person, key = _person(number, len(self._person)), _key(number)
            state = self._filled(person, key, f"{number:0{width}x}"[-width:])
            position = struct.pack(">q", start + number - first)
            yield _row(book, position, self._coupon(person).bytes, version, topic, state)

    def _replies(self, start: int, first: int, count: int) -> Iterator[bytes]:
        model = self.model
        book, code = model.book.encode(), model.code.encode()
        for number in range(first, first + count):
            person = _person(number, len(self._person))
            scope, key = self._scope(person).encode(), _key(number).encode()
            body = self._body % self._coupon(person).hex.encode()
            position = struct.pack(">q", start + number - first)
            yield _row(book, scope, key, model.fingerprint, code, body, position)

    def _filled(self, person: str, key: str, request: str) -> bytes:
        by = person.encode()
        return self._state % (by, request.encode(), key.encode(), by)

    def _coupon(self, person: str) -> UUID:
        return uuid5(self._campaign, f"{person}:1")

    def _scope(self, person: str) -> str:
        return f"{self._role}:{person}"


def read_entry(url: str, book: str, coupon: UUID) -> StoredEntry:
    """An entry that was made over HTTP."""
    with closing(connect(url)) as connection, connection.cursor() as cursor:
        cursor.execute(_MODEL, (book, coupon))
        [row] = cursor.fetchall()
    model = StoredEntry._make(row)
    state, fingerprint, body = bytes(model.state), bytes(model.fingerprint), bytes(model.body)
    return model._replace(state=state, fingerprint=fingerprint, body=body)


def fill_entries(
    url: str, mould: EntryMould, count: int, on_progress: Callable[[int], object]
) -> None:
    """Add so many entries behind the model, which must be the book's last event."""
    book = mould.model.book
    with closing(connect(url)) as connection, connection.cursor() as cursor:
        cursor.execute("SET synchronous_commit = off")
        for done in range(0, count, ENTRIES_PER_COMMIT):
            batch = min(ENTRIES_PER_COMMIT, count - done)
            cursor.execute(_HEAD, (book,))
            (head,) = cursor.fetchone()
            if head != mould.model.position + done:
                raise NotAsExpected("somebody else writes to the book that is filled")
            events, replies = mould.rows(head + 1, done, batch)
            _copy(cursor, f"event ({_EVENT_COLUMNS})", events)
            _copy(cursor, f"idempotency ({_REPLY_COLUMNS})", replies)
            cursor.execute(_MOVE_HEAD, (head + batch, book))
            connection.commit()
            on_progress(batch)
        connection.autocommit = True
        cursor.execute("VACUUM (ANALYZE) tidebook.event, tidebook.idempotency")
        cursor.execute("CHECKPOINT")


def _copy(cursor: Any, table: str, rows: Iterator[bytes]) -> None:
    data = b"".join((COPY_HEAD, *rows, COPY_END))
    cursor.copy_expert(f"COPY tidebook.{table} FROM STDIN (FORMAT binary)", io.BytesIO(data))


def _form(text: bytes, *varying: str) -> bytes:
    form = text.replace(b"%", b"%%")
    for one in varying:
        form = form.replace(one.encode(), b"%b")
    return form


def _row(*fields: bytes) -> bytes:
    parts = [struct.pack(">h", len(fields))]
    for one in fields:
        parts += [struct.pack(">i", len(one)), one]
    return b"".join(parts)


def _person(number: int, digits: int) -> str:
    return hashlib.sha256(b"entrant %d" % number).hexdigest()[:digits]


def _key(number: int) -> str:
    return hashlib.sha256(b"key %d" % number).hexdigest()[:_KEY_HEX]
