"""A writer's own connection: lock the head and read in one round trip, write and commit in another.

Where others write to the book too, the lock is asked for by itself, so that the batch can grow
while it is waited for. While the head is locked everybody waits, so the network is waited for as
seldom as possible. Transactions are begun and ended by hand, on a connection that commits nothing
by itself. What is read is asked for in one prepared statement; what it finds names by number what
was asked for.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, NamedTuple
from uuid import UUID

import psycopg2

from ledger import appending
from ledger.appending import Capacity, Head, NewEvent, PoolKey, StoredReply
from ledger.datastore import Datastore

SETTINGS: Final = {
    # The writer's reads are by primary key. Each is a LATERAL subquery behind OFFSET 0, so that it
    # is a look-up per key whatever the planner believes of a table that has just begun to grow.
    "enable_seqscan": "off",
    "enable_bitmapscan": "off",
    "max_parallel_workers_per_gather": "0",
    "plan_cache_mode": "force_generic_plan",
    "jit": "off",
    "lock_timeout": "5s",
    "statement_timeout": "10s",
}

HEAD, EVENT, REPLY, RECORD, CAPACITY = range(5)
"""The kinds of rows that a look finds; RECORD is an event that is the record of its request."""

LOCK: Final = "SELECT FROM book_head WHERE book = $1 FOR UPDATE"

_PREPARE: Final = """
PREPARE tidebook_lock (text) AS {lock};
PREPARE tidebook_look (text, uuid[], int[], text[], text[], uuid[], uuid[], text[]) AS
SELECT 0 AS kind, NULL::bigint AS which, position AS one, NULL::bigint AS two,
    NULL::bigint AS three, NULL::bigint AS four, NULL::text AS word, NULL::bytea AS state,
    NULL::bytea AS other, nullif(at, '-infinity') AS at, clock_timestamp() AS now
FROM book_head WHERE book = $1
UNION ALL
SELECT 1, w.n, e.originator_version, NULL, NULL, NULL, e.topic, e.state, NULL, NULL, NULL
FROM unnest($2, $3) WITH ORDINALITY AS w (stream, after, n), LATERAL (
    SELECT originator_version, topic, state FROM event
    WHERE book = $1 AND originator_id = w.stream AND originator_version > w.after
    ORDER BY originator_version OFFSET 0) e
UNION ALL
SELECT 2, w.n, i.position, NULL, NULL, NULL, i.code, i.body, i.fingerprint, NULL, NULL
FROM unnest($4, $5) WITH ORDINALITY AS w (scope, key, n), LATERAL (
    SELECT position, code, body, fingerprint FROM idempotency
    WHERE book = $1 AND scope = w.scope AND key = w.key OFFSET 0) i
UNION ALL
SELECT 3, w.n, e.position, e.originator_version, NULL, NULL, e.topic, e.state,
    uuid_send(e.originator_id), NULL, NULL
FROM unnest($6) WITH ORDINALITY AS w (request, n), LATERAL (
    SELECT position, originator_id, originator_version, topic, state FROM event
    WHERE book = $1 AND request = w.request OFFSET 0) e
UNION ALL
SELECT 4, w.n, c.issued, c.quota, c.granted_minor, c.budget_minor, NULL, NULL, NULL, NULL, NULL
FROM unnest($7, $8) WITH ORDINALITY AS w (campaign, pool, n), LATERAL (
    SELECT issued, quota, granted_minor, budget_minor FROM capacity
    WHERE book = $1 AND campaign = w.campaign AND pool = w.pool OFFSET 0) c
"""
_OPEN: Final = "INSERT INTO book_head (book) VALUES (%s) ON CONFLICT DO NOTHING"
_LOCK: Final = "EXECUTE tidebook_lock (%s)"
_LOOK: Final = "EXECUTE tidebook_look (%s, %s, %s, %s, %s, %s, %s, %s)"
_BEGIN: Final = f"BEGIN; {_LOCK}; {_LOOK}"
_BEGIN_LOCKED: Final = f"BEGIN; {_LOCK}"
_BEGIN_NEW: Final = f"{_OPEN}; {_LOCK}; {_LOOK}"

Row = tuple[int, int, int, int, int, int, str, Any, Any, datetime | None, datetime]


class Key(NamedTuple):
    """An idempotency key to look up, in both places where its record can be."""

    scope: str
    key: str
    request: bytes


@dataclass(slots=True)
class Wanted:
    """What to look at: streams after the versions that are known, keys, pools. Rows name which."""

    streams: list[UUID] = field(default_factory=list)
    after: list[int] = field(default_factory=list)
    keys: Sequence[Key] = ()
    pools: Sequence[PoolKey] = ()

    def parameters(self, book: str) -> tuple[str, ...]:
        """Return the parameters of the look: texts of arrays, made faster than by the driver."""
        keys, pools = self.keys, self.pools
        return (
            book,
            _array([stream.hex for stream in self.streams]),
            _array(map(str, self.after)),
            _text_array([scope for scope, _, _ in keys]),
            _text_array([key for _, key, _ in keys]),
            _array([request.hex() for _, _, request in keys]),
            _array([campaign.hex for campaign, _ in pools]),
            _text_array([pool for _, pool in pools]),
        )


@dataclass(slots=True)
class Writes:
    """What a batch decided, to be written at once. `at` is the instant of its last event."""

    events: list[NewEvent]
    replies: list[StoredReply]
    capacity: Mapping[PoolKey, Capacity]
    at: datetime | None


class Session:
    """One writer's connection. One thread only."""

    def __init__(self, datastore: Datastore) -> None:
        self.connection = datastore.connect()
        self.connection.autocommit = True
        self._cursor = self.connection.cursor()
        self._cursor.execute(_PREPARE.format(lock=LOCK))

    def lock(self, book: str) -> None:
        """Begin a transaction and lock the book's head; what to look at is not known yet."""
        self._cursor.execute(_BEGIN_LOCKED, (book,))

    def begin(self, book: str, wanted: Wanted, *, locked: bool) -> tuple[Head, list[Row]]:
        """Look at a book in a transaction that holds its lock; a new book begins at position 0.

        Unless the book is `locked` already, the transaction begins in the same round trip.
        """
        parameters = wanted.parameters(book)
        if locked:
            self._cursor.execute(_LOOK, parameters)
        else:
            self._cursor.execute(_BEGIN, (book, *parameters))
        head, *rows = self._cursor.fetchall() or [(None,)]
        if head[0] != HEAD:
            self._cursor.execute(_BEGIN_NEW, (book, book, *parameters))
            head, *rows = self._cursor.fetchall()
        return Head(head[2], head[9], head[10]), rows

    def look(self, book: str, wanted: Wanted) -> list[Row]:
        """Look at something more in the transaction that was begun."""
        self._cursor.execute(_LOOK, wanted.parameters(book))
        rows: list[Row] = self._cursor.fetchall()
        return rows[1:]

    def commit(self, book: str, after: int, writes: Writes) -> None:
        """Write and commit. COMMIT travels with the last rows, so it may be on its way at once."""
        copies, end = [], []
        if writes.replies:
            copies.append((appending.COPY_REPLIES, appending.reply_rows(book, writes.replies)))
        if writes.events:
            copies.append((appending.COPY_EVENTS, appending.event_rows(book, after, writes.events)))
            assert writes.at is not None
            last = after + len(writes.events)
            end.append(appending.head_statement(self._cursor, book, last, writes.at))
        if writes.capacity:
            end.append(appending.capacity_statement(self._cursor, book, writes.capacity))
        end.append(b"COMMIT")
        self._run(copies, b"; ".join(end))

    def _run(self, copies: list[tuple[str, bytes]], end: bytes) -> None:
        """Run the copies, and the end together with the last of them."""
        statements = [statement.encode() for statement, _ in copies]
        if not statements:
            self._cursor.execute(end)
            return
        statements[-1] += b"; " + end
        for statement, (_, rows) in zip(statements, copies, strict=True):
            self._cursor.copy_expert(statement, io.BytesIO(rows), size=len(rows))

    def rollback(self) -> None:
        """End the transaction without a trace; the connection is good for the next one."""
        self._cursor.execute("ROLLBACK")

    def close(self) -> None:
        """Close the connection; a transaction that has not come to its COMMIT is undone."""
        with suppress(psycopg2.Error):
            self.connection.close()


def _array(items: Iterable[str]) -> str:
    return "{" + ",".join(items) + "}"


def _text_array(texts: Sequence[str]) -> str:
    whole = '","'.join(texts)
    if "\\" in whole or whole.count('"') != 2 * max(0, len(texts) - 1):
        whole = '","'.join(text.replace("\\", "\\\\").replace('"', '\\"') for text in texts)
    return f'{{"{whole}"}}' if texts else "{}"
