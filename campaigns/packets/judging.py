"""Judging stored decisions on packets again: what each holds, pays, takes back and gives back.

It shares the fold with nobody and no code with the decisions, so that a rule that was decided
wrongly is found here. Tiers and shares are given out again once the seed is shown. What is found is
a value; nothing is raised.
"""

from __future__ import annotations

from array import array
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from itertools import islice
from typing import Any, NamedTuple, Protocol
from uuid import UUID, uuid5

from campaigns.campaign import (
    SPLIT_POOL,
    TIER_POOL,
    Campaign,
    CampaignOpened,
    CampaignSplitShown,
    Terms,
)
from campaigns.corrections.judging import Stood
from campaigns.packets.packet import (
    PacketClaimed,
    PacketExpired,
    PacketPaid,
    PacketRefunded,
    PacketWalletClosed,
)
from campaigns.packets.terms import PacketTerms
from campaigns.redrawing import Wrong
from campaigns.resplitting import is_seed_of, number_again, random_shares, seed_bytes
from ledger.appending import Capacity
from ledger.events import Event


class PotOf(Protocol):
    """A campaign as its events made it, and what they took from it."""

    campaign: Campaign
    judged: bool
    budget_minor: int
    merchants: frozenset[str] | None


class Reports(NamedTuple):
    """What the judging of a whole book lends: the campaigns, and where findings and money go."""

    pots: Mapping[UUID, PotOf]
    here: Callable[[str, object, object], bool]
    """Report a broken rule at this position; False, for chains of checks."""
    unknown: Callable[[str, object, object], bool]
    """Report a reference to nothing, unless a missing part of the book may explain it."""
    give_back: Callable[[UUID, int, str | None], None]
    """Give money back to a campaign's pot or its sponsor."""
    spent_minor: defaultdict[str, int]
    """What merchants earned, by currency."""


@dataclass(slots=True)
class _Paid:
    """A payment: its merchant and order, what each side paid, and what each got back."""

    merchant: str
    order: str
    packet_minor: int
    own_minor: int
    packet_back_minor: int = 0
    own_back_minor: int = 0
    refunds: int = 0
    version: int = 0
    at: datetime | None = None


@dataclass(slots=True)
class _Kept:
    """A packet, as its events made it."""

    campaign: UUID
    person: str
    balance_minor: int
    valid_from: datetime
    valid_until: datetime
    state: str = "held"
    payments: dict[UUID, _Paid] = field(default_factory=dict)


class PacketAudit:
    """Judges the events of packets that were claimed, wherever their money came from."""

    def __init__(self, reports: Reports) -> None:
        self.balance_minor: defaultdict[str, int] = defaultdict(int)
        """What is in all packets together, by currency."""
        self._reports = reports
        self._here = reports.here
        self._packets: dict[int, _Kept] = {}
        self._rules: dict[type[Event], Callable[[PotOf, _Kept, Any], None]] = {
            PacketPaid: self._paid,
            PacketRefunded: self._refunded,
            PacketExpired: self._expired,
            PacketWalletClosed: self._wallet_closed,
        }

    @property
    def kinds(self) -> tuple[type[Event], ...]:
        """The events that are judged here."""
        return tuple(self._rules)

    def begin(self, event: PacketClaimed) -> None:
        """Take a packet in that somebody has from now on."""
        self._packets[event.originator_id.int] = _Kept(
            event.campaign, event.person, event.amount_minor, event.valid_from, event.valid_until
        )
        self.balance_minor[event.currency] += event.amount_minor

    def skip(self, stream: UUID) -> None:
        """Judge nothing any more of a packet whose stream is broken."""
        self._packets.pop(stream.int, None)

    def feed(self, event: Any) -> None:
        """Judge what happens to a packet."""
        kept = self._packets.get(event.originator_id.int)
        if kept is None:
            self._reports.unknown("packet_unknown", "packet.claimed first", event.TOPIC)
            return
        pot = self._reports.pots.get(kept.campaign)
        if pot is None:
            return
        if (event.campaign, event.person) != (kept.campaign, kept.person):
            expected = (kept.campaign.hex, kept.person)
            self._here("packet_unknown", expected, (event.campaign.hex, event.person))
        self._rules[type(event)](pot, kept, event)

    def stood(self, event: Any) -> Stood | None:
        """Return what a packet tells of a payment that is corrected, None where it has none."""
        kept = self._packets.get(event.holding.int)
        paid = None if kept is None else kept.payments.get(event.payment)
        if kept is None or paid is None or paid.at is None:
            return None
        expected = (kept.campaign, kept.person, paid.merchant, paid.order)
        if expected != (event.campaign, event.person, event.merchant, event.order):
            return None
        return Stood(paid.version, paid.at, kept.valid_from)

    # Payments

    def _paid(self, pot: PotOf, kept: _Kept, event: PacketPaid) -> None:
        balance_minor = kept.balance_minor
        kept.balance_minor -= event.amount_minor
        self.balance_minor[event.currency] -= event.amount_minor
        self._reports.spent_minor[event.currency] += event.amount_minor
        again = any((event.merchant, event.order) == (p.merchant, p.order) for p in _paid_by(kept))
        kept.payments[event.payment] = _Paid(
            event.merchant,
            event.order,
            event.amount_minor,
            event.own_minor,
            version=event.originator_version,
            at=event.at,
        )
        if not pot.judged:
            return
        if again:
            self._here("paid_twice", "one payment for an order", f"{event.merchant} {event.order}")
        if self._is_usable(kept, event) and self._is_payment(pot.merchants, event):
            self._check_parts(balance_minor, event)

    def _is_usable(self, kept: _Kept, event: Event) -> bool:
        if kept.state != "held":
            return self._here("after_end", f"{event.TOPIC} when held", f"when {kept.state}")
        if not kept.valid_from <= event.at < kept.valid_until:
            window = f"{kept.valid_from} up to {kept.valid_until}"
            return self._here("outside_validity", window, event.at)
        return True

    def _is_payment(self, merchants: frozenset[str] | None, event: PacketPaid) -> bool:
        if merchants is not None and event.merchant not in merchants:
            named = f"one of {len(merchants)} merchants"
            return self._here("merchant_not_designated", named, event.merchant)
        name = uuid5(event.originator_id, f"payment {event.merchant} {event.order}")
        if event.payment != name:
            return self._here("paid_twice", name.hex, event.payment.hex)
        return True

    def _check_parts(self, balance_minor: int, event: PacketPaid) -> None:
        from_packet = min(balance_minor, event.total_minor)
        expected = (from_packet, event.total_minor - from_packet)
        found = (event.amount_minor, event.own_minor)
        if expected != found or event.amount_minor <= 0:
            self._here("payment_parts", expected, found)

    # Refunds

    def _refunded(self, pot: PotOf, kept: _Kept, event: PacketRefunded) -> None:
        from_merchant = event.to_packet_minor + event.reclaimed_minor
        kept.balance_minor += event.to_packet_minor
        self.balance_minor[event.currency] += event.to_packet_minor
        self._reports.spent_minor[event.currency] -= from_merchant
        self._reports.give_back(kept.campaign, event.reclaimed_minor, event.to)
        paid = kept.payments.get(event.payment)
        if paid is None or (paid.merchant, paid.order) != (event.merchant, event.order):
            expected = "the merchant and order of a payment"
            self._here("other_redemption", expected, f"{event.merchant}, {event.order}")
            return
        if pot.judged:
            self._judge_refund(pot.campaign, kept, paid, event)
        paid.packet_back_minor += from_merchant
        paid.own_back_minor += event.to_own_minor
        paid.refunds += 1

    def _judge_refund(
        self, campaign: Campaign, kept: _Kept, paid: _Paid, event: PacketRefunded
    ) -> None:
        from_merchant = event.to_packet_minor + event.reclaimed_minor
        amount_minor = from_merchant + event.to_own_minor
        packet = campaign.terms.packet
        own_first = packet is None or packet.refund_order == "own_first"
        expected = _back_in_order(paid, amount_minor, own_first=own_first)
        if expected != (from_merchant, event.to_own_minor) or amount_minor <= 0:
            self._here("refund_parts", expected, (from_merchant, event.to_own_minor))
        is_spendable = kept.state == "held" and event.at < kept.valid_until
        where = (from_merchant, 0) if is_spendable else (0, from_merchant)
        if where != (event.to_packet_minor, event.reclaimed_minor):
            self._here("refund_parts", where, (event.to_packet_minor, event.reclaimed_minor))
        to = campaign.returns_to if event.reclaimed_minor else None
        if (to, campaign.sponsor) != (event.to, event.sponsor):
            self._here("other_destination", (to, campaign.sponsor), (event.to, event.sponsor))
        name = uuid5(event.payment, f"refund {paid.refunds + 1}")
        if event.refund != name:
            self._here("other_redemption", name.hex, event.refund.hex)

    # The end

    def _expired(self, pot: PotOf, kept: _Kept, event: PacketExpired) -> None:
        was = self._end(pot, kept, event, "expired")
        if was is None:
            return
        if event.at < kept.valid_until or event.valid_until != kept.valid_until:
            self._here("outside_validity", f"after {kept.valid_until}", event.at)
        elif event.amount_minor == 0:
            self._here("other_amount", "money in it", "none")

    def _wallet_closed(self, pot: PotOf, kept: _Kept, event: PacketWalletClosed) -> None:
        was = self._end(pot, kept, event, "closed")
        if was is not None and event.at >= kept.valid_until:
            self._here("outside_validity", f"before {kept.valid_until}", event.at)

    def _end(
        self, pot: PotOf, kept: _Kept, event: PacketExpired | PacketWalletClosed, to: str
    ) -> _Kept | None:
        """End a packet; return it when its end is one that may be judged further."""
        balance_minor, state = kept.balance_minor, kept.state
        kept.state = to
        kept.balance_minor -= event.amount_minor
        self.balance_minor[event.currency] -= event.amount_minor
        self._reports.give_back(kept.campaign, event.amount_minor, event.to)
        if not pot.judged:
            return None
        campaign = pot.campaign
        if state != "held":
            self._here("after_end", f"{event.TOPIC} when held", f"when {state}")
            return None
        if event.amount_minor != balance_minor or event.currency != campaign.terms.currency:
            self._here("other_amount", f"{balance_minor} left in it", event.amount_minor)
            return None
        if (event.to, event.sponsor) != (campaign.returns_to, campaign.sponsor):
            expected = (campaign.returns_to, campaign.sponsor)
            self._here("other_destination", expected, (event.to, event.sponsor))
            return None
        return kept


def _paid_by(kept: _Kept) -> Iterator[_Paid]:
    return iter(kept.payments.values())


def _back_in_order(paid: _Paid, amount_minor: int, *, own_first: bool) -> tuple[int, int]:
    """Return what comes back to packet and payer; less than the amount when it is too much."""
    packet_left = paid.packet_minor - paid.packet_back_minor
    own_left = paid.own_minor - paid.own_back_minor
    if own_first:
        own = min(own_left, amount_minor)
        return min(packet_left, amount_minor - own), own
    packet = min(packet_left, amount_minor)
    return packet, min(own_left, amount_minor - packet)


# --- tiers and split sums, given out again --------------------------------------------------------


@dataclass(slots=True)
class Handout:
    """What a campaign with tiers or a split sum gave out, in the order of the claims."""

    terms: PacketTerms
    amounts: array[int] = field(default_factory=lambda: array("q"))
    positions: array[int] = field(default_factory=lambda: array("q"))
    is_open: bool = False
    _counts: Counter[int] = field(default_factory=Counter)
    _given_minor: int = 0

    def give(self, position: int, event: PacketClaimed) -> Wrong | None:
        """Take a claim in; its amount is one that there was, as far as it can be told yet."""
        amount_minor = event.amount_minor
        self.amounts.append(amount_minor)
        self.positions.append(position)
        self._counts[amount_minor] += 1
        self._given_minor += amount_minor
        number = len(self.amounts)
        if event.award != number:
            return Wrong("share_differs", f"award {number}", event.award)
        if not self._was_left(amount_minor):
            return Wrong("share_differs", "an amount that was left", amount_minor)
        return None

    def _was_left(self, amount_minor: int) -> bool:
        if self.terms.split is not None:
            return amount_minor >= 1 and self._given_minor <= self.terms.split.total_minor
        counts = {tier.amount_minor: tier.count for tier in self.terms.tiers}
        return self._counts[amount_minor] <= counts.get(amount_minor, 0)

    @property
    def pools(self) -> dict[str, Capacity]:
        """What the stored capacities of the tiers or the sum should be, by pool."""
        if not self.is_open:
            return {}
        if self.terms.split is not None:
            whole, given = self.terms.split, len(self.amounts)
            capacity = Capacity(given, whole.count, self._given_minor, whole.total_minor)
            return {SPLIT_POOL: capacity}
        pools = {}
        for number, tier in enumerate(self.terms.tiers, 1):
            minor, given = tier.amount_minor, self._counts[tier.amount_minor]
            capacity = Capacity(given, tier.count, given * minor, tier.count * minor)
            pools[f"{TIER_POOL}{number}"] = capacity
        return pools

    def redone(self, shown: str) -> Iterator[tuple[int, Wrong]]:
        """Give all out again by the seed; yield what was given otherwise, by position."""
        seed = seed_bytes(shown)
        given = min(len(self.amounts), _promised(self.terms)[0])
        again = _shares_again(seed, self.terms, given)
        for position, found, expected in zip(self.positions, self.amounts, again, strict=False):
            if found != expected:
                yield position, Wrong("share_differs", expected, found)


def handout_of(terms: Terms) -> Handout | None:
    """Return what a campaign of tiers or a split sum will give out; None of any other."""
    packet = terms.packet
    is_seeded = packet is not None and (bool(packet.tiers) or packet.split is not None)
    return Handout(packet) if packet is not None and is_seeded else None


def committing(pot: PotOf, quota: int, event: CampaignOpened) -> Wrong | None:
    """Tiers and split sums are funded to the fen and committed to; nothing else commits."""
    handout = handout_of(pot.campaign.terms)
    is_seeded = handout is not None
    if isinstance(event.split_commitment, str) != is_seeded:
        words = {True: "a commitment to a seed", False: "no commitment"}
        return Wrong("split_commitment", words[is_seeded], words[not is_seeded])
    if handout is not None and (quota, pot.budget_minor) != _promised(handout.terms):
        return Wrong("split_commitment", _promised(handout.terms), (quota, pot.budget_minor))
    return None


def showing(campaign: Campaign, is_sold_out: bool, event: CampaignSplitShown) -> Wrong | None:
    """The seed is the one that was committed to, and shown when nobody can claim any more."""
    split = campaign.split
    if split is None or split.seed is not None:
        return Wrong("illegal_step", "campaign.split_shown once, of a split", "another")
    is_over = campaign.state == "closed" or event.at >= campaign.terms.claim_until
    if not (is_over or is_sold_out):
        return Wrong("split_commitment", "the seed after the last claim", event.at)
    if not is_seed_of(event.seed, split.commitment):
        return Wrong("split_commitment", f"the seed of {split.commitment}", event.seed)
    return None


def problem_of(terms: Terms) -> str | None:
    """Return what is wrong with terms of packets that nobody could keep."""
    packet = terms.packet
    if (terms.kind == "packet") != (packet is not None):
        return f"kind {terms.kind}, and {'no ' if packet is None else ''}terms of packets"
    if packet is None:
        return None
    if terms.restock or (terms.intake is not None and terms.intake.kind == "lottery"):
        return "packets that are restocked, or drawn among entries"
    if (packet.leftover == "next_round") != (packet.next_round is not None):
        return f"leftovers to the {packet.leftover}, next round {packet.next_round}"
    return _problem_of_amounts(packet, terms.face_minor)


def _problem_of_amounts(packet: PacketTerms, face_minor: int) -> str | None:
    tiers, split = packet.tiers, packet.split
    if tiers and split is not None:
        return "tiers and a split sum"
    amounts = {tier.amount_minor for tier in tiers}
    if len(amounts) < len(tiers) or any(t.amount_minor < 1 or t.count < 1 for t in tiers):
        return "tiers without packets or of the same amount"
    if split is not None and not 1 <= split.count <= split.total_minor:
        return f"{split.total_minor} split into {split.count}"
    least = min(amounts) if amounts else 1 if split is not None else face_minor
    return None if face_minor == least else f"face {face_minor}, but {least} is the least"


def _promised(packet: PacketTerms) -> tuple[int, int]:
    if packet.split is not None:
        return packet.split.count, packet.split.total_minor
    return (
        sum(tier.count for tier in packet.tiers),
        sum(tier.count * tier.amount_minor for tier in packet.tiers),
    )


def _shares_again(seed: bytes, packet: PacketTerms, given: int) -> Iterator[int]:
    if packet.split is not None:
        yield from islice(random_shares(seed, packet.split.total_minor, packet.split.count), given)
        return
    counts = [tier.count for tier in packet.tiers]
    for index in range(1, given + 1):
        number = number_again(seed, b"tier\0", index, sum(counts))
        which = 0
        while number >= counts[which]:
            number -= counts[which]
            which += 1
        counts[which] -= 1
        yield packet.tiers[which].amount_minor
