"""The sweeper: tells the book which coupons have passed their validity, so that it records it.

Which coupons are due is read from the wallets, and that is a hint: each one is judged again by
the book's writer, under its lock and its clock. So a wallet that lags, two sweepers at once and a
redemption in the same moment are all harmless. Nothing is decided here.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from datetime import datetime
from typing import Final, NamedTuple
from uuid import UUID, uuid4

from eventsourcing.persistence import PersistenceError

from campaigns.commands import Call, ExpireCoupon
from campaigns.event_types import MAPPER
from ledger.books import Book
from ledger.commit import Answer, CommitError, GroupCommit, QueueFull
from ledger.datastore import Datastore
from ledger.events import Actor
from ledger.history import History
from projections.tracking import wait_for
from projections.wallets import WALLETS, due_for_expiry

SWEEPER: Final = Actor("sweeper", "system")

BATCH: Final = 500
"""Coupons asked for at once: as many as one transaction of the writer decides."""

POLL_S: Final = 1.0
"""Pause between two looks when nothing is due: an expiry need not be recorded at once."""

SHOWN_WITHIN_S: Final = 10.0
"""How long a pass waits for the wallets to show what it has done, before it asks them again."""

PAUSE_S: Final = (0.1, 5.0)
"""First and longest pause before a store that cannot be reached is tried again."""

_log = logging.getLogger("tidebook.sweeper")


class Swept(NamedTuple):
    """What a pass did: coupons expired, and those that the writer judged otherwise."""

    expired: int = 0
    refused: int = 0
    behind: bool = False
    """True when the wallets lag, so that something due may be left."""


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
        """Expire everything that is due, in batches, until the wallets show nothing more.

        `at` is the instant in simulated time; without one it is the book's or the database's.
        `on_progress` is told how many more were judged. Raises what the writer and the store raise.
        """
        head = self._history.standing()
        if self._by_the_book and at is None:
            at = head.at
            if at is None:
                return Swept()
        swept = Swept(behind=not self._wait_for(head.position))
        asked: set[UUID] = set()
        while due := [coupon for coupon in self._due(at) if coupon not in asked]:
            asked.update(due)
            answers = list(self._expire(due, at))
            expired = sum(answer.code == "expired" for answer in answers)
            refused = len(due) - expired
            behind = not self._wait_for(answers[-1].position)
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
                _log.info("expired %d coupons of %s", swept.expired, self.book)
            pause_s = PAUSE_S[0]
            stop.wait(poll_s)

    def _due(self, at: datetime | None) -> list[UUID]:
        with self._datastore.transaction() as cursor:
            if at is None:
                cursor.execute("SELECT clock_timestamp()")
                (at,) = cursor.fetchone()
            return [coupon for coupon, _ in due_for_expiry(cursor, self.book, at, self._batch)]

    def _expire(self, due: list[UUID], at: datetime | None) -> Iterator[Answer]:
        """Send the commands, no more at once than the writer's queue takes; yield the answers."""
        call = Call(SWEEPER, f"sweep-{self._new_id()}", render=lambda _: b"", at=at)
        sent: deque[Future[Answer]] = deque()
        for coupon in due:
            request = ExpireCoupon(self.book, coupon).request(call)
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

    def _wait_for(self, position: int) -> bool:
        return wait_for(self._datastore, WALLETS, self.book, position, self._shown_within_s)
