"""Reads the three sides of a reconciliation, in the order in which none can mislead it.

First the journal, then the operator, then the journal again with the ledger up to where that
stands. Nothing is written.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Final, NamedTuple
from uuid import UUID

from api.wallets.journal import READS
from api.wallets.journal import Journal as Table
from campaigns.event_types import EVENT_TYPES
from campaigns.wallets.instructions import number_of
from campaigns.wallets.port import Entry, Wallet, WalletNames, WalletOperator
from campaigns.wallets.reconciliation import (
    Booked,
    LedgerSide,
    OperatorSide,
    SumsOfSides,
    findings,
    sums,
)
from ledger.datastore import Datastore
from ledger.verification import Finding
from projections.reading import Stretch, fetch

PAGE: Final = 1_000
EVENTS: Final = 5_000

_UNREAD: Final = sorted(topic for topic, view in READS.items() if view is None)

Advance = Callable[[int], object]


class Reconciled(NamedTuple):
    """What was compared and what differs."""

    positions: dict[str, int]
    sums: SumsOfSides
    findings: Iterator[Finding]


async def reconcile(
    datastore: Datastore,
    books: Sequence[str],
    operator: WalletOperator,
    names: WalletNames,
    advance: Advance = lambda _: None,
) -> Reconciled:
    """Read and compare all sides; `advance` is told of lines and events. Raises `OperatorError`."""
    before, _ = _journal(datastore, books)
    there = OperatorSide(
        operator.name,
        [line async for line in _lines(operator, advance)],
        {one.wallet: one async for one in _wallets(operator)},
    )
    journal, positions = _journal(datastore, books)
    ledger = LedgerSide()
    for book, position in positions.items():
        _post(datastore, book, position, names, ledger, advance)
    return Reconciled(
        positions, sums(there, journal, ledger), findings(before, there, journal, ledger)
    )


async def _lines(operator: WalletOperator, advance: Advance) -> AsyncIterator[Entry]:
    after: int | None = 0
    while after is not None:
        page = await operator.statement(after, PAGE)
        advance(len(page.items))
        for line in page.items:
            yield line
        after = page.next


async def _wallets(operator: WalletOperator) -> AsyncIterator[Wallet]:
    after: str | None = ""
    while after is not None:
        page = await operator.wallets(after, PAGE)
        for one in page.items:
            yield one
        after = page.next


def _journal(
    datastore: Datastore, books: Sequence[str]
) -> tuple[dict[str, Booked], dict[str, int]]:
    """Return every row by its number, and the position that the rows of each book stand for.

    The positions are read first: what is journalled afterwards goes beyond them, and is left out.
    """
    rows: dict[str, Booked] = {}
    positions = {}
    for book in books:
        table = Table(book)
        with datastore.transaction() as curs:
            positions[book] = table.position(curs)
        after: int | None = 0
        while after is not None:
            with datastore.transaction() as curs:
                page = table.rows(curs, after, PAGE)
            for row in page:
                if row.position <= positions[book]:
                    rows[row.instruction.number] = Booked(
                        row.instruction, row.state, row.code, row.attempts, row.operator
                    )
            after = page[-1].position if len(page) == PAGE else None
    return rows, positions


def _post(
    datastore: Datastore,
    book: str,
    until: int,
    names: WalletNames,
    ledger: LedgerSide,
    advance: Advance,
) -> None:
    after = 0
    while after < until:
        with datastore.transaction() as curs:
            stretch = fetch(curs, book, after, min(EVENTS, until - after), unread=_UNREAD)
        _post_stretch(book, stretch, names, ledger)
        advance(stretch.last - after)
        after = stretch.last


def _post_stretch(book: str, stretch: Stretch, names: WalletNames, ledger: LedgerSide) -> None:
    for position, stream, version, topic, state in stretch.rows:
        if state:
            event = EVENT_TYPES.decode(topic.decode(), state, UUID(stream), version)
            person = getattr(event, "person", None)
            if person is not None:
                ledger.post(number_of(book, position), names.of(person), event)
