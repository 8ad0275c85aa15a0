"""The runner: keeps a read model's rows of one book up with the book, batch after batch.

Rows and tracking commit together, under a lease whose epoch is checked in that transaction.
A runner that meets an event it cannot read, or a missing one, stops; it never skips.
It looks for new events by polling, so it works on any database and through any pooler.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any, Final, NamedTuple

import psycopg2.errors
from eventsourcing.persistence import InterfaceError, OperationalError, PersistenceError

from campaigns.event_types import EVENT_TYPES
from ledger.datastore import Datastore
from ledger.events import EventTypes
from projections.lease import LEASE_TTL_S, Clock, Lease, LeaseHeld, LeaseLost
from projections.projection import Projection, live_shape
from projections.reading import BookReader, Page
from projections.tracking import PositionTracking, TrackingMoved, position, wait_for

__all__ = ["BatchSize", "Lag", "OutdatedReadModel", "Runner", "position", "wait_for"]

BATCH_MIN: Final = 100
BATCH_MAX: Final = 5_000
"""A batch of this size commits in some tenths of a second and needs a few megabytes."""

BATCH_TARGET_S: Final = 0.25
"""A batch that takes longer than this is made smaller: readers of own writes wait for it."""

IDLE_POLL_S: Final = (0.005, 0.05)
"""First and longest pause between two looks at an idle book."""

STANDBY_POLL_S: Final = 1.0
"""Pause between two tries of a runner that stands by while another holds the lease."""

RECONNECT_S: Final = (0.1, 5.0)
"""First and longest pause before the database is tried again."""

_RENEW_PART: Final = 3
"""An idle holder renews its lease after this part of its term."""

_log = logging.getLogger("tidebook.projections")


class OutdatedReadModel(Exception):
    """The tables of a read model are not there, or not as this program wants them: rebuild it."""


class Lag(NamedTuple):
    """How far a read model is behind its book."""

    projection: str
    book: str
    position: int
    events: int
    seconds: float


class BatchSize:
    """How many events to take at once: more while there is plenty and it is quick, else fewer."""

    def __init__(self, least: int = BATCH_MIN, most: int = BATCH_MAX) -> None:
        self.least = least
        self.most = most
        self.events = least

    def learn(self, taken: int, seconds: float) -> None:
        """Adapt to a batch of `taken` events that took `seconds`."""
        if seconds > BATCH_TARGET_S:
            self.events = max(self.least, self.events // 2)
        elif taken >= self.events:
            self.events = min(self.most, self.events * 2)


class Runner:
    """Applies one book's events to one read model.

    `holder` names this runner among all that may exist. `clock` judges the lease and the lag in
    simulated time; without one it is the database's. `on_lag` is told after every look.
    """

    def __init__(
        self,
        datastore: Datastore,
        projection: Projection,
        book: str,
        holder: str,
        *,
        clock: Clock | None = None,
        lease_ttl_s: float = LEASE_TTL_S,
        types: EventTypes = EVENT_TYPES,
        on_lag: Callable[[Lag], None] | None = None,
    ) -> None:
        self.projection = projection
        self.book = book
        self.lease = Lease(projection.name, book, holder, ttl_s=lease_ttl_s, clock=clock)
        self.tracking = PositionTracking(datastore, projection.schema)
        self.batch_size = BatchSize()
        self._datastore = datastore
        self._reader = BookReader(book, projection.reads, types)
        self._clock = clock
        self._on_lag = on_lag
        self._renew_s = lease_ttl_s / _RENEW_PART
        self._renewed_at = 0.0

    def run_once(self) -> int:
        """Apply the next batch in one transaction; return how many events it had, 0 when idle.

        Raises `LeaseHeld` while another runner works, `LeaseLost` or `TrackingMoved` when one
        took over meanwhile, `PositionGap`, `AheadOfBook` or `Stopped` where the book cannot be
        read on.
        """
        if self.lease.epoch is None:
            self.acquire()
        started = time.monotonic()
        page = self.read()
        if page.size:
            self.write(page)
            self.batch_size.learn(page.size, time.monotonic() - started)
        elif time.monotonic() - self._renewed_at > self._renew_s:
            self._renew()
        self._tell(page)
        return page.size

    def run(self, stop: threading.Event, poll_s: float = IDLE_POLL_S[1]) -> None:
        """Apply batches until `stop` is set, then let the lease go.

        Waits out other holders and lost connections; raises what `run_once` says about a book
        that cannot be read on.
        """
        pause_s, reconnect_s = IDLE_POLL_S[0], RECONNECT_S[0]
        try:
            while not stop.is_set():
                try:
                    applied = self.run_once()
                except LeaseHeld:
                    stop.wait(STANDBY_POLL_S)
                except (LeaseLost, TrackingMoved) as moved:
                    _log.warning("%s of book %s: %s", self.projection.name, self.book, moved)
                except PersistenceError as error:
                    if not _passes(error):
                        raise
                    _log.warning("%s of book %s: %s", self.projection.name, self.book, error)
                    stop.wait(reconnect_s)
                    reconnect_s = min(reconnect_s * 2, RECONNECT_S[1])
                else:
                    reconnect_s = RECONNECT_S[0]
                    pause_s = IDLE_POLL_S[0] if applied else min(pause_s * 2, poll_s)
                    if not applied:
                        stop.wait(pause_s)
        finally:
            self._release()

    def acquire(self) -> None:
        """Take the lease; the tables must be of this program's shape."""
        with self._datastore.transaction() as curs:
            check_shape(curs, self.projection)
            self.lease.acquire(curs)
        self._renewed_at = time.monotonic()

    def read(self) -> Page:
        """Read the next batch. Holds no lock, so a runner that freezes here is in nobody's way."""
        with self._datastore.transaction() as curs:
            after = self.tracking.position(curs, self.book)
            return self._reader.page(curs, after, self.batch_size.events)

    def write(self, page: Page) -> None:
        """Commit a batch: the lease's epoch first, then the tracking, then the rows."""
        with self._datastore.transaction() as curs:
            self.lease.fence(curs)
            self.tracking.advance(curs, self.book, page.after, page.last)
            self.projection.apply(curs, self.projection.schema, self.book, page.events)
        self._renewed_at = time.monotonic()

    def _renew(self) -> None:
        with self._datastore.transaction() as curs:
            self.lease.fence(curs)
        self._renewed_at = time.monotonic()

    def _release(self) -> None:
        if self.lease.epoch is None:
            return
        try:
            with self._datastore.transaction() as curs:
                self.lease.release(curs)
        except PersistenceError as error:
            _log.warning("the lease of %s is left to expire: %s", self.projection.name, error)

    def _tell(self, page: Page) -> None:
        if self._on_lag is None:
            return
        seconds = 0.0
        if page.waiting_since is not None:
            now = self._clock() if self._clock is not None else page.now
            seconds = max(0.0, (now - page.waiting_since).total_seconds())
        behind = page.head - page.last
        self._on_lag(Lag(self.projection.name, self.book, page.last, behind, seconds))


def check_shape(curs: Any, projection: Projection) -> None:
    """Raise `OutdatedReadModel` unless the live tables are those that this program writes."""
    found = live_shape(curs, projection)
    if found != projection.shape:
        raise OutdatedReadModel(
            f"{projection.schema} has the shape {found} and must be rebuilt to {projection.shape}"
        )


def _passes(error: PersistenceError) -> bool:
    """Whether an error is one of the connection or the server's state, so that it may pass."""
    return isinstance(error, OperationalError | InterfaceError) or isinstance(
        error.__cause__, psycopg2.errors.IdleInTransactionSessionTimeout
    )
