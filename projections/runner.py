"""The runner: keeps a read model's rows of one book up with the book, batch after batch.

Rows and tracking commit together, under a lease whose epoch is checked in that transaction.
A runner that meets an event it cannot read, or a missing one, stops; it never skips.
It looks for new events by polling, so it works on any database and through any pooler. Runners of
one book in one process share what they read.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import psycopg2.errors
from eventsourcing.persistence import InterfaceError, OperationalError, PersistenceError

from campaigns.event_types import EVENT_TYPES
from ledger.datastore import Datastore
from ledger.events import EventTypes
from projections.lag import Lag
from projections.lease import LEASE_TTL_S, Clock, Lease, LeaseHeld, LeaseLost
from projections.line import Line
from projections.projection import Projection, live_shape
from projections.reading import BookReader, Page, Stretch, fetch
from projections.tracking import PositionTracking, TrackingMoved, position, wait_for

__all__ = ["BatchSize", "Following", "Lag", "OutdatedReadModel", "Runner", "position", "wait_for"]

BATCH_MIN: Final = 100
BATCH_MAX: Final = 5_000
"""A batch of this size commits in some tenths of a second and needs a few megabytes."""

BATCH_TARGET_S: Final = 0.25
"""A batch that takes longer than this is made smaller: readers of own writes wait for it."""

IDLE_POLL_S: Final = (0.005, 0.05)
"""First and longest pause between two looks at an idle book."""

BUSY_POLL_S: Final = 0.15
"""Longest pause between two batches: with the time that they take, far below a second of lag."""

REST_FACTOR: Final = 4
"""A rest is so many times as long as the work before it: looks take a fifth of a core at most."""

STANDBY_POLL_S: Final = 1.0
"""Pause between two tries of a runner that stands by while another holds the lease."""

STOPPED_POLL_S: Final = 30.0
"""Pause before a runner that stopped at something it cannot read looks again; it never skips."""

RECONNECT_S: Final = (0.1, 5.0)
"""First and longest pause before the database is tried again."""

_RENEW_PART: Final = 3
"""An idle holder renews its lease after this part of its term."""

_log = logging.getLogger("tidebook.projections")


class OutdatedReadModel(Exception):
    """The tables of a read model are not there, or not as this program wants them: rebuild it."""


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
    simulated time; without one it is the database's. `on_lag` is told after every look. Runners
    that take turns in one thread share a `line`.
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
        line: Line | None = None,
    ) -> None:
        self.projection = projection
        self.book = book
        self.lease = Lease(projection.name, book, holder, ttl_s=lease_ttl_s, clock=clock)
        self.tracking = PositionTracking(datastore, projection.schema)
        self.batch_size = BatchSize()
        self.line = line or Line(datastore)
        self._reader = BookReader(book, projection.reads, types)
        self._clock = clock
        self._on_lag = on_lag
        self._renew_s = lease_ttl_s / _RENEW_PART
        self._renewed_at = 0.0
        self._after: int | None = None

    def run_once(self) -> int:
        """Apply the next batch in one transaction; return how many events it had, 0 when idle.

        Raises `LeaseHeld` while another runner works, `LeaseLost` or `TrackingMoved` when one
        took over meanwhile, `PositionGap`, `AheadOfBook` or `Stopped` where the book cannot be
        read on.
        """
        self.prepare()
        return self.take(self.fetch(self.unread))

    def run(self, stop: threading.Event, poll_s: float = IDLE_POLL_S[1]) -> None:
        """Apply batches until `stop` is set, then let the lease go.

        Waits out other holders and lost connections; raises what `run_once` says about a book
        that cannot be read on.
        """
        Following([self]).run(stop, poll_s)

    @property
    def unread(self) -> frozenset[str]:
        """Topics that the read model knows and does not need."""
        return self._reader.unread

    def prepare(self) -> int:
        """Hold the lease, and return the position that the rows stand for."""
        if self.lease.epoch is None:
            self.acquire()
        if self._after is None:
            with self.line.look() as curs:
                self._after = self.tracking.position(curs, self.book)
        return self._after

    def acquire(self) -> None:
        """Take the lease; the tables must be of this program's shape."""
        self._after = None
        with self.line.transaction() as curs:
            check_shape(curs, self.projection)
            self.lease.acquire(curs)
        self._renewed_at = time.monotonic()

    def read(self) -> Page:
        """Read the next batch. Holds no lock, so a runner that freezes here is in nobody's way."""
        return self._reader.decode(self.fetch(self.unread))

    def fetch(self, unread: Iterable[str] = ()) -> Stretch:
        """Read the next batch as it is stored, for this runner and others at its position."""
        after = self.prepare()
        with self.line.look() as curs:
            return fetch(curs, self.book, after, self.batch_size.events, unread=sorted(unread))

    def take(self, stretch: Stretch) -> int:
        """Apply what was read from this runner's position on; return how many events it had."""
        started = time.monotonic()
        page = self._reader.decode(stretch)
        if page.size:
            self.write(page)
            self.batch_size.learn(page.size, time.monotonic() - started)
        elif time.monotonic() - self._renewed_at > self._renew_s:
            self._renew()
        self._tell(page)
        return page.size

    def write(self, page: Page) -> None:
        """Commit a batch: the lease's epoch first, then the tracking, then the rows."""
        self._after = None
        with self.line.transaction(self.projection.schema) as curs:
            self.lease.fence(curs)
            self.tracking.advance(curs, self.book, page.after, page.last)
            if page.events:
                self.projection.apply_rows(curs, self.book, page.events)
        self._after = page.last
        self._renewed_at = time.monotonic()

    def release(self) -> None:
        """Let the next runner in at once; without the database the lease ends by itself."""
        if self.lease.epoch is None:
            return
        try:
            with self.line.transaction() as curs:
                self.lease.release(curs)
        except PersistenceError as error:
            _log.warning("the lease of %s is left to expire: %s", self.projection.name, error)

    def _renew(self) -> None:
        with self.line.transaction() as curs:
            self.lease.fence(curs)
        self._renewed_at = time.monotonic()

    def _tell(self, page: Page) -> None:
        if self._on_lag is None:
            return
        seconds = 0.0
        if page.waiting_since is not None:
            now = self._clock() if self._clock is not None else page.now
            seconds = max(0.0, (now - page.waiting_since).total_seconds())
        behind = page.head - page.last
        self._on_lag(Lag(self.projection.name, self.book, page.last, behind, seconds))


OnTrouble = Callable[[Runner, Exception], None]
"""Told of a runner that cannot go on. It is tried again later; what is raised here ends all."""


def raise_trouble(_runner: Runner, trouble: Exception) -> None:
    """End the following."""
    raise trouble


class Following:
    """Follows one book for several read models in one thread, reading each event once for all.

    Runners at the same position share what was read and decode of it what they need; each has a
    transaction and a lease of its own, so that none waits for another's trouble. After a batch it
    rests a multiple of the time that it worked: a busy book makes batches large and their costs
    small, a quiet one is looked at at once.
    """

    def __init__(self, runners: Sequence[Runner], on_trouble: OnTrouble = raise_trouble) -> None:
        self._followers = [_Follower(runner) for runner in runners]
        self._on_trouble = on_trouble

    def run(self, stop: threading.Event, poll_s: float = IDLE_POLL_S[1]) -> None:
        """Apply batches until `stop` is set, then let the leases go."""
        pause_s = IDLE_POLL_S[0]
        try:
            while not stop.is_set():
                started = time.monotonic()
                applied, more = self.run_once()
                if not applied:
                    pause_s = min(pause_s * 2, poll_s)
                elif not more:
                    worked_s = time.monotonic() - started
                    pause_s = min(max(IDLE_POLL_S[0], worked_s * REST_FACTOR), BUSY_POLL_S)
                if not more:
                    stop.wait(pause_s)
        finally:
            for follower in self._followers:
                follower.runner.release()
                follower.runner.line.close()

    def run_once(self) -> tuple[int, bool]:
        """Let every runner apply its next batch; tell how many events, and whether more wait."""
        applied, more = 0, False
        for group in self._groups():
            stretch = self._fetch(group)
            if stretch is None:
                continue
            for follower in group:
                with self._minding(follower):
                    applied += follower.runner.take(stretch)
            more = more or stretch.head > stretch.last
        return applied, more

    def _groups(self) -> list[list[_Follower]]:
        """Return those who hold their lease and need no rest, put together by position."""
        groups: dict[int, list[_Follower]] = {}
        for follower in self._followers:
            if follower.rests_until <= time.monotonic():
                with self._minding(follower):
                    groups.setdefault(follower.runner.prepare(), []).append(follower)
        return list(groups.values())

    def _fetch(self, group: list[_Follower]) -> Stretch | None:
        first = min(group, key=lambda follower: follower.runner.batch_size.events)
        unread = frozenset.intersection(*(follower.runner.unread for follower in group))
        stretch = None
        with self._minding(first):
            stretch = first.runner.fetch(unread)
        return stretch  # noqa: RET504 - trouble that is minded leaves it None

    @contextmanager
    def _minding(self, follower: _Follower) -> Iterator[None]:
        """Let a runner's trouble be its own: it rests, and the others go on."""
        try:
            yield
        except LeaseHeld:
            follower.rest(STANDBY_POLL_S)
        except (LeaseLost, TrackingMoved) as moved:
            follower.warn(moved)
        except PersistenceError as error:
            if _passes(error):
                follower.warn(error)
                follower.rest_longer()
            else:
                self._give_up(follower, error)
        except Exception as error:  # noqa: BLE001 - whoever started us decides
            self._give_up(follower, error)
        else:
            follower.reconnect_s = RECONNECT_S[0]

    def _give_up(self, follower: _Follower, error: Exception) -> None:
        self._on_trouble(follower.runner, error)
        follower.rest(STOPPED_POLL_S)


class _Follower:
    """A runner among those who share a book, and when it is tried again."""

    def __init__(self, runner: Runner) -> None:
        self.runner = runner
        self.rests_until = 0.0
        self.reconnect_s = RECONNECT_S[0]

    def rest(self, seconds: float) -> None:
        self.rests_until = time.monotonic() + seconds

    def rest_longer(self) -> None:
        self.rest(self.reconnect_s)
        self.reconnect_s = min(self.reconnect_s * 2, RECONNECT_S[1])

    def warn(self, error: Exception) -> None:
        _log.warning("%s of book %s: %s", self.runner.projection.name, self.runner.book, error)


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
