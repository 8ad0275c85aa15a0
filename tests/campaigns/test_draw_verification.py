"""Verification of public draws: whatever was bent, what is wrong is named.

Goal: each rule of public draws has a damage that shows it red. Method: the events of a sound book
are edited one by one, as somebody with the database's owner's rights could.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from campaigns.draws.announcing import instant_text
from campaigns.draws.auditing import RULES
from campaigns.event_types import MAPPER
from ledger.datastore import Datastore
from ledger.history import Entry, History
from tests.campaigns.test_group_verification import (
    edited,
    found_in,
    more,
    place_of,
    with_,
    without,
)
from tests.conftest import Databases
from tests.draws.stories import DEADLINE, DRAWN_AT
from tests.draws.test_holding import TERMS, Fair
from tests.support.desk import NOON, Desk, person

text = instant_text
ROUND_TIME = TERMS.public_draw.round_time


@pytest.fixture(scope="module")
def book(databases: Databases, tmp_path_factory: pytest.TempPathFactory) -> list[Entry]:
    """Nine registered and one withdrew; a draw, a claim of the first winner, and moving up."""
    with databases.fresh() as url:
        datastore = Datastore(url)
        entries = written(datastore, tmp_path_factory.mktemp("lists"))
        datastore.close()
    return entries


def written(datastore: Datastore, lists: Path) -> list[Entry]:
    """Write the book, and read it."""
    desk = Desk(datastore)
    fair = Fair(desk, lists)
    fair.withdraw(4)
    fair.held()
    first = next(n for n in range(1, 10) if person(n) == fair.winners()[0])
    assert fair.claim(first, DRAWN_AT).code == "claimed"
    fair.hold(DEADLINE)
    desk.close()
    return list(History(datastore, "main", MAPPER).entries())


def of_terms(**changes: Any) -> Callable[[list[Entry]], list[Entry]]:
    """A damage that makes the draw's terms other ones."""

    def edit(state: dict[str, Any]) -> dict[str, Any]:
        terms = state["terms"]
        return state | {"terms": terms | {"public_draw": terms["public_draw"] | changes}}

    return lambda book: edited(book, "campaign.drafted", edit)


def of_event(
    topic: str, edit: Callable[[dict[str, Any]], dict[str, Any]], nth: int = 0
) -> Callable[[list[Entry]], list[Entry]]:
    """A damage that edits an event."""
    return lambda book: edited(book, topic, edit, nth)


def one_telephone(book: list[Entry]) -> list[Entry]:
    """The second entry has the telephone of the first one."""
    at = place_of(book, "draw.phone_taken", 1)
    first = book[place_of(book, "draw.phone_taken", 0)].stream
    return [*book[:at], book[at]._replace(stream=first, version=2), *book[at + 1 :]]


def without_a_seat(book: list[Entry]) -> list[Entry]:
    """The winner who claimed was never given a seat."""
    return without(book, "draw.won")


BEFORE = {
    "register_from": text(NOON - timedelta(hours=2)),
    "register_until": text(NOON - timedelta(hours=1)),
}

DAMAGES: list[tuple[str, Callable[[list[Entry]], list[Entry]]]] = [
    ("entry_outside_registration", of_terms(register_from=text(NOON + timedelta(seconds=1)))),
    ("entry_outside_registration", of_terms(**BEFORE)),
    ("terms_invalid", of_terms(register_until=text(NOON))),
    ("terms_invalid", of_terms(chain={"hash": "00" * 32, "genesis": 0, "period_s": 0})),
    ("terms_invalid", of_terms(tiers=[])),
    ("entry_id", of_event("draw.entered", with_(person=person(50)))),
    ("entry_id", of_event("draw.entered", with_(phone="ab" * 16))),
    ("entry_twice", one_telephone),
    ("entry_twice", of_event("draw.phone_freed", with_(entry=str(UUID(int=7))))),
    ("entry_not_eligible", of_terms(regions=["460000"])),
    ("entry_not_eligible", of_terms(operators=["icbc"])),
    ("list_differs", of_event("draw.frozen", with_(root="00" * 32))),
    ("list_differs", of_event("draw.frozen", more(entries=1))),
    ("list_differs", of_event("draw.frozen", with_(withdrawn_sha256="00" * 32))),
    ("list_differs", of_event("draw.frozen", with_(announcement="00" * 32))),
    ("list_differs", of_event("draw.entered", more(index=1))),
    ("frozen_late", of_event("draw.frozen", with_(at=text(ROUND_TIME)))),
    ("beacon_differs", of_event("draw.opened", more(round=1))),
    ("beacon_differs", of_event("draw.drawn", with_(randomness="00" * 32))),
    ("beacon_differs", of_event("draw.drawn", with_(at=text(DRAWN_AT - timedelta(minutes=1))))),
    ("seed_differs", of_event("draw.drawn", with_(seed="00" * 32))),
    ("draw_differs", of_event("draw.drawn", with_(signature="ab" * 48))),
    ("draw_differs", of_event("draw.drawn", with_(seats=[1, 2]))),
    ("draw_differs", of_event("draw.moved_up", with_(seats=[1, 2]))),
    ("not_a_winner", of_event("draw.won", more(rank=1))),
    ("seat_differs", of_event("draw.won", more(amount_minor=1))),
    ("seat_differs", of_event("draw.won", with_(tier=2))),
    ("seat_differs", of_event("draw.won", with_(claim_until=text(DRAWN_AT)))),
    ("claim_without_seat", without_a_seat),
    ("other_amount", of_event("packet.claimed", more(amount_minor=-1))),
    ("illegal_step", of_event("draw.withdrawn", more(index=1))),
]


def test_a_sound_draw_is_clean(book: list[Entry]) -> None:
    """Nothing is found where nothing was bent."""
    assert found_in(book) == []


@pytest.mark.parametrize(
    ("code", "damage"), DAMAGES, ids=[f"{n}-{code}" for n, (code, _) in enumerate(DAMAGES)]
)
def test_what_was_bent_is_named(
    book: list[Entry], code: str, damage: Callable[[list[Entry]], list[Entry]]
) -> None:
    """The finding says which rule is broken."""
    assert code in found_in(damage(book))


def test_every_rule_of_draws_is_tested() -> None:
    """A check without a damage that shows it red does not count."""
    assert RULES.keys() <= {code for code, _ in DAMAGES}
