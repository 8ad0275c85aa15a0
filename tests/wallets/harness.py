"""A ledger with packets, an operator in a thread, and a dispatcher between them."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID

from api.sandbox.faults import Fault
from api.sandbox.running import in_thread
from api.sandbox.service import Service
from api.sandbox.store import Store
from api.wallets.adapter import HttpOperator
from api.wallets.desk import WriterDesk
from api.wallets.dispatcher import Backoff, Dispatcher
from api.wallets.journal import Journal, Row
from campaigns.commands import ClaimCoupon
from campaigns.coupon import coupon_id
from campaigns.packets.commands import CloseWallet, ExpirePacket, PayFromPacket, RefundPayment
from campaigns.packets.terms import PacketTerms
from campaigns.wallets.port import WalletNames
from ledger.datastore import Datastore
from ledger.events import Actor
from ledger.money import Money
from projections.lease import LeaseHeld
from tests.support.desk import ALICE, NOON, Desk, person, terms_of, tourist

KEY = b"the key that both of us know, 32"
NAMES_KEY = b"the key of the wallets' names, 32"
OPERATOR = "sandbox"
FACE = 20_000
MALL = Actor("merchant", "mall")
AFTER = NOON + timedelta(days=3)

T = TypeVar("T")


class Clock:
    """A clock that stands until it is moved."""

    def __init__(self) -> None:
        self.now = datetime(2026, 5, 1, 12, 0, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def move(self, seconds: float) -> None:
        """Let time pass."""
        self.now += timedelta(seconds=seconds)


@dataclass
class Town:
    """Everything that a packet's money passes through."""

    desk: Desk
    service: Service
    url: str
    clock: Clock = field(default_factory=Clock)
    campaign: UUID | None = None
    started: list[Dispatcher] = field(default_factory=list)

    @property
    def datastore(self) -> Datastore:
        """The ledger's store."""
        return self.desk.datastore

    @property
    def names(self) -> WalletNames:
        """The names of wallets."""
        return WalletNames(NAMES_KEY, OPERATOR)

    def operator(self, timeout_s: float = 5.0, url: str | None = None) -> HttpOperator:
        """Return the adapter."""
        return HttpOperator(OPERATOR, url or self.url, KEY, timeout_s=timeout_s)

    def dispatcher(
        self,
        holder: str = "one",
        *,
        timeout_s: float = 5.0,
        url: str | None = None,
        kind: type[Dispatcher] = Dispatcher,
        **how: Any,
    ) -> Dispatcher:
        """Return a dispatcher that waits a second first and a minute at most."""
        made = kind(
            self.datastore,
            self.desk.book,
            self.operator(timeout_s, url),
            self.names,
            WriterDesk(self.desk.writer, lambda: NOON),
            holder,
            backoff=Backoff(1.0, 60.0, lambda: 1.0),
            clock=self.clock,
            **how,
        )
        self.started.append(made)
        return made

    def quiet(self, dispatcher: Dispatcher, *, hours: int = 24) -> None:
        """Let it work until nothing is left, time passing whenever it only waits."""
        until = self.clock.now + timedelta(hours=hours)
        while True:
            try:
                if dispatcher.run_once():
                    continue
            except LeaseHeld:
                self.expire_lease()
                continue
            if not self.open_rows():
                return
            assert self.clock.now < until, [row.state for row in self.open_rows()]
            self.clock.move(61)

    def expire_lease(self) -> None:
        """Let whoever holds the lease have lost it by time."""
        with self.datastore.transaction() as curs:
            curs.execute("UPDATE rm_lease.lease SET expires_at = '-infinity'")

    # The ledger's side.

    def opened(self, quota: int = 100) -> None:
        """Open a campaign of packets of 200 yuan."""
        terms = terms_of(kind="packet", face_minor=FACE, packet=PacketTerms())
        self.campaign = self.desk.opened(quota=quota, terms=terms)

    def packet(self, n: int) -> UUID:
        """The n-th person's packet."""
        assert self.campaign is not None
        return coupon_id(self.campaign, person(n), 1)

    def claim(self, n: int) -> UUID:
        """Let the n-th person claim a packet."""
        assert self.campaign is not None
        command = ClaimCoupon(self.desk.book, self.campaign, person(n))
        assert self.desk.send(command, tourist(person(n))).code == "claimed"
        return self.packet(n)

    def pay(self, n: int, total: int, order: str) -> str:
        """Let the n-th person pay at the mall; return what was said."""
        command = PayFromPacket(
            self.desk.book, self.packet(n), "mall", None, order, Money(total, "CNY")
        )
        return self.desk.send(command, MALL).code

    def refund(self, n: int, order: str, amount: int | None = None) -> str:
        """Let the mall give a payment back."""
        money = None if amount is None else Money(amount, "CNY")
        command = RefundPayment(self.desk.book, self.packet(n), "mall", order, money, "returned")
        return self.desk.send(command, MALL).code

    def expire(self, n: int) -> str:
        """Let the sweeper come after the validity."""
        command = ExpirePacket(self.desk.book, self.packet(n))
        return self.desk.send(command, Actor("sweeper", "system"), at=AFTER).code

    def close_wallet(self, n: int) -> str:
        """Let the ledger hear from elsewhere that the n-th person's wallet was closed."""
        command = CloseWallet(self.desk.book, self.packet(n), "holder")
        return self.desk.send(command, ALICE).code

    # The operator's side.

    def wallet(self, n: int) -> str:
        """The n-th person's wallet."""
        return self.names.of(person(n))

    def spoil(self, **fault: Any) -> None:
        """Plan a fault."""
        self.service.faults.plan([Fault(**fault)])

    def ask(self, work: Callable[[HttpOperator], Any]) -> Any:
        """Ask the operator something, with a connection of its own."""

        async def main() -> Any:
            operator = self.operator()
            try:
                return await work(operator)
            finally:
                await operator.hang_up()

        return asyncio.run(main())

    def holder_closes(self, n: int) -> None:
        """Let a holder close the wallet at the operator's counter."""
        self.ask(lambda operator: operator.close(self.wallet(n)))

    def balance(self, n: int) -> int | None:
        """What the operator says is in a wallet."""
        found = self.ask(lambda operator: operator.wallet(self.wallet(n)))
        return found.balance_minor if found is not None else None

    def lines(self) -> list[tuple[str | None, str, int]]:
        """The operator's statement: number, kind and amount."""
        page = self.ask(lambda operator: operator.statement(0, 1_000))
        return [(line.number, line.kind, line.amount_minor) for line in page.items]

    # The journal.

    def rows(self) -> list[Row]:
        """Every row of the journal."""
        with self.datastore.transaction() as curs:
            return Journal(self.desk.book).rows(curs, 0, 100_000)

    def open_rows(self) -> list[Row]:
        """Rows that are not final."""
        return [row for row in self.rows() if row.state in ("due", "sent", "unknown")]

    def states(self) -> list[str]:
        """The states of all rows in order."""
        return [row.state for row in self.rows()]


@contextmanager
def town(
    datastore: Datastore, folder: Path, store: type[Store] = Store, port: int = 0
) -> Iterator[Town]:
    """Lend a town whose campaign is open and whose operator runs in a thread."""
    file = folder / f"operator-{os.urandom(4).hex()}.sqlite"
    desk = Desk(datastore)
    try:
        with in_thread(file, KEY, port, store(file)) as (service, url):
            made = Town(desk, service, url)
            made.opened()
            try:
                yield made
            finally:
                for dispatcher in made.started:
                    dispatcher.close()
    finally:
        desk.close()
