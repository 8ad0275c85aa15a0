"""`tidebook replay`: the past, in words for people and in JSON for programs."""

from __future__ import annotations

import io
from datetime import timedelta

import pytest

from campaigns.commands import RedeemCoupon
from campaigns.corrections.commands import ApproveCorrection, ProposeCorrection
from campaigns.coupon import coupon_id
from ledger.books import Book, PublicId
from ledger.datastore import Datastore
from ledger.money import Money
from tests.cli.conftest import Tidebook
from tests.draws import stories as draws
from tests.support.desk import ALICE, BOB, NOON, Desk, person
from tests.support.groups import GroupDesk
from tests.support.story import AFTER_VALIDITY, CAFE, Story


def coupon(story_coupon: object) -> str:
    """The public id of a coupon of the story."""
    return str(PublicId("cpn", Book("main"), story_coupon))  # type: ignore[arg-type]


@pytest.mark.usefixtures("story")
def test_everything_now(tidebook: Tidebook) -> None:
    """Counts per state, money by kind of account that sums to zero, every campaign."""
    said = tidebook("replay", "--json")
    assert said.status == 0
    document = said.document
    assert (document["book"], document["position"]) == ("main", 32)
    assert document["coupons"] == {
        "claimed": 8,
        "held": 2,
        "redeemed": 2,
        "expired": 2,
        "voided": 1,
        "reclaimed": 1,
        "refunds": 2,
        "entered": 0,
        "drawn": 0,
    }
    [money] = document["money"]
    assert money["currency"] == "CNY"
    assert money["sum_minor"] == 0
    assert (money["holder_minor"], money["merchant_minor"]) == (1_000, 1_500)
    assert [(one["state"], one["coupons"]["claimed"]) for one in document["campaigns"]] == [
        ("open", 6),
        ("closed", 2),
    ]


@pytest.mark.usefixtures("story")
def test_at_an_instant_after_all_events_up_to_it(tidebook: Tidebook, desk: Desk) -> None:
    """A time gives the last position that is not after it, whatever its offset says."""
    late = sum(event.at < AFTER_VALIDITY for event in desk.events())
    for until, position in (
        (NOON - timedelta(seconds=1), 0),
        (NOON, late),
        (AFTER_VALIDITY - timedelta(microseconds=1), late),
        (AFTER_VALIDITY, 32),
    ):
        assert (
            tidebook("replay", "--until", until.isoformat(), "--json").document["position"]
            == position
        )
    assert (
        tidebook("replay", "--until", "2026-05-01T20:00:00+08:00", "--json").document["position"]
        == late
    )


def test_a_life_shows_what_was_corrected_of_it(tidebook: Tidebook, desk: Desk) -> None:
    """Both times of a redemption, by whom, at which position; and nothing of it before."""
    campaign = desk.opened()
    assert desk.claim(campaign, person(1)).code == "claimed"
    used = coupon_id(campaign, person(1), 1)
    name, later = coupon(used), NOON + timedelta(hours=2)
    order = RedeemCoupon(desk.book, used, "cafe", None, "o-6", Money(9_000, "CNY"))
    assert desk.send(order, CAFE, at=later).code == "redeemed"
    taken = tidebook("replay", "--coupon", name, "--json").document["life"][-1]
    ask = ProposeCorrection(desk.book, used, None, NOON, "offline")
    assert desk.send(ask, ALICE, at=later).code == "correction_proposed"
    agree = ApproveCorrection(desk.book, used, None, NOON)
    assert desk.send(agree, BOB, at=later).code == "corrected"
    document = tidebook("replay", "--coupon", name, "--json").document
    assert taken in document["life"]
    *_, proposed, approved = document["life"]
    assert [one["event"] for one in (proposed, approved)] == [
        "correction.proposed",
        "correction.approved",
    ]
    assert approved["state"] == document["state"]["state"] == "redeemed"
    assert approved["moved"] == []
    assert approved["corrected"] == {
        "order": "o-6",
        "recorded_at": "2026-05-01T14:00:00Z",
        "effective_at": "2026-05-01T12:00:00Z",
        "reason": "offline",
    }
    said = tidebook("replay", "--coupon", name).out
    assert "order o-6 to count for" in " ".join(said.split())
    before = tidebook("replay", "--coupon", name, "--until", proposed["position"] - 1, "--json")
    assert "correction.proposed" not in before.out


@pytest.mark.usefixtures("story")
def test_before_the_first_event(tidebook: Tidebook) -> None:
    """Position 0 is a state like any other: empty."""
    document = tidebook("replay", "--until", 0, "--json").document
    assert document["at"] is None
    assert document["money"] == document["campaigns"] == []
    assert "before its first event" in tidebook("replay", "--until", 0).out


def test_one_coupons_life(tidebook: Tidebook, story: Story) -> None:
    """Each step with its position, its instant, who, what then, and the money."""
    said = tidebook("replay", "--coupon", coupon(story.used), "--json").document
    assert said["state"]["state"] == "redeemed"
    assert (said["state"]["merchant"], said["state"]["order"]) == ("bar", "o-2")
    assert [step["state"] for step in said["life"]] == ["held", "redeemed", "held", "redeemed"]
    assert said["life"][1]["moved"] == [
        {
            "from": f"holder:{person(1)}",
            "to": "merchant:cafe",
            "amount": {"amount_minor": 500, "currency": "CNY"},
        }
    ]
    third = said["life"][2]["position"]
    then = tidebook("replay", "--coupon", coupon(story.used), "--until", third, "--json").document
    assert then["state"]["state"] == "held"
    assert then["life"] == said["life"][:3]
    text = tidebook("replay", "--coupon", coupon(story.used)).out
    assert f"{coupon(story.used)} is redeemed." in text
    assert "500 CNY holder:" in text


def test_one_coupon_before_it_was_claimed(tidebook: Tidebook, story: Story) -> None:
    """It is said that it was not there yet; that is an answer and no error."""
    said = tidebook("replay", "--coupon", coupon(story.used), "--until", 3, "--json")
    assert said.status == 0
    assert said.document["state"] is None
    assert said.document["life"] == []
    assert (
        "was not claimed by then"
        in tidebook("replay", "--coupon", coupon(story.used), "--until", 3).out
    )


def test_one_campaigns_life_agrees_with_the_whole(tidebook: Tidebook, story: Story) -> None:
    """What its own stream says of a campaign is what the fold of everything says."""
    campaign = PublicId("cmp", Book("main"), story.autumn)
    for until in (5, 8, 20, 32):
        one = tidebook("replay", "--campaign", campaign, "--until", until, "--json").document
        whole = tidebook("replay", "--until", until, "--json").document
        states = {each["campaign"]: each for each in whole["campaigns"]}
        expected = states.get(str(campaign))
        if expected is not None:
            del expected["coupons"]
        assert one["state"] == expected
    assert "is closed." in tidebook("replay", "--campaign", campaign).out


@pytest.mark.usefixtures("story")
def test_a_persons_coupons(tidebook: Tidebook) -> None:
    """All that a person ever claimed, by pseudonym, in the order of claiming."""
    document = tidebook("replay", "--person", person(1), "--json").document
    assert [one["state"] for one in document["coupons"]] == ["redeemed", "held", "redeemed"]
    assert {one["person"] for one in document["coupons"]} == {person(1)}
    assert "3 coupons of" in tidebook("replay", "--person", person(1)).out


@pytest.mark.usefixtures("story")
def test_a_person_by_identity_is_the_pseudonym_of_this_home(tidebook: Tidebook) -> None:
    """The identity itself is neither stored nor shown."""
    said = tidebook("replay", "--identity", "alice@example.org", "--json")
    assert said.document["coupons"] == []
    assert len(said.document["person"]) == 32
    assert "alice" not in said.out


@pytest.mark.usefixtures("story")
def test_everything_in_words(tidebook: Tidebook) -> None:
    """Tables for people: money, campaigns, totals."""
    said = tidebook("replay")
    assert said.out.startswith("Book main at position 32, 2026-05-04T12:00:00Z\n")
    assert "Money: debits minus credits" in said.out
    assert "Spring" in said.out


def test_steps_tell_who_and_under_which_version(tidebook: Tidebook, story: Story) -> None:
    """The role and the pseudonym of whoever caused a step, and the campaign's version by then."""
    life = tidebook("replay", "--coupon", coupon(story.used), "--json").document["life"]
    assert [(step["by"], step["actor"]) for step in life] == [
        ("tourist", person(1)),
        ("merchant", "cafe"),
        ("merchant", "cafe"),
        ("merchant", "bar"),
    ]
    assert {step["campaign_version"] for step in life} == {4}
    own = PublicId("cmp", Book("main"), story.spring)
    steps = tidebook("replay", "--campaign", own, "--json").document["life"]
    assert [step["campaign_version"] for step in steps] == list(range(1, len(steps) + 1))


def test_one_step_at_a_time(
    tidebook: Tidebook, story: Story, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Enter goes on and q ends, as a reader would press them."""
    monkeypatch.setattr("sys.stdin", io.StringIO("\nq\n"))
    text = tidebook("replay", "--coupon", coupon(story.used), "--step").out
    assert "1/4 " in text
    assert "2/4 " in text
    assert "3/4 " not in text
    assert "coupon.redeemed by merchant cafe, under version 4 of the campaign" in text


def test_one_purse_and_one_draw(tidebook: Tidebook, datastore: Datastore) -> None:
    """What is in a purse after each step, and where a public draw stands."""
    groups = GroupDesk(datastore)
    purse = groups.purse(1_000)
    groups.sent(purse, 2, 300)
    drawn = groups.opened(2, draws.COUPONS, key="drawn")
    groups.close()
    own = PublicId("prs", Book("main"), purse)
    said = tidebook("replay", "--purse", own, "--json").document
    assert said["state"]["balance"] == {"amount_minor": 700, "currency": "CNY"}
    assert [step["state"] for step in said["life"]] == ["0 CNY", "1,000 CNY", "700 CNY"]
    assert "purse.sent" in tidebook("replay", "--purse", own).out
    campaign = PublicId("cmp", Book("main"), drawn)
    held = tidebook("replay", "--draw", campaign, "--json").document
    assert (held["state"]["state"], len(held["life"])) == ("registering", 1)
    none = PublicId("cmp", Book("main"), purse)
    assert "had no public draw by then" in tidebook("replay", "--draw", none).out
