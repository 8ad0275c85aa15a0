"""Where the money of each event goes: one pure function from event to balanced postings.

Accounts: `sponsor:<id>` (the source; what it put in and has not got back), `campaign:<hex>` (the
pot), `purse:<hex>` (to be sent to groups), `group:<hex>` (shares that nobody has taken),
`holder:<person>` (reserved for held coupons), `packet:<hex>` (what is in a red packet),
`merchant:<id>` (earned by redemptions and payments).
Worked examples are in docs/money.md.

A rule reads nothing of an event but its fields, so it can be asked about anything that has them
under their names, with ids as text too: the journal asks about what it reads of stored events.
There is no second place that knows where money goes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import Any, Final
from uuid import UUID

from msgspec import UNSET

from campaigns.campaign import BudgetReclaimed, CampaignFunded, CampaignRolledOver
from campaigns.coupon import (
    CouponClaimed,
    CouponExpired,
    CouponReclaimed,
    CouponRedeemed,
    CouponRefunded,
    CouponVoided,
)
from campaigns.groups.purse import PurseEmptied, PurseFilled, PurseReturned, PurseSent
from campaigns.packets.packet import (
    PacketClaimed,
    PacketExpired,
    PacketPaid,
    PacketRefunded,
    PacketWalletClosed,
)
from ledger.events import Event
from ledger.postings import Transfer, check_transfers, transfer

Postings = tuple[Transfer, ...]


def sponsor_account(sponsor: str) -> str:
    """The account of who pays for a campaign."""
    return f"sponsor:{sponsor}"


@lru_cache(maxsize=1_024)
def campaign_account(campaign: UUID | str) -> str:
    """The pot of a campaign: funded and neither reserved nor spent."""
    return f"campaign:{_hex(campaign)}"


def holder_account(person: str) -> str:
    """What is reserved for the coupons that a person holds."""
    return f"holder:{person}"


def purse_account(purse: UUID | str) -> str:
    """What a person may still send to groups, of one campaign."""
    return f"purse:{_hex(purse)}"


def group_account(group: UUID | str) -> str:
    """What was sent to a group and nobody has taken."""
    return f"group:{_hex(group)}"


def packet_account(packet: UUID | str) -> str:
    """What is in one red packet: its balance."""
    return f"packet:{_hex(packet)}"


def merchant_account(merchant: str) -> str:
    """What a merchant earned by redemptions and payments and has not been paid out yet."""
    return f"merchant:{merchant}"


def postings_of(event: Event) -> Postings:
    """Return the transfers of an event; events that move no money have none."""
    rule = _RULES.get(type(event))
    return rule(event) if rule is not None else ()


def check_postings(event: Event) -> None:
    """Raise `ledger.postings.Unbalanced` or `ledger.money.MoneyError` on a broken posting."""
    check_transfers(postings_of(event))


def _funded(event: CampaignFunded) -> Postings:
    return transfer(
        sponsor_account(event.sponsor),
        campaign_account(event.originator_id),
        event.budget_change_minor,
        event.currency,
    )


def _budget_reclaimed(event: BudgetReclaimed) -> Postings:
    return transfer(
        campaign_account(event.originator_id),
        sponsor_account(event.sponsor),
        event.amount_minor,
        event.currency,
    )


def _claimed(event: CouponClaimed) -> Postings:
    return transfer(
        campaign_account(event.campaign),
        holder_account(event.person),
        event.face_minor,
        event.currency,
    )


def _redeemed(event: CouponRedeemed) -> Postings:
    return transfer(
        holder_account(event.person),
        merchant_account(event.merchant),
        event.discount_minor,
        event.currency,
    )


def _refunded(event: CouponRefunded) -> Postings:
    return transfer(
        merchant_account(event.merchant),
        holder_account(event.person),
        event.amount_minor,
        event.currency,
    )


def _returned(event: CouponReclaimed | CouponExpired | CouponVoided) -> Postings:
    target = _returns(event.campaign, event.to, event.sponsor)
    return transfer(holder_account(event.person), target, event.amount_minor, event.currency)


def _rolled_over(event: CampaignRolledOver) -> Postings:
    return transfer(
        campaign_account(event.originator_id),
        campaign_account(event.into),
        event.amount_minor,
        event.currency,
    )


def _packet_claimed(event: PacketClaimed) -> Postings:
    """A share of a group packet comes from the group, any other packet from the pot."""
    group = event.group
    return transfer(
        campaign_account(event.campaign) if group is UNSET else group_account(group),
        packet_account(event.originator_id),
        event.amount_minor,
        event.currency,
    )


def _packet_paid(event: PacketPaid) -> Postings:
    """The payer's own money was never in the ledger and is not posted."""
    return transfer(
        packet_account(event.originator_id),
        merchant_account(event.merchant),
        event.amount_minor,
        event.currency,
    )


def _packet_refunded(event: PacketRefunded) -> Postings:
    merchant = merchant_account(event.merchant)
    packet = packet_account(event.originator_id)
    target = _returns(event.campaign, event.to, event.sponsor)
    return (
        *transfer(merchant, packet, event.to_packet_minor, event.currency),
        *transfer(merchant, target, event.reclaimed_minor, event.currency),
    )


def _packet_ended(event: PacketExpired | PacketWalletClosed) -> Postings:
    target = _returns(event.campaign, event.to, event.sponsor)
    packet = packet_account(event.originator_id)
    return transfer(packet, target, event.amount_minor, event.currency)


def _purse_filled(event: PurseFilled) -> Postings:
    return transfer(
        campaign_account(event.campaign),
        purse_account(event.originator_id),
        event.amount_minor,
        event.currency,
    )


def _purse_sent(event: PurseSent) -> Postings:
    return transfer(
        purse_account(event.originator_id),
        group_account(event.group),
        event.amount_minor,
        event.currency,
    )


def _purse_returned(event: PurseReturned) -> Postings:
    return transfer(
        group_account(event.group),
        purse_account(event.originator_id),
        event.amount_minor,
        event.currency,
    )


def _purse_emptied(event: PurseEmptied) -> Postings:
    target = _returns(event.campaign, event.to, event.sponsor)
    return transfer(purse_account(event.originator_id), target, event.amount_minor, event.currency)


def _hex(stream: UUID | str) -> str:
    """Return an id as accounts have it, from an id or from its text in an event's bytes."""
    return stream.replace("-", "") if isinstance(stream, str) else stream.hex


def _returns(campaign: UUID, to: str | None, sponsor: str) -> str:
    return campaign_account(campaign) if to == "campaign" else sponsor_account(sponsor)


_RULES: Final[dict[type[Event], Callable[[Any], Postings]]] = {
    CampaignFunded: _funded,
    BudgetReclaimed: _budget_reclaimed,
    CouponClaimed: _claimed,
    CouponRedeemed: _redeemed,
    CouponRefunded: _refunded,
    CouponReclaimed: _returned,
    CouponExpired: _returned,
    CouponVoided: _returned,
    CampaignRolledOver: _rolled_over,
    PacketClaimed: _packet_claimed,
    PacketPaid: _packet_paid,
    PacketRefunded: _packet_refunded,
    PacketExpired: _packet_ended,
    PacketWalletClosed: _packet_ended,
    PurseFilled: _purse_filled,
    PurseSent: _purse_sent,
    PurseReturned: _purse_returned,
    PurseEmptied: _purse_emptied,
}

RULES: Final[Mapping[type[Event], Callable[[Any], Postings]]] = MappingProxyType(_RULES)
"""Type of event → its rule; an event of any other type moves no money."""
