"""The journal of instructions: the dispatcher's own table, a row for each, numbered by its event.

Every change is made under the lease's fence, in a transaction that is on disk before anything
follows from it: a row says `sent` before the operator can have heard of it. Only the rows say
what was asked for; nothing is remembered between two looks.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, ClassVar, Final, NamedTuple
from uuid import UUID

import msgspec
from psycopg2.extras import execute_values

from campaigns.event_types import EVENT_TYPES
from campaigns.packets.packet import (
    PacketClaimed,
    PacketExpired,
    PacketPaid,
    PacketRefunded,
    PacketWalletClosed,
)
from campaigns.wallets.instructions import State, Step, number_of
from campaigns.wallets.port import Instruction, Kind, WalletNames
from projections.projection import Reads, View

SCHEMA: Final = "wallet_journal"
PACKAGE: Final = "api.wallets"
"""Whose migrations make the tables."""


class PacketMoved(View, kw_only=True, gc=False):
    """What is read of an event that moves money into a packet or out of it."""

    KIND: ClassVar[Kind]
    person: str
    currency: str
    amount_minor: int


class Credited(PacketMoved, kw_only=True, gc=False):
    """The packet has more."""

    KIND = "credit"


class Refunded(Credited, kw_only=True, gc=False):
    """Of a refund only what is in the packet again; the rest went elsewhere."""

    amount_minor: int = msgspec.field(name="to_packet_minor")


class Debited(PacketMoved, kw_only=True, gc=False):
    """The packet has less."""

    KIND = "debit"


READS: Final[Reads] = {
    **dict.fromkeys(EVENT_TYPES.topics),
    PacketClaimed.TOPIC: Credited,
    PacketPaid.TOPIC: Debited,
    PacketRefunded.TOPIC: Refunded,
    PacketExpired.TOPIC: Debited,
    PacketWalletClosed.TOPIC: Debited,
}
"""Each event of a packet asks for one instruction at most: none where no money is in it."""


class Ordered(NamedTuple):
    """An instruction as an event asks for it, and the packet that it is for."""

    position: int
    packet: UUID
    instruction: Instruction


class Row(NamedTuple):
    """A row of the journal."""

    position: int
    packet: UUID
    instruction: Instruction
    state: State
    code: str | None
    attempts: int
    failures: int
    operator: str = ""


class Result(NamedTuple):
    """What became of a row, and when it is tried again where it is still open."""

    row: Row
    step: Step
    due_at: datetime


class Standing(NamedTuple):
    """How the journal of a book stands: open rows by state and the age of the oldest.

    `refused` are those that nothing follows from, so that somebody has to look at them.
    """

    book: str
    open: dict[str, int]
    refused: int
    oldest_s: float
    position: int


def ordered(book: str, views: Iterable[Any], names: WalletNames) -> list[Ordered]:
    """Return the instructions that events of a book ask for."""
    return [
        Ordered(
            view.position,
            UUID(view.stream),
            Instruction(
                number=number_of(book, view.position),
                wallet=names.of(view.person),
                kind=view.KIND,
                amount_minor=view.amount_minor,
                currency=view.currency,
            ),
        )
        for view in views
        if view.amount_minor
    ]


_INSERT: Final = """
INSERT INTO wallet_journal.instruction
    (book, position, operator, wallet, packet, kind, amount_minor, currency, ordered_at, due_at)
VALUES %s
"""

_ROW: Final = """
position, packet, wallet, kind, amount_minor, currency, state, code, attempts, failures, operator
"""

# The first open instruction of each wallet whose time has come. FOR UPDATE is not needed: the fence
# in the same transaction keeps every other dispatcher of the book out.
_READY: Final = f"""
SELECT {_ROW}
FROM wallet_journal.instruction AS i
WHERE book = %(book)s AND operator = %(operator)s AND due_at <= %(now)s
    AND state IN ('due', 'sent', 'unknown')
    AND NOT EXISTS (
        SELECT FROM wallet_journal.instruction AS earlier
        WHERE earlier.book = i.book AND earlier.wallet = i.wallet AND earlier.position < i.position
            AND earlier.state IN ('due', 'sent', 'unknown')
    )
ORDER BY due_at, position
LIMIT %(limit)s
"""  # noqa: S608 - our own columns

_SENT: Final = """
UPDATE wallet_journal.instruction SET state = 'sent', attempts = attempts + 1
WHERE book = %s AND position = ANY (%s) AND state = 'due'
"""

_BECOMES: Final = """
UPDATE wallet_journal.instruction AS i
SET state = r.state, code = r.code, due_at = r.due_at, failures = r.failures
FROM (VALUES %s) AS r (book, position, state, code, due_at, failures)
WHERE i.book = r.book AND i.position = r.position AND i.state IN ('sent', 'unknown')
"""

_UNTOLD: Final = f"""
SELECT {_ROW} FROM wallet_journal.instruction
WHERE book = %s AND state = 'refused' AND told_at IS NULL ORDER BY position LIMIT %s
"""  # noqa: S608 - our own columns

_TOLD: Final = """
UPDATE wallet_journal.instruction SET told_at = %s WHERE book = %s AND position = %s
"""

_PACKETS: Final = """
SELECT DISTINCT packet FROM wallet_journal.instruction WHERE book = %s AND wallet = %s
"""

_ROWS: Final = f"""
SELECT {_ROW} FROM wallet_journal.instruction
WHERE book = %s AND position > %s ORDER BY position LIMIT %s
"""  # noqa: S608 - our own columns

_STANDING: Final = """
SELECT state, count(*), extract(epoch FROM clock_timestamp() - min(ordered_at))::float8
FROM wallet_journal.instruction
WHERE book = %s AND state IN ('due', 'sent', 'unknown') GROUP BY state
"""

_REFUSED: Final = """
SELECT count(*) FROM wallet_journal.instruction
WHERE book = %s AND state = 'refused' AND code <> 'wallet_closed'
"""


class Journal:
    """The rows of one book; every method works in the caller's transaction."""

    def __init__(self, book: str) -> None:
        self.book = book

    def add(self, curs: Any, operator: str, found: Sequence[Ordered], now: datetime) -> None:
        """Write down what events ask for."""
        if found:
            execute_values(
                curs,
                _INSERT,
                [
                    (
                        *(self.book, one.position, operator, one.instruction.wallet, one.packet),
                        *(one.instruction.kind, one.instruction.amount_minor),
                        *(one.instruction.currency, now, now),
                    )
                    for one in found
                ],
                page_size=1_000,
            )

    def ready(self, curs: Any, operator: str, now: datetime, limit: int) -> list[Row]:
        """Return what can be done now, at most one of each wallet: its first that is open."""
        curs.execute(_READY, {"book": self.book, "operator": operator, "now": now, "limit": limit})
        return self._rows(curs)

    def mark_sent(self, curs: Any, rows: Sequence[Row]) -> None:
        """Say that due ones are sent, before they are."""
        positions = [row.position for row in rows]
        if positions:
            curs.execute(_SENT, (self.book, positions))
            assert curs.rowcount == len(positions), "only what is due is sent"

    def record(self, curs: Any, results: Sequence[Result]) -> None:
        """Write down what became of instructions."""
        execute_values(
            curs,
            _BECOMES,
            [
                (self.book, row.position, step.state, step.code, due_at, _failures(row, step))
                for row, step, due_at in results
            ],
            template="(%s, %s::bigint, %s, %s::text, %s::timestamptz, %s::integer)",
            page_size=10_000,
        )
        assert curs.rowcount == len(results), "nothing final is changed"

    def untold(self, curs: Any, limit: int) -> list[Row]:
        """Return refused ones of which the ledger has not heard."""
        curs.execute(_UNTOLD, (self.book, limit))
        return self._rows(curs)

    def mark_told(self, curs: Any, row: Row, position: int) -> None:
        """Say that the ledger has heard of a refusal, and where it stood then."""
        curs.execute(_TOLD, (position, self.book, row.position))

    def packets_in(self, curs: Any, wallet: str) -> list[UUID]:
        """Return the packets whose money ever was to be in a wallet."""
        curs.execute(_PACKETS, (self.book, wallet))
        return [packet for (packet,) in curs.fetchall()]

    def rows(self, curs: Any, after: int, limit: int) -> list[Row]:
        """Return rows in order of position."""
        curs.execute(_ROWS, (self.book, after, limit))
        return self._rows(curs)

    def standing(self, curs: Any) -> Standing:
        """Return how the journal stands: a look at what is open."""
        curs.execute(_STANDING, (self.book,))
        found = curs.fetchall()
        curs.execute(_REFUSED, (self.book,))
        (refused,) = curs.fetchone()
        return Standing(
            self.book,
            {state: count for state, count, _ in found},
            refused,
            max((0.0, *(oldest for _, _, oldest in found))),
            self.position(curs),
        )

    def position(self, curs: Any) -> int:
        """Return the position that the rows stand for."""
        curs.execute("SELECT position FROM wallet_journal.tracking WHERE book = %s", (self.book,))
        row = curs.fetchone()
        return row[0] if row else 0

    def _rows(self, curs: Any) -> list[Row]:
        return [
            Row(
                position,
                packet,
                Instruction(
                    number=number_of(self.book, position),
                    wallet=wallet,
                    kind=kind,
                    amount_minor=amount_minor,
                    currency=currency,
                ),
                *rest,
            )
            for position, packet, wallet, kind, amount_minor, currency, *rest in curs.fetchall()
        ]


def _failures(row: Row, step: Step) -> int:
    """Count the tries that brought nothing; «not there» is an answer, and starts anew."""
    return row.failures + 1 if step.state in ("unknown", "due") else row.failures
