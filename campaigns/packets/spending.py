"""How a payment and a refund are shared between a packet and the payer's own money.

Pure arithmetic of minor units: what goes in comes out, and nothing is negative. The packet is
spent first. Whose money comes back first is the campaign's choice, over all refunds of a payment
together, so that two refunds come to the same as one of both amounts.
"""

from __future__ import annotations

from typing import NamedTuple

from campaigns.packets.packet import Payment
from campaigns.packets.terms import RefundOrder


class Parts(NamedTuple):
    """An amount by whose money it is."""

    packet_minor: int
    own_minor: int


def parts_of_payment(balance_minor: int, total_minor: int) -> Parts:
    """Return what of a total the packet pays, and what is left for the payer."""
    from_packet = min(balance_minor, total_minor)
    return Parts(from_packet, total_minor - from_packet)


def parts_of_refund(payment: Payment, amount_minor: int, order: RefundOrder) -> Parts:
    """Return what of a refund is the packet's and what the payer's own; it is not too large."""
    assert 0 < amount_minor <= payment.left_minor, "no more comes back than was paid"
    packet_left = payment.packet_minor - payment.packet_back_minor
    own_left = payment.own_minor - payment.own_back_minor
    if order == "own_first":
        own = min(own_left, amount_minor)
        return Parts(amount_minor - own, own)
    from_packet = min(packet_left, amount_minor)
    return Parts(from_packet, amount_minor - from_packet)
