"""Where the money of each event goes: one pure function from event to balanced postings.

Accounts: `sponsor:<id>` (the source; what it put in and has not got back), `campaign:<hex>` (the
pot), `holder:<person>` (reserved for a held coupon), `merchant:<id>` (earned by redemptions).
Worked examples are in docs/money.md.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final
from uuid import UUID

from campaigns.campaign import BudgetReclaimed, CampaignFunded
from campaigns.coupon import (
    CouponClaimed,
    CouponExpired,
    CouponReclaimed,
    CouponRedeemed,
    CouponRefunded,
    CouponVoided,
)
from ledger.events import Event
from ledger.postings import Transfer, check_transfers, transfer

Postings = tuple[Transfer, ...]


def sponsor_account(sponsor: str) -> str:
    """The account of who pays for a campaign."""
    return f"sponsor:{sponsor}"


def campaign_account(campaign: UUID) -> str:
    """The pot of a campaign: funded and neither reserved nor spent."""
    return f"campaign:{campaign.hex}"


def holder_account(person: str) -> str:
    """What is reserved for the coupons that a person holds."""
    return f"holder:{person}"


def merchant_account(merchant: str) -> str:
    """What a merchant earned by redemptions and has not been paid yet."""
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
    pot = campaign_account(event.campaign)
    target = pot if event.to == "campaign" else sponsor_account(event.sponsor)
    return transfer(holder_account(event.person), target, event.amount_minor, event.currency)


_RULES: Final[dict[type[Event], Callable[[Any], Postings]]] = {
    CampaignFunded: _funded,
    BudgetReclaimed: _budget_reclaimed,
    CouponClaimed: _claimed,
    CouponRedeemed: _redeemed,
    CouponRefunded: _refunded,
    CouponReclaimed: _returned,
    CouponExpired: _returned,
    CouponVoided: _returned,
}
