"""How far a read model has come in each book, recorded in the transaction that writes its rows.

The vocabulary is the eventsourcing library's: a book is the upstream application, a position is
the notification id. The tracking moves only forward, and a batch moves it only from the very
position that it was folded onto, so that no batch is applied twice.
"""

from __future__ import annotations

import time
from threading import Event
from typing import Any, Final

from eventsourcing.persistence import (
    IntegrityError,
    Tracking,
    TrackingRecorder,
    WaitInterruptedError,
)
from psycopg2 import sql

from ledger.datastore import Datastore
from projections.projection import Projection

POLL_S: Final = (0.002, 0.05)
"""First and longest pause between two looks at the position that somebody waits for."""


class TrackingMoved(Exception):
    """The rows do not stand at the position that a batch was read for."""

    def __init__(self, book: str, after: int) -> None:
        super().__init__(f"the rows of book {book} no longer stand at position {after}")
        self.after = after


class PositionTracking(TrackingRecorder):
    """The tracking of one read model: a row per book in its schema."""

    def __init__(self, datastore: Datastore, schema: str) -> None:
        self.datastore = datastore
        table = sql.Identifier(schema, "tracking")
        self._select = sql.SQL("SELECT position FROM {} WHERE book = %s").format(table)
        self._insert = sql.SQL("INSERT INTO {} VALUES (%s, %s) ON CONFLICT DO NOTHING").format(
            table
        )
        self._advance = sql.SQL(
            "UPDATE {} SET position = %s WHERE book = %s AND position = %s"
        ).format(table)
        self._insert_later = sql.SQL(
            "INSERT INTO {} AS t VALUES (%s, %s) ON CONFLICT (book) DO UPDATE"
            " SET position = excluded.position WHERE t.position < excluded.position"
        ).format(table)

    def position(self, curs: Any, book: str) -> int:
        """Return the position that the rows stand for, 0 before the first event."""
        curs.execute(self._select, (book,))
        row = curs.fetchone()
        return row[0] if row else 0

    def advance(self, curs: Any, book: str, after: int, last: int) -> None:
        """Move from `after` to `last` in the caller's transaction; raise `TrackingMoved`."""
        if after == 0:
            curs.execute(self._insert, (book, 0))
        curs.execute(self._advance, (last, book, after))
        if curs.rowcount != 1:
            raise TrackingMoved(book, after)

    def insert_tracking(self, tracking: Tracking) -> None:
        """Move the tracking forward by itself; raise `IntegrityError` when it was there already."""
        values = (tracking.application_name, tracking.notification_id)
        with self.datastore.transaction() as curs:
            curs.execute(self._insert_later, values)
            if curs.rowcount != 1:
                raise IntegrityError(f"{values[0]} was tracked to {values[1]} already")

    def max_tracking_id(self, application_name: str) -> int | None:
        """Return the position that the rows stand for, or None before the first event."""
        with self.datastore.transaction() as curs:
            return self.position(curs, application_name) or None

    def has_tracking_id(self, application_name: str, notification_id: int | None) -> bool:
        """Whether the rows stand at a position or later; every book starts at 0."""
        return (self.max_tracking_id(application_name) or 0) >= (notification_id or 0)

    def wait(
        self,
        application_name: str,
        notification_id: int | None,
        timeout: float = 1.0,
        interrupt: Event | None = None,
    ) -> None:
        """Return once the rows stand at a position or later.

        Raises `TimeoutError` after `timeout` seconds, `WaitInterruptedError` when interrupted.
        """
        deadline = time.monotonic() + timeout
        pause_s, longest_s = POLL_S
        interrupt = interrupt or Event()
        while not self.has_tracking_id(application_name, notification_id):
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                raise TimeoutError(
                    f"position {notification_id} of {application_name} was not read in {timeout} s"
                )
            if interrupt.wait(min(pause_s, remaining)):
                raise WaitInterruptedError
            pause_s = min(pause_s * 2, longest_s)


def position(curs: Any, projection: Projection, book: str) -> int:
    """Return the position of `book` that the live rows stand for: one look at a primary key."""
    curs.execute(
        sql.SQL("SELECT position FROM {} WHERE book = %s").format(
            sql.Identifier(projection.schema, "tracking")
        ),
        (book,),
    )
    row = curs.fetchone()
    return row[0] if row else 0


def wait_for(
    datastore: Datastore, projection: Projection, book: str, at_least: int, timeout_s: float
) -> bool:
    """Wait until the live rows show a position of `book`; tell whether they do."""
    try:
        PositionTracking(datastore, projection.schema).wait(book, at_least, timeout_s)
    except TimeoutError:
        return False
    return True
