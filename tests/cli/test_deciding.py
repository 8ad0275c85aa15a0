"""`tidebook reexecute` and `tidebook what-if`: decided again, and told in words and in JSON."""

from __future__ import annotations

import json
from hashlib import sha256
from uuid import UUID

import pytest

from api.cli.deciding import marks_of
from api.errors import render_refusal
from campaigns import commands as c
from ledger.books import Book, PublicId
from tests.cli.conftest import Tidebook
from tests.support.damage import damaged
from tests.support.desk import ALICE, NOON, Desk, person, tourist
from tests.support.story import Story


def name_of(campaign: UUID) -> str:
    """The public id of a campaign."""
    return str(PublicId("cmp", Book("main"), campaign))


def claim(desk: Desk, campaign: UUID, n: int) -> str:
    """Claim as the service does: with the fingerprint and the refusals of HTTP."""
    [mark] = [mark for mark, what in marks_of("main")(campaign).items() if what == "claim"]
    call = c.Call(tourist(person(n)), "r", render_refusal, f"http-{n}", mark, NOON)
    request = c.ClaimCoupon(desk.book, campaign, person(n)).request(call)
    return desk.writer.submit(request).result(20).code


@pytest.mark.usefixtures("story")
def test_a_book_is_decided_again(tidebook: Tidebook) -> None:
    """How much was decided, what was not and why; all the same is exit status 0."""
    said = tidebook("reexecute", "--json")
    assert said.status == 0
    assert said.document["same"]
    [book] = said.document["books"]
    assert (book["position"], sum(book["decided"].values())) == (32, 30)
    assert book["not_decided"] == {"unrecorded": 3}
    text = tidebook("reexecute", "--until", 10).out
    assert "All the same, byte for byte." in text


def test_a_difference_is_told_with_its_place(
    tidebook: Tidebook, story: Story, database_url: str
) -> None:
    """Position, stream and field; exit status 1."""
    with damaged(database_url) as damage:
        position = damage.position("coupon.voided")
        damage.rewrite(position, amount_minor=499)
    said = tidebook("reexecute", "--json")
    assert said.status == 1
    first = said.document["differences"][0]
    where = f"main:{position} coupon.voided {story.voided.hex} field amount_minor"
    assert first == {
        "code": "event_otherwise",
        "where": where,
        "expected": "500",
        "found": "499",
    }
    text = tidebook("reexecute").out
    assert "event_otherwise" in text
    assert "differences:" in text


def test_fingerprints_are_those_of_the_service() -> None:
    """A claim says nothing but where it is sent; its fingerprint is that of the wire."""
    campaign = UUID(int=5)
    sent = f"POST /v1/campaigns/{name_of(campaign)}/claims\n{{}}".encode()
    assert marks_of("main")(campaign)[sha256(sent).digest()] == "claim"


def test_what_would_have_been(tidebook: Tidebook, desk: Desk) -> None:
    """The figures side by side; people by pseudonym when they are asked for."""
    campaign = desk.opened(1)
    assert [claim(desk, campaign, n) for n in (1, 2)] == ["claimed", "sold_out"]
    asked = ("what-if", "--campaign", name_of(campaign), "--set", "quota=2")
    document = tidebook(*asked, "--json").document
    assert (document["was"]["winners"], document["would"]["winners"]) == (1, 2)
    assert document["people"]["would_win"] == 1
    assert "gained" not in document["people"]
    assert len(document["assumptions"]) == 6
    named = json.loads(tidebook(*asked, "--people", "--json").out)
    assert named["people"]["gained"] == [person(2)]
    text = tidebook(*asked, "--people").out
    assert "1 more people would have won" in text
    assert f"gained: {person(2)}" in text
    assert tidebook("reexecute", "--json").document["books"][0]["refused"] == {"sold_out": 1}


def test_terms_that_are_unchanged_are_told(tidebook: Tidebook, desk: Desk) -> None:
    """Which terms differ, as they were and as they would be."""
    campaign = desk.opened(1)
    asked = ("what-if", "--campaign", name_of(campaign), "--json")
    assert tidebook(*asked).document["terms"] == {}
    assert tidebook(*asked, "--set", "limit=3").document["terms"] == {
        "per_person_limit": {"was": 1, "would": 3}
    }


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("--set", "quota"), "--set: NAME=VALUE is wanted"),
        (("--set", "quota=1", "--set", "quota=2"), "--set: quota can be given once"),
        (("--set", "limit=0"), "--set limit: how many a person may have"),
        (("--set", "colour=red"), "--set colour: there is no such term"),
        (("--until", "2"), "--campaign: cmp_main_"),
    ],
)
def test_what_nobody_could_have_is_refused(
    tidebook: Tidebook, desk: Desk, given: tuple[str, ...], said: str
) -> None:
    """In one line that names the option, the term and the rule."""
    other = desk.drafted(key="first")
    desk.send(c.CloseCampaign(desk.book, other, "over"), ALICE)
    campaign = desk.drafted(key="second")
    result = tidebook("what-if", "--campaign", name_of(campaign), *given)
    assert result.status == 2
    assert said in result.err


@pytest.mark.usefixtures("story")
def test_a_day_is_stated_twice(tidebook: Tidebook) -> None:
    """By noon everything of the day was known; what came back days later changes it."""
    asked = ("restate", "--merchant", "cafe", "--day", "2026-05-01")
    document = tidebook(*asked, "--json").document
    assert document["first"] == [
        {"currency": "CNY", "taken_minor": 2_000, "given_back_minor": 500, "net_minor": 1_500}
    ]
    assert document["restated"][0]["net_minor"] == 1_000
    [change] = document["changes"]
    assert (change["event"], change["order"]) == ("coupon.refunded", "o-3")
    text = tidebook(*asked).out
    assert "What changed it" in text
    early = tidebook(*asked, "--known-at", "20", "--until", "20").out
    assert "Nothing was recorded of this day afterwards." in early


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("--day", "yesterday"), "--day: a date is wanted"),
        (("--day", "2026-05-01", "--zone", "Luohu"), "--zone: there is no zone 'Luohu'"),
        (("--day", "2026-05-01", "--known-at", "-3"), "--known-at: a position"),
    ],
)
@pytest.mark.usefixtures("story")
def test_a_day_that_nobody_can_mean(tidebook: Tidebook, given: tuple[str, ...], said: str) -> None:
    """In one line, with the option and the rule."""
    result = tidebook("restate", "--merchant", "cafe", *given)
    assert result.status == 2
    assert said in result.err
