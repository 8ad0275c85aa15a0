"""Replies: the bytes that a caller gets and that a replay gives again, byte for byte.

Field order is part of the form. Public ids carry the book; money carries its currency; instants
are UTC with `Z`.
"""

from __future__ import annotations

from datetime import datetime
from typing import Final
from uuid import UUID

import msgspec
from msgspec import UNSET, UnsetType

from campaigns.campaign import Campaign, Intake, Terms
from campaigns.coupon import Coupon, CouponRedeemed
from campaigns.packets.terms import Leftover, PacketTerms, RefundOrder
from ledger.books import Book, PublicId
from ledger.money import Money

CAMPAIGN_PREFIX: Final = "cmp"
COUPON_PREFIX: Final = "cpn"
PACKET_PREFIX: Final = "pkt"

_encoder: Final = msgspec.json.Encoder()
encode = _encoder.encode


class Window(msgspec.Struct, frozen=True, rename={"from_": "from"}):
    """A half-open window of time: from ≤ t < until, both UTC."""

    from_: datetime
    until: datetime


class Benefit(msgspec.Struct, frozen=True):
    """What a coupon takes off (`face`) and from which order total on (`threshold`)."""

    kind: str
    face: Money
    threshold: Money


class TierReply(msgspec.Struct, frozen=True):
    """So many packets of one amount."""

    amount: Money
    count: int


class SplitReply(msgspec.Struct, frozen=True):
    """A sum that is split into so many packets of random amounts."""

    total: Money
    count: int


class PacketBenefit(msgspec.Struct, frozen=True, kw_only=True):
    """What a campaign's packets hold: one `amount`, one of `tiers`, or a share of `split`.

    `leftover` says where money goes that they give back.
    """

    amount: Money | UnsetType = UNSET
    tiers: list[TierReply] | UnsetType = UNSET
    split: SplitReply | UnsetType = UNSET
    refund_order: RefundOrder
    leftover: Leftover
    next_round: str | UnsetType = UNSET


class ProposalReply(msgspec.Struct, frozen=True):
    """A quota and budget that wait for a second operator."""

    quota: int
    budget: Money
    proposed_by: str


class CampaignReply(msgspec.Struct, frozen=True):
    """A campaign as its operators see it: of coupons, or of packets."""

    campaign: str
    name: str
    sponsor: str
    state: str
    version: int
    coupon: Benefit | UnsetType
    per_person_limit: int
    claim_window: Window
    validity_window: Window
    zone: str
    merchants: list[str] | None
    restock: bool
    quota: int
    budget: Money
    proposal: ProposalReply | None
    intake: Intake | UnsetType = UNSET
    packet: PacketBenefit | UnsetType = UNSET


class CouponReply(msgspec.Struct, frozen=True):
    """A coupon as its holder gets it on claiming."""

    coupon: str
    campaign: str
    n: int
    state: str
    face: Money
    threshold: Money
    valid_from: datetime
    valid_until: datetime
    claimed_at: datetime


class EntryReply(msgspec.Struct, frozen=True):
    """An entry in a lottery: who is drawn has the coupon of this id after `draws_at`."""

    coupon: str
    campaign: str
    state: str
    entered_at: datetime
    draws_at: datetime


class RedemptionReply(msgspec.Struct, frozen=True):
    """What a merchant gets on redeeming: the discount and what is left to pay."""

    coupon: str
    campaign: str
    state: str
    merchant: str
    order: str
    discount: Money
    payable: Money
    redeemed_at: datetime


def redemption_reply(book: Book, event: CouponRedeemed) -> RedemptionReply:
    """Return what a merchant gets on redeeming, which the event says in full."""
    discount = Money(event.discount_minor, event.currency)
    return RedemptionReply(
        coupon=f"{COUPON_PREFIX}_{book}_{event.originator_id.hex}",
        campaign=f"{CAMPAIGN_PREFIX}_{book}_{event.campaign.hex}",
        state="redeemed",
        merchant=event.merchant,
        order=event.order,
        discount=discount,
        payable=Money(event.order_total_minor, event.currency) - discount,
        redeemed_at=event.at,
    )


class RefundReply(msgspec.Struct, frozen=True):
    """What a merchant gets on a refund: the coupon is held again, or reclaimed for good."""

    coupon: str
    campaign: str
    state: str
    merchant: str
    order: str
    refunded: Money
    refunded_at: datetime


class EndingReply(msgspec.Struct, frozen=True):
    """A coupon that ended: voided or expired, and what went back to whom."""

    coupon: str
    campaign: str
    state: str
    returned: Money
    returned_to: str
    ended_at: datetime


def benefit(terms: Terms) -> Benefit | UnsetType:
    """Return what a coupon under these terms is; absent where they are those of packets."""
    if terms.packet is not None:
        return UNSET
    return Benefit(
        terms.kind,
        Money(terms.face_minor, terms.currency),
        Money(terms.threshold_minor, terms.currency),
    )


def packet_benefit(book: Book, terms: Terms) -> PacketBenefit | UnsetType:
    """Return what a packet under these terms is; absent where they are those of coupons."""
    packet, currency = terms.packet, terms.currency
    if packet is None:
        return UNSET
    next_round = packet.next_round
    return PacketBenefit(
        amount=UNSET if packet.is_seeded else Money(terms.face_minor, currency),
        tiers=[TierReply(Money(each.amount_minor, currency), each.count) for each in packet.tiers]
        or UNSET,
        split=_split_reply(packet, currency),
        refund_order=packet.refund_order,
        leftover=packet.leftover,
        next_round=UNSET if next_round is None else _campaign_name(book, next_round),
    )


def _split_reply(packet: PacketTerms, currency: str) -> SplitReply | UnsetType:
    if packet.split is None:
        return UNSET
    return SplitReply(Money(packet.split.total_minor, currency), packet.split.count)


def _campaign_name(book: Book, campaign: UUID) -> str:
    return str(PublicId(CAMPAIGN_PREFIX, book, campaign))


def holding_name(book: Book, terms: Terms, holding: UUID) -> tuple[str, str]:
    """Return what somebody holds under these terms, `coupon` or `packet`, and its public id."""
    return holding_of_digits(book, terms, holding.hex)


def holding_of_digits(book: str, terms: Terms, digits: str) -> tuple[str, str]:
    """Do as `holding_name`; the id as `ledger.books.PublicId` writes it, of its 32 digits."""
    if terms.packet is None:
        return "coupon", f"{COUPON_PREFIX}_{book}_{digits}"
    return "packet", f"{PACKET_PREFIX}_{book}_{digits}"


def campaign_reply(book: Book, campaign: Campaign) -> CampaignReply:
    """Return a campaign's reply from its state."""
    terms, proposal = campaign.terms, campaign.proposal
    return CampaignReply(
        campaign=_campaign_name(book, campaign.id),
        name=campaign.name,
        sponsor=campaign.sponsor,
        state=campaign.state,
        version=campaign.version,
        coupon=benefit(terms),
        per_person_limit=terms.per_person_limit,
        claim_window=Window(terms.claim_from, terms.claim_until),
        validity_window=Window(terms.valid_from, terms.valid_until),
        zone=terms.zone,
        merchants=terms.merchants,
        restock=terms.restock,
        quota=campaign.quota,
        budget=Money(campaign.budget_minor, terms.currency),
        proposal=None
        if proposal is None
        else ProposalReply(
            proposal.quota, Money(proposal.budget_minor, terms.currency), proposal.by
        ),
        intake=terms.intake or UNSET,
        packet=packet_benefit(book, terms),
    )


def coupon_reply(book: Book, coupon: Coupon) -> CouponReply:
    """Return a held coupon's reply from its state."""
    return CouponReply(
        coupon=str(PublicId(COUPON_PREFIX, book, coupon.id)),
        campaign=str(PublicId(CAMPAIGN_PREFIX, book, coupon.campaign)),
        n=coupon.n,
        state=coupon.state,
        face=Money(coupon.face_minor, coupon.currency),
        threshold=Money(coupon.threshold_minor, coupon.currency),
        valid_from=coupon.valid_from,
        valid_until=coupon.valid_until,
        claimed_at=coupon.claimed_at,
    )
