"""A book in memory with a campaign of packets: what happened so far, as decisions see it."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from campaigns import commands as c
from campaigns.campaign import Terms
from campaigns.commands import Command, Decision
from campaigns.coupon import coupon_id
from campaigns.packets.commands import CloseWallet, ExpirePacket, PayFromPacket, RefundPayment
from campaigns.packets.packet import PACKET_FOLD, Packet
from campaigns.packets.rolling import RollOver, ShowSplit
from campaigns.packets.terms import PacketTerms
from campaigns.splitting import split_seed
from ledger.commit import Read
from ledger.events import Actor, Event
from ledger.money import Money
from tests.campaigns.test_decisions import BOOK, CAMPAIGN, Story
from tests.support.desk import ALICE, DRAW_KEY, NOON, SPONSOR, person, terms_of, tourist

MALL = Actor("merchant", "mall")
CAFE = Actor("merchant", "cafe")
SWEEPER = Actor("sweeper", "system")
NEXT = c.campaign_id(BOOK, ALICE, "next")
PACKET = coupon_id(CAMPAIGN, person(1), 1)
FACE = 20_000
ENDS = NOON + timedelta(days=7)


def packet_terms(packet: PacketTerms | None = None, **changes: Any) -> Terms:
    """Return the terms of Luohu's packets: 200 yuan, a week, at named merchants."""
    ordinary: dict[str, Any] = {
        "kind": "packet",
        "face_minor": FACE,
        "merchants": ["mall", "cafe"],
        "valid_until": ENDS,
        "packet": packet or PacketTerms(),
    }
    return terms_of(**{**ordinary, **changes})


def cny(amount_minor: int) -> Money:
    """Return an amount in fen."""
    return Money(amount_minor, "CNY")


class PacketStory(Story):
    """A book in memory with one campaign of packets."""

    def __init__(self, packet: PacketTerms | None = None, **changes: Any) -> None:
        super().__init__(packet_terms(packet, **changes))
        self.book: list[Event] = []
        """Every event in order, by which the book can be verified."""

    def when(self, command: Command, by: Actor = ALICE, at: datetime = NOON) -> Decision:
        """Decide, and let what follows happen."""
        decision = super().when(command, by, at)
        for event in decision.events:
            self.book.append(self.streams[event.originator_id][event.originator_version - 1])
        return decision

    def opened(self, quota: int = 3, budget: int | None = None) -> PacketStory:
        """Draft, fund and open the campaign."""
        packet = self.terms.packet
        if packet is not None and packet.is_seeded:
            quota, budget = packet.promised
        self.funded(quota, quota * FACE if budget is None else budget)
        self.when(c.OpenCampaign(BOOK, CAMPAIGN, lambda: DRAW_KEY))
        return self

    def next_round(self, **changes: Any) -> PacketStory:
        """Draft the campaign that leftovers go to."""
        sponsor = changes.pop("sponsor", SPONSOR)
        self.when(c.DraftCampaign(BOOK, NEXT, "Next", sponsor, packet_terms(**changes)))
        return self

    def claimed(self, n: int = 1) -> PacketStory:
        """Let the n-th person claim."""
        if CAMPAIGN not in self.streams:
            self.opened()
        asked = c.ClaimCoupon(BOOK, CAMPAIGN, person(n), lambda: DRAW_KEY)
        assert self.when(asked, tourist(person(n))).code == "claimed"
        return self

    def paid(self, total_minor: int, order: str = "o-1", **how: Any) -> PacketStory:
        """Let the first person pay at the mall."""
        if PACKET not in self.streams:
            self.claimed()
        assert self.when(pay(total_minor, order), MALL, **how).code == "paid"
        return self

    def refunded(
        self, amount_minor: int | None = None, order: str = "o-1", at: datetime = NOON
    ) -> Decision:
        """Let the mall give some of a payment back, or all that is left of it."""
        return self.when(refund(amount_minor, order), MALL, at)

    @property
    def packet(self) -> Packet:
        """The first person's packet."""
        found: Packet = self.state(Read(PACKET, PACKET_FOLD))
        return found

    def packet_account(self, packet: UUID = PACKET) -> int:
        """What is in a packet, as the postings say."""
        return self.trial.balance(f"packet:{packet.hex}", "CNY")


def pay(total_minor: int, order: str = "o-1", merchant: str = "mall", **more: Any) -> PayFromPacket:
    """Pay an order from the first person's packet."""
    total = more.get("total", cny(total_minor))
    return PayFromPacket(BOOK, PACKET, merchant, more.get("shop"), order, total)


def refund(
    amount_minor: int | None = None, order: str = "o-1", merchant: str = "mall", **more: Any
) -> RefundPayment:
    """Give back what was paid for an order."""
    amount = None if amount_minor is None else cny(amount_minor)
    return RefundPayment(BOOK, PACKET, merchant, order, more.get("amount", amount), "returned")


EXPIRE = ExpirePacket(BOOK, PACKET)
CLOSE_WALLET = CloseWallet(BOOK, PACKET, "the holder closed it")
ROLL_OVER = RollOver(BOOK, CAMPAIGN)
SEED = split_seed(DRAW_KEY, CAMPAIGN, 4)
SHOW_SPLIT = ShowSplit(BOOK, CAMPAIGN, SEED)
CLOSE = c.CloseCampaign(BOOK, CAMPAIGN, "over")
