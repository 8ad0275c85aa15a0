"""Views of the journal: what one gets of trial balances, accounts and statements."""

from __future__ import annotations

from datetime import datetime
from typing import Final

import msgspec

from ledger.money import Money
from projections.journal_reading import Account, KindTotal, Line

HOLDER: Final = "holder"
"""The kind of accounts whose names are persons."""


class KindTotalView(msgspec.Struct, frozen=True):
    """What all accounts of a kind were debited and credited; debits minus credits."""

    kind: str
    debited: Money
    credited: Money
    balance: Money


class TrialBalanceView(msgspec.Struct, frozen=True):
    """A book's accounts by kind after all events up to a position; all balances sum to zero."""

    book: str
    position: int
    items: list[KindTotalView]


class AccountView(msgspec.Struct, frozen=True):
    """An account in one currency, the position of its first posting, and its balance."""

    account: str
    opened: int
    opened_at: datetime
    balance: Money


class AccountPage(msgspec.Struct, frozen=True):
    """Accounts of a book at a position, in the order in which they were opened."""

    book: str
    position: int
    items: list[AccountView]
    next: str | None


class LineView(msgspec.Struct, frozen=True):
    """A line of an account: what an event put in (below zero: took out), and the balance since."""

    position: int
    line: int
    at: datetime
    event: str
    stream: str
    other: str
    """The account on the other side; a merchant is told the kind of a holder's, and not whose."""
    amount: Money
    balance: Money


class AccountStatementView(msgspec.Struct, frozen=True):
    """Lines of an account in one currency up to a position, the oldest first."""

    book: str
    account: str
    position: int
    items: list[LineView]
    next: str | None


JOURNAL_VIEWS: Final[tuple[type[msgspec.Struct], ...]] = (
    TrialBalanceView,
    AccountPage,
    AccountStatementView,
)


def total_view(one: KindTotal) -> KindTotalView:
    """Return the totals of a kind."""
    amounts = one.debited_minor, one.credited_minor, one.balance_minor
    return KindTotalView(one.kind, *(Money(each, one.currency) for each in amounts))


def account_view(one: Account) -> AccountView:
    """Return an account."""
    balance = Money(one.balance_minor, one.currency)
    return AccountView(one.account, one.opened, one.opened_at, balance)


def line_for_merchant(one: Line) -> LineView:
    """Return a line of a merchant's statement, which does not say which person redeemed."""
    kind, _, _ = one.other.partition(":")
    return line_view(one._replace(other=kind) if kind == HOLDER else one)


def line_view(one: Line) -> LineView:
    """Return a line of a statement."""
    return LineView(
        one.position,
        one.line,
        one.at,
        one.topic,
        one.stream.hex,
        one.other,
        Money(one.amount_minor, one.currency),
        Money(one.balance_minor, one.currency),
    )
