"""The commands on packets, and the pure decision on each: pay, refund, expire, close the wallet.

There is no command that hands a packet on or pays it out, and there must never be one: what a
packet held ends with designated merchants, with the sponsor or in the next round.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, ClassVar
from uuid import UUID

from campaigns.campaign import POOL, Campaign
from campaigns.commands import Changes, Command, Decision, Header, campaign_read
from campaigns.holding import holding_read
from campaigns.merchants import is_designated
from campaigns.packets.packet import (
    PAYMENTS_MAX,
    REFUNDS_MAX,
    Packet,
    PacketExpired,
    PacketPaid,
    PacketRefunded,
    PacketWalletClosed,
    Payment,
    payment_id,
    refund_id,
)
from campaigns.packets.replies import (
    PacketEndingReply,
    PaymentRefundReply,
    PaymentReply,
    packet_name,
    payment_name,
    refund_name,
)
from campaigns.packets.spending import Parts, parts_of_payment, parts_of_refund
from campaigns.packets.terms import RefundOrder
from campaigns.refusals import Refusal
from campaigns.replies import CAMPAIGN_PREFIX
from ledger.appending import Capacity
from ledger.books import Book, PublicId
from ledger.commit import Further, Read, View
from ledger.money import Money


@dataclass(frozen=True, slots=True)
class PacketCommand(Command):
    """A command on a packet that somebody has."""

    gives_back: ClassVar[bool] = True
    """Whether it can give money back to the sponsor or the pot."""

    book: Book
    packet: UUID

    def reads(self) -> tuple[Read[Any], ...]:
        """The packet."""
        return (holding_read(self.packet),)

    def further(self, view: View) -> Further:
        """Its campaign, as the packet says, and the pool that it gives back to."""
        packet = view.state(holding_read(self.packet))
        if not isinstance(packet, Packet):
            return Further()
        pools = ((packet.campaign, POOL),) if self.gives_back else ()
        return Further((campaign_read(packet.campaign),), pools)

    def _known(self, view: View) -> tuple[Packet, Campaign]:
        packet = view.state(holding_read(self.packet))
        if not isinstance(packet, Packet):
            raise Refusal("not_found")
        campaign = view.state(campaign_read(packet.campaign))
        assert campaign is not None, "a packet is of a campaign of its book"
        return packet, campaign

    def _names(self, packet: Packet) -> dict[str, str]:
        return {
            "packet": packet_name(self.book, packet.id),
            "campaign": str(PublicId(CAMPAIGN_PREFIX, self.book, packet.campaign)),
        }


@dataclass(frozen=True, slots=True)
class PayFromPacket(PacketCommand):
    """Pay for an order at a merchant: from the packet what it has, the rest is the payer's own."""

    name = "pay"
    gives_back = False

    merchant: str
    shop: str | None
    order: str
    total: Money

    def decide(self, view: View, header: Header) -> Decision:
        """An order is paid once, with whatever idempotency key a till asks for it again."""
        packet, campaign = self._known(view)
        earlier = packet.payment_for(self.merchant, self.order)
        if earlier is not None:
            raise Refusal("already_paid", payment=payment_name(self.book, earlier.id))
        _require_spendable(packet, view.now)
        self._require_taken_here(packet, campaign)
        parts = parts_of_payment(packet.balance_minor, self.total.amount_minor)
        event = PacketPaid(
            **header.of(packet.id, packet.version + 1),
            campaign=packet.campaign,
            person=packet.person,
            payment=payment_id(packet.id, self.merchant, self.order),
            merchant=self.merchant,
            shop=self.shop,
            order=self.order,
            amount_minor=parts.packet_minor,
            own_minor=parts.own_minor,
            total_minor=self.total.amount_minor,
            currency=packet.currency,
        )
        return Decision("paid", self._reply(packet, event), [event])

    def _reply(self, packet: Packet, event: PacketPaid) -> PaymentReply:
        return PaymentReply(
            payment=payment_name(self.book, event.payment),
            **self._names(packet),
            merchant=self.merchant,
            order=self.order,
            total=self.total,
            from_packet=Money(event.amount_minor, packet.currency),
            payable=Money(event.own_minor, packet.currency),
            paid_at=event.at,
        )

    def _require_taken_here(self, packet: Packet, campaign: Campaign) -> None:
        if not is_designated(campaign.terms.merchants, self.merchant):
            raise Refusal("merchant_not_designated", merchant=self.merchant)
        if self.total.currency != packet.currency:
            raise Refusal("unit_mismatch", currency=packet.currency)
        if packet.balance_minor == 0:
            raise Refusal("packet_empty")
        if len(packet.payments) >= PAYMENTS_MAX:
            raise Refusal("too_many_payments", payments_max=PAYMENTS_MAX)


@dataclass(frozen=True, slots=True)
class RefundPayment(PacketCommand):
    """Give a payment back, whole or in part, because of what was returned of its order."""

    name = "refund_payment"

    merchant: str
    order: str
    amount: Money | None
    """How much; all that was not given back yet when it is None."""

    reason: str

    def decide(self, view: View, header: Header) -> Decision:
        """What is the packet's goes back into it while it can be spent, afterwards to its source.

        The payer is only ever given back what was the payer's own.
        """
        packet, campaign = self._known(view)
        payment = packet.payment_for(self.merchant, self.order)
        if payment is None:
            raise Refusal("not_paid")
        amount_minor = self._amount_of(packet, payment)
        parts = parts_of_refund(payment, amount_minor, _refund_order(campaign))
        into_packet = packet.state == "held" and view.now < packet.valid_until
        reclaimed_minor = 0 if into_packet else parts.packet_minor
        event = PacketRefunded(
            **header.of(packet.id, packet.version + 1),
            campaign=packet.campaign,
            person=packet.person,
            refund=refund_id(payment.id, payment.refunds + 1),
            payment=payment.id,
            merchant=self.merchant,
            order=self.order,
            to_packet_minor=parts.packet_minor - reclaimed_minor,
            to_own_minor=parts.own_minor,
            reclaimed_minor=reclaimed_minor,
            currency=packet.currency,
            to=campaign.returns_to if reclaimed_minor else None,
            sponsor=campaign.sponsor,
            reason=self.reason,
        )
        reply = self._reply(packet, event, parts)
        return Decision("refunded", reply, [event], _given_back(campaign, reclaimed_minor))

    def _amount_of(self, packet: Packet, payment: Payment) -> int:
        if self.amount is not None and self.amount.currency != packet.currency:
            raise Refusal("unit_mismatch", currency=packet.currency)
        amount_minor = payment.left_minor if self.amount is None else self.amount.amount_minor
        if not 0 < amount_minor <= payment.left_minor:
            raise Refusal("refund_too_large", left_minor=payment.left_minor)
        if payment.refunds >= REFUNDS_MAX:
            raise Refusal("too_many_refunds", refunds_max=REFUNDS_MAX)
        return amount_minor

    def _reply(self, packet: Packet, event: PacketRefunded, parts: Parts) -> PaymentRefundReply:
        currency = packet.currency
        return PaymentRefundReply(
            refund=refund_name(self.book, event.refund),
            payment=payment_name(self.book, event.payment),
            **self._names(packet),
            merchant=self.merchant,
            order=self.order,
            refunded=Money(sum(parts), currency),
            to_own=Money(event.to_own_minor, currency),
            to_packet=Money(event.to_packet_minor, currency),
            reclaimed=Money(event.reclaimed_minor, currency),
            refunded_at=event.at,
        )


@dataclass(frozen=True, slots=True)
class CloseWallet(PacketCommand):
    """End a packet because the wallet that it is in was closed; the rest of it goes back."""

    name = "close_wallet"

    reason: str

    def decide(self, view: View, header: Header) -> Decision:
        """An empty packet ends as well: a later refund has no wallet to go to."""
        packet, campaign = self._known(view)
        _require_not_ended(packet, view.now)
        event = PacketWalletClosed(
            **header.of(packet.id, packet.version + 1),
            **_returned_money(packet, campaign),
            reason=self.reason,
        )
        return _ended(self._names(packet), campaign, event, "wallet_closed", "closed")


@dataclass(frozen=True, slots=True)
class ExpirePacket(PacketCommand):
    """Record that a packet's validity has ended with money in it (the sweeper's command)."""

    name = "expire_packet"

    def decide(self, view: View, header: Header) -> Decision:
        """Expiry is judged again here: the sweeper's list is a hint."""
        packet, campaign = self._known(view)
        if packet.state != "held":
            raise Refusal("not_held", state=packet.state)
        if view.now < packet.valid_until:
            raise Refusal("still_valid", valid_until=packet.valid_until)
        if packet.balance_minor == 0:
            raise Refusal("packet_empty")
        event = PacketExpired(
            **header.of(packet.id, packet.version + 1),
            **_returned_money(packet, campaign),
            valid_until=packet.valid_until,
        )
        return _ended(self._names(packet), campaign, event, "expired", "expired")


# What decisions share


def _refund_order(campaign: Campaign) -> RefundOrder:
    packet = campaign.terms.packet
    return packet.refund_order if packet is not None else "own_first"


def _require_spendable(packet: Packet, now: datetime) -> None:
    _require_not_ended(packet, now)
    if now < packet.valid_from:
        raise Refusal("not_yet_valid", valid_from=packet.valid_from)


def _require_not_ended(packet: Packet, now: datetime) -> None:
    if packet.state == "closed":
        raise Refusal("packet_closed")
    if packet.state == "expired" or now >= packet.valid_until:
        raise Refusal("packet_expired", valid_until=packet.valid_until)


def _returned_money(packet: Packet, campaign: Campaign) -> dict[str, Any]:
    return {
        "campaign": packet.campaign,
        "person": packet.person,
        "amount_minor": packet.balance_minor,
        "currency": packet.currency,
        "to": campaign.returns_to,
        "sponsor": campaign.sponsor,
    }


def _ended(
    names: dict[str, str],
    campaign: Campaign,
    event: PacketExpired | PacketWalletClosed,
    code: str,
    state: str,
) -> Decision:
    reply = PacketEndingReply(
        **names,
        state=state,
        returned=Money(event.amount_minor, event.currency),
        returned_to=event.to,
        ended_at=event.at,
    )
    return Decision(code, reply, [event], _given_back(campaign, event.amount_minor))


def _given_back(campaign: Campaign, amount_minor: int) -> Changes:
    """Money that came back is granted no more; with the sponsor, it is no budget either."""
    if amount_minor == 0:
        return ()
    to_sponsor = campaign.returns_to == "sponsor"
    change = Capacity(granted_minor=-amount_minor, budget_minor=-amount_minor if to_sponsor else 0)
    return [((campaign.id, POOL), change)]
