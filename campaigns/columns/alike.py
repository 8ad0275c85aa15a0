"""What alike events have in common, told once for all of them.

Of a claim, redemption, refund, expiry or voiding, whatever is the same for many is a `Fact`; what
varies are strings and numbers whose names are here. Whether a fact is right is judged elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NamedTuple
from uuid import UUID

from msgspec import UNSET

from campaigns.coupon import (
    CouponClaimed,
    CouponExpired,
    CouponRedeemed,
    CouponRefunded,
    CouponVoided,
)
from ledger.events import Event

CLAIM, REDEMPTION, REFUND, EXPIRY, VOIDING = range(5)

KINDS: Final[dict[str, int]] = {
    CouponClaimed.TOPIC: CLAIM,
    CouponRedeemed.TOPIC: REDEMPTION,
    CouponRefunded.TOPIC: REFUND,
    CouponExpired.TOPIC: EXPIRY,
    CouponVoided.TOPIC: VOIDING,
}
"""Topic → kind of event that is judged in columns."""

VARYING: Final = frozenset(
    {
        *("at", "by.id", "why.request", "why.key", "why.fingerprint", "person", "n"),
        *("merchant", "shop", "order", "order_total_minor", "reason"),
    }
)

_EPOCH: Final = datetime.fromtimestamp(0, UTC)
_MICROSECOND: Final = timedelta(microseconds=1)


class Fact(NamedTuple):
    """What many events have in common; what a kind of event does not have is empty."""

    kind: int
    campaign: UUID
    amount_minor: int
    currency: str
    campaign_version: int = 0
    threshold_minor: int = 0
    validity: tuple[datetime, ...] = ()
    """From and until of a claim, until of an expiry."""
    destination: tuple[str, str] = ("", "")
    """Where money returns to, and the sponsor."""


def fact_of(event: Any) -> Fact | None:
    """Return what an event may have in common with others; None of one for itself."""
    tell = _TELL.get(type(event))
    return None if tell is None else tell(event)


def micros_of(at: datetime) -> int:
    """Return an instant in microseconds since 1970."""
    return (at - _EPOCH) // _MICROSECOND


def _claimed(event: CouponClaimed) -> Fact | None:
    if event.drawn is not UNSET:
        return None
    return Fact(
        CLAIM,
        event.campaign,
        event.face_minor,
        event.currency,
        campaign_version=event.campaign_version,
        threshold_minor=event.threshold_minor,
        validity=(event.valid_from, event.valid_until),
    )


def _redeemed(event: CouponRedeemed) -> Fact:
    return Fact(REDEMPTION, event.campaign, event.discount_minor, event.currency)


def _refunded(event: CouponRefunded) -> Fact:
    return Fact(REFUND, event.campaign, event.amount_minor, event.currency)


def _expired(event: CouponExpired) -> Fact:
    return Fact(
        EXPIRY,
        event.campaign,
        event.amount_minor,
        event.currency,
        validity=(event.valid_until,),
        destination=(event.to, event.sponsor),
    )


def _voided(event: CouponVoided) -> Fact:
    return Fact(
        VOIDING,
        event.campaign,
        event.amount_minor,
        event.currency,
        destination=(event.to, event.sponsor),
    )


_TELL: Final[dict[type[Event], Callable[[Any], Fact | None]]] = {
    CouponClaimed: _claimed,
    CouponRedeemed: _redeemed,
    CouponRefunded: _refunded,
    CouponExpired: _expired,
    CouponVoided: _voided,
}
