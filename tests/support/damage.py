"""Damage to a store, done as its owner with the triggers off: what verification must find."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

import psycopg2
from msgspec.structs import replace

from campaigns.event_types import MAPPER
from ledger import appending
from ledger.events import Event


class Damage:
    """Rewrites what must never be rewritten, in one transaction."""

    def __init__(self, cursor: Any, book: str) -> None:
        self.cursor = cursor
        self.book = book

    def run(self, statement: str, *parameters: Any) -> None:
        """Run a statement; `{book}` is the book that is damaged."""
        self.cursor.execute(statement.replace("{book}", f"'{self.book}'"), parameters)

    def event(self, position: int) -> Any:
        """Return the event at a position."""
        self.run(
            "SELECT topic, state, originator_id, originator_version FROM event"
            " WHERE book = {book} AND position = %s",
            position,
        )
        topic, state, stream, version = self.cursor.fetchone()
        return MAPPER.decode(topic, bytes(state), stream, version)

    def position(self, topic: str, nth: int = 1) -> int:
        """Return the position of the n-th event of a topic; from the end when n is negative."""
        order = "ASC" if nth > 0 else "DESC"
        self.run(
            "SELECT position FROM event WHERE book = {book} AND topic = %s"
            f" ORDER BY position {order} LIMIT 1 OFFSET %s",
            topic,
            abs(nth) - 1,
        )
        return int(self.cursor.fetchone()[0])

    def rewrite(self, position: int, **changes: Any) -> None:
        """Change fields of an event where it stands."""
        event = replace(self.event(position), **changes)
        self.run(
            "UPDATE event SET state = %s WHERE book = {book} AND position = %s",
            MAPPER.to_stored_event(event).state,
            position,
        )

    def reword(self, position: int, old: bytes, new: bytes) -> None:
        """Change bytes of an event where it stands."""
        self.run("SELECT state FROM event WHERE book = {book} AND position = %s", position)
        state = bytes(self.cursor.fetchone()[0])
        assert old in state
        self.run(
            "UPDATE event SET state = %s WHERE book = {book} AND position = %s",
            state.replace(old, new),
            position,
        )

    def forge(self, *events: Event) -> None:
        """Append events as if they had been decided, without a request."""
        head = appending.lock_head(self.cursor, self.book)
        keyless = [replace(e, why=replace(e.why, key=None, fingerprint=None)) for e in events]
        stored = [MAPPER.to_stored_event(event) for event in keyless]
        last = appending.insert_events(self.cursor, self.book, head.position, stored)
        appending.move_head(self.cursor, self.book, last, events[-1].at)

    def next_version(self, stream: UUID) -> int:
        """Return the version that an event forged onto a stream must have."""
        self.run(
            "SELECT coalesce(max(originator_version), 0) + 1 FROM event"
            " WHERE book = {book} AND originator_id = %s",
            stream,
        )
        return int(self.cursor.fetchone()[0])


_UNGUARDED = """
SET search_path TO tidebook;
SET session_replication_role TO replica;
ALTER TABLE capacity
    DROP CONSTRAINT IF EXISTS capacity_issued, DROP CONSTRAINT IF EXISTS capacity_granted;
"""


@contextmanager
def damaged(database_url: str, book: str = "main") -> Iterator[Damage]:
    """Open a store for damage; what was done is committed at the end."""
    connection = psycopg2.connect(database_url)
    try:
        with connection, connection.cursor() as cursor:
            cursor.execute(_UNGUARDED)
            yield Damage(cursor, book)
    finally:
        connection.close()
