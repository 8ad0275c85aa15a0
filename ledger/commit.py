"""Group commit: one writer a book and process decides what has queued and commits it at once.

In one transaction the writer locks the book's head, reads the idempotency keys, streams and
capacity that the queued requests name, decides each request on its own, inserts the events and
the replies, and commits. Only then is anybody answered. One bad request never fails its
neighbours, and nothing is ever answered that is not committed.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, Generic, NamedTuple, Protocol, TypeVar, cast
from uuid import UUID

import psycopg2
from eventsourcing import persistence as es

from ledger import appending
from ledger.appending import Capacity, Head, PoolKey, StoredReply
from ledger.datastore import Datastore
from ledger.events import Event, EventMapper

logger = logging.getLogger(__name__)

S = TypeVar("S")

_RETRIED_SQLSTATES: Final = frozenset({"40001", "40P01", "55P03", "57014"})
"""Serialization failure, deadlock, lock timeout, statement timeout: surely rolled back."""

_LOST: Final = (
    psycopg2.OperationalError,
    psycopg2.InterfaceError,
    psycopg2.InternalError,
    es.OperationalError,
    es.InterfaceError,
)
"""The transaction is gone; whether it was committed depends on how far it had come."""

_NO_SURPRISES: Final = {
    # The writer's reads are by primary key. Each is a LATERAL subquery behind OFFSET 0, so that it
    # is a look-up per key whatever the planner believes of a table that has just begun to grow.
    "enable_seqscan": "off",
    "jit": "off",
    "lock_timeout": "5s",
    "statement_timeout": "10s",
}


class CommitError(Exception):
    """A request got no answer from the store."""


class QueueFull(CommitError):
    """Too many requests wait already; this one was not taken on and surely has no effect."""


class Closed(QueueFull):
    """The writer is shutting down; this request was not taken on and surely has no effect."""


class KeyReused(CommitError):
    """The idempotency key was used with another request."""


class KeyInFlight(CommitError):
    """The first request with this key is still running."""


class StoreUnavailable(CommitError):
    """The store could not be reached; nothing was committed for this request."""


class OutcomeUnknown(CommitError):
    """The store may or may not have committed; the same key tells later."""


class Fold(Protocol[S]):
    """How a stream's events become a state."""

    def evolve(self, state: S | None, event: Any) -> S:
        """Return the state after `event`: a new one, never the old one changed."""
        ...


class Read(NamedTuple, Generic[S]):
    """A stream that a decision looks at; `keep` holds a hot one's state between batches."""

    stream: UUID
    fold: Fold[S]
    keep: bool = False


class Verdict(NamedTuple):
    """What was decided: a stable code, the reply's bytes, and what it writes (all or nothing)."""

    code: str
    body: bytes
    events: Sequence[Event] = ()
    capacity: Sequence[tuple[PoolKey, Capacity]] = ()


class View(Protocol):
    """What a decision may look at: the book as it stands at this request's place in the order."""

    @property
    def now(self) -> datetime:
        """The instant at which the request is judged, UTC; never before the book's last event."""
        ...

    def state(self, read: Read[S]) -> S | None:
        """The state of a stream; None when it has no events. Cheapest when named in `reads`."""
        ...

    def version(self, stream: UUID) -> int:
        """The last version of a stream that the request named in `reads`; 0 when it has none."""
        ...

    def capacity(self, pool: PoolKey) -> Capacity:
        """The stock and budget of a pool; zeros when new. Cheapest when named in `pools`."""
        ...


@dataclass(frozen=True, slots=True)
class Request:
    """One request for a decision.

    `scope` and `key` name the idempotency row (no row when `key` is None: then the decision
    must be harmless to repeat). `at` replaces the database's clock in simulated time.
    """

    decide: Callable[[View], Verdict]
    reads: tuple[Read[Any], ...] = ()
    pools: tuple[PoolKey, ...] = ()
    scope: str = ""
    key: str | None = None
    fingerprint: bytes = b""
    at: datetime | None = None


class Answer(NamedTuple):
    """A committed reply: code and body, the book's position after it, and whether it was stored."""

    code: str
    body: bytes
    position: int
    replayed: bool = False


@dataclass(frozen=True, slots=True)
class Limits:
    """The bounds of one writer, each with its reason."""

    queue_max: int = 10_000  # about a second of the writer's work; more would only wait in vain
    batch_max: int = 500  # beyond this the insert no longer gets cheaper per event
    retry_for_s: float = 3.0  # a restarting PostgreSQL is back by then; callers wait a little more
    retry_pause_s: float = 0.05
    kept_states_max: int = 10_000  # campaigns whose state is kept between batches


class Ticket:
    """A queued request: its answer or its error once it is settled, and who hears of that."""

    __slots__ = ("answer", "attempts", "done", "error", "followers", "follows", "loop", "request")

    def __init__(
        self,
        request: Request,
        done: Callable[[Ticket], None],
        loop: asyncio.AbstractEventLoop | None,
    ) -> None:
        self.request = request
        self.done = done
        self.loop = loop
        self.attempts = 0
        self.follows = False
        """Whether an earlier request with this key was in flight, whose answer is awaited."""
        self.followers: list[Ticket] | None = None
        self.answer: Answer | None = None
        self.error: Exception | None = None

    def result(self) -> Answer:
        """Return the answer, or raise what went wrong."""
        if self.answer is None:
            raise self.error or CommitError("not answered yet")
        return self.answer


class GroupCommit:
    """The writer of one book in this process. Thread-safe; start it, and close it to drain."""

    def __init__(
        self,
        datastore: Datastore,
        book: str,
        mapper: EventMapper,
        *,
        limits: Limits | None = None,
        check: Callable[[Event], None] | None = None,
    ) -> None:
        """`check` is called on every event before it is written; it raises on a broken rule."""
        self.book = book
        self.limits = limits or Limits()
        self._writer = _Writer(datastore, book, mapper, self.limits, check or _no_check)
        self._queue: deque[Ticket] = deque()
        self._in_flight: dict[tuple[str, str], Ticket] = {}
        self._lock = threading.Lock()
        self._work = threading.Condition(self._lock)
        self._closing = False
        self._thread = threading.Thread(target=self._run, name=f"writer-{book}", daemon=True)
        self.committed_batches = 0
        self.committed_requests = 0

    def start(self) -> GroupCommit:
        """Start the writer's thread and return self."""
        self._thread.start()
        return self

    def close(self, timeout_s: float = 30.0) -> None:
        """Take on nothing more, finish what has queued, stop."""
        with self._work:
            self._closing = True
            self._work.notify()
        if self._thread.is_alive():
            self._thread.join(timeout_s)

    @property
    def queued(self) -> int:
        """How many requests wait for the writer."""
        return len(self._queue)

    def queue(
        self, request: Request, loop: asyncio.AbstractEventLoop, done: Callable[[Ticket], None]
    ) -> Ticket:
        """Queue a request from an event loop; `done` is called there once the ticket is settled.

        Raises `QueueFull` or `KeyReused` at once. Everybody of a batch is called in one turn of
        the loop. There is no timer: who waits no longer stops listening, and then its outcome is
        unknown, or, when the ticket `follows`, that of a request still in flight.
        """
        ticket = Ticket(request, done, loop)
        self._enqueue(ticket)
        return ticket

    def submit(self, request: Request) -> Future[Answer]:
        """Queue a request from any thread. Raises `QueueFull` or `KeyReused` at once."""
        future: Future[Answer] = Future()

        def done(ticket: Ticket) -> None:
            if ticket.answer is not None:
                future.set_result(ticket.answer)
            else:
                future.set_exception(ticket.error or CommitError("not answered"))

        self._enqueue(Ticket(request, done, None))
        return future

    async def answer(self, request: Request, timeout_s: float) -> Answer:
        """Queue a request from an event loop and wait for its committed answer.

        Raises `QueueFull` and `KeyReused` at once; after `timeout_s` seconds `KeyInFlight` when
        an earlier request with this key is still running, else `OutcomeUnknown`.
        """
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[None] = loop.create_future()

        def done(_: Ticket) -> None:
            if not waiter.done():
                waiter.set_result(None)

        ticket = self.queue(request, loop, done)
        timer = loop.call_later(timeout_s, _expire, waiter)
        try:
            await waiter
        except TimeoutError:
            raise (KeyInFlight if ticket.follows else OutcomeUnknown) from None
        finally:
            timer.cancel()
        return ticket.result()

    def _enqueue(self, ticket: Ticket) -> None:
        """Queue a ticket, or let it follow the one in flight with its key."""
        request = ticket.request
        with self._lock:
            if self._closing:
                raise Closed
            if request.key is not None:
                leader = self._in_flight.get((request.scope, request.key))
                if leader is not None:
                    _follow(leader, ticket)
                    return
            if len(self._queue) >= self.limits.queue_max:
                raise QueueFull
            if request.key is not None:
                self._in_flight[request.scope, request.key] = ticket
            self._queue.append(ticket)
            if len(self._queue) == 1:
                self._work.notify()

    def _run(self) -> None:
        while batch := self._next_batch():
            try:
                self._writer.commit(batch)
            except Exception as error:  # whatever it was, everybody who waits must hear of it
                logger.exception("a batch of %s failed", self.book)
                for ticket in batch:
                    if ticket.answer is None:
                        ticket.error = error
            self.committed_batches += 1
            self.committed_requests += len(batch)
            self._deliver(batch)
        self._writer.close()

    def _next_batch(self) -> list[Ticket]:
        """Wait for work; return what has queued, up to the bound; nothing when closed and empty."""
        with self._work:
            while not self._queue and not self._closing:
                self._work.wait()
            count = min(len(self._queue), self.limits.batch_max)
            return [self._queue.popleft() for _ in range(count)]

    def _deliver(self, batch: list[Ticket]) -> None:
        """Tell everybody whose request was in the batch: one call a loop, not one a request."""
        by_loop: dict[asyncio.AbstractEventLoop | None, list[Ticket]] = {}
        for ticket in self._settle(batch):
            by_loop.setdefault(ticket.loop, []).append(ticket)
        for loop, tickets in by_loop.items():
            if loop is None:
                _tell(tickets)
                continue
            with suppress(RuntimeError):  # the loop was closed: nobody waits there any more
                loop.call_soon_threadsafe(_tell, tickets)

    def _settle(self, batch: list[Ticket]) -> list[Ticket]:
        """End the flight of the batch's keys; return its tickets and those that follow them."""
        settled = batch.copy()
        with self._lock:
            for ticket in batch:
                request = ticket.request
                if request.key is not None:
                    self._in_flight.pop((request.scope, request.key), None)
        for ticket in batch:
            if ticket.followers is not None:  # nobody joins them: the key is in flight no more
                settled += _settled_alike(ticket, ticket.followers)
        return settled


def _follow(leader: Ticket, ticket: Ticket) -> None:
    if leader.request.fingerprint != ticket.request.fingerprint:
        raise KeyReused
    ticket.follows = True
    if leader.followers is None:
        leader.followers = []
    leader.followers.append(ticket)


def _settled_alike(leader: Ticket, followers: list[Ticket]) -> list[Ticket]:
    for follower in followers:
        follower.error = leader.error
        if leader.answer is not None:
            follower.answer = leader.answer._replace(replayed=True)
    return followers


def _tell(tickets: list[Ticket]) -> None:
    for ticket in tickets:
        try:
            ticket.done(ticket)
        except Exception:
            logger.exception("whoever waited for an answer failed on hearing it")


def _expire(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_exception(TimeoutError())


def _no_check(event: Event) -> None:
    """Accept any event."""


class _Writer:
    """Takes batches through transactions on a connection of its own. One thread only."""

    def __init__(
        self,
        datastore: Datastore,
        book: str,
        mapper: EventMapper,
        limits: Limits,
        check: Callable[[Event], None],
    ) -> None:
        self._datastore = datastore.with_session(_NO_SURPRISES)
        self._book = book
        self._mapper = mapper
        self._limits = limits
        self._check = check
        self._kept: OrderedDict[UUID, _Loaded] = OrderedDict()
        self._connection: Any = None

    def close(self) -> None:
        """Close the writer's connection."""
        self._disconnect()

    def commit(self, batch: list[Ticket]) -> None:
        """Give every ticket of the batch an answer or an error.

        What was lost on the way is tried again with the same keys: the transaction that was cut
        off at COMMIT either shows its replies then, or surely never happened, because the retry
        waits for the book's lock first.
        """
        deadline = time.monotonic() + self._limits.retry_for_s
        may_be_committed = False
        while True:
            progress = _Progress()
            try:
                self._transact(batch, progress)
            except _LOST as error:
                may_be_committed |= progress.committing
                self._recover(error)
                if time.monotonic() < deadline:
                    for ticket in batch:
                        ticket.attempts += progress.committing
                    time.sleep(self._limits.retry_pause_s)
                    continue
                self._give_up(batch, may_be_committed)
            except Exception as error:  # noqa: BLE001 - the culprit is found one by one
                self._rollback()
                self._one_by_one(batch, error)
            return

    def _transact(self, batch: list[Ticket], progress: _Progress) -> None:
        if self._connection is None:
            self._connection = self._datastore.connect()
        with self._connection.cursor() as cursor:
            head = appending.lock_head(cursor, self._book)
            scene = _Scene(cursor, self._book, head, self._mapper, self._kept, batch)
            answers = [scene.judge(ticket, self._check) for ticket in batch]
            scene.write(cursor)
        progress.committing = True
        self._connection.commit()
        for ticket, outcome in zip(batch, answers, strict=True):
            if isinstance(outcome, Answer):
                ticket.answer = outcome
            else:
                ticket.error = outcome
        self._keep(scene)

    def _keep(self, scene: _Scene) -> None:
        """Remember the states worth keeping, as committed."""
        for stream, loaded in scene.worth_keeping():
            self._kept[stream] = loaded
            self._kept.move_to_end(stream)
        while len(self._kept) > self._limits.kept_states_max:
            self._kept.popitem(last=False)

    def _one_by_one(self, batch: list[Ticket], error: Exception) -> None:
        """Something refused the whole batch: find the culprit, serve its neighbours."""
        self._kept.clear()
        if len(batch) == 1:
            logger.error("a request of %s cannot be served", self._book, exc_info=error)
            batch[0].error = error
            return
        for ticket in batch:
            self.commit([ticket])

    def _recover(self, error: Exception) -> None:
        logger.warning("the writer of %s lost its transaction: %s", self._book, _kind(error))
        self._kept.clear()
        if getattr(error, "pgcode", None) in _RETRIED_SQLSTATES:
            self._rollback()
        else:
            self._disconnect()

    def _rollback(self) -> None:
        try:
            if self._connection is not None:
                self._connection.rollback()
        except psycopg2.Error:
            self._disconnect()

    def _disconnect(self) -> None:
        if self._connection is not None:
            with suppress(psycopg2.Error):
                self._connection.close()
        self._connection = None

    @staticmethod
    def _give_up(batch: list[Ticket], may_be_committed: bool) -> None:
        for ticket in batch:
            ticket.error = OutcomeUnknown() if may_be_committed else StoreUnavailable()


@dataclass(slots=True)
class _Progress:
    """How far a transaction came before it was lost."""

    committing: bool = False


@dataclass(slots=True)
class _Loaded:
    """A stream's state at a version."""

    version: int = 0
    state: Any = None


@dataclass(slots=True)
class _Undo:
    """What a request changed in the scene, to take it back when it fails half-way."""

    streams: dict[UUID, _Loaded] = field(default_factory=dict)
    pools: dict[PoolKey, Capacity] = field(default_factory=dict)


class _Scene:
    """The book as a batch sees it: read once under the lock, then changed request by request."""

    def __init__(
        self,
        cursor: Any,
        book: str,
        head: Head,
        mapper: EventMapper,
        kept: OrderedDict[UUID, _Loaded],
        batch: list[Ticket],
    ) -> None:
        self._cursor = cursor
        self._book = book
        self._mapper = mapper
        self._kept = kept
        self._head = head
        self._position = head.position
        self._at = head.at
        self.now = self._clock = appending.instant(head)
        requests = [ticket.request for ticket in batch]
        self._replies = _select_replies(
            cursor, book, [(r.scope, r.key) for r in requests if r.key is not None]
        )
        self._folds: dict[UUID, Read[Any]] = {}
        self._streams: dict[UUID, _Loaded] = {}
        self._load_streams([read for r in requests for read in r.reads])
        self._pools: dict[PoolKey, Capacity] = {}
        self._load_pools({pool for r in requests for pool in r.pools})
        self._new_events: list[es.StoredEvent] = []
        self._new_replies: list[StoredReply] = []
        self._changed_pools: set[PoolKey] = set()
        self._undo = _Undo()

    def _load_streams(self, reads: Iterable[Read[Any]]) -> dict[UUID, _Loaded]:
        """Read the streams, from the kept state on where there is one; return all known ones."""
        known: dict[UUID, _Loaded] = {}
        for read in reads:
            self._folds[read.stream] = read
            kept = self._kept.get(read.stream)
            known[read.stream] = _Loaded(kept.version, kept.state) if kept else _Loaded()
        self._streams.update(known)
        for stream, version, topic, state in _select_events(self._cursor, self._book, known):
            event = self._mapper.decode(topic, bytes(state), stream, version)
            self._evolve(known[stream], event)
        return known

    def _load_pools(self, pools: Iterable[PoolKey]) -> None:
        wanted = set(pools)
        self._pools.update(dict.fromkeys(wanted, Capacity()))
        self._pools.update(_select_capacity(self._cursor, self._book, wanted))

    def _evolve(self, loaded: _Loaded, event: Event) -> None:
        fold = self._folds[event.originator_id].fold
        loaded.state = fold.evolve(loaded.state, event)
        loaded.version = event.originator_version

    # What a decision may look at (`View`).

    def state(self, read: Read[S]) -> S | None:
        """The state of a stream, read now when the batch did not know that it would be needed."""
        loaded = self._streams.get(read.stream)
        if loaded is None:
            loaded = self._load_streams([read])[read.stream]
        return cast("S | None", loaded.state)

    def version(self, stream: UUID) -> int:
        """The last version of a stream that was read."""
        return self._streams[stream].version

    def capacity(self, pool: PoolKey) -> Capacity:
        """The capacity of a pool, read now when the batch did not know of it."""
        if pool not in self._pools:
            self._load_pools([pool])
        return self._pools[pool]

    # Deciding.

    def judge(self, ticket: Ticket, check: Callable[[Event], None]) -> Answer | Exception:
        """Decide one request after all before it; return its answer, or the error that it met."""
        request = ticket.request
        if request.key is not None:
            stored = self._replies.get((request.scope, request.key))
            if stored is not None:
                return _replay(request, stored, first=ticket.attempts > 0)
        self.now = self._instant(request.at)
        self._undo = _Undo()
        try:
            verdict = request.decide(self)
            stored_events = self._accept(verdict, check)
        except Exception as error:
            logger.exception("a decision of %s failed", self._book)
            self._take_back()
            return error
        return self._record(request, verdict, stored_events)

    def _instant(self, proposed: datetime | None) -> datetime:
        """The clock's instant or the simulated one, but never before the event before it."""
        now = self._clock if proposed is None else proposed
        return now if self._at is None or now >= self._at else self._at

    def _accept(self, verdict: Verdict, check: Callable[[Event], None]) -> list[es.StoredEvent]:
        stored = []
        for event in verdict.events:
            loaded = self._streams[event.originator_id]
            if event.originator_version != loaded.version + 1:
                raise AssertionError(f"{event.TOPIC} skips a version of {event.originator_id}")
            check(event)
            stored.append(self._mapper.to_stored_event(event))
            self._undo.streams.setdefault(
                event.originator_id, _Loaded(loaded.version, loaded.state)
            )
            self._evolve(loaded, event)
        for pool, change in verdict.capacity:
            before = self.capacity(pool)
            after = before.plus(change)
            if not after.within_bounds:
                raise AssertionError(f"a decision takes pool {pool} out of bounds: {after}")
            self._undo.pools.setdefault(pool, before)
            self._pools[pool] = after
        return stored

    def _take_back(self) -> None:
        self._streams.update(self._undo.streams)
        self._pools.update(self._undo.pools)

    def _record(
        self, request: Request, verdict: Verdict, stored_events: list[es.StoredEvent]
    ) -> Answer:
        self._new_events.extend(stored_events)
        self._position += len(stored_events)
        if stored_events:
            self._at = self.now
        self._changed_pools.update(pool for pool, _ in verdict.capacity)
        if request.key is not None:
            reply = StoredReply(
                request.scope,
                request.key,
                request.fingerprint,
                verdict.code,
                verdict.body,
                self._position,
            )
            self._replies[request.scope, request.key] = reply
            self._new_replies.append(reply)
        return Answer(verdict.code, verdict.body, self._position)

    # Writing.

    def write(self, cursor: Any) -> None:
        """Write what the batch decided: events, replies, capacity and the head."""
        if self._new_events:
            assert self._at is not None
            last = appending.insert_events(
                cursor, self._book, self._head.position, self._new_events
            )
            assert last == self._position, "every position is given once"
            appending.move_head(cursor, self._book, last, self._at)
        appending.insert_replies(cursor, self._book, self._new_replies)
        appending.set_capacity(
            cursor, self._book, {pool: self._pools[pool] for pool in self._changed_pools}
        )

    def worth_keeping(self) -> list[tuple[UUID, _Loaded]]:
        """The states that requests asked to keep."""
        return [
            (stream, self._streams[stream])
            for stream, read in self._folds.items()
            if read.keep and self._streams[stream].version
        ]


def _replay(request: Request, stored: StoredReply, *, first: bool) -> Answer | Exception:
    if stored.fingerprint != request.fingerprint:
        return KeyReused()
    return Answer(stored.code, stored.body, stored.position, replayed=not first)


def _select_events(
    cursor: Any, book: str, known: dict[UUID, _Loaded]
) -> list[tuple[UUID, int, str, Any]]:
    """Read the events of streams after the versions that are known already."""
    if not known:
        return []
    cursor.execute(
        "SELECT e.originator_id, e.originator_version, e.topic, e.state"
        " FROM unnest(%s::uuid[], %s::int[]) AS w (stream, after), LATERAL ("
        "SELECT * FROM event WHERE book = %s AND originator_id = w.stream"
        " AND originator_version > w.after OFFSET 0) e"
        " ORDER BY e.originator_id, e.originator_version",
        (
            "{" + ",".join(stream.hex for stream in known) + "}",
            "{" + ",".join(str(loaded.version) for loaded in known.values()) + "}",
            book,
        ),
    )
    return cast("list[tuple[UUID, int, str, Any]]", cursor.fetchall())


def _select_replies(
    cursor: Any, book: str, keys: Sequence[tuple[str, str]]
) -> dict[tuple[str, str], StoredReply]:
    if not keys:
        return {}
    cursor.execute(
        "SELECT i.scope, i.key, i.fingerprint, i.code, i.body, i.position"
        " FROM unnest(%s::text[], %s::text[]) AS w (scope, key), LATERAL ("
        "SELECT * FROM idempotency WHERE book = %s AND scope = w.scope AND key = w.key OFFSET 0) i",
        ([scope for scope, _ in keys], [key for _, key in keys], book),
    )
    return {
        (scope, key): StoredReply(scope, key, bytes(fingerprint), code, bytes(body), position)
        for scope, key, fingerprint, code, body, position in cursor.fetchall()
    }


def _select_capacity(cursor: Any, book: str, pools: set[PoolKey]) -> dict[PoolKey, Capacity]:
    if not pools:
        return {}
    wanted = sorted(pools, key=lambda pool: (pool[0].bytes, pool[1]))
    cursor.execute(
        "SELECT c.campaign, c.pool, c.issued, c.quota, c.granted_minor, c.budget_minor"
        " FROM unnest(%s::uuid[], %s::text[]) AS w (campaign, pool), LATERAL ("
        "SELECT * FROM capacity WHERE book = %s AND campaign = w.campaign"
        " AND pool = w.pool OFFSET 0) c",
        ([campaign for campaign, _ in wanted], [pool for _, pool in wanted], book),
    )
    return {(campaign, pool): Capacity(*rest) for campaign, pool, *rest in cursor.fetchall()}


def _kind(error: Exception) -> str:
    """Name an error for the log: its type and SQLSTATE, never its text, which may quote values."""
    state = getattr(error, "pgcode", None) or getattr(error.__cause__, "pgcode", None)
    return f"{type(error).__name__} {state or ''}".strip()
