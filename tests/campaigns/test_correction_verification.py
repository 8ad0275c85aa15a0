"""Verification of corrections: whatever was bent, the rule that it breaks is named.

Goal: each rule of corrections has a damage that shows it red. Method: the events of a sound book
are edited one by one, as somebody with the database's owner's rights could.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest

from campaigns.event_types import MAPPER
from ledger.datastore import Datastore
from ledger.history import Entry, History
from tests.campaigns.test_corrections import BILL, HAPPENED, REPORTED, Corrections
from tests.campaigns.test_group_verification import edited, found_in, with_
from tests.conftest import Databases
from tests.support.desk import ALICE, BOB


@pytest.fixture(scope="module")
def book(databases: Databases) -> list[Entry]:
    """A redemption and a payment, both corrected."""
    with databases.fresh() as url:
        datastore = Datastore(url)
        desk = Corrections(datastore)
        coupon, packet = desk.both()
        for holding, bill in ((coupon, None), (packet, BILL)):
            desk.propose(holding, bill)
            assert desk.approve(holding, bill).code == "corrected"
        desk.close()
        entries = list(History(datastore, "main", MAPPER).entries())
        datastore.close()
    return entries


def test_the_book_is_sound(book: list[Entry]) -> None:
    """Before anything is bent."""
    assert found_in(book) == []


SECOND = timedelta(seconds=1)


def at(instant: Any) -> str:
    """An instant as an event writes it."""
    return str(instant.isoformat()).replace("+00:00", "Z")


@pytest.mark.parametrize("nth", [0, 1])
@pytest.mark.parametrize(
    ("topic", "changes", "code"),
    [
        ("approved", {"proposed_by": BOB.id}, "not_as_proposed"),
        ("approved", {"effective_at": at(HAPPENED + SECOND)}, "not_as_proposed"),
        ("approved", {"reason": "none"}, "not_as_proposed"),
        ("approved", {"by": {"role": "operator", "id": ALICE.id}}, "self_approval"),
        ("approved", {"counted_for": at(HAPPENED)}, "correction_time"),
        ("proposed", {"effective_at": at(REPORTED + SECOND)}, "correction_time"),
        ("proposed", {"effective_at": at(REPORTED)}, "correction_time"),
        ("proposed", {"effective_at": "2026-04-01T00:00:00Z"}, "correction_time"),
        ("proposed", {"recorded_at": at(REPORTED + SECOND)}, "correction_unfounded"),
        ("proposed", {"merchant": "bar"}, "correction_unfounded"),
        ("approved", {"order": "o-2"}, "correction_unfounded"),
        ("approved", {"person": "f" * 32}, "correction_unfounded"),
        ("approved", {"holding_version": 3}, "correction_id"),
        ("proposed", {"holding": str(UUID(int=7))}, "correction_id"),
    ],
)
def test_a_wrong_correction_is_found(
    book: list[Entry], topic: str, changes: dict[str, Any], code: str, nth: int
) -> None:
    """Of a redemption and of a payment; what follows from it may be found as well."""
    bent = edited(book, f"correction.{topic}", with_(**changes), nth)
    assert code in found_in(bent)
