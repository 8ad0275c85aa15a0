"""What the page of events says of red packets: what fields mean, and one event of each type."""

from __future__ import annotations

from datetime import UTC, datetime
from hashlib import sha256
from typing import Any, Final
from uuid import UUID

from campaigns import campaign as c
from campaigns.packets import packet as p
from ledger.events import Event

KINDS: Final = (
    *p.PACKET_EVENTS,
    c.CampaignRolledOver,
    c.CampaignRolledIn,
    c.CampaignSplitShown,
)

MEANINGS: Final = {
    "n": "the person's n-th packet of the campaign, from 1",
    "amount_minor": "what the packet held, paid or gave back",
    "award": "which award of tiers or shares it is, from 1; absent where all hold the same",
    "group": "the group packet that it is a share of; absent otherwise",
    "payment": "the payment's id, made of packet, merchant and order",
    "refund": "the refund's id, made of payment and number",
    "merchant": "who was paid",
    "order": "the merchant's order number",
    "own_minor": "what the payer added of their own; it is in no account here",
    "total_minor": "the order's total: both together",
    "to_packet_minor": "what went back into the packet",
    "to_own_minor": "what the payer is given back of their own",
    "reclaimed_minor": "what went back to where leftovers go, because the packet has ended",
    "to": "where the money went: the sponsor, or the pot and from there the next round",
    "into": "the next round's stream",
    "from_campaign": "the stream of the round before",
    "seed": "the seed (hex) by which tiers or shares were given",
}
"""Field of an event of a packet → what it means."""

_VALID: Final = {
    "valid_from": datetime(2026, 5, 1, 2, tzinfo=UTC),
    "valid_until": datetime(2026, 5, 10, 16, tzinfo=UTC),
}


def story(
    campaign: UUID, person: str, packet: UUID
) -> list[tuple[type[Event], str, UUID, int, dict[str, Any]]]:
    """Return one event of each type: who acts (a role), its stream and version, its own fields."""
    own = {"campaign": campaign, "person": person}
    order = {"merchant": "duty-free-haitang", "order": "2026-0501-000018"}
    payment = p.payment_id(packet, *order.values())
    after = UUID("5b1c7a52-6c0f-5a53-8f6e-3f2d5f0c9a11")
    back = {"currency": "CNY", "to": "sponsor", "sponsor": "province"}
    money = {"amount_minor": 740_000, "currency": "CNY"}
    seed = sha256(b"an example").hexdigest()
    claimed = {**own, "campaign_version": 4, "n": 1, "amount_minor": 20_000, "currency": "CNY"}
    paid = {
        **own,
        **order,
        "payment": payment,
        "shop": "haitang-3f",
        "amount_minor": 20_000,
        "own_minor": 5_000,
        "total_minor": 25_000,
        "currency": "CNY",
    }
    refunded = {
        **own,
        **order,
        "refund": p.refund_id(payment, 1),
        "payment": payment,
        "to_packet_minor": 3_000,
        "to_own_minor": 5_000,
        "reclaimed_minor": 0,
        **back,
        "to": None,
        "reason": "one of three items came back",
    }
    return [
        (p.PacketClaimed, "tourist", packet, 1, {**claimed, **_VALID, "award": 17}),
        (p.PacketPaid, "merchant", packet, 2, paid),
        (p.PacketRefunded, "merchant", packet, 3, refunded),
        (
            p.PacketExpired,
            "sweeper",
            packet,
            4,
            {**own, "amount_minor": 3_000, **back, "valid_until": _VALID["valid_until"]},
        ),
        (
            p.PacketWalletClosed,
            "operator",
            packet,
            4,
            {**own, "amount_minor": 3_000, **back, "reason": "the holder closed the wallet"},
        ),
        (c.CampaignRolledOver, "sweeper", campaign, 8, {**money, "into": after}),
        (c.CampaignRolledIn, "sweeper", after, 3, {**money, "from_campaign": campaign}),
        (c.CampaignSplitShown, "sweeper", campaign, 9, {"seed": seed}),
    ]
