"""Replies about packets: the bytes that a caller gets and that a replay gives again.

Field order is part of the form, as in `campaigns.replies`. What a till is told says nothing of the
money that is left in a packet: that is its holder's business.
"""

from __future__ import annotations

from datetime import datetime
from typing import Final
from uuid import UUID

import msgspec

from campaigns.packets.packet import Packet
from campaigns.replies import CAMPAIGN_PREFIX, PACKET_PREFIX
from ledger.books import Book, PublicId
from ledger.money import Money

PAYMENT_PREFIX: Final = "pay"
REFUND_PREFIX: Final = "rfd"


class PacketReply(msgspec.Struct, frozen=True):
    """A packet as its holder gets it on claiming."""

    packet: str
    campaign: str
    n: int
    state: str
    amount: Money
    balance: Money
    valid_from: datetime
    valid_until: datetime
    claimed_at: datetime


class PaymentReply(msgspec.Struct, frozen=True):
    """What a merchant gets on a payment: what the packet paid, and what is left to pay."""

    payment: str
    packet: str
    campaign: str
    merchant: str
    order: str
    total: Money
    from_packet: Money
    payable: Money
    paid_at: datetime


class PaymentRefundReply(msgspec.Struct, frozen=True):
    """What a merchant gets on a refund: `to_own` is what the payer is to be given back in money.

    The packet's part is in the packet again, or `reclaimed` because the packet has ended.
    """

    refund: str
    payment: str
    packet: str
    campaign: str
    merchant: str
    order: str
    refunded: Money
    to_own: Money
    to_packet: Money
    reclaimed: Money
    refunded_at: datetime


class PacketEndingReply(msgspec.Struct, frozen=True):
    """A packet that ended, by expiry or with its wallet, and what went back to whom."""

    packet: str
    campaign: str
    state: str
    returned: Money
    returned_to: str
    ended_at: datetime


def packet_reply(book: Book, packet: Packet) -> PacketReply:
    """Return a packet's reply from its state."""
    return PacketReply(
        packet=packet_name(book, packet.id),
        campaign=str(PublicId(CAMPAIGN_PREFIX, book, packet.campaign)),
        n=packet.n,
        state=packet.state,
        amount=Money(packet.amount_minor, packet.currency),
        balance=Money(packet.balance_minor, packet.currency),
        valid_from=packet.valid_from,
        valid_until=packet.valid_until,
        claimed_at=packet.claimed_at,
    )


def packet_name(book: Book, packet: UUID) -> str:
    """Return a packet's public id."""
    return str(PublicId(PACKET_PREFIX, book, packet))


def payment_name(book: Book, payment: UUID) -> str:
    """Return a payment's public id."""
    return str(PublicId(PAYMENT_PREFIX, book, payment))


def refund_name(book: Book, refund: UUID) -> str:
    """Return a refund's public id."""
    return str(PublicId(REFUND_PREFIX, book, refund))
