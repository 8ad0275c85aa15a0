"""The dispatcher: follows a book behind its writers and has its money moved by the wallet operator.

Each packet event becomes at most one instruction. It is journalled with the tracking, written
down as sent before it is sent, and what became of it is written down afterwards, all under a lease
whose epoch is checked in every transaction. Whoever is killed, frozen or doubled in between leaves
rows that say `sent`; these are asked for by their number and never repeated blindly. A wallet's
instructions go one after the other. The dispatcher never decides about the ledger's money: where
an operator refuses because the wallet is closed, it tells the ledger, which decides.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Protocol
from uuid import UUID

from eventsourcing.persistence import InterfaceError, OperationalError, PersistenceError

from api.wallets.journal import READS, SCHEMA, Journal, Ordered, Result, Row, ordered
from campaigns.event_types import EVENT_TYPES
from campaigns.wallets.instructions import Step, after_asking, after_sending, closes_packets
from campaigns.wallets.port import (
    OperatorAway,
    OperatorError,
    Outcome,
    WalletNames,
    WalletOperator,
)
from ledger.commit import CommitError
from ledger.datastore import Datastore
from ledger.events import EventTypes
from projections.lease import LEASE_TTL_S, Lease, LeaseHeld, LeaseLost
from projections.reading import BookReader, Page, fetch
from projections.tracking import PositionTracking, TrackingMoved

LEASE_NAME: Final = "wallet_dispatcher"

EVENTS_MAX: Final = 5_000
"""Events read at once; most ask for nothing."""

BATCH: Final = 64
"""Instructions under way at once: two transactions for all of them."""

OPENED_MAX: Final = 200_000
"""Wallets remembered as open, some tens of megabytes; the rest is asked again."""

IDLE_POLL_S: Final = (0.05, 0.5)
"""First and longest pause between two looks at an idle book."""

STANDBY_POLL_S: Final = 1.0
RECONNECT_S: Final = (0.1, 5.0)

Clock = Callable[[], datetime]

_log = logging.getLogger("tidebook.wallets")


@dataclass(frozen=True, slots=True)
class Backoff:
    """How long to wait before the next try, the n-th time that one failed.

    `jitter` gives a number from 0 to 1 each time: a part of the pause is left to chance, so that
    those who failed together do not come back together.
    """

    first_s: float
    most_s: float
    jitter: Callable[[], float]

    def pause_s(self, failures: int) -> float:
        """Return the pause after so many failures, from half of it to all of it."""
        whole = min(self.most_s, self.first_s * 2.0 ** min(max(failures - 1, 0), 40))
        return whole * (0.5 + 0.5 * self.jitter())


class LedgerDesk(Protocol):
    """Whoever tells the ledger that a wallet is closed."""

    def wallet_closed(self, packet: UUID, number: str) -> int:
        """Ask for the end of a packet; `number` is the refused instruction. Return the head.

        Asking twice is asking once. Raises `CommitError`.
        """
        ...


class Dispatcher:
    """Dispatches one book's instructions to one operator. Not for two threads at once."""

    def __init__(
        self,
        datastore: Datastore,
        book: str,
        operator: WalletOperator,
        names: WalletNames,
        desk: LedgerDesk,
        holder: str,
        *,
        backoff: Backoff,
        clock: Clock = lambda: datetime.now(UTC),
        lease_ttl_s: float = LEASE_TTL_S,
        batch: int = BATCH,
        types: EventTypes = EVENT_TYPES,
    ) -> None:
        """`holder` names this dispatcher among all; `clock` says when a pause is over."""
        self.book = book
        self.operator = operator
        self.journal = Journal(book)
        self.lease = Lease(LEASE_NAME, book, holder, ttl_s=lease_ttl_s)
        self.tracking = PositionTracking(datastore, SCHEMA)
        self._datastore = datastore
        self._names = names
        self._desk = desk
        self._backoff = backoff
        self._clock = clock
        self._batch = batch
        self._reader = BookReader(book, READS, types)
        self._renew_s = lease_ttl_s / 3
        self._renewed_at = 0.0
        self._opened: set[str] = set()
        self._away = 0
        self._away_until: datetime | None = None
        self._loop = asyncio.Runner()

    def run_once(self) -> int:
        """Do what can be done now; return how much that was, 0 when idle.

        Raises `LeaseHeld` while another dispatcher works, `LeaseLost` or `TrackingMoved` when one
        took over, and what the reader raises where the book cannot be read on.
        """
        self._hold()
        return self.follow() + self.dispatch() + self.tell()

    def run(self, stop: threading.Event) -> None:
        """Dispatch until `stop` is set, then let the lease go; waits out whatever passes."""
        pause_s, idle_s = RECONNECT_S[0], IDLE_POLL_S[0]
        try:
            while not stop.is_set():
                try:
                    if self.run_once():
                        idle_s = IDLE_POLL_S[0]
                    else:
                        stop.wait(idle_s)
                        idle_s = min(idle_s * 2, IDLE_POLL_S[1])
                    pause_s = RECONNECT_S[0]
                except LeaseHeld:
                    stop.wait(STANDBY_POLL_S)
                except (LeaseLost, TrackingMoved) as moved:
                    _log.warning("dispatcher of %s: %s", self.book, moved)
                except (OperationalError, InterfaceError, CommitError) as error:
                    _log.warning("dispatcher of %s waits: %s", self.book, type(error).__name__)
                    stop.wait(pause_s)
                    pause_s = min(pause_s * 2, RECONNECT_S[1])
        finally:
            self.release()

    def release(self) -> None:
        """Let the next dispatcher in at once; without the database the lease ends by itself."""
        if self.lease.epoch is not None:
            try:
                with self._datastore.transaction() as curs:
                    self.lease.release(curs)
            except PersistenceError as error:
                _log.warning("the dispatcher's lease is left to expire: %s", error)
        self._loop.run(self.operator.hang_up())

    def close(self) -> None:
        """Let the lease go and end; for good."""
        self.release()
        self._loop.close()

    # The three kinds of work, each a transaction or two.

    def follow(self) -> int:
        """Write down what the next events ask for; return how many events there were."""
        page = self.read()
        if page.size:
            self.write(page, ordered(self.book, page.events, self._names))
        return page.size

    def dispatch(self) -> int:
        """Send what is due and ask for what is unknown; return how many were settled or moved on.

        While nobody answers there, everything waits: a pause for all, longer each time.
        """
        now = self._clock()
        if self._away_until is not None and now < self._away_until:
            return 0
        if not self._something_is_ready(now):
            return 0
        rows = self.take(now)
        results = self._loop.run(self._carry_out_all(rows))
        self.record(results)
        self._mind(results)
        return len(results)

    def tell(self) -> int:
        """Tell the ledger of closed wallets; return how many refusals were told."""
        with self._datastore.transaction() as curs:
            rows = self.journal.untold(curs, self._batch)
            packets = {row: self._packets_ended_by(curs, row) for row in rows}
        for row in rows:
            head = 0
            for packet in packets[row]:
                head = self._desk.wallet_closed(packet, row.instruction.number)
            with self._fenced() as curs:
                self.journal.mark_told(curs, row, head)
        return len(rows)

    # Their steps, apart so that a test can stop between them.

    def read(self) -> Page:
        """Read the next events. Holds no lock."""
        with self._datastore.transaction() as curs:
            after = self.tracking.position(curs, self.book)
            stretch = fetch(curs, self.book, after, EVENTS_MAX, unread=sorted(self._reader.unread))
        return self._reader.decode(stretch)

    def write(self, page: Page, found: Sequence[Ordered]) -> None:
        """Commit instructions together with the position that they stand for."""
        with self._fenced() as curs:
            self.tracking.advance(curs, self.book, page.after, page.last)
            self.journal.add(curs, self.operator.name, found, self._clock())

    def take(self, now: datetime) -> list[Row]:
        """Return what to do now; what is due is on disk as sent when this returns."""
        with self._fenced() as curs:
            rows = self.journal.ready(curs, self.operator.name, now, self._batch)
            self.journal.mark_sent(curs, [row for row in rows if row.state == "due"])
        return rows

    async def carry_out(self, row: Row) -> Step:
        """Send a row that was due, ask for any other; return what it becomes."""
        if row.state != "due":
            return after_asking(row.instruction, await self._look_up(row))
        return after_sending(await self._send(row))

    def record(self, results: Sequence[Result]) -> None:
        """Commit what became of instructions."""
        with self._fenced() as curs:
            self.journal.record(curs, results)

    def _hold(self) -> None:
        """Hold the lease, and renew it where nothing else did for a while."""
        if self.lease.epoch is None:
            with self._datastore.transaction() as curs:
                self.lease.acquire(curs)
            self._renewed_at = time.monotonic()
            self._away, self._away_until = 0, None
        elif time.monotonic() - self._renewed_at > self._renew_s:
            with self._fenced():
                pass

    @contextmanager
    def _fenced(self) -> Iterator[Any]:
        """Lend a transaction that only the present holder of the lease can commit."""
        with self._datastore.transaction() as curs:
            self.lease.fence(curs)
            yield curs
        self._renewed_at = time.monotonic()

    def _something_is_ready(self, now: datetime) -> bool:
        """Look without the lease's row, which costs a write: an idle book costs none."""
        with self._datastore.transaction() as curs:
            return bool(self.journal.ready(curs, self.operator.name, now, 1))

    async def _carry_out_all(self, rows: Sequence[Row]) -> list[Result]:
        tasks = [asyncio.ensure_future(self.carry_out(row)) for row in rows]
        try:
            steps = await asyncio.gather(*tasks)
        except BaseException:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            raise
        now = self._clock()
        return [
            Result(row, step, now + timedelta(seconds=self._pause_s(row, step)))
            for row, step in zip(rows, steps, strict=True)
        ]

    def _pause_s(self, row: Row, step: Step) -> float:
        """Return how long a row rests: not at all when the operator said that it has nothing."""
        never_heard_of = row.state != "due" and step.state == "due"
        return 0.0 if never_heard_of else self._backoff.pause_s(row.failures + 1)

    async def _send(self, row: Row) -> Outcome | OperatorError:
        wanted = row.instruction
        if wanted.kind == "credit" and wanted.wallet not in self._opened:
            try:
                await self.operator.open(wanted.wallet, wanted.currency)
            except OperatorError as error:
                return OperatorAway(f"not opened: {error}")  # the credit itself was not sent
            self._remember(wanted.wallet)
        try:
            return await self.operator.instruct(wanted)
        except OperatorError as error:
            return error

    async def _look_up(self, row: Row) -> Outcome | OperatorError | None:
        try:
            return await self.operator.look_up(row.instruction.number)
        except OperatorError as error:
            return error

    def _remember(self, wallet: str) -> None:
        if len(self._opened) >= OPENED_MAX:
            self._opened.clear()
        self._opened.add(wallet)

    def _mind(self, results: Sequence[Result]) -> None:
        """Let everything wait when nobody answered at all; say so once, and when it is over.

        Those that failed before say nothing new: each has a pause of its own, and one wallet that
        never gets an answer must not hold up the others.
        """
        if any(_was_answered(one) for one in results):
            if self._away:
                _log.info("operator %s answers again", self.operator.name)
            self._away, self._away_until = 0, None
        elif any(one.row.failures == 0 for one in results):
            if not self._away:
                _log.warning("operator %s does not answer; tried again later", self.operator.name)
            self._away += 1
            pause_s = self._backoff.pause_s(self._away)
            self._away_until = self._clock() + timedelta(seconds=pause_s)

    def _packets_ended_by(self, curs: Any, row: Row) -> list[UUID]:
        if not closes_packets(Step(row.state, row.code)):
            _log.error("operator %s refused an instruction: %s", row.operator, row.code)
            return []
        return self.journal.packets_in(curs, row.instruction.wallet)


def _was_answered(result: Result) -> bool:
    """Whether the operator said anything: a number that it does not have is an answer as well."""
    if result.step.state == "due":
        return result.row.state != "due"
    return result.step.state != "unknown"
