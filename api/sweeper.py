"""The sweeper: tells the book which coupons and packets have passed their validity.

Which are due is read from the read models, and that is a hint: each one is judged again by the
book's writer, under its lock and its clock. So a read model that lags, two sweepers at once and a
redemption or payment in the same moment are all harmless. Nothing is decided here.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from datetime import datetime
from typing import Any, Final, NamedTuple
from uuid import UUID, uuid4

from eventsourcing.persistence import PersistenceError

from campaigns.commands import Call, Command, ExpireCoupon
from campaigns.event_types import MAPPER
from campaigns.packets.commands import ExpirePacket
from ledger.books import Book
from ledger.commit import Answer, CommitError, GroupCommit, QueueFull
from ledger.datastore import Datastore
from ledger.events import Actor
from ledger.history import History
from projections import packets, wallets
from projections.packets import PACKETS
from projections.projection import Projection
from projections.tracking import wait_for
from projections.wallets import WALLETS

SWEEPER: Final = Actor("sweeper", "system")

BATCH: Final = 500
"""Expiries asked for at once: as many as one transaction of the writer decides."""

POLL_S: Final = 1.0
"""Pause between two looks when nothing is due: an expiry need not be recorded at once."""

SHOWN_WITHIN_S: Final = 10.0
"""How long a pass waits for a read model to show what it has done, before it asks that again."""

PAUSE_S: Final = (0.1, 5.0)
"""First and longest pause before a store that cannot be reached is tried again."""

_log = logging.getLogger("tidebook.sweeper")


class Swept(NamedTuple):
    """What a pass did: how many it expired, and how many the writer judged otherwise."""

    expired: int = 0
    refused: int = 0
    behind: bool = False
    """True when a read model lags, so that something due may be left."""

    def plus(self, other: Swept) -> Swept:
        """Return both together."""
        return Swept(
            self.expired + other.expired,
            self.refused + other.refused,
            self.behind or other.behind,
        )


class Expiring(NamedTuple):
    """A kind of thing that expires: which read model shows what is due, and the command for one."""

    projection: Projection
    due: Callable[[Any, Book, datetime, int], list[UUID]]
    command: Callable[[Book, UUID], Command]


def _due_coupons(cursor: Any, book: Book, at: datetime, limit: int) -> list[UUID]:
    return [coupon for coupon, _ in wallets.due_for_expiry(cursor, book, at, limit)]


COUPONS: Final = Expiring(WALLETS, _due_coupons, ExpireCoupon)
PACKETS_WITH_MONEY: Final = Expiring(PACKETS, packets.due_for_expiry, ExpirePacket)


class Sweeper:
    """Sweeps one book through a writer of its own process."""

    def __init__(
        self,
        datastore: Datastore,
        writer: GroupCommit,
        *,
        by_the_book: bool = False,
        batch: int = BATCH,
        shown_within_s: float = SHOWN_WITHIN_S,
        new_id: Callable[[], str] = lambda: uuid4().hex,
    ) -> None:
        """`by_the_book`: in simulated time, the instant is that of the book's last event."""
        self.book = Book(writer.book)
        self._by_the_book = by_the_book
        self._datastore = datastore
        self._history = History(datastore, writer.book, MAPPER)
        self._writer = writer
        self._batch = batch
        self._shown_within_s = shown_within_s
        self._new_id = new_id

    def sweep(
        self, at: datetime | None = None, on_progress: Callable[[int], object] = lambda _: None
    ) -> Swept:
        """Expire everything that is due, in batches, until the read models show nothing more.

        `at` is the instant in simulated time; without one it is the book's or the database's.
        `on_progress` is told how many more were judged. Raises what the writer and the store raise.
        """
        head = self._history.standing()
        if self._by_the_book and at is None:
            at = head.at
            if at is None:
                return Swept()
        swept = Swept()
        for kind in (COUPONS, PACKETS_WITH_MONEY):
            swept = swept.plus(self._sweep(kind, head.position, at, on_progress))
        return swept

    def _sweep(
        self,
        kind: Expiring,
        position: int,
        at: datetime | None,
        on_progress: Callable[[int], object],
    ) -> Swept:
        swept = Swept(behind=not self._wait_for(kind, position))
        asked: set[UUID] = set()
        while due := [one for one in self._due(kind, at) if one not in asked]:
            asked.update(due)
            answers = list(self._expire(kind, due, at))
            expired = sum(answer.code == "expired" for answer in answers)
            refused = len(due) - expired
            behind = not self._wait_for(kind, answers[-1].position)
            swept = Swept(swept.expired + expired, swept.refused + refused, behind)
            on_progress(len(due))
            if behind:
                break
        return swept

    def run(self, stop: threading.Event, poll_s: float = POLL_S) -> None:
        """Sweep again and again until `stop` is set."""
        pause_s, longest_s = PAUSE_S
        while not stop.is_set():
            try:
                swept = self.sweep()
            except (PersistenceError, CommitError) as error:
                _log.warning("the sweep of %s is put off: %s", self.book, type(error).__name__)
                stop.wait(pause_s)
                pause_s = min(pause_s * 2, longest_s)
                continue
            if swept.expired:
                _log.info("expired %d coupons and packets of %s", swept.expired, self.book)
            pause_s = PAUSE_S[0]
            stop.wait(poll_s)

    def _due(self, kind: Expiring, at: datetime | None) -> list[UUID]:
        with self._datastore.transaction() as cursor:
            if at is None:
                cursor.execute("SELECT clock_timestamp()")
                (at,) = cursor.fetchone()
            assert at is not None, "the clock has an instant"
            return kind.due(cursor, self.book, at, self._batch)

    def _expire(self, kind: Expiring, due: list[UUID], at: datetime | None) -> Iterator[Answer]:
        """Send the commands, no more at once than the writer's queue takes; yield the answers."""
        call = Call(SWEEPER, f"sweep-{self._new_id()}", render=lambda _: b"", at=at)
        sent: deque[Future[Answer]] = deque()
        for one in due:
            request = kind.command(self.book, one).request(call)
            while True:
                try:
                    sent.append(self._writer.submit(request))
                    break
                except QueueFull:
                    if not sent:
                        raise
                    yield sent.popleft().result()
        for future in sent:
            yield future.result()

    def _wait_for(self, kind: Expiring, position: int) -> bool:
        within_s = self._shown_within_s
        return wait_for(self._datastore, kind.projection, self.book, position, within_s)
