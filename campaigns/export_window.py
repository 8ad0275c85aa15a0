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

from campaigns.judging import Coupons, KeptParts, kept_of, kept_parts
from campaigns.verification import Audit
from ledger.exporting.spilling import Table

ACCOUNTS_MAX: Final = 200_000
"""Accounts that are kept in memory; beyond them those of holders and packets go into the table."""

_PERSON: Final = re.compile(rb'"person":"([0-9A-Za-z_.-]{1,64})"')
_MOVED: Final = re.compile(r"(holder|packet):[0-9A-Za-z_.-]{1,64}", re.ASCII)
_STEP_BITS: Final = 8
_STEP_MASK: Final = (1 << _STEP_BITS) - 1
_HAS_COUPON: Final = 1 << _STEP_BITS
_MINOR_BOUND: Final = 1 << 62


class Window:
    """What an audit holds while it is fed one file of events."""

    def __init__(self, audit: Audit) -> None:
        self._book, self._rules = audit.book, audit.rules
        self._streams = _Streams()
        self._accounts: dict[tuple[str, str], Table] = {}
        self._loaded: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
        self._here: list[bytes] = []
        audit.rules.coupons = _Coupons(self._streams)

    def begin(self, streams: Iterable[bytes]) -> None:
        """Put in what is known of the streams of a file."""
        self._here = list(dict.fromkeys(streams))
        versions, coupons = self._book.versions, self._rules.coupons
        for stream, (version, coupon) in zip(
            self._here, self._streams.load(self._here), strict=True
        ):
            number = int.from_bytes(stream)
            if version:
                versions[number] = version
            if coupon is not None:
                coupons[number] = coupon

    def end(self) -> None:
        """Take out what the file was about."""
        versions, coupons = self._book.versions, self._rules.coupons
        numbers = [int.from_bytes(stream) for stream in self._here]
        known = [(versions.pop(one, 0), coupons.pop(one, None)) for one in numbers]
        self._streams.store(self._here, known)
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


class _Streams:
    """The version of each stream, and what is kept of the coupon that it may be, on the disk."""

    def __init__(self) -> None:
        self._steps = Table()  # version, whether there is a coupon, its step; mark
        self._redemptions = Table()  # instant; version

    def load(self, streams: Sequence[bytes]) -> list[tuple[int, int | None]]:
        """Return version and coupon of each, 0 and None of one that is not known."""
        ones, marks = self._steps.load(streams)
        steps = [one & _STEP_MASK if one & _HAS_COUPON else None for one in ones]
        parts = [None if step is None else KeptParts(step, 0, 0, 0) for step in steps]
        places = [n for n, one in enumerate(parts) if one is not None and one.is_redeemed]
        taken = zip(*self._redemptions.load([streams[n] for n in places]), strict=True)
        for n, (micros, version) in zip(places, taken, strict=True):
            parts[n] = KeptParts(ones[n] & _STEP_MASK, marks[n], micros, version)
        coupons = [None if one is None else kept_of(one) for one in parts]
        return [(one >> _STEP_BITS + 1, coupon) for one, coupon in zip(ones, coupons, strict=True)]

    def store(self, streams: Sequence[bytes], known: Sequence[tuple[int, int | None]]) -> None:
        """Keep version and coupon of each."""
        ones, marks = [], []
        redeemed: list[tuple[bytes, int, int]] = []
        for stream, (version, coupon) in zip(streams, known, strict=True):
            one, mark = version << _STEP_BITS + 1, 0
            if coupon is not None:
                one |= _HAS_COUPON | coupon & _STEP_MASK
                if coupon > _STEP_MASK:
                    parts = kept_parts(coupon)
                    mark = parts.mark
                    redeemed.append((stream, parts.micros, parts.version))
            ones.append(one)
            marks.append(mark)
        self._steps.store(streams, ones, marks)
        names, micros, versions = zip(*redeemed, strict=True) if redeemed else ((), (), ())
        self._redemptions.store(names, micros, versions)

    def close(self) -> None:
        """Let the files go."""
        self._steps.close()
        self._redemptions.close()


class _Coupons(Coupons):
    """The coupons of a file, beside all others: these can be asked for, one by one."""

    def __init__(self, streams: _Streams) -> None:
        super().__init__()
        self._streams = streams

    def __contains__(self, coupon: object) -> bool:
        assert isinstance(coupon, int), "coupons are asked for by number"
        return self.look_up(coupon) is not None

    def look_up(self, coupon: int) -> int | None:
        """Return what is kept of a coupon, whether the file is about it or not."""
        if super().__contains__(coupon):
            return self[coupon]
        ((_, known),) = self._streams.load([coupon.to_bytes(16)])
        return known


def _key(name: str) -> bytes:
    return blake2b(name.encode(), digest_size=16).digest()
