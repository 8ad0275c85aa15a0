"""Commands on persons: each refusal of the table is earned by a call that breaks just its rule."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from campaigns.persons.commands import (
    ApproveErasure,
    InspectParticulars,
    KeepParticulars,
    PersonCommand,
    ProposeErasure,
    RecordErasure,
    RequestErasure,
)
from campaigns.refusals import PRECEDENCE
from ledger.datastore import Datastore
from ledger.events import Actor
from tests.support.desk import ALICE, BOB, Desk, person, tourist

WHO = person(1)
SELF = tourist(WHO)


class People(Desk):
    """A writer of the book, and what it answers about one person."""

    def told(self, kind: Callable[..., PersonCommand], *own: Any, by: Actor = SELF) -> str:
        """Send a command on the person; return the code of its answer."""
        return self.send(kind(self.book, WHO, *own), by).code


@pytest.fixture
def people(datastore: Datastore) -> Iterator[People]:
    """A new book."""
    found = People(datastore)
    yield found
    found.close()


def seen(people: People) -> dict[str, set[str]]:
    """Ask for everything in a state; return the codes of each command."""
    calls: list[tuple[type[PersonCommand], tuple[Any, ...], Actor]] = [
        (KeepParticulars, ({"telephone": "sealed"},), SELF),
        (InspectParticulars, (("telephone",), "delivery"), ALICE),
        (ProposeErasure, ("guardian",), ALICE),
        (ApproveErasure, ("guardian",), BOB),
        (RequestErasure, (), SELF),
    ]
    return {kind.name: {people.told(kind, *own, by=by)} for kind, own, by in calls}


def test_every_refusal_about_a_person_can_be_earned(people: People) -> None:
    """Before the request, between request and erasure, and after it."""
    codes: dict[str, set[str]] = {
        "inspect_particulars": {people.told(InspectParticulars, ("address",), "payout", by=ALICE)},
        "approve_erasure": {people.told(ApproveErasure, "guardian", by=BOB)},
    }
    assert people.told(ProposeErasure, "guardian", by=ALICE) == "erasure_proposed"
    codes["approve_erasure"] |= {
        people.told(ApproveErasure, "guardian", by=ALICE),
        people.told(ApproveErasure, "legal_duty", by=BOB),
    }
    assert people.told(RequestErasure) == "erasure_requested"
    begun = seen(people)
    assert people.told(RecordErasure) == "erased"
    erased = {**seen(people), "record_erasure": {people.told(RecordErasure)}}
    for each in (begun, erased):
        for name, some in each.items():
            codes.setdefault(name, set()).update(some)
    assert codes == {name: set(PRECEDENCE[name]) for name in codes}
    assert all(some == {"erasure_begun"} for some in begun.values())
    assert all(some == {"person_erased"} for some in erased.values())
