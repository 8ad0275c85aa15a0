"""A coupon's life: entered for the draw or claimed, redeemed, refunded, and ended for good.

A coupon's stream is its id, and its id is made of campaign, person and ordinal: claiming is the
stream's first event, so a second claim of the same ordinal cannot be written. Where claims are
drawn by lot the entry is the first event, and so there is one entry a person.
"""

from __future__ import annotations

from datetime import datetime
from hashlib import sha1
from typing import Any, ClassVar, Final, Literal
from uuid import UUID

import msgspec
from msgspec import UNSET, UnsetType
from msgspec.structs import replace

from ledger.events import Event

State = Literal["entered", "held", "redeemed", "expired", "voided", "reclaimed"]
ReturnsTo = Literal["campaign", "sponsor"]

_UUID_5: Final = 5 << 76 | 2 << 62
_UUID_DIGITS: Final = ~(15 << 76 | 3 << 62) & (1 << 128) - 1
"""Version and variant of an id by name, and the bits that are left to the hash (RFC 9562)."""


_VARIANT: Final = {f"{digit:x}": f"{8 | digit & 3:x}" for digit in range(16)}
"""The digit that holds the variant, by the hash's."""


def coupon_id(campaign: UUID, person: str, n: int) -> UUID:
    """Return the id of a person's n-th coupon of a campaign, n from 1: their `uuid.uuid5`."""
    name = campaign.bytes + f"{person}:{n}".encode()
    digest = int.from_bytes(sha1(name, usedforsecurity=False).digest()[:16], "big")
    return UUID(int=digest & _UUID_DIGITS | _UUID_5)


def coupon_hex(campaign: bytes, person: str, n: int) -> str:
    """Return the digits of `coupon_id`, in a fraction of its time; the campaign as 16 bytes."""
    name = campaign + f"{person}:{n}".encode()
    digits = sha1(name, usedforsecurity=False).hexdigest()
    return f"{digits[:12]}5{digits[13:16]}{_VARIANT[digits[16]]}{digits[17:32]}"


class CouponEntered(Event, frozen=True, kw_only=True):
    """A person entered a lottery for a coupon; nothing is taken or reserved yet."""

    TOPIC: ClassVar[str] = "coupon.entered"
    campaign: UUID
    campaign_version: int
    person: str
    n: int
    face_minor: int
    threshold_minor: int
    currency: str
    valid_from: datetime
    valid_until: datetime


class CouponClaimed(Event, frozen=True, kw_only=True):
    """A person took a coupon, or won it in the draw; its face value is reserved.

    Carries the terms that bind it.
    """

    TOPIC: ClassVar[str] = "coupon.claimed"
    campaign: UUID
    campaign_version: int
    person: str
    n: int
    face_minor: int
    threshold_minor: int
    currency: str
    valid_from: datetime
    valid_until: datetime
    drawn: bool | UnsetType = UNSET


class CouponRedeemed(Event, frozen=True, kw_only=True):
    """A merchant took the coupon for an order; the discount is the merchant's to claim."""

    TOPIC: ClassVar[str] = "coupon.redeemed"
    campaign: UUID
    person: str
    merchant: str
    shop: str | None
    order: str
    order_total_minor: int
    discount_minor: int
    currency: str


class CouponRefunded(Event, frozen=True, kw_only=True):
    """The order was returned; the discount is reserved for the holder again."""

    TOPIC: ClassVar[str] = "coupon.refunded"
    campaign: UUID
    person: str
    merchant: str
    order: str
    amount_minor: int
    currency: str
    reason: str


class CouponReclaimed(Event, frozen=True, kw_only=True):
    """A coupon refunded after its validity ended for good; its money went back."""

    TOPIC: ClassVar[str] = "coupon.reclaimed"
    campaign: UUID
    person: str
    amount_minor: int
    currency: str
    to: ReturnsTo
    sponsor: str


class CouponExpired(Event, frozen=True, kw_only=True):
    """A held coupon's validity ended; its money went back."""

    TOPIC: ClassVar[str] = "coupon.expired"
    campaign: UUID
    person: str
    amount_minor: int
    currency: str
    to: ReturnsTo
    sponsor: str
    valid_until: datetime


class CouponVoided(Event, frozen=True, kw_only=True):
    """An operator ended a held coupon for a reason; its money went back."""

    TOPIC: ClassVar[str] = "coupon.voided"
    campaign: UUID
    person: str
    amount_minor: int
    currency: str
    to: ReturnsTo
    sponsor: str
    reason: str


COUPON_EVENTS: tuple[type[Event], ...] = (
    CouponEntered,
    CouponClaimed,
    CouponRedeemed,
    CouponRefunded,
    CouponReclaimed,
    CouponExpired,
    CouponVoided,
)


class Coupon(msgspec.Struct, frozen=True, kw_only=True):
    """A coupon as its events made it; `merchant`, `order` and `redeemed_at` are of its last one.

    Where claims are drawn by lot, `claimed_at` is the instant of the entry: when it was asked for.
    `held_since` is when the holder last got it: by the claim, the draw, or a refund.
    """

    id: UUID
    version: int
    state: State
    campaign: UUID
    person: str
    n: int
    face_minor: int
    threshold_minor: int
    currency: str
    valid_from: datetime
    valid_until: datetime
    claimed_at: datetime
    held_since: datetime
    merchant: str | None = None
    order: str | None = None
    redeemed_at: datetime | None = None


class CouponFold:
    """Folds a coupon's events into a `Coupon`."""

    def evolve(self, state: Coupon | None, event: Any) -> Coupon:
        """Return the coupon after `event`."""
        version = event.originator_version
        match event:
            case CouponClaimed() | CouponEntered() if state is None:
                return Coupon(
                    id=event.originator_id,
                    version=version,
                    state="held" if isinstance(event, CouponClaimed) else "entered",
                    campaign=event.campaign,
                    person=event.person,
                    n=event.n,
                    face_minor=event.face_minor,
                    threshold_minor=event.threshold_minor,
                    currency=event.currency,
                    valid_from=event.valid_from,
                    valid_until=event.valid_until,
                    claimed_at=event.at,
                    held_since=event.at,
                )
            case _ if state is None:
                raise AssertionError(f"{event.TOPIC} is no coupon's first event")
            case CouponRedeemed():
                return replace(
                    state,
                    version=version,
                    state="redeemed",
                    merchant=event.merchant,
                    order=event.order,
                    redeemed_at=event.at,
                )
            case CouponRefunded() | CouponClaimed():
                return replace(state, version=version, state="held", held_since=event.at)
            case CouponReclaimed():
                return replace(state, version=version, state="reclaimed")
            case CouponExpired():
                return replace(state, version=version, state="expired")
            case CouponVoided():
                return replace(state, version=version, state="voided")
            case _:
                raise AssertionError(f"{event.TOPIC} is no event of a coupon")


COUPON_FOLD = CouponFold()
