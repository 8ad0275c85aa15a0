"""Short made-up books of everything that happens to coupons, and the ways to bend one event."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid5

import msgspec

from campaigns.campaign import (
    CAMPAIGN_FOLD,
    BudgetReclaimed,
    Campaign,
    CampaignClosed,
    CampaignDrafted,
    CampaignFunded,
    CampaignOpened,
    CampaignPaused,
    CampaignResumed,
    FundingProposed,
    Terms,
)
from campaigns.coupon import (
    CouponExpired,
    CouponReclaimed,
    CouponRedeemed,
    CouponRefunded,
    CouponVoided,
    coupon_id,
)
from campaigns.granting import plain_claim
from campaigns.persons.person import PersonErased, person_id
from ledger.events import Actor, Event, Why, canonical
from ledger.exporting import spilling
from ledger.history import Entry

FACE = 500
HOUR = timedelta(hours=1)
WHYS: tuple[tuple[str | None, str | None], ...] = (None, None), ("key", "cd" * 32)
MERCHANTS = ("m1", "m22", "m-333", "m4")


@dataclass
class _Coupon:
    campaign: UUID
    person: str
    n: int
    version: int = 1
    order: tuple[str, str] | None = None


@dataclass
class Story:
    """A sound book of two campaigns, told by chance."""

    chance: random.Random
    entries: list[Entry] = field(default_factory=list)
    campaigns: dict[UUID, Campaign] = field(default_factory=dict)
    coupons: dict[UUID, _Coupon] = field(default_factory=dict)
    is_plain: bool = False
    """Whether all events of a kind have the same fields."""
    quota: int = 400
    budget: int = 400
    """How many coupons each campaign's stock and money is for."""
    at: datetime = datetime(2026, 5, 1, 23, 59, 59, 990_000, tzinfo=UTC)
    begun: set[UUID] = field(default_factory=set)
    granted: Counter[UUID] = field(default_factory=Counter)

    def tell(self, steps: int) -> list[Entry]:
        """Return the book: two campaigns, many steps, and the end of both."""
        first = self.open("A", valid=HOUR, restock=True)
        second = self.open("B", valid=3 * HOUR, merchants=list(MERCHANTS[:3]))
        for _ in range(steps):
            self._step([first, second])
        self.at += HOUR  # past the first one's validity
        for coupon, kept in list(self.coupons.items()):
            if kept.campaign == first:
                self.end_late(coupon)
        for _ in range(steps // 4):
            self._step([second])
        self._close(second)
        for coupon, kept in list(self.coupons.items()):
            if kept.campaign == second and kept.order is None:
                self.end(coupon, CouponVoided)
        return self.entries

    # --- campaigns ------------------------------------------------------------------------

    def open(self, name: str, valid: timedelta = HOUR, **terms: Any) -> UUID:
        stream = uuid5(UUID(int=7), f"{name} {self.chance.random()}")
        said = Terms(
            kind="threshold",
            face_minor=FACE,
            threshold_minor=3_000,
            currency="CNY",
            per_person_limit=2,
            claim_from=self.at,
            claim_until=self.at + 2 * HOUR,
            valid_from=self.at,
            valid_until=self.at + valid,
            zone="Asia/Shanghai",
            **terms,
        )
        money: dict[str, Any] = {"quota": self.quota, "budget_minor": self.budget * FACE}
        draft = {"name": name, "sponsor": "city", "terms": said}
        self.campaign(stream, CampaignDrafted, "alice", **draft)
        base = {"from_quota": 0, "from_budget_minor": 0}
        self.campaign(stream, FundingProposed, "alice", **money, **base)
        changes = {"quota_change": self.quota, "budget_change_minor": self.budget * FACE}
        by = {"currency": "CNY", "sponsor": "city", "proposed_by": "alice"}
        self.campaign(stream, CampaignFunded, "bob", **money, **changes, **by)
        self.campaign(stream, CampaignOpened, "bob")
        return stream

    def campaign(self, stream: UUID, kind: type[Event], by: str, **fields: Any) -> None:
        before = self.campaigns.get(stream)
        version = 1 if before is None else before.version + 1
        event = self._tell(kind, stream, version, Actor("operator", by), **fields)
        self.campaigns[stream] = CAMPAIGN_FOLD.evolve(before, event)

    def _close(self, campaign: UUID) -> None:
        left = (self.budget - self.granted[campaign]) * FACE
        self.campaign(campaign, CampaignClosed, "bob", reason="over")
        money = {"amount_minor": left, "currency": "CNY", "sponsor": "city"}
        self.campaign(campaign, BudgetReclaimed, "bob", **money)

    def erase(self, person: str) -> None:
        """Record that somebody was erased."""
        by = Actor("system", "eraser")
        self._tell(PersonErased, person_id(person), 1, by, person=person)

    # --- coupons, whether they may or not -------------------------------------------------

    def _step(self, campaigns: Sequence[UUID]) -> None:
        chosen = self.chance.choice(campaigns)
        mine = [(c, one) for c, one in self.coupons.items() if one.campaign == chosen]
        held = [coupon for coupon, one in mine if one.order is None]
        taken = [coupon for coupon, one in mine if one.order is not None]
        kind = self.chance.choices(range(6), (50, 25, 12, 3, 8, 1))[0]
        if kind == 1 and held:
            self.redeem(self.chance.choice(held))
        elif kind == 2 and taken:
            self.refund(self.chance.choice(taken))
        elif kind == 3 and held:
            self.end(self.chance.choice(held), CouponVoided)
        elif kind == 4 and mine:
            person = self.chance.choice(mine)[1].person
            if coupon_id(chosen, person, 2) not in self.begun:
                self.claim(chosen, person, 2)
        elif kind == 5:
            self.campaign(chosen, CampaignPaused, "bob", reason="a break")
            self.campaign(chosen, CampaignResumed, "bob")
        else:
            self.claim(chosen, self._name(), 1)

    def _name(self) -> str:
        return (
            f"{self.chance.getrandbits(128):032x}"
            if self.chance.random() < 0.8
            else (f"u{self.chance.randrange(10**6)}")
        )

    def claim(self, campaign: UUID, person: str, n: int = 1) -> UUID:
        coupon = coupon_id(campaign, person, n)
        self._tick()
        said = self.campaigns[campaign]
        why = Why(f"r{self.chance.random()}", f"k{len(self.entries)}", "ab" * 32)
        by = Actor("tourist", person)
        self._add(plain_claim(said, coupon, n, person, self.at, by, why))
        self.coupons[coupon] = _Coupon(campaign, person, n)
        self.granted[campaign] += 1
        return coupon

    def redeem(self, coupon: UUID) -> None:
        kept = self.coupons[coupon]
        merchant = self.chance.choice(MERCHANTS[:3])
        order = f"o-{self.chance.randrange(10 ** self.chance.randrange(1, 9))}"
        fields = {
            "merchant": merchant,
            "shop": None if self.is_plain else self.chance.choice([None, "east gate"]),
            "order": order,
            "order_total_minor": 3_000 + self.chance.randrange(10 ** self.chance.randrange(1, 7)),
            "discount_minor": FACE,
            "currency": "CNY",
        }
        self._coupon(CouponRedeemed, coupon, kept, merchant, **fields)
        kept.order = merchant, order

    def refund(self, coupon: UUID) -> None:
        kept = self.coupons[coupon]
        assert kept.order is not None
        merchant, order = kept.order
        fields = {"merchant": merchant, "order": order, "reason": "came back"}
        money = {"amount_minor": FACE, "currency": "CNY"}
        self._coupon(CouponRefunded, coupon, kept, merchant, **fields, **money)
        kept.order = None

    def end_late(self, coupon: UUID) -> None:
        if self.coupons[coupon].order is None:
            self.end(coupon, CouponExpired)
        elif self.chance.random() < 0.1:
            self.refund(coupon)
            self.end(coupon, CouponReclaimed)

    def end(self, coupon: UUID, kind: type[Event]) -> None:
        kept = self.coupons[coupon]
        said = self.campaigns[kept.campaign]
        fields: dict[str, Any] = {"amount_minor": FACE, "currency": "CNY"}
        fields |= {"to": said.returns_to, "sponsor": "city"}
        if kind is CouponExpired:
            fields["valid_until"] = said.terms.valid_until
        elif kind is CouponVoided:
            fields["reason"] = "a mistake"
        self._coupon(kind, coupon, kept, "ops", **fields)
        del self.coupons[coupon]
        self.granted[kept.campaign] -= 1

    def _coupon(
        self, kind: type[Event], coupon: UUID, kept: _Coupon, by: str, **fields: Any
    ) -> None:
        kept.version += 1
        whose = {"campaign": kept.campaign, "person": kept.person}
        self._tell(kind, coupon, kept.version, Actor("merchant", by), **whose, **fields)

    def _tell(
        self, kind: type[Event], stream: UUID, version: int, by: Actor, **fields: Any
    ) -> Event:
        self._tick()
        event = kind(
            originator_id=stream,
            originator_version=version,
            at=self.at,
            by=by,
            why=Why(
                f"r{len(self.entries)}", *(WHYS[0] if self.is_plain else self.chance.choice(WHYS))
            ),
            **fields,
        )
        self._add(event)
        return event

    def _add(self, event: Event) -> None:
        place = event.originator_id, event.originator_version
        position = len(self.entries) + 1
        self.begun.add(event.originator_id)
        self.entries.append(Entry(position, *place, event.TOPIC, canonical(event)))

    def _tick(self) -> None:
        self.at += timedelta(microseconds=self.chance.choice([0, 1, 731, 10_000]))


# --- bending one event --------------------------------------------------------------------

Bend = Callable[[Entry], Entry]


def field_to(name: str, value: Any) -> Bend:
    """Set a field of the state."""

    def bend(entry: Entry) -> Entry:
        state = msgspec.json.decode(entry.state)
        *path, last = name.split(".")
        inner = state
        for one in path:
            inner = inner[one]
        inner[last] = value(inner.get(last)) if callable(value) else value
        return entry._replace(state=msgspec.json.encode(state))

    return bend


def text_to(old: bytes, new: bytes) -> Bend:
    """Replace bytes of the state."""
    return lambda entry: entry._replace(state=entry.state.replace(old, new, 1))


def column_to(name: str, value: Callable[[Any], Any]) -> Bend:
    """Change what is beside the state."""
    return lambda entry: entry._replace(**{name: value(getattr(entry, name))})


def _at(change: Callable[[bytes], bytes]) -> Bend:
    def bend(entry: Entry) -> Entry:
        begin = entry.state.index(b'"at":"') + 6
        end = entry.state.index(b'"', begin)
        at = change(entry.state[begin:end])
        return entry._replace(state=entry.state[:begin] + at + entry.state[end:])

    return bend


def twin_of(stream: UUID) -> UUID:
    """Another stream that would lie in the same place of every table."""
    low, high = map(int, spilling._MIXERS[:2])
    first = int.from_bytes(stream.bytes[:8], "little") ^ 1
    change = first - int.from_bytes(stream.bytes[:8], "little")
    second = int.from_bytes(stream.bytes[8:], "little") - change * high * pow(low, -1, 2**64)
    return UUID(bytes=first.to_bytes(8, "little") + (second % 2**64).to_bytes(8, "little"))


FIELD_BENDS: dict[str, Bend] = {
    "person": field_to("person", lambda one: one[:-1] + ("0" if one[-1] != "0" else "1")),
    "person of spaces": field_to("person", "a b"),
    "person of letters": field_to("person", "ü"),
    "campaign": field_to("campaign", str(UUID(int=9))),
    "n of two": field_to("n", 2),
    "n of three": field_to("n", 3),
    "n of none": field_to("n", 0),
    "negative n": field_to("n", -1),
    "campaign version": field_to("campaign_version", 3),
    "face": field_to("face_minor", FACE + 1),
    "threshold": field_to("threshold_minor", 2_999),
    "currency": field_to("currency", "EUR"),
    "from": field_to("valid_from", "2026-05-01T00:00:00Z"),
    "until": field_to("valid_until", "2026-05-09T00:00:00Z"),
    "drawn": field_to("drawn", value=True),
    "merchant": field_to("merchant", "m4"),
    "unknown merchant": field_to("merchant", "m9"),
    "merchant of letters": field_to("merchant", "商"),
    "order": field_to("order", "o-x"),
    "empty order": field_to("order", ""),
    "long order": field_to("order", "o" * 70),
    "shop": field_to("shop", "west"),
    "total": field_to("order_total_minor", 2_999),
    "no total": field_to("order_total_minor", 0),
    "negative total": field_to("order_total_minor", -5_000),
    "long total": field_to("order_total_minor", 10**17),
    "discount": field_to("discount_minor", FACE - 1),
    "amount": field_to("amount_minor", FACE + 1),
    "amount of none": field_to("amount_minor", 0),
    "reason": field_to("reason", "another"),
    "destination": field_to("to", lambda one: "sponsor" if one == "campaign" else "campaign"),
    "sponsor": field_to("sponsor", "province"),
    "by": field_to("by.id", "somebody"),
    "role": field_to("by.role", "nobody"),
    "request": field_to("why.request", "q"),
    "key": field_to("why.key", "another"),
    "no key": field_to("why.key", None),
    "cause": field_to("why.cause", 3),
    "at before": field_to("at", "2026-05-01T00:00:00.000001Z"),
    "at after": field_to("at", "2027-05-01T00:00:00.000001Z"),
}
"""Fields that say something else, in canonical bytes where that can be."""


def first_of_request(byte: bytes) -> Bend:
    """Another first byte of the request's name: nothing gets longer."""
    return first_behind(b'"request":"', byte)


def first_of_total(byte: bytes) -> Bend:
    """Another first byte of an order's total."""
    return first_behind(b'"order_total_minor":', byte)


def first_behind(mark: bytes, byte: bytes) -> Bend:
    """Another byte behind a mark, in a text that has it."""

    def bend(state: bytes) -> bytes:
        before, found, behind = state.partition(mark)
        return before + found + byte + behind[1:] if found else state

    return column_to("state", bend)


TEXT_BENDS: dict[str, Bend] = {
    "space": text_to(b'","', b'", "'),
    "space at the end": column_to("state", lambda one: one + b" "),
    "more at the end": column_to("state", lambda one: one + b"}"),
    "cut": column_to("state", lambda one: one[:-1]),
    "nothing": column_to("state", lambda _: b""),
    "escape": text_to(b'"person":"', b'"person":"\\u0061'),
    "escaped quote": text_to(b'"request":"', b'"request":"\\"'),
    "slash": text_to(b'"request":"', b'"request":"\\/'),
    "control": text_to(b'"request":"', b'"request":"\x01'),
    "delete": text_to(b'"request":"', b'"request":"\x7f'),
    "broken letters": text_to(b'"request":"', b'"request":"\xff'),
    "letters": text_to(b'"request":"', '"request":"桥'.encode()),
    "quote": text_to(b'"request":"', b'"request":"","request":"'),
    "twice": text_to(b'"person":"', b'"person":"x","person":"'),
    "unknown field": text_to(b'"currency":', b'"colour":"red","currency":'),
    "leading zero": text_to(b'"order_total_minor":', b'"order_total_minor":0'),
    "plus": text_to(b'"order_total_minor":', b'"order_total_minor":+'),
    "minus": text_to(b'"order_total_minor":', b'"order_total_minor":-'),
    "no number": text_to(b'"order_total_minor":3', b'"order_total_minor":'),
    "fraction": text_to(b',"discount_minor"', b'.0,"discount_minor"'),
    "exponent": text_to(b',"discount_minor"', b'e0,"discount_minor"'),
    "letter in number": text_to(b'"order_total_minor":3', b'"order_total_minor":a'),
    "leading zero of n": text_to(b'"n":', b'"n":0'),
    "n of a text": text_to(b'"n":1', b'"n":"1"'),
    "brace": text_to(b'"campaign":"', b'"campaign":"{'),
    "order of fields": column_to(
        "state", lambda one: msgspec.json.encode(dict(reversed(msgspec.json.decode(one).items())))
    ),
    "quote inside": first_of_request(b'"'),
    "backslash inside": first_of_request(b"\\"),
    "control inside": first_of_request(b"\x01"),
    "delete inside": first_of_request(b"\x7f"),
    "zero first": first_of_total(b"0"),
    "minus first": first_of_total(b"-"),
    "february 30": _at(lambda at: b"2026-02-30" + at[10:]),
    "month 13": _at(lambda at: b"2026-13-01" + at[10:]),
    "hour 24": _at(lambda at: at[:11] + b"24" + at[13:]),
    "minute 60": _at(lambda at: at[:14] + b"60" + at[16:]),
    "second 60": _at(lambda at: at[:17] + b"60" + at[19:]),
    "no second": _at(lambda at: at[:17] + b"5x" + at[19:]),
    "no utc": _at(lambda at: at[:-1] + b"+00:00"),
    "no zone": _at(lambda at: at[:-1]),
    "small z": _at(lambda at: at[:-1] + b"z"),
    "other zone": _at(lambda at: at[:-1] + b"+08:00"),
    "small t": _at(lambda at: at.replace(b"T", b"t")),
    "space for t": _at(lambda at: at.replace(b"T", b" ")),
    "comma": _at(lambda at: at.replace(b".", b",")),
    "fraction of zero": _at(lambda _: b"2026-05-02T00:40:00.000000Z"),
    "no fraction": _at(lambda at: at[:19] + b"Z"),
    "short fraction": _at(lambda at: at[:-2] + b"Z"),
    "long fraction": _at(lambda at: at[:-1] + b"0Z"),
    "no instant": _at(lambda _: b"yesterday"),
    "before 1970": _at(lambda _: b"1969-12-31T23:59:59.999999Z"),
}
"""Bytes that are others."""

COLUMN_BENDS: dict[str, Bend] = {
    "version after": column_to("version", lambda one: one + 1),
    "version before": column_to("version", lambda one: one - 1),
    "stream": column_to("stream", lambda one: UUID(int=one.int ^ 1)),
    "half of the stream": column_to("stream", lambda one: UUID(int=one.int ^ 1 << 100)),
    "twin of the stream": column_to("stream", twin_of),
    "position": column_to("position", lambda one: one + 1),
    "topic of a redemption": column_to("topic", lambda _: "coupon.redeemed"),
    "topic of nothing": column_to("topic", lambda _: "coupon.eaten"),
    "upcast topic": column_to("topic", lambda _: "coupon.voided"),
}
"""What is beside the state."""

BENDS = FIELD_BENDS | TEXT_BENDS | COLUMN_BENDS


def rearranged(entries: Sequence[Entry], how: str, place: int, other: int) -> list[Entry]:
    """Return the book with an event elsewhere, twice or gone; positions are dense again."""
    book = list(entries)
    match how:
        case "swapped":
            book[place], book[other] = book[other], book[place]
        case "twice":
            book.insert(other, book[place])
        case "gone":
            del book[place]
        case "again":  # as its stream's next event
            last = max(one.version for one in book if one.stream == book[place].stream)
            book.append(book[place]._replace(version=last + 1))
        case _:
            pass
    return [one._replace(position=n) for n, one in enumerate(book, 1)]
