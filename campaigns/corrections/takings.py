"""Takings: the redemptions and payments that can be corrected, as a holding tells them. Pure."""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from campaigns.coupon import Coupon
from campaigns.holding import Holding
from campaigns.packets.packet import Packet
from campaigns.refusals import Refusal


class Bill(NamedTuple):
    """The merchant and order that a payment from a packet was for."""

    merchant: str
    order: str


class Taking(NamedTuple):
    """A redemption that stands, or a payment: what took it, and the instants it can count for."""

    holding: UUID
    version: int
    payment: UUID | None
    campaign: UUID
    person: str
    merchant: str
    order: str
    earliest: datetime
    """The holder had it then, and it was valid."""
    recorded_at: datetime


def taking_of(holding: Holding | None, bill: Bill | None) -> Taking:
    """Return a packet's payment for a bill, or without one the redemption of a coupon.

    A redemption that was refunded cannot be corrected: both of its lines are of one day.
    """
    match holding:
        case Coupon() if bill is None:
            return _redemption(holding)
        case Packet() if bill is not None:
            return _payment(holding, bill)
        case _:
            raise Refusal("not_found")


def _redemption(coupon: Coupon) -> Taking:
    if coupon.state != "redeemed":
        raise Refusal("not_redeemed", state=coupon.state)
    assert coupon.merchant is not None, "a redeemed coupon has its merchant"
    assert coupon.order is not None, "a redeemed coupon has its order"
    assert coupon.redeemed_at is not None, "a redeemed coupon has its instant"
    return Taking(
        coupon.id,
        coupon.version,
        None,
        coupon.campaign,
        coupon.person,
        coupon.merchant,
        coupon.order,
        max(coupon.held_since, coupon.valid_from),
        coupon.redeemed_at,
    )


def _payment(packet: Packet, bill: Bill) -> Taking:
    payment = packet.payment_for(bill.merchant, bill.order)
    if payment is None:
        raise Refusal("not_paid")
    return Taking(
        packet.id,
        payment.version,
        payment.id,
        packet.campaign,
        packet.person,
        payment.merchant,
        payment.order,
        max(packet.claimed_at, packet.valid_from),
        payment.paid_at,
    )
