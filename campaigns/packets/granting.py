"""Granting a packet: the event and the reply of a claim, cast from moulds as a coupon's are.

What a packet holds varies here beside the person. Whether a packet may be granted, and how much it
holds, is not decided here.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final, NamedTuple
from uuid import UUID

from msgspec import UNSET, Raw, UnsetType
from msgspec.structs import asdict

from campaigns.campaign import Campaign
from campaigns.granting import Forms, keep_forms, known_forms
from campaigns.packets.packet import PACKET_FOLD, PacketClaimed
from campaigns.packets.replies import packet_reply
from campaigns.replies import PACKET_PREFIX, encode
from ledger.books import Book
from ledger.events import Actor, Why
from ledger.money import Money
from ledger.moulds import EncodedEvent, EventMould, Mould

EVENT_VARIES: Final = ("at", "by", "why", "person", "n", "amount_minor")
REPLY_VARIES: Final = ("packet", "n", "amount", "balance", "claimed_at")


class Share(NamedTuple):
    """What a packet holds, and which award it is where tiers or a split sum are given out."""

    amount_minor: int
    award: int | UnsetType = UNSET


def grant_packet(
    book: Book,
    campaign: Campaign,
    packet: UUID,
    n: int,
    person: str,
    share: Share,
    at: datetime,
    by: Actor,
    why: Why,
) -> tuple[EncodedEvent, Raw]:
    """Return the grant of a person's n-th packet: its stream's first event, and the reply."""
    assert share.amount_minor > 0, "no packet is granted empty"
    forms = known_forms(book, campaign)
    if forms is None:
        sample = plain_packet_claim(campaign, packet, n, person, share, at, by, why)
        forms = _make_forms(book, campaign, sample)
    varying: tuple[Any, ...] = (at, by, why, person, n, share.amount_minor)
    if share.award is not UNSET:
        varying = (*varying, share.award)
    amount = Money(share.amount_minor, campaign.terms.currency)
    reply = forms.reply.cast(forms.prefix + packet.hex, n, amount, amount, at)
    return forms.event.cast(packet, 1, *varying), Raw(reply)


def plain_packet_claim(
    campaign: Campaign,
    packet: UUID,
    n: int,
    person: str,
    share: Share,
    at: datetime,
    by: Actor,
    why: Why,
) -> PacketClaimed:
    """Return the event of a grant, made without a mould."""
    return PacketClaimed(
        originator_id=packet,
        originator_version=1,
        at=at,
        by=by,
        why=why,
        campaign=campaign.id,
        campaign_version=campaign.version,
        person=person,
        n=n,
        amount_minor=share.amount_minor,
        currency=campaign.terms.currency,
        valid_from=campaign.terms.valid_from,
        valid_until=campaign.terms.valid_until,
        award=share.award,
    )


def _make_forms(book: Book, campaign: Campaign, sample: PacketClaimed) -> Forms:
    reply = packet_reply(book, PACKET_FOLD.evolve(None, sample))
    forms = Forms(
        campaign,
        book,
        EventMould(sample, EVENT_VARIES if sample.award is UNSET else (*EVENT_VARIES, "award")),
        Mould(asdict(reply), REPLY_VARIES),
        f"{PACKET_PREFIX}_{book}_",
    )
    cast = forms.reply.cast(reply.packet, reply.n, reply.amount, reply.balance, reply.claimed_at)
    assert cast == encode(reply), "a mould casts what the plain encoder makes"
    return keep_forms(forms)
