"""Auditing a book of any length in memory that does not grow: what its streams are, on the disk.

The audit keeps a number for each stream and each account of a holder in dictionaries. Here they
hold only what one file of events is about: it is put in before the file, and taken out after it
into a table on the disk. The audit itself does not know. What is kept of a campaign stays in
memory, and so do packets, groups and draws that have not been shown.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from hashlib import blake2b
from typing import Final

from campaigns.verification import Audit
from ledger.exporting.spilling import Table

ACCOUNTS_MAX: Final = 200_000
"""Accounts that are kept in memory; beyond them those of holders and packets go into the table."""

_PERSON: Final = re.compile(rb'"person":"([0-9A-Za-z_.-]{1,64})"')
_MOVED: Final = re.compile(r"(holder|packet):[0-9A-Za-z_.-]{1,64}", re.ASCII)
_COUPON_BITS: Final = 8
_HAS_COUPON: Final = 1 << _COUPON_BITS
_LOW: Final = (1 << _COUPON_BITS + 1) - 1
_MINOR_BOUND: Final = 1 << 62


class Window:
    """What an audit holds while it is fed one file of events."""

    def __init__(self, audit: Audit) -> None:
        self._book, self._rules = audit.book, audit.rules
        self._streams = Table()
        self._accounts: dict[tuple[str, str], Table] = {}
        self._loaded: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
        self._here: list[bytes] = []
        audit.rules.coupons = _Coupons(self._streams)

    def begin(self, streams: Iterable[bytes]) -> None:
        """Put in what is known of the streams of a file."""
        self._here = list(dict.fromkeys(streams))
        versions, coupons = self._book.versions, self._rules.coupons
        ones, marks = self._streams.load(self._here)
        for stream, one, mark in zip(self._here, ones, marks, strict=True):
            if one:
                number = int.from_bytes(stream)
                versions[number] = one >> _COUPON_BITS + 1
                if one & _HAS_COUPON:
                    coupons[number] = mark << _COUPON_BITS | one & _HAS_COUPON - 1

    def end(self) -> None:
        """Take out what the file was about."""
        versions, coupons = self._book.versions, self._rules.coupons
        ones, marks = [], []
        for stream in self._here:
            number = int.from_bytes(stream)
            one = versions.pop(number, 0) << _COUPON_BITS + 1
            coupon = coupons.pop(number, None)
            if coupon is not None:
                one |= _HAS_COUPON | coupon & _HAS_COUPON - 1
            ones.append(one)
            marks.append((coupon or 0) >> _COUPON_BITS)
        self._streams.store(self._here, ones, marks)
        self._keep_accounts()

    def finish(self) -> None:
        """Put in what all accounts on the disk have together, and let the files go."""
        for (currency, kind), table in self._accounts.items():
            total = table.total()
            if total:
                self._book.balances[currency][f"{kind}:others"] = total
            table.close()
        self._accounts.clear()
        self._streams.close()

    # --- accounts -----------------------------------------------------------------------------

    def load_accounts(self, streams: Iterable[bytes], states: Sequence[bytes]) -> None:
        """Put in the accounts of the people and packets of a group of events."""
        if not self._accounts:
            return
        people = {found[1].decode() for state in states if (found := _PERSON.search(state))}
        names = {
            "holder": [f"holder:{person}" for person in people],
            "packet": [f"packet:{stream.hex()}" for stream in dict.fromkeys(streams)],
        }
        for (currency, kind), table in self._accounts.items():
            accounts = self._book.balances[currency]
            here = self._loaded[currency, kind]
            wanted = [name for name in names[kind] if name not in accounts and name not in here]
            minors, _ = table.load([_key(name) for name in wanted])
            accounts.update((n, minor) for n, minor in zip(wanted, minors, strict=True) if minor)
            here.update(name for name, minor in zip(wanted, minors, strict=True) if minor)

    def _keep_accounts(self) -> None:
        """Take the accounts out again, and all of holders and packets when there are too many."""
        for (currency, kind), known in self._loaded.items():
            self._move(currency, kind, list(known))
        self._loaded.clear()
        for currency, accounts in self._book.balances.items():
            if len(accounts) > ACCOUNTS_MAX:
                for kind in ("holder", "packet"):
                    prefix = f"{kind}:"
                    names = [n for n in accounts if n.startswith(prefix) and _MOVED.fullmatch(n)]
                    self._move(currency, kind, names)

    def _move(self, currency: str, kind: str, names: Sequence[str]) -> None:
        """Move accounts into the table; one of more than it can hold stays, and has none there."""
        accounts = self._book.balances[currency]
        minors = [accounts.pop(name, 0) for name in names]
        for place, minor in enumerate(minors):
            if abs(minor) >= _MINOR_BOUND:
                accounts[names[place]] = minor
                minors[place] = 0
        if names:
            table = self._accounts.get((currency, kind))
            if table is None:
                table = self._accounts[currency, kind] = Table()
            table.store([_key(name) for name in names], minors, [0] * len(names))


class _Coupons(dict[int, int]):
    """The coupons of a file; of any other it can be said whether there is one."""

    def __init__(self, table: Table) -> None:
        super().__init__()
        self._table = table

    def __contains__(self, coupon: object) -> bool:
        if super().__contains__(coupon):
            return True
        assert isinstance(coupon, int), "coupons are asked for by number"
        ones, _ = self._table.load([coupon.to_bytes(16)])
        return bool(ones[0] & _HAS_COUPON)


def _key(name: str) -> bytes:
    return blake2b(name.encode(), digest_size=16).digest()
