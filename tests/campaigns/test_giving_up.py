"""A lost draw key locks no money: groups are given up by two operators, and the events say so."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from msgspec.structs import replace as changed

from campaigns.event_types import MAPPER
from campaigns.groups import giving_up
from campaigns.groups.giving_up import GiveUpGroup, GivingUpCommand, ProposeGivingUp
from campaigns.groups.group import GroupGivenUp
from campaigns.groups.purse import PurseReturned
from campaigns.refusals import Refusal
from ledger.commit import Answer, View
from ledger.datastore import Datastore
from ledger.history import History
from projections import groups
from projections.groups import GROUPS
from tests.campaigns.test_group_verification import edited, found_in, with_
from tests.projections.helpers import catch_up
from tests.support.desk import ALICE, BOB, person
from tests.support.groups import NEXT_NOON, GroupDesk, problems
from tests.support.groups import key as known


def lost() -> bytes:
    """Another key than the one that groups were sent with."""
    return b"the ledger's next draw key, 32 b"


@pytest.fixture
def desk(datastore: Datastore) -> Iterator[GroupDesk]:
    """A desk on a new book."""
    desk = GroupDesk(datastore)
    yield desk
    desk.close()


def propose(desk: GroupDesk, group: Any, by: Any = ALICE, **how: Any) -> Answer:
    """Ask that a group be given up."""
    draw_key = how.pop("draw_key", lost)
    command = ProposeGivingUp(desk.book, group, draw_key, "the key was lost")
    return desk.send(command, by, at=how.pop("at", NEXT_NOON))


def approve(desk: GroupDesk, group: Any, by: Any = BOB, draw_key: Any = lost) -> Answer:
    """Agree to it."""
    return desk.send(GiveUpGroup(desk.book, group, draw_key), by, at=NEXT_NOON)


def test_the_rest_goes_back_without_a_seed(desk: GroupDesk, datastore: Datastore) -> None:
    """All that nobody took, once; the book verifies, and no seed is shown anywhere."""
    purse = desk.purse(5_000, quota=10)
    campaign = desk.purse_now(purse).campaign
    group = desk.sent(purse, 4, 1_000)
    mine = json.loads(desk.take(group, person(1)).body)["amount"]["amount_minor"]
    stuck = replace(desk.taking(group, person(2)), draw_key=lost)
    assert desk.send(stuck, ALICE).code == "other_seed"
    asked = propose(desk, group)
    assert (asked.code, json.loads(asked.body)["left"]["amount_minor"]) == (
        "giving_up_proposed",
        1_000 - mine,
    )
    assert approve(desk, group).code == "group_returned"
    given_up, returned = desk.events()[-2:]
    assert isinstance(given_up, GroupGivenUp)
    assert isinstance(returned, PurseReturned)
    assert (given_up.proposed_by, given_up.by.id) == (ALICE.id, BOB.id)
    assert returned.amount_minor == given_up.returned_minor == 1_000 - mine
    assert desk.purse_now(purse).balance_minor == 5_000 - mine
    assert desk.capacity(campaign) == (1, 10, 5_000, 5_000)
    assert [approve(desk, group).code, propose(desk, group).code] == ["group_closed"] * 2
    assert desk.give_back(group).code == "group_closed"
    assert problems(desk) == []

    catch_up(datastore, GROUPS)
    with datastore.transaction() as cursor:
        row = groups.group(cursor, desk.book, group)
    assert row is not None
    assert (row.state, row.seed, row.returned, row.outstanding_minor) == ("given_up", None, 3, 0)


def test_a_key_that_fits_gives_nothing_up(desk: GroupDesk) -> None:
    """Whoever has the key returns the group with its seed; nobody hides it in this way."""
    group = desk.sent(desk.purse(5_000), 4, 1_000)
    assert propose(desk, group, draw_key=known).code == "seed_known"
    assert propose(desk, group).code == "giving_up_proposed"
    assert approve(desk, group, draw_key=known).code == "seed_known"
    assert desk.give_back(group).code == "group_returned"


def test_it_takes_two_and_the_time_to_be_over(desk: GroupDesk) -> None:
    """Not a moment earlier, not by one person, not without having been asked for."""
    group = desk.sent(desk.purse(5_000), 4, 1_000)
    assert propose(desk, group, at=NEXT_NOON - timedelta(microseconds=1)).code == "still_open"
    assert approve(desk, group).code == "no_giving_up_proposed"
    assert propose(desk, group).code == "giving_up_proposed"
    assert approve(desk, group, ALICE).code == "self_approval"
    unknown = ProposeGivingUp(desk.book, UUID(int=7), lost, "?")
    assert desk.send(unknown, ALICE).code == "not_found"


def _by_one(book: Any) -> Any:
    return edited(book, "group.given_up", with_(proposed_by=BOB.id))


def _too_much(book: Any) -> Any:
    return edited(book, "group.given_up", with_(returned_minor=999))


def _by_herself(book: Any) -> Any:
    return edited(book, "group.given_up", with_(by={"role": "operator", "id": ALICE.id}))


@pytest.mark.parametrize(
    ("bend", "code"),
    [(_by_one, "not_as_proposed"), (_too_much, "other_amount"), (_by_herself, "self_approval")],
)
def test_a_wrong_giving_up_is_found(desk: GroupDesk, bend: Callable[[Any], Any], code: str) -> None:
    """Control: `tidebook verify` judges who agreed, and how much went back."""
    group = desk.sent(desk.purse(5_000), 4, 1_000)
    propose(desk, group)
    approve(desk, group)
    entries = list(History(desk.datastore, desk.book, MAPPER).entries())
    assert found_in(entries) == []
    assert code in found_in(bend(entries))


def test_one_operator_alone_is_seen(desk: GroupDesk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Control: with the rule of two taken away, the verification says so."""
    group = desk.sent(desk.purse(5_000), 4, 1_000)
    propose(desk, group)
    plain = GivingUpCommand.lost

    def anybody(self: GivingUpCommand, view: View) -> Any:
        found = plain(self, view)
        if found.giving_up is None:
            raise Refusal("no_giving_up_proposed")
        return replace_by(found)

    def replace_by(found: Any) -> Any:
        return changed(found, giving_up=changed(found.giving_up, by="f" * 32))

    monkeypatch.setattr(giving_up.GivingUpCommand, "lost", anybody)
    assert approve(desk, group, ALICE).code == "group_returned"
    assert [one for one in problems(desk) if one.startswith("not_as_proposed")]
