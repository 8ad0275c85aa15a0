"""The sweeper: tells the book which coupons and packets have passed their validity.

Which are due is read from the read models, and that is a hint: each one is judged again by the
book's writer, under its lock and its clock. So a read model that lags, two sweepers at once and a
redemption or payment in the same moment are all harmless. Nothing is decided here.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from datetime import datetime
from typing import Any, Final, NamedTuple
from uuid import UUID

from api.upkeep import POLL_S, Upkeep, again_and_again, instant_in
from campaigns.commands import Command, ExpireCoupon
from campaigns.packets.commands import ExpirePacket
from ledger.books import Book
from ledger.commit import GroupCommit
from ledger.datastore import Datastore
from ledger.events import Actor
from projections import packets, wallets
from projections.packets import PACKETS
from projections.projection import Projection
from projections.tracking import wait_for
from projections.wallets import WALLETS

SWEEPER: Final = Actor("sweeper", "system")

BATCH: Final = 500
"""Expiries asked for at once: as many as one transaction of the writer decides."""

SHOWN_WITHIN_S: Final = 10.0
"""How long a pass waits for a read model to show what it has done, before it asks that again."""

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
    ) -> None:
        """`by_the_book`: in simulated time, the instant is that of the book's last event."""
        self._upkeep = Upkeep(datastore, writer, SWEEPER, "sweep", by_the_book=by_the_book)
        self.book = self._upkeep.book
        self._datastore = datastore
        self._batch = batch
        self._shown_within_s = shown_within_s

    def sweep(
        self, at: datetime | None = None, on_progress: Callable[[int], object] = lambda _: None
    ) -> Swept:
        """Expire everything that is due, in batches, until the read models show nothing more.

        `at` is the instant in simulated time; without one it is the book's or the database's.
        `on_progress` is told how many more were judged. Raises what the writer and the store raise.
        """
        head = self._upkeep.history.standing()
        if not head.position:
            return Swept()
        at = self._upkeep.instant(at, head)
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
            answers = self._upkeep.ask([kind.command(self.book, one) for one in due], at)
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

        def look() -> None:
            swept = self.sweep()
            if swept.expired:
                _log.info("expired %d coupons and packets of %s", swept.expired, self.book)

        again_and_again(look, stop, poll_s, f"the sweep of {self.book} is put off", _log)

    def _due(self, kind: Expiring, at: datetime | None) -> list[UUID]:
        with self._datastore.transaction() as cursor:
            return kind.due(cursor, self.book, instant_in(cursor, at), self._batch)

    def _wait_for(self, kind: Expiring, position: int) -> bool:
        within_s = self._shown_within_s
        return wait_for(self._datastore, kind.projection, self.book, position, within_s)
