"""Judging corrections again: of something that was taken, for an instant it can count for, by two.

It shares no code with the decisions. What is found is a value; nothing is raised.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, NamedTuple
from uuid import UUID, uuid5

from campaigns.corrections.correction import (
    CORRECTION_EVENTS,
    CORRECTION_NAMESPACE,
    CorrectionApproved,
    CorrectionProposed,
)
from ledger.events import Event

RULES: Final[dict[str, str]] = {
    "correction_unfounded": "what is corrected is a payment, or a redemption that stands, as "
    "the holding tells it",
    "correction_id": "a correction's stream is made of the holding and the version that took it",
    "correction_time": "what is corrected counts for an instant of the validity that is not "
    "after its record, and for another one than before",
}
"""Finding → the rule that it breaks."""


class Stood(NamedTuple):
    """What the holding tells of a redemption or payment."""

    version: int
    recorded_at: datetime
    valid_from: datetime


@dataclass(slots=True)
class _Corrected:
    effective_at: datetime
    proposal: tuple[str, datetime, str] | None = None


class CorrectionAudit:
    """Judges corrections; `stood` tells what was taken, None where nothing of the kind was."""

    def __init__(
        self,
        here: Callable[[str, object, object], bool],
        unknown: Callable[[str, object, object], bool],
        stood: Callable[[Any], Stood | None],
    ) -> None:
        self._here = here
        self._unknown = unknown
        self._stood = stood
        self._known: dict[UUID, _Corrected] = {}
        self._lost: set[UUID] = set()
        self._rules: dict[type[Event], Callable[[Any, _Corrected], None]] = {
            CorrectionProposed: self._proposed,
            CorrectionApproved: self._approved,
        }
        assert set(self._rules) == set(CORRECTION_EVENTS), "every event has its rule"

    def feed(self, event: Any) -> None:
        """Judge one event."""
        stream = event.originator_id
        if stream in self._lost:
            return
        name = uuid5(CORRECTION_NAMESPACE, f"{event.holding.hex}:{event.holding_version}")
        if stream != name:
            self._here("correction_id", name.hex, stream.hex)
            return
        stood = self._stood(event)
        if stood is None:
            expected = "a redemption that stands, or a payment"
            self._unknown("correction_unfounded", expected, f"{event.merchant}, {event.order}")
            return
        expected_of = (stood.version, stood.recorded_at)
        found_of = (event.holding_version, event.recorded_at)
        if expected_of != found_of:
            self._here("correction_unfounded", expected_of, found_of)
            return
        known = self._known.setdefault(stream, _Corrected(stood.recorded_at))
        is_span = stood.valid_from <= event.effective_at <= stood.recorded_at
        if event.counted_for != known.effective_at:
            self._here("correction_time", known.effective_at, event.counted_for)
        elif not is_span or event.effective_at == event.counted_for:
            span = f"{stood.valid_from} up to {stood.recorded_at}, not {known.effective_at}"
            self._here("correction_time", span, event.effective_at)
        self._rules[type(event)](event, known)

    def skip(self, stream: UUID) -> None:
        """Judge nothing of a correction any more whose stream is broken."""
        self._known.pop(stream, None)
        self._lost.add(stream)

    def _proposed(self, event: CorrectionProposed, known: _Corrected) -> None:
        known.proposal = (event.by.id, event.effective_at, event.reason)

    def _approved(self, event: CorrectionApproved, known: _Corrected) -> None:
        found = (event.proposed_by, event.effective_at, event.reason)
        if known.proposal != found:
            self._here("not_as_proposed", known.proposal, found)
        elif event.by.id == event.proposed_by:
            self._here("self_approval", "another operator", event.by.id)
        known.effective_at, known.proposal = event.effective_at, None
