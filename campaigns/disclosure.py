"""Disclosure: who may have an event as it is stored, and what is withheld from whom.

Auditors may have every event. Whoever acted may have what they did, a person what happened to what
is theirs, and a merchant what happened at its tills; a merchant is not told which person that was.
Everything that no row here allows is for auditors.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from ledger.events import Event, scope_of

PERSON: Final = frozenset({"person"})
NOTHING: Final[frozenset[str]] = frozenset()

OF_PERSONS: Final = frozenset(
    {
        "coupon.entered",
        "coupon.claimed",
        "coupon.redeemed",
        "coupon.refunded",
        "coupon.reclaimed",
        "coupon.expired",
        "coupon.voided",
        "packet.claimed",
        "packet.paid",
        "packet.refunded",
        "packet.expired",
        "packet.wallet_closed",
        "purse.filled",
        "purse.sent",
        "purse.returned",
        "purse.emptied",
        "group.funded",
        "group.share_taken",
        "draw.entered",
        "draw.withdrawn",
        "draw.entry_voided",
        "draw.won",
    }
)
"""Topics whose `person` is whose thing the event is about."""

OF_MERCHANTS: Final = frozenset(
    {"coupon.redeemed", "coupon.refunded", "packet.paid", "packet.refunded"}
)
"""Topics whose `merchant` is where it happened."""


class Viewer(NamedTuple):
    """Who wants to see an event."""

    role: str
    person: str
    merchant: str | None
    scope: str


def withheld(event: Event, viewer: Viewer) -> frozenset[str] | None:
    """Return the names of fields that a viewer may not see; None for the whole event."""
    if viewer.role == "auditor":
        return NOTHING
    if viewer.role == "merchant":
        at_its_till = event.TOPIC in OF_MERCHANTS and _field(event, "merchant") == viewer.merchant
        return PERSON if at_its_till else None
    if scope_of(event) == viewer.scope:
        return NOTHING
    is_own = event.TOPIC in OF_PERSONS and _field(event, "person") == viewer.person
    return NOTHING if is_own and viewer.role == "tourist" else None


def _field(event: Event, name: str) -> object:
    found: object = getattr(event, name, None)
    return found
