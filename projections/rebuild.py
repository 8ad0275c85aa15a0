"""Rebuilding a read model from position 0 beside the live one, and putting it in its place.

The events are poured into fresh tables without indexes in many short transactions (a long one
would keep the writers' hottest rows from being cleaned), then settled and indexed, then brought
up to date, then swapped in: one transaction renames the schemas, under the leases of all runners.
Readers see the old rows or the new ones, never nothing. A rebuild that dies leaves the live rows
as they are; the next one clears away what it left.
"""

from __future__ import annotations

import gc
import logging
import os
import resource
import socket
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Any, Final

import msgspec
from eventsourcing.persistence import OperationalError, PersistenceError
from psycopg2 import sql

from campaigns.event_types import EVENT_TYPES
from ledger.datastore import Datastore
from ledger.events import EventTypes
from projections.lease import Clock, Lease, revoke_all
from projections.projection import (
    NEXT,
    OLD,
    Projection,
    drop_schema,
    schema_exists,
    tables_of,
    use_schema,
)
from projections.reading import BookReader, Page
from projections.tracking import PositionTracking

PAGE_EVENTS: Final = 20_000
"""Events per load transaction: enough to make its costs vanish, few enough to stay small."""

CATCH_UP_EVENTS: Final = 2_000
"""A book this close to its head is caught up in the swap itself, which holds the runners up."""

CATCH_UP_ROUNDS_MAX: Final = 1_000
"""A book that is written faster than it can be read is not waited for without end."""

LEASE_TTL_S: Final = 120.0
"""A rebuild renews its lease with every page, but one index may take this long."""

_SESSION: Final[dict[str, str | None]] = {
    "statement_timeout": "0",  # an index on a hundred million rows takes its time
    "lock_timeout": "60s",
    "idle_in_transaction_session_timeout": "120s",
    "work_mem": "64MB",
    "maintenance_work_mem": "256MB",
}

_log = logging.getLogger("tidebook.projections")

Progress = Callable[[str, int, int], None]
"""Told the phase, the events done and the events in all."""


class RebuildTooSlow(Exception):
    """The book grows faster than the rebuild reads it."""


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What a rebuild did and how fast. Memory is the peak of this process over its life.

    `cpu_s` is the processor time of this process, without the database's.
    """

    projection: str
    events: int
    seconds: float
    events_per_s: float
    load_s: float
    settle_s: float
    catch_up_s: float
    swap_s: float
    cpu_s: float
    rows: dict[str, int]
    peak_memory_bytes: int
    cpus: int


def rebuild(
    datastore: Datastore,
    projection: Projection,
    on_progress: Progress | None = None,
    *,
    holder: str | None = None,
    clock: Clock | None = None,
    types: EventTypes = EVENT_TYPES,
) -> Report:
    """Rebuild a read model from position 0 and swap it in.

    It takes over from any other rebuild or verification of the read model, dead or alive: that
    one can commit nothing more. Raises `LeaseLost` when it is itself taken over from, and what
    stops a reader.
    """
    with exclusive(datastore, projection, holder, clock=clock, seize=True) as (worker, lease):
        build = FreshBuild(worker, projection, projection.schema + NEXT, lease, types, on_progress)
        with build.timed("load"):
            build.start()
            build.load()
        with build.timed("settle"):
            build.settle()
        with build.timed("catch_up"):
            build.catch_up()
        with build.timed("swap"), worker.transaction() as curs:
            swap(curs, build)
        rows = count_rows(worker, projection)
        try:
            clear_leftovers(worker, projection)
        except OperationalError as error:
            _log.warning("old rows of %s are left for the next rebuild: %s", projection.name, error)
    return build.report(rows)


@contextmanager
def collecting_nothing() -> Iterator[None]:
    """Let nobody look for rings in millions of rows: there are none."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


@contextmanager
def exclusive(
    datastore: Datastore,
    projection: Projection,
    holder: str | None,
    *,
    clock: Clock | None = None,
    seize: bool = False,
) -> Iterator[tuple[Datastore, Lease]]:
    """Lend a datastore for long work on a read model, and the lease that keeps others from it.

    Raises `LeaseHeld`, unless the lease is to be seized.
    """
    holder = holder or f"{socket.gethostname()}-{os.getpid()}"
    lease = Lease(f"{projection.name}.rebuild", "*", holder, ttl_s=LEASE_TTL_S, clock=clock)
    worker = datastore.with_session(_SESSION)
    try:
        with worker.transaction() as curs:
            lease.acquire(curs, seize=seize)
        try:
            yield worker, lease
        finally:
            # With the database gone, the lease ends by itself.
            if lease.epoch is not None:
                with suppress(PersistenceError), worker.transaction() as curs:
                    lease.release(curs)
    finally:
        worker.close()


class FreshBuild:
    """Fresh tables of a read model in a schema of their own, filled from position 0."""

    def __init__(
        self,
        datastore: Datastore,
        projection: Projection,
        schema: str,
        lease: Lease,
        types: EventTypes,
        on_progress: Progress | None = None,
    ) -> None:
        self.projection = projection
        self.schema = schema
        self.tracking = PositionTracking(datastore, schema)
        self.events = 0
        self._datastore = datastore
        self.lease = lease
        self._types = types
        self._loader = projection.loader()
        self._on_progress = on_progress or _silent
        self._total = 0
        self._seconds: dict[str, float] = {}
        self._cpu_before_s = time.process_time()

    def start(self) -> None:
        """Clear away what a dead predecessor left, and make the tables."""
        clear_leftovers(self._datastore, self.projection, self.schema)
        with self._datastore.transaction() as curs:
            self.lease.fence(curs)
            self.projection.create_for_load(curs, self.schema)

    def load(self, until: dict[str, int] | None = None) -> None:
        """Pour every book's events in, up to its head as it is now or the position given."""
        targets = self.heads() if until is None else until
        self._total = sum(targets.values())
        with collecting_nothing(), ThreadPoolExecutor(1, "tidebook-read") as ahead:
            for book, target in targets.items():
                page = self._read(book, 0, target)
                while page.size:
                    # The next page is read while this one is written.
                    following = ahead.submit(self._read, book, page.last, target)
                    self._pour(book, page)
                    page = following.result()

    def settle(self) -> None:
        """Fold what was poured, and index it."""
        self._on_progress("settle", self.events, self._total)
        with self._datastore.transaction() as curs:
            curs.execute("SET LOCAL synchronous_commit = off")
            self.lease.fence(curs)
            use_schema(curs, self.schema)
            self._loader.settle(curs)
            self.projection.finish_load(curs)

    def catch_up(self) -> None:
        """Apply what was written meanwhile until every book is nearly at its head."""
        behind: list[str] = []
        for _ in range(CATCH_UP_ROUNDS_MAX):
            heads = self.heads()
            self._total = sum(heads.values())
            behind = [b for b, head in heads.items() if head - self._at(b) > CATCH_UP_EVENTS]
            if not behind:
                return
            for book in behind:
                with self._datastore.transaction() as curs:
                    self.lease.fence(curs)
                    self.advance(curs, book, heads[book], PAGE_EVENTS)
                self._on_progress("catch_up", self.events, self._total)
        raise RebuildTooSlow(f"{self.projection.name} is still behind: {behind}")

    def advance(self, curs: Any, book: str, until: int, limit: int) -> int:
        """Apply up to `limit` events in the caller's transaction; return how many there were."""
        after = self.tracking.position(curs, book)
        page = self._reader(book).page(curs, after, limit, until)
        if page.size:
            self.tracking.advance(curs, book, page.after, page.last)
            self.projection.apply(curs, self.schema, book, page.events)
            self.events += page.size
        return page.size

    def heads(self) -> dict[str, int]:
        """Return the last position of every book."""
        with self._datastore.transaction() as curs:
            return read_heads(curs)

    @contextmanager
    def timed(self, phase: str) -> Iterator[None]:
        """Take a phase's time for the report."""
        started = time.perf_counter()
        yield
        self._seconds[phase] = time.perf_counter() - started

    def report(self, rows: dict[str, int]) -> Report:
        """Return what was done and how fast."""
        seconds = sum(self._seconds.values())
        return Report(
            projection=self.projection.name,
            events=self.events,
            seconds=round(seconds, 3),
            events_per_s=round(self.events / seconds, 1),
            load_s=round(self._seconds["load"], 3),
            settle_s=round(self._seconds["settle"], 3),
            catch_up_s=round(self._seconds["catch_up"], 3),
            swap_s=round(self._seconds["swap"], 3),
            cpu_s=round(time.process_time() - self._cpu_before_s, 3),
            rows=rows,
            peak_memory_bytes=peak_memory_bytes(),
            cpus=len(os.sched_getaffinity(0)),
        )

    def _read(self, book: str, after: int, target: int) -> Page:
        with self._datastore.transaction() as curs:
            return self._reader(book).page(curs, after, PAGE_EVENTS, target)

    def _pour(self, book: str, page: Page) -> None:
        with self._datastore.transaction() as curs:
            # Losing the last pages in a crash is harmless: the next rebuild starts over. The
            # swap commits durably, and with it all that was written before it.
            curs.execute("SET LOCAL synchronous_commit = off")
            self.lease.fence(curs)
            self.tracking.advance(curs, book, page.after, page.last)
            use_schema(curs, self.schema)
            self._loader.load(curs, book, page.events)
        self.events += page.size
        self._on_progress("load", self.events, self._total)

    def _at(self, book: str) -> int:
        return self.tracking.max_tracking_id(book) or 0

    def _reader(self, book: str) -> BookReader:
        return BookReader(book, self.projection.reads, self._types)


def swap(curs: Any, build: FreshBuild) -> None:
    """Put the fresh tables in the place of the live ones, in the caller's transaction.

    Every runner's epoch ends first, so none can commit what it read before; a new one waits at
    the tracking. Then the fresh rows are brought to the heads, which no live row can be beyond.
    """
    live = build.projection.schema
    build.lease.fence(curs)
    revoke_all(curs, build.projection.name)
    replaces = schema_exists(curs, live)
    if replaces:
        tracking = sql.Identifier(live, "tracking")
        curs.execute(sql.SQL("LOCK TABLE {} IN EXCLUSIVE MODE").format(tracking))
    for book, head in read_heads(curs).items():
        while build.advance(curs, book, head, PAGE_EVENTS):
            pass
    if replaces:
        _rename(curs, live, live + OLD)
    _rename(curs, build.schema, live)


def clear_leftovers(
    datastore: Datastore, projection: Projection, schema: str | None = None
) -> None:
    """Drop what a swap or a dead rebuild left; waits for readers that still look at it."""
    for leftover in (schema, projection.schema + OLD):
        if leftover is not None:
            with datastore.transaction() as curs:
                drop_schema(curs, leftover)


def read_heads(curs: Any) -> dict[str, int]:
    """Return the last position of every book, in the books' order."""
    curs.execute("SELECT book, position FROM tidebook.book_head ORDER BY book")
    return dict(curs.fetchall())


def count_rows(datastore: Datastore, projection: Projection) -> dict[str, int]:
    """Return how many rows each live table has."""
    with datastore.transaction() as curs:
        counts = {}
        for table in tables_of(curs, projection.schema):
            name = sql.Identifier(projection.schema, table)
            curs.execute(sql.SQL("SELECT count(*) FROM {}").format(name))
            counts[table] = curs.fetchone()[0]
    return counts


def peak_memory_bytes() -> int:
    """Return the most memory that this process has ever had resident."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _rename(curs: Any, schema: str, name: str) -> None:
    curs.execute(
        sql.SQL("ALTER SCHEMA {} RENAME TO {}").format(sql.Identifier(schema), sql.Identifier(name))
    )


def _silent(_phase: str, _done: int, _total: int) -> None:
    """Nobody wants to know."""
