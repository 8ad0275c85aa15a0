"""Replay: what a book, a campaign, a coupon or a person's holdings were at any past position.

A book is folded event by event in memory that grows with its campaigns only. One coupon or
campaign is read from its own stream, by primary key, and is the same as in the whole. Read models
are never asked: what is told here can be told of every position since the first.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Any, Final, Generic, TypeVar, cast
from uuid import UUID

import msgspec

from campaigns.accounting import postings_of
from campaigns.campaign import CAMPAIGN_EVENTS, CAMPAIGN_FOLD, Campaign
from campaigns.corrections.correction import CORRECTION_EVENTS, correction_id
from campaigns.coupon import (
    Coupon,
    CouponClaimed,
    CouponEntered,
    CouponExpired,
    CouponReclaimed,
    CouponRedeemed,
    CouponRefunded,
    CouponVoided,
    coupon_id,
)
from campaigns.draws.draw import DRAW_EVENTS, DRAW_FOLD, PublicDraw, draw_id
from campaigns.draws.entry import (
    ENTRY_EVENTS,
    DrawEntered,
    DrawEntryVoided,
    DrawWithdrawn,
    DrawWon,
)
from campaigns.groups.group import (
    GROUP_EVENTS,
    GROUP_FOLD,
    Group,
    GroupClosed,
    GroupFunded,
    GroupGivenUp,
    GroupShareTaken,
)
from campaigns.groups.purse import PURSE_EVENTS, PURSE_FOLD, Purse, PurseFillingProposed
from campaigns.holding import HOLDING_FOLD, Holding
from campaigns.intake import is_winner
from campaigns.packets.packet import (
    PACKET_EVENTS,
    Packet,
    PacketClaimed,
    PacketExpired,
    PacketPaid,
    PacketRefunded,
    PacketWalletClosed,
)
from campaigns.persons.person import PERSON_EVENTS
from ledger.commit import Fold
from ledger.events import Event
from ledger.history import History, Positioned
from ledger.postings import Transfer

S = TypeVar("S")

ACCOUNT_KINDS: Final = ("sponsor", "campaign", "purse", "group", "holder", "packet", "merchant")


class CouponCounts(msgspec.Struct):
    """How many coupons are in each state, and how often one was refunded.

    Of lotteries: how many people `entered`, and how many coupons were `drawn`, ever.
    """

    claimed: int = 0
    held: int = 0
    redeemed: int = 0
    expired: int = 0
    voided: int = 0
    reclaimed: int = 0
    refunds: int = 0
    entered: int = 0
    drawn: int = 0


class PacketCounts(msgspec.Struct):
    """How many packets there are, and what was done with them.

    `held` are those that have not ended, with money in them or without.
    """

    claimed: int = 0
    held: int = 0
    expired: int = 0
    closed: int = 0
    payments: int = 0
    refunds: int = 0
    paid_minor: int = 0
    refunded_minor: int = 0
    returned_minor: int = 0


class DrawCounts(msgspec.Struct):
    """How a public draw stands: who is in the list, who is not any more, who was given a seat."""

    registered: int = 0
    withdrawn: int = 0
    voided: int = 0
    won: int = 0


class GroupCounts(msgspec.Struct):
    """Group packets: how many were sent and are open, their shares, and where their money is.

    Sent = taken + returned + outstanding, in minor units.
    """

    sent: int = 0
    open: int = 0
    shares_taken: int = 0
    sent_minor: int = 0
    taken_minor: int = 0
    returned_minor: int = 0

    @property
    def outstanding_minor(self) -> int:
        """What nobody has taken of groups that are open."""
        return self.sent_minor - self.taken_minor - self.returned_minor


class CampaignAt(msgspec.Struct):
    """A campaign at a position, and what became of all that it gave."""

    campaign: Campaign
    coupons: CouponCounts = msgspec.field(default_factory=CouponCounts)
    packets: PacketCounts = msgspec.field(default_factory=PacketCounts)
    draw: DrawCounts = msgspec.field(default_factory=DrawCounts)
    groups: GroupCounts = msgspec.field(default_factory=GroupCounts)


class MoneyAt(msgspec.Struct):
    """Where the money of one currency is: debits minus credits per kind of account.

    The sponsors' balance is negative by what they put in; `moved_minor` is all that ever moved.
    """

    currency: str
    sponsor_minor: int = 0
    campaign_minor: int = 0
    purse_minor: int = 0
    group_minor: int = 0
    holder_minor: int = 0
    packet_minor: int = 0
    merchant_minor: int = 0
    moved_minor: int = 0

    @property
    def sum_minor(self) -> int:
        """What all balances sum to: zero, or money was made or lost."""
        return sum(getattr(self, f"{kind}_minor") for kind in ACCOUNT_KINDS)


class BookAt:
    """A book after the events applied so far."""

    def __init__(self) -> None:
        self.position = 0
        self.at: datetime | None = None
        self.coupons = CouponCounts()
        self.packets = PacketCounts()
        self.groups = GroupCounts()
        self.campaigns: dict[UUID, CampaignAt] = {}
        self._moved: defaultdict[tuple[str, str], int] = defaultdict(int)
        self._posted: defaultdict[str, int] = defaultdict(int)
        self._rules: dict[type[Event], Callable[[Any], None]] = {
            **dict.fromkeys(CAMPAIGN_EVENTS, self._campaign_event),
            CouponEntered: self._entered,
            CouponClaimed: self._claimed,
            CouponRedeemed: self._redeemed,
            CouponRefunded: self._refunded,
            CouponReclaimed: self._reclaimed,
            CouponExpired: self._expired,
            CouponVoided: self._voided,
            **dict.fromkeys(PACKET_EVENTS, self._packet_event),
            **dict.fromkeys((*DRAW_EVENTS, *ENTRY_EVENTS), self._public_draw),
            **dict.fromkeys((*GROUP_EVENTS, *PURSE_EVENTS), self._group_event),
            **dict.fromkeys((*PERSON_EVENTS, *CORRECTION_EVENTS), _nothing_held),
        }

    def apply(self, positioned: Positioned) -> None:
        """Take the next event in."""
        position, event = positioned
        assert position == self.position + 1, "a book is folded without a gap"
        self.position, self.at = position, event.at
        self._rules[type(event)](event)
        for debit, credit, amount_minor, currency in postings_of(event):
            self._moved[debit.partition(":")[0], currency] += amount_minor
            self._moved[credit.partition(":")[0], currency] -= amount_minor
            self._posted[currency] += amount_minor

    def money(self) -> list[MoneyAt]:
        """Return the balances by kind of account, for each currency that ever moved."""
        return [
            MoneyAt(
                currency,
                **{f"{kind}_minor": self._moved[kind, currency] for kind in ACCOUNT_KINDS},
                moved_minor=self._posted[currency],
            )
            for currency in sorted(self._posted)
        ]

    def _campaign_event(self, event: Event) -> None:
        known = self.campaigns.get(event.originator_id)
        if known is None:
            first = CAMPAIGN_FOLD.evolve(None, event)
            self.campaigns[event.originator_id] = CampaignAt(first)
        else:
            known.campaign = CAMPAIGN_FOLD.evolve(known.campaign, event)

    def _counts(self, event: Any) -> tuple[CouponCounts, CouponCounts]:
        return self.coupons, self.campaigns[event.campaign].coupons

    def _packet_event(self, event: Any) -> None:
        for counts in (self.packets, self.campaigns[event.campaign].packets):
            _count_packet(counts, event)

    def _group_event(self, event: Any) -> None:
        for counts in (self.groups, self.campaigns[event.campaign].groups):
            match event:
                case GroupFunded():
                    counts.sent += 1
                    counts.open += 1
                    counts.sent_minor += event.total_minor
                case GroupShareTaken():
                    counts.shares_taken += 1
                    counts.taken_minor += event.amount_minor
                case GroupClosed() | GroupGivenUp():
                    counts.open -= 1
                    counts.returned_minor += event.returned_minor
                case _:
                    pass

    def _public_draw(self, event: Any) -> None:
        counts = self.campaigns[event.campaign].draw
        match event:
            case DrawEntered():
                counts.registered += 1
            case DrawWithdrawn():
                counts.registered -= 1
                counts.withdrawn += 1
            case DrawEntryVoided():
                counts.registered -= 1
                counts.voided += 1
            case DrawWon():
                counts.won += 1
            case _:
                pass

    def _entered(self, event: CouponEntered) -> None:
        for counts in self._counts(event):
            counts.entered += 1

    def _claimed(self, event: CouponClaimed) -> None:
        for counts in self._counts(event):
            counts.claimed += 1
            counts.held += 1
            counts.drawn += event.drawn is True

    def _redeemed(self, event: CouponRedeemed) -> None:
        for counts in self._counts(event):
            counts.held -= 1
            counts.redeemed += 1

    def _refunded(self, event: CouponRefunded) -> None:
        for counts in self._counts(event):
            counts.redeemed -= 1
            counts.held += 1
            counts.refunds += 1

    def _reclaimed(self, event: CouponReclaimed) -> None:
        for counts in self._counts(event):
            counts.held -= 1
            counts.reclaimed += 1

    def _expired(self, event: CouponExpired) -> None:
        for counts in self._counts(event):
            counts.held -= 1
            counts.expired += 1

    def _voided(self, event: CouponVoided) -> None:
        for counts in self._counts(event):
            counts.held -= 1
            counts.voided += 1


def _nothing_held(_event: Event) -> None:
    """What is recorded of a person, or corrected of a day, moves nothing that anybody holds."""


def _count_packet(counts: PacketCounts, event: Any) -> None:
    match event:
        case PacketClaimed():
            counts.claimed += 1
            counts.held += 1
        case PacketPaid():
            counts.payments += 1
            counts.paid_minor += event.amount_minor
        case PacketRefunded():
            counts.refunds += 1
            counts.refunded_minor += event.to_packet_minor + event.reclaimed_minor
            counts.returned_minor += event.reclaimed_minor
        case _:
            counts.held -= 1
            counts.expired += isinstance(event, PacketExpired)
            counts.closed += isinstance(event, PacketWalletClosed)
            counts.returned_minor += event.amount_minor


class Step(msgspec.Struct, Generic[S]):
    """One event of a life: what it was, who caused it, the state after it, the money it moved."""

    position: int
    event: Event
    state: S
    transfers: tuple[Transfer, ...]


Life = list[Step[S]]
"""The steps of a campaign or coupon so far; the last one holds its state."""


def fold_book(
    events: Iterable[Positioned], on_event: Callable[[int], Any] = lambda _: None
) -> BookAt:
    """Return the book after all `events`, which begin at position 1."""
    book = BookAt()
    for positioned in events:
        book.apply(positioned)
        on_event(positioned.position)
    return book


def coupon_life(history: History, coupon: UUID, until: int) -> Life[Coupon]:
    """Return a coupon's steps up to a position; none when it was not claimed yet.

    Among them is what was corrected of its redemptions.
    """
    life = _life_of(Coupon, history.stream(coupon, until))
    return _with_corrections(history, life, CouponRedeemed, until)


def packet_life(history: History, packet: UUID, until: int) -> Life[Packet]:
    """Return a packet's steps up to a position; none when it was not claimed yet.

    Among them is what was corrected of its payments.
    """
    life = _life_of(Packet, history.stream(packet, until))
    return _with_corrections(history, life, PacketPaid, until)


def _with_corrections(history: History, life: Life[S], taking: type[Event], until: int) -> Life[S]:
    """Return a holding's steps with the corrections of what was taken, which leave it as it is."""
    of = [
        correction_id(step.event.originator_id, step.event.originator_version)
        for step in life
        if isinstance(step.event, taking)
    ]
    corrections = history.streams(of, until) if of else {}
    steps = [
        *life,
        *(
            Step(one.position, one.event, _state_at(life, one.position), ())
            for stream in corrections.values()
            for one in stream
        ),
    ]
    return sorted(steps, key=lambda step: step.position)


def _state_at(life: Life[S], position: int) -> S:
    return life[bisect_right(life, position, key=lambda step: step.position) - 1].state


def group_life(history: History, group: UUID, until: int) -> Life[Group]:
    """Return a group packet's steps up to a position; none when it was not sent yet."""
    events = history.stream(group, until)
    is_group = events and isinstance(events[0].event, GroupFunded)
    return _life(events, GROUP_FOLD) if is_group else []


def purse_life(history: History, purse: UUID, until: int) -> Life[Purse]:
    """Return a purse's steps up to a position; none when nobody asked for money for it yet."""
    events = history.stream(purse, until)
    is_purse = events and isinstance(events[0].event, PurseFillingProposed)
    return _life(events, PURSE_FOLD) if is_purse else []


def draw_life(history: History, campaign: UUID, until: int) -> Life[PublicDraw]:
    """Return the steps of a campaign's public draw; none when it was not opened yet."""
    return _life(history.stream(draw_id(campaign), until), DRAW_FOLD)


def shown_state(history: History, coupon: Coupon, until: int) -> str:
    """Return a coupon's state as its holder saw it: who was not drawn has no event that says so."""
    if coupon.state != "entered":
        return coupon.state
    campaign = campaign_life(history, coupon.campaign, until)[-1].state
    draw = campaign.draw
    is_drawn = draw is not None and draw.seed is not None
    is_lost = draw is not None and is_drawn and not is_winner(draw, coupon.id)
    return "not_drawn" if is_lost or (campaign.state == "closed" and not is_drawn) else "entered"


def campaign_life(history: History, campaign: UUID, until: int) -> Life[Campaign]:
    """Return a campaign's steps up to a position; none when it was not drafted yet."""
    return _life(history.stream(campaign, until), CAMPAIGN_FOLD)


def holdings_of(history: History, person: str, until: int) -> list[Holding]:
    """Return what a person had claimed or entered for by a position, in that order.

    The id of a coupon or packet is made of campaign, person and ordinal, so that it is found by
    primary key: the campaigns are those that have a capacity, since nothing can be claimed of any
    other. Shares of group packets are not among them.
    """
    campaigns = sorted({campaign for campaign, _ in history.standing().capacity})
    found: list[tuple[int, Holding]] = []
    n = 1
    while campaigns:
        streams = {coupon_id(campaign, person, n): campaign for campaign in campaigns}
        lives = history.streams(list(streams), until)
        for life in lives.values():
            held = _life(life, HOLDING_FOLD)[-1].state
            assert held is not None, "the id is that of a coupon or packet"
            found.append((life[0].position, held))
        campaigns = [streams[coupon] for coupon in lives]
        n += 1
    return [held for _, held in sorted(found, key=lambda pair: pair[0])]


def _life_of(kind: type[S], events: Iterable[Positioned]) -> Life[S]:
    """Return the steps of a stream, none when it is not of this kind."""
    life = _life(events, HOLDING_FOLD)
    return cast("Life[S]", life) if life and isinstance(life[-1].state, kind) else []


def _life(events: Iterable[Positioned], fold: Fold[S]) -> Life[S]:
    life: Life[S] = []
    state: S | None = None
    for position, event in events:
        state = fold.evolve(state, event)
        life.append(Step(position, event, state, tuple(postings_of(event))))
    return life
