"""The dispatcher's desk at the ledger: tells a book's writer that a holder's wallet is closed."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import TimeoutError as NotInTime
from datetime import datetime
from typing import Final
from uuid import UUID

from campaigns.commands import Call
from campaigns.packets.commands import CloseWallet
from ledger.books import Book
from ledger.commit import GroupCommit, OutcomeUnknown
from ledger.events import Actor

DISPATCHER: Final = Actor("dispatcher", "system")

PATIENCE_S: Final = 30.0


class WriterDesk:
    """Tells one book through a writer of its own process.

    `instant` gives the time in simulated time, else None. There is no idempotency key: whatever
    ended a packet first, asking again is refused and changes nothing.
    """

    def __init__(
        self, writer: GroupCommit, instant: Callable[[], datetime | None] = lambda: None
    ) -> None:
        self._writer = writer
        self._instant = instant

    def wallet_closed(self, packet: UUID, number: str) -> int:
        """Ask for the end of a packet; `number` is the refused instruction. Return the head."""
        request_id = f"wallet-closed-{number}"
        call = Call(DISPATCHER, request_id, render=lambda _: b"", at=self._instant())
        command = CloseWallet(Book(self._writer.book), packet, "wallet_closed")
        try:
            return self._writer.submit(command.request(call)).result(PATIENCE_S).position
        except NotInTime:
            raise OutcomeUnknown from None
