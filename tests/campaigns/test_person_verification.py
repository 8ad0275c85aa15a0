"""Verification of what is recorded of persons: each rule with a book in which it is broken."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from campaigns.coupon import CouponClaimed
from campaigns.persons import person as p
from campaigns.persons.judging import PersonAudit
from campaigns.persons.person import person_id
from ledger.events import Actor, Event, Why

NOON = datetime(2026, 5, 1, 12, tzinfo=UTC)
PERSON = "ab" * 16
OWN = Actor("tourist", PERSON)
ONE, TWO = Actor("operator", "one"), Actor("operator", "two")


def of(kind: type[Event], by: Actor = OWN, **own: Any) -> Event:
    """An event of the person."""
    header = {"originator_id": person_id(PERSON), "originator_version": 1, "at": NOON}
    return kind(**{**header, "by": by, "why": Why("r"), "person": PERSON, **own})


KEPT = of(p.ParticularsKept, sealed={"telephone": "sealed"})
SEEN = of(
    p.ParticularsInspected,
    ONE,
    fields=["telephone"],
    purpose="delivery",
    until=NOON + timedelta(minutes=15),
)
PROPOSED = of(p.ErasureProposed, ONE, basis="guardian")
APPROVED = of(p.ErasureRequested, TWO, proposed_by="one", basis="guardian")
REQUESTED = of(p.ErasureRequested)
ERASED = of(p.PersonErased, Actor("eraser", "system"))


def findings(events: Sequence[Event]) -> list[str]:
    """What an audit finds in these events."""
    found: list[str] = []

    def here(code: str, _expected: object, _found: object) -> bool:
        found.append(code)
        return False

    audit = PersonAudit(here)
    for event in events:
        if isinstance(event, CouponClaimed):
            audit.granted(event)
        else:
            audit.feed(event)
    return found


def test_lives_as_they_should_be() -> None:
    """On one's own wish, on behalf, and in a book that nobody asked in."""
    assert findings([KEPT, SEEN, REQUESTED, ERASED]) == []
    assert findings([KEPT, PROPOSED, APPROVED, ERASED]) == []
    assert findings([ERASED]) == []


CLAIM = CouponClaimed(
    originator_id=person_id("a coupon"),
    originator_version=1,
    at=NOON,
    by=OWN,
    why=Why("r"),
    campaign=person_id("a campaign"),
    campaign_version=4,
    person=PERSON,
    n=1,
    face_minor=1,
    threshold_minor=2,
    currency="CNY",
    valid_from=NOON,
    valid_until=NOON,
)


@pytest.mark.parametrize(
    ("events", "code"),
    [
        ([of(p.PersonErased, originator_id=person_id("else"))], "person_id"),
        ([SEEN], "not_kept"),
        ([ERASED, KEPT], "after_erasure"),
        ([ERASED, ERASED], "after_erasure"),
        ([ERASED, CLAIM], "after_erasure"),
        ([REQUESTED, KEPT], "while_erasing"),
        ([of(p.ErasureRequested, ONE)], "not_as_proposed"),
        ([APPROVED], "not_as_proposed"),
        ([PROPOSED, of(p.ErasureRequested, ONE, proposed_by="one", basis="guardian")],
         "self_approval"),
    ],
)  # fmt: skip
def test_a_broken_rule_is_found(events: list[Event], code: str) -> None:
    """Each by its code, and nothing else is blamed."""
    assert findings(events) == [code]
