"""What the page of events says of corrections: what fields mean, and one event of each type."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

from campaigns.corrections import correction as c
from ledger.events import Event

KINDS: Final = c.CORRECTION_EVENTS

MEANINGS: Final = {
    "holding": "the coupon's or packet's stream",
    "holding_version": "the version of that stream that is the redemption or payment",
    "payment": "the payment; absent for a redemption",
    "recorded_at": "when the ledger recorded the redemption or payment",
    "counted_for": "the instant that it counted for until then",
    "effective_at": "the instant that it is to count for",
}
"""Field of a correction's event → what it means."""


def story(
    campaign: UUID, person: str, coupon: UUID
) -> list[tuple[type[Event], str, UUID, int, dict[str, Any]]]:
    """Return one event of each type: who acts (a role), its stream and version, its own fields."""
    stream = c.correction_id(coupon, 2)
    recorded = datetime(2026, 5, 1, 2, 0, 0, 184_213, tzinfo=UTC)
    own = {
        "campaign": campaign,
        "person": person,
        "holding": coupon,
        "holding_version": 2,
        "merchant": "duty-free-haitang",
        "order": "2026-0501-000017",
        "recorded_at": recorded,
        "counted_for": recorded,
        "effective_at": datetime(2026, 4, 30, 11, 2, tzinfo=UTC),
        "reason": "the till was offline",
    }
    return [
        (c.CorrectionProposed, "operator", stream, 1, own),
        (
            c.CorrectionApproved,
            "operator",
            stream,
            2,
            {**own, "proposed_by": "9b1c7702ee5a4b6c8f13d0a7c4e5f621"},
        ),
    ]
