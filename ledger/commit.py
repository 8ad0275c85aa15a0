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
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from typing import Final

from ledger.datastore import Datastore
from ledger.events import Event, EventMapper
from ledger.requests import (
    Answer,
    Closed,
    CommitError,
    Fold,
    Further,
    KeyInFlight,
    KeyReused,
    Observer,
    OutcomeUnknown,
    QueueFull,
    Read,
    Request,
    Retell,
    StoreUnavailable,
    Ticket,
    Verdict,
    View,
)
from ledger.writing import Limits, Writer

__all__ = [
    "Answer",
    "Closed",
    "CommitError",
    "Fold",
    "Further",
    "GroupCommit",
    "KeyInFlight",
    "KeyReused",
    "Limits",
    "Observer",
    "OutcomeUnknown",
    "QueueFull",
    "Read",
    "Request",
    "Retell",
    "StoreUnavailable",
    "Ticket",
    "Verdict",
    "View",
]

logger = logging.getLogger(__name__)


RUSH: Final = 4
"""Requests in a batch from which on it is a rush, in which waiting for company pays."""


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
        observer: Observer | None = None,
    ) -> None:
        """`check` is called on every event before it is written; it raises on a broken rule.

        Events from one mould are checked by its sample. `observer` is told of room in pools.
        """
        self.book = book
        self.limits = limits or Limits()
        self._writer = Writer(datastore, book, mapper, self.limits, check or _no_check, observer)
        self._queue: deque[Ticket] = deque()
        self._in_flight: dict[bytes, Ticket] = {}
        self._lock = threading.Lock()
        self._work = threading.Condition(self._lock)
        self._closing = False
        self._written, self._written_at = 0, float("-inf")
        self._awaited = 1
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
        mark = ticket.mark
        with self._lock:
            if self._closing:
                raise Closed
            if mark is not None:
                leader = self._in_flight.get(mark)
                if leader is not None:
                    _follow(leader, ticket)
                    return
            if len(self._queue) >= self.limits.queue_max:
                raise QueueFull
            if mark is not None:
                self._in_flight[mark] = ticket
            self._queue.append(ticket)
            if len(self._queue) in (1, self._awaited):
                self._work.notify()

    def _run(self) -> None:
        while batch := self._next_batch():
            try:
                self._writer.commit(batch, self._more)
            except Exception as error:  # whatever it was, everybody who waits must hear of it
                logger.exception("a batch of %s failed", self.book)
                for ticket in batch:
                    if ticket.answer is None:
                        ticket.error = error
            self._written, self._written_at = len(batch), time.monotonic()
            self.committed_batches += 1
            self.committed_requests += len(batch)
            self._deliver(batch)
        self._writer.close()

    def _next_batch(self) -> list[Ticket]:
        """Wait for work; return what has queued, up to the bound; nothing when closed and empty."""
        with self._work:
            while not self._queue and not self._closing:
                self._work.wait()
            self._linger()
            return self._taken(self.limits.batch_max)

    def _more(self, count: int) -> list[Ticket]:
        """Take what has queued since the batch was taken, up to so many."""
        with self._lock:
            return self._taken(count)

    def _taken(self, count: int) -> list[Ticket]:
        return [self._queue.popleft() for _ in range(min(len(self._queue), count))]

    def _linger(self) -> None:
        """Wait a moment for company when the last batch has only just been written.

        Whoever comes alone is never held up; in a rush batches are fewer and larger. As many as
        came the last time are waited for, and now and then somewhat longer, to learn whether there
        are more.
        """
        if self._written < RUSH:
            return
        self._awaited = self.limits.linger_until
        if self.committed_batches % self.limits.linger_fully_every:
            self._awaited = min(self._awaited, self._written)
        pause_s = self._written_at + self.limits.linger_s - time.monotonic()
        if pause_s > 0 and len(self._queue) < self._awaited and not self._closing:
            self._work.wait(pause_s)

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
                if ticket.mark is not None:
                    self._in_flight.pop(ticket.mark, None)
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
