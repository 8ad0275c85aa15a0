"""Auditing a book of any length in memory that does not grow: what its streams are, on the disk.

The audit keeps a number for each stream and each account of a holder in dictionaries. Here they
hold only what one stretch of events is about: it is put in before the stretch, and taken out after
it onto the disk. The audit itself does not know. What is kept of a campaign stays in memory, and
so do packets, groups and draws that have not been shown.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from hashlib import blake2b
from typing import Any, Final

import msgspec

from campaigns.columns.holders import Holders
from campaigns.columns.names import keys_of, owners_of
from campaigns.columns.streams import Known, Streams
from campaigns.coupon import CouponClaimed
from campaigns.judging import Coupons
from campaigns.verification import Audit
from ledger.events import Event
from ledger.exporting.spilling import Table

ACCOUNTS_MAX: Final = 200_000
"""Accounts that are kept in memory; beyond them those of packets go into a table."""

_NAME: Final = re.compile(r"[0-9A-Za-z_.-]{1,64}", re.ASCII)
_PACKET: Final = re.compile(r"packet:[0-9a-f]{32}", re.ASCII)
_MINOR_BOUND: Final = 1 << 62


class _Whose(msgspec.Struct, gc=False):
    person: Any = None


_whose: Final = msgspec.json.Decoder(_Whose).decode


class Window:
    """What an audit holds while it is fed one stretch of events."""

    def __init__(self, audit: Audit, events: int = 0) -> None:
        """`events`: how many there will be, as far as it is known."""
        self.streams = Streams(events)
        self.holders: defaultdict[str, Holders] = defaultdict(Holders)
        """Currency → accounts of holders that the stretch is not about."""
        self._book, self._rules = audit.book, audit.rules
        self._packets: dict[str, Table] = {}
        self._loaded: defaultdict[str, set[str]] = defaultdict(set)
        self._people: dict[str, None] = {}
        self._held: defaultdict[str, dict[str, int]] = defaultdict(dict)
        self._here: list[bytes] = []
        self._owners: dict[int, int] = {}
        audit.rules.coupons = _Coupons(self.streams)

    def begin(self, streams: Iterable[bytes]) -> None:
        """Put in what is known of the streams of a stretch."""
        self._here = list(dict.fromkeys(streams))
        versions, coupons = self._book.versions, self._rules.coupons
        for stream, (version, coupon, owner) in zip(
            self._here, self.streams.load(self._here), strict=True
        ):
            number = int.from_bytes(stream)
            if version:
                versions[number] = version
            if coupon is not None:
                coupons[number] = coupon
            if owner:
                self._owners[number] = owner

    def end(self, events: Iterable[Event | None] = ()) -> None:
        """Take out what the stretch was about; of its claims it is kept whose the coupons are."""
        versions, coupons = self._book.versions, self._rules.coupons
        claims = [
            event
            for event in events
            if isinstance(event, CouponClaimed) and _NAME.fullmatch(event.person)
        ]
        people = keys_of([event.person for event in claims])
        campaigns = keys_of([event.campaign.hex for event in claims])
        owners = owners_of(people, campaigns).tolist()
        for event, owner in zip(claims, owners, strict=True):
            self._owners[event.originator_id.int] = owner
        numbers = [int.from_bytes(stream) for stream in self._here]
        known = [
            Known(versions.pop(one, 0), coupons.pop(one, None), self._owners.get(one, 0))
            for one in numbers
        ]
        self.streams.store(self._here, known)
        self._owners.clear()
        self._keep_holders()
        self._keep_packets()

    def finish(self) -> None:
        """Put in what all accounts on the disk have together, and let the files go."""
        for currency, table in self._packets.items():
            self._put_total(currency, "packet", table.total())
            table.close()
        for currency, holders in self.holders.items():
            self._put_total(currency, "holder", holders.total)
            holders.close()
        self._packets.clear()
        self.holders.clear()
        self.streams.close()

    def _put_total(self, currency: str, kind: str, total: int) -> None:
        if total:
            self._book.balances[currency][f"{kind}:others"] = total

    # --- accounts -----------------------------------------------------------------------------

    def load_accounts(self, streams: Iterable[bytes], states: Sequence[bytes]) -> None:
        """Put in the accounts of the people and packets of some events of the stretch."""
        people = dict.fromkeys(person for state in states if (person := person_of(state)))
        for currency, holders in self.holders.items():
            accounts, held = self._book.balances[currency], self._held[currency]
            wanted = [person for person in people if person not in held]
            for person, minor in zip(wanted, holders.load(wanted), strict=True):
                held[person] = minor
                if minor:
                    name = f"holder:{person}"
                    accounts[name] = accounts.get(name, 0) + minor
        self._people |= people
        self._load_packets(streams)

    def _load_packets(self, streams: Iterable[bytes]) -> None:
        if not self._packets:
            return
        names = [f"packet:{stream.hex()}" for stream in dict.fromkeys(streams)]
        for currency, table in self._packets.items():
            accounts, here = self._book.balances[currency], self._loaded[currency]
            wanted = [name for name in names if name not in accounts and name not in here]
            minors, _ = table.load([_key(name) for name in wanted])
            accounts.update((n, minor) for n, minor in zip(wanted, minors, strict=True) if minor)
            here.update(name for name, minor in zip(wanted, minors, strict=True) if minor)

    def _keep_holders(self) -> None:
        """Take the accounts of the stretch's people out; of more than fits nothing is there."""
        for currency, accounts in self._book.balances.items():
            moved: dict[str, int] = {}
            for person in self._people:
                name, loaded = f"holder:{person}", self._held[currency].get(person, 0)
                minor = accounts.pop(name, 0)
                if abs(minor) >= _MINOR_BOUND:
                    accounts[name], minor = minor, 0
                if minor != loaded:
                    moved[person] = minor - loaded
            if moved:
                self.holders[currency].move_names(list(moved), list(moved.values()))
        self._people.clear()
        self._held.clear()

    def _keep_packets(self) -> None:
        """Take the accounts out again, and those of all packets when there are too many."""
        for currency, known in self._loaded.items():
            self._move_packets(currency, list(known))
        self._loaded.clear()
        for currency, accounts in self._book.balances.items():
            if len(accounts) > ACCOUNTS_MAX:
                self._move_packets(currency, [n for n in accounts if _PACKET.fullmatch(n)])

    def _move_packets(self, currency: str, names: Sequence[str]) -> None:
        """Move accounts into the table; one of more than it can hold stays, and has none there."""
        accounts = self._book.balances[currency]
        minors = [accounts.pop(name, 0) for name in names]
        for place, minor in enumerate(minors):
            if abs(minor) >= _MINOR_BOUND:
                accounts[names[place]] = minor
                minors[place] = 0
        if names:
            table = self._packets.get(currency)
            if table is None:
                table = self._packets[currency] = Table()
            table.store([_key(name) for name in names], minors, [0] * len(names))


class _Coupons(Coupons):
    """The coupons of a stretch, beside all others: these can be asked for, one by one."""

    def __init__(self, streams: Streams) -> None:
        super().__init__()
        self._streams = streams

    def __contains__(self, coupon: object) -> bool:
        assert isinstance(coupon, int), "coupons are asked for by number"
        return self.look_up(coupon) is not None

    def look_up(self, coupon: int) -> int | None:
        """Return what is kept of a coupon, whether the stretch is about it or not."""
        if super().__contains__(coupon):
            return self[coupon]
        (known,) = self._streams.load([coupon.to_bytes(16)])
        return known.coupon


def person_of(state: bytes) -> str | None:
    """Return whom an event is about, however its bytes say so; None unless it is a usual name."""
    try:
        person = _whose(state).person
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return person if isinstance(person, str) and _NAME.fullmatch(person) else None


def _key(name: str) -> bytes:
    return blake2b(name.encode(), digest_size=16).digest()
