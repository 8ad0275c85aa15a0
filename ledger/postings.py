"""Postings: money that moves from one account to another, in balance by construction.

A transfer debits one account and credits another with the same amount, so debits equal credits
per event, per book and per instant. Which transfers an event makes is not known here.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import NamedTuple

from ledger.money import check_currency, check_minor


class Unbalanced(Exception):
    """Postings break a rule of double entry."""


class Transfer(NamedTuple):
    """Money that leaves the `credit` account for the `debit` account, in minor units > 0."""

    debit: str
    credit: str
    amount_minor: int
    currency: str


def transfer(source: str, target: str, amount_minor: int, currency: str) -> tuple[Transfer, ...]:
    """Return the transfer of an amount; none for zero, the other way round for a negative one."""
    if amount_minor == 0:
        return ()
    if amount_minor < 0:
        return (Transfer(source, target, -amount_minor, currency),)
    return (Transfer(target, source, amount_minor, currency),)


def check_transfers(transfers: Iterable[Transfer]) -> None:
    """Raise `Unbalanced` unless each is a positive amount between two different accounts."""
    for one in transfers:
        check_currency(one.currency)
        if check_minor(one.amount_minor) <= 0:
            raise Unbalanced(f"a transfer moves a positive amount, not {one.amount_minor}")
        if one.debit == one.credit:
            raise Unbalanced(f"a transfer joins two accounts, not {one.debit} with itself")


class TrialBalance:
    """What every account was debited minus credited, per currency, after the transfers posted."""

    def __init__(self) -> None:
        self.balances: defaultdict[tuple[str, str], int] = defaultdict(int)
        self.debited: defaultdict[str, int] = defaultdict(int)
        self.credited: defaultdict[str, int] = defaultdict(int)

    def post(self, transfers: Iterable[Transfer]) -> None:
        """Add transfers."""
        for debit, credit, amount_minor, currency in transfers:
            self.balances[debit, currency] += amount_minor
            self.balances[credit, currency] -= amount_minor
            self.debited[currency] += amount_minor
            self.credited[currency] += amount_minor

    def balance(self, account: str, currency: str) -> int:
        """Return debits minus credits of an account, in minor units."""
        return self.balances.get((account, currency), 0)

    def total(self, prefix: str, currency: str) -> int:
        """Return the sum of all accounts of a kind, for example `holder`."""
        return sum(
            amount
            for (account, unit), amount in self.balances.items()
            if unit == currency and account.startswith(f"{prefix}:")
        )

    @property
    def is_zero(self) -> bool:
        """Whether all balances sum to zero in every currency."""
        sums: defaultdict[str, int] = defaultdict(int)
        for (_, currency), amount in self.balances.items():
            sums[currency] += amount
        return not any(sums.values()) and self.debited == self.credited

    def overdrawn(self, sources: tuple[str, ...] = ("sponsor",)) -> list[tuple[str, str, int]]:
        """Return accounts that paid out more than came in; `sources` are where money enters."""
        return sorted(
            (account, currency, amount)
            for (account, currency), amount in self.balances.items()
            if amount < 0 and account.split(":", 1)[0] not in sources
        )
