"""A correction's life: proposed by one operator, approved by another, and corrected again.

A redemption or payment has two times: the ledger recorded it at one, and it counts for another,
which is the same until a till's late report is accepted. Each has a correction stream of its own,
made of the holding and the version at which it was taken. No money moves: a merchant's day does.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, ClassVar, Final
from uuid import UUID, uuid5

import msgspec
from msgspec import UNSET, UnsetType
from msgspec.structs import replace

from ledger.events import Event

CORRECTION_NAMESPACE: Final = UUID("7d0f6a0e-31c4-5b8d-9e57-2a4c8b1f6d03")


def correction_id(holding: UUID, version: int) -> UUID:
    """Return the correction stream of what a coupon's or packet's version took."""
    return uuid5(CORRECTION_NAMESPACE, f"{holding.hex}:{version}")


class CorrectionProposed(Event, frozen=True, kw_only=True):
    """An operator asked that a redemption or payment count for another instant, for a reason.

    It is the one that `holding` recorded as its `holding_version`, at `recorded_at`; until now it
    counts for `counted_for`.
    """

    TOPIC: ClassVar[str] = "correction.proposed"
    campaign: UUID
    person: str
    holding: UUID
    holding_version: int
    payment: UUID | UnsetType = UNSET
    merchant: str
    order: str
    recorded_at: datetime
    counted_for: datetime
    effective_at: datetime
    reason: str


class CorrectionApproved(Event, frozen=True, kw_only=True):
    """A second operator agreed: the redemption or payment counts for `effective_at` from now on."""

    TOPIC: ClassVar[str] = "correction.approved"
    campaign: UUID
    person: str
    holding: UUID
    holding_version: int
    payment: UUID | UnsetType = UNSET
    merchant: str
    order: str
    recorded_at: datetime
    counted_for: datetime
    effective_at: datetime
    reason: str
    proposed_by: str


CORRECTION_EVENTS: Final[tuple[type[Event], ...]] = (CorrectionProposed, CorrectionApproved)


class Proposal(msgspec.Struct, frozen=True):
    """What one operator asked for."""

    by: str
    effective_at: datetime
    reason: str


class Correction(msgspec.Struct, frozen=True, kw_only=True):
    """What was corrected of a redemption or payment, and what waits for a second operator."""

    id: UUID
    version: int
    effective_at: datetime
    """The instant that it counts for."""
    proposal: Proposal | None = None


class CorrectionFold:
    """Folds the events of a correction stream into a `Correction`."""

    def evolve(self, state: Correction | None, event: Any) -> Correction:
        """Return the correction after `event`."""
        version = event.originator_version
        match event:
            case CorrectionProposed():
                asked = Proposal(event.by.id, event.effective_at, event.reason)
                if state is not None:
                    return replace(state, version=version, proposal=asked)
                return Correction(
                    id=event.originator_id,
                    version=version,
                    effective_at=event.counted_for,
                    proposal=asked,
                )
            case CorrectionApproved() if state is not None:
                return replace(
                    state, version=version, effective_at=event.effective_at, proposal=None
                )
            case _:
                raise AssertionError(f"{event.TOPIC} is not the next event of a correction")


CORRECTION_FOLD: Final = CorrectionFold()
