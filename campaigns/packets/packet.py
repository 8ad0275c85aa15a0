"""A packet's life: claimed, spent payment by payment, refunded, and ended for good.

A packet's stream is the id that a coupon of the same campaign, person and ordinal would have (of
the same group and person, if it is a share of a group packet), so that a second claim cannot be
written. A balance is never stored: it is what the events add up to.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, ClassVar, Final, Literal
from uuid import UUID, uuid5

import msgspec
from msgspec import UNSET, UnsetType
from msgspec.structs import replace

from ledger.events import Event

State = Literal["held", "expired", "closed"]
"""`closed`: with the wallet that it was in."""

ReturnsTo = Literal["campaign", "sponsor"]
"""Where money that a packet gives back goes; a campaign hands it on to its next round."""

PAYMENTS_MAX: Final = 200
"""Most payments from one packet: its whole stream is read for each of them."""

REFUNDS_MAX: Final = 50
"""Most refunds of one payment; the number of items that an order may come back in."""


class PacketClaimed(Event, frozen=True, kw_only=True):
    """A person took a packet; its amount is the person's to spend. Carries the terms that bind it.

    `award` is its place, from 1, in the order in which a campaign's tiers or shares are given. A
    share of a group packet names its `group`, whose money it is; the id is made of that group.
    """

    TOPIC: ClassVar[str] = "packet.claimed"
    campaign: UUID
    campaign_version: int
    person: str
    n: int
    amount_minor: int
    currency: str
    valid_from: datetime
    valid_until: datetime
    award: int | UnsetType = UNSET
    group: UUID | UnsetType = UNSET


class PacketPaid(Event, frozen=True, kw_only=True):
    """A merchant took a payment: `amount_minor` from the packet, the rest the payer's own money."""

    TOPIC: ClassVar[str] = "packet.paid"
    campaign: UUID
    person: str
    payment: UUID
    merchant: str
    shop: str | None
    order: str
    amount_minor: int
    own_minor: int
    total_minor: int
    currency: str


class PacketRefunded(Event, frozen=True, kw_only=True):
    """A merchant gave a payment back, whole or in part.

    The packet's part is in the packet again, or went back at once (`reclaimed_minor`, to whom
    `to` says) because the packet has ended. It never goes to the payer.
    """

    TOPIC: ClassVar[str] = "packet.refunded"
    campaign: UUID
    person: str
    refund: UUID
    payment: UUID
    merchant: str
    order: str
    to_packet_minor: int
    to_own_minor: int
    reclaimed_minor: int
    currency: str
    to: ReturnsTo | None
    sponsor: str
    reason: str


class PacketExpired(Event, frozen=True, kw_only=True):
    """A packet's validity ended with money in it, which went back."""

    TOPIC: ClassVar[str] = "packet.expired"
    campaign: UUID
    person: str
    amount_minor: int
    currency: str
    to: ReturnsTo
    sponsor: str
    valid_until: datetime


class PacketWalletClosed(Event, frozen=True, kw_only=True):
    """The wallet that a packet was in was closed; what was left in the packet went back."""

    TOPIC: ClassVar[str] = "packet.wallet_closed"
    campaign: UUID
    person: str
    amount_minor: int
    currency: str
    to: ReturnsTo
    sponsor: str
    reason: str


PACKET_EVENTS: tuple[type[Event], ...] = (
    PacketClaimed,
    PacketPaid,
    PacketRefunded,
    PacketExpired,
    PacketWalletClosed,
)


class Payment(msgspec.Struct, frozen=True, kw_only=True):
    """A payment from a packet, and what of it was given back."""

    id: UUID
    version: int
    """The packet's version that paid it."""
    paid_at: datetime
    merchant: str
    order: str
    packet_minor: int
    own_minor: int
    packet_back_minor: int = 0
    own_back_minor: int = 0
    refunds: int = 0

    @property
    def left_minor(self) -> int:
        """What of it was not given back."""
        return self.packet_minor + self.own_minor - self.packet_back_minor - self.own_back_minor


class Packet(msgspec.Struct, frozen=True, kw_only=True):
    """A packet as its events made it. `payments` are in order."""

    id: UUID
    version: int
    state: State
    campaign: UUID
    person: str
    n: int
    amount_minor: int
    balance_minor: int
    currency: str
    valid_from: datetime
    valid_until: datetime
    claimed_at: datetime
    payments: tuple[Payment, ...] = ()

    def payment_for(self, merchant: str, order: str) -> Payment | None:
        """Return a merchant's payment for an order: there is one at most."""
        for payment in self.payments:
            if payment.merchant == merchant and payment.order == order:
                return payment
        return None


def payment_id(packet: UUID, merchant: str, order: str) -> UUID:
    """Return the id of the payment from a packet for a merchant's order."""
    return uuid5(packet, f"payment {merchant} {order}")


def refund_id(payment: UUID, nth: int) -> UUID:
    """Return the id of a payment's n-th refund, n from 1."""
    return uuid5(payment, f"refund {nth}")


class PacketFold:
    """Folds a packet's events into a `Packet`."""

    def evolve(self, state: Packet | None, event: Any) -> Packet:
        """Return the packet after `event`."""
        version = event.originator_version
        match event:
            case PacketClaimed() if state is None:
                return _claimed(event)
            case _ if state is None:
                raise AssertionError(f"{event.TOPIC} is no packet's first event")
            case PacketPaid():
                return replace(
                    state,
                    version=version,
                    balance_minor=state.balance_minor - event.amount_minor,
                    payments=(*state.payments, _payment(event)),
                )
            case PacketRefunded():
                return replace(
                    state,
                    version=version,
                    balance_minor=state.balance_minor + event.to_packet_minor,
                    payments=tuple(_after_refund(each, event) for each in state.payments),
                )
            case PacketExpired() | PacketWalletClosed():
                return replace(
                    state,
                    version=version,
                    state="expired" if isinstance(event, PacketExpired) else "closed",
                    balance_minor=state.balance_minor - event.amount_minor,
                )
            case _:
                raise AssertionError(f"{event.TOPIC} is no event of a packet")


def _claimed(event: PacketClaimed) -> Packet:
    return Packet(
        id=event.originator_id,
        version=event.originator_version,
        state="held",
        campaign=event.campaign,
        person=event.person,
        n=event.n,
        amount_minor=event.amount_minor,
        balance_minor=event.amount_minor,
        currency=event.currency,
        valid_from=event.valid_from,
        valid_until=event.valid_until,
        claimed_at=event.at,
    )


def _payment(event: PacketPaid) -> Payment:
    return Payment(
        id=event.payment,
        version=event.originator_version,
        paid_at=event.at,
        merchant=event.merchant,
        order=event.order,
        packet_minor=event.amount_minor,
        own_minor=event.own_minor,
    )


def _after_refund(payment: Payment, event: PacketRefunded) -> Payment:
    if payment.id != event.payment:
        return payment
    return replace(
        payment,
        packet_back_minor=payment.packet_back_minor + event.to_packet_minor + event.reclaimed_minor,
        own_back_minor=payment.own_back_minor + event.to_own_minor,
        refunds=payment.refunds + 1,
    )


PACKET_FOLD = PacketFold()
