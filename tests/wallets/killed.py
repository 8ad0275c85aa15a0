"""A dispatcher in a process of its own that is killed (SIGKILL) at a step of a credit.

`python -m tests.wallets.killed DATABASE_URL OPERATOR_URL STEP`
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, NoReturn
from uuid import UUID

from api.wallets import wire
from api.wallets.adapter import HttpOperator
from api.wallets.dispatcher import Backoff, Dispatcher
from api.wallets.journal import Journal, Ordered, Result, Row
from campaigns.wallets.instructions import Step
from campaigns.wallets.port import WalletNames
from ledger.datastore import Datastore
from projections.reading import Page
from tests.wallets.harness import KEY, NAMES_KEY, OPERATOR

STEPS = (
    "before the order is committed",
    "before it is written as sent",
    "before sending",
    "after sending",
    "after the answer",
    "before the outcome is committed",
)


def die() -> NoReturn:
    """End at once, as a machine does that loses its power."""
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


class DyingJournal(Journal):
    """Ends the process after a statement, before its transaction commits."""

    def __init__(self, book: str, step: str) -> None:
        super().__init__(book)
        self.step = step

    def add(self, curs: Any, operator: str, found: Sequence[Ordered], now: datetime) -> None:
        super().add(curs, operator, found, now)
        if found and self.step == "before the order is committed":
            die()

    def mark_sent(self, curs: Any, rows: Sequence[Row]) -> None:
        super().mark_sent(curs, rows)
        if self.step == "before it is written as sent":
            die()

    def record(self, curs: Any, results: Sequence[Result]) -> None:
        super().record(curs, results)
        if self.step == "before the outcome is committed":
            die()


class DyingDispatcher(Dispatcher):
    """Ends the process around the call to the operator."""

    step = ""

    async def carry_out(self, row: Row) -> Step:
        if self.step == "before sending":
            die()
        if self.step == "after sending":
            wire._Connection.exchange = _write_and_die  # type: ignore[method-assign]
        return await super().carry_out(row)

    def record(self, results: Sequence[Result]) -> None:
        if self.step == "after the answer":
            die()
        super().record(results)

    def write(self, page: Page, found: Sequence[Ordered]) -> None:
        super().write(page, found)


async def _write_and_die(self: Any, question: bytes, most: int) -> wire.Reply:
    if b"/v1/instructions/" not in question:
        return await _exchange(self, question, most)
    self._transport.write(question)  # the kernel has all of it when this returns
    die()


_exchange = wire._Connection.exchange


class NoDesk:
    """Tells the ledger nothing."""

    def wallet_closed(self, packet: UUID, number: str) -> int:
        """Never asked here."""
        raise AssertionError


def main() -> None:
    """Dispatch until killed."""
    database_url, operator_url, step = sys.argv[1:]
    assert step in STEPS
    dispatcher = DyingDispatcher(
        Datastore(database_url),
        "main",
        HttpOperator(OPERATOR, operator_url, KEY, timeout_s=5.0),
        WalletNames(NAMES_KEY, OPERATOR),
        NoDesk(),
        "killed",
        backoff=Backoff(1.0, 60.0, lambda: 1.0),
        clock=lambda: datetime(2026, 5, 1, 12, 0, tzinfo=UTC),
    )
    dispatcher.step = step
    dispatcher.journal = DyingJournal("main", step)
    dispatcher.run_once()


if __name__ == "__main__":
    main()
