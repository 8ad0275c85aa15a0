"""What if: with the terms that were nothing differs, and with others exactly what must.

Goal: a difference that is told is the difference of the terms and of nothing else.
Method: Hypothesis makes histories of claims, uses and refusals on a real store; unchanged terms
must make no difference, and a higher quota must never lose anybody. Worked examples are added up
by hand, and a planted bug shows that the comparison would see one.
"""

from __future__ import annotations

import itertools
from datetime import timedelta
from hashlib import sha256
from typing import Any
from uuid import UUID

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from api.drawer import Drawer
from campaigns import commands as c
from campaigns.campaign import Intake
from campaigns.corrections.commands import ApproveCorrection, ProposeCorrection
from campaigns.coupon import coupon_id
from campaigns.event_types import MAPPER
from campaigns.packets import commands as p
from campaigns.packets.terms import PacketTerms, Tier
from campaigns.replaying import whatif
from campaigns.replaying.reading import UnknownCampaign, what_if
from campaigns.replaying.terms import BadChange
from campaigns.replaying.whatif import Outcome
from ledger.datastore import Datastore
from ledger.events import Actor
from ledger.history import History
from ledger.money import Money
from tests.support.desk import ALICE, BOB, DRAW_KEY, NOON, Desk, person, render, terms_of, tourist
from tests.support.groups import packet_terms

CAFE = Actor("merchant", "cafe")
SWEEPER = Actor("sweeper", "system")
LATE = NOON + timedelta(days=3)
_books = (f"whatif{n}" for n in itertools.count())


def mark_of(campaign: UUID) -> bytes:
    """The fingerprint of a claim of a campaign, as these tests make it."""
    return sha256(b"claim" + campaign.bytes).digest()


def imagined(desk: Desk, campaign: UUID, **changes: str) -> Outcome:
    """What would have been with these changes."""
    history = History(desk.datastore, desk.book, MAPPER)
    return what_if(
        history,
        desk.datastore,
        campaign,
        changes,
        history.head(),
        draw_key=lambda: DRAW_KEY,
        recognise=lambda one: {mark_of(one): "claim"},
        render=render,
    )[2]


def claim(desk: Desk, campaign: UUID, n: int, **how: Any) -> str:
    """Claim for the n-th person."""
    asked = c.ClaimCoupon(desk.book, campaign, person(n), lambda: DRAW_KEY)
    return desk.send(asked, tourist(person(n)), fingerprint=mark_of(campaign), **how).code


def redeem(desk: Desk, campaign: UUID, n: int, nth: int = 1, total: int = 900) -> str:
    """Redeem the n-th person's coupon at the café."""
    coupon = coupon_id(campaign, person(n), nth)
    command = c.RedeemCoupon(desk.book, coupon, "cafe", None, f"o{n}", Money(total, "CNY"))
    return desk.send(command, CAFE).code


def assert_same(outcome: Outcome) -> None:
    """Nothing would have been otherwise."""
    assert outcome.was == outcome.would
    assert (outcome.gained, outcome.lost, outcome.more, outcome.less) == ([], [], 0, 0)
    assert not outcome.fell_away
    assert not outcome.steps_refused
    assert not outcome.not_imagined


def spring(desk: Desk) -> UUID:
    """Two coupons of 5 yuan: two people have one and use it, two more hear that it is sold out."""
    campaign = desk.opened(2)
    assert [claim(desk, campaign, n) for n in (1, 2, 3, 4)] == ["claimed"] * 2 + ["sold_out"] * 2
    assert claim(desk, campaign, 1) == "already_claimed"
    assert [redeem(desk, campaign, n, total=500 * n) for n in (1, 2)] == ["redeemed"] * 2
    return campaign


@pytest.fixture
def desk(datastore: Datastore) -> Any:
    """A desk on the book `main`."""
    desk = Desk(datastore)
    yield desk
    desk.close()


def test_a_higher_quota_gives_to_those_who_were_told_sold_out(desk: Desk) -> None:
    """The next in order wins; nobody knows what they would have bought, so they hold it."""
    outcome = imagined(desk, spring(desk), quota="3")
    assert (outcome.gained, outcome.lost) == ([person(3)], [])
    assert (outcome.was.granted_minor, outcome.would.granted_minor) == (1_000, 1_500)
    assert (outcome.was.spent_minor, outcome.would.spent_minor) == (1_000, 1_000)
    assert (outcome.was.held_minor, outcome.would.held_minor) == (0, 500)
    assert outcome.was.refused == {"already_claimed": 1, "sold_out": 2}
    assert outcome.would.refused == {"already_claimed": 1, "sold_out": 1}
    assert (outcome.was.put_in_minor, outcome.would.put_in_minor) == (1_000, 1_500)


def test_a_budget_that_is_given_is_not_stretched(desk: Desk) -> None:
    """A higher quota without money for it changes nothing but the refusal."""
    outcome = imagined(desk, spring(desk), quota="4", budget="1000")
    assert (outcome.gained, outcome.lost) == ([], [])
    assert outcome.would.refused == {"already_claimed": 1, "budget_exhausted": 2}


def test_a_lower_quota_takes_from_the_last_and_their_use_falls_away(desk: Desk) -> None:
    """Who would not have had it would not have used it."""
    outcome = imagined(desk, spring(desk), quota="1")
    assert (outcome.gained, outcome.lost) == ([], [person(2)])
    assert outcome.would.spent_minor == 500
    assert outcome.fell_away == {"no_holding": 1}
    assert outcome.would.refused == {"already_claimed": 1, "sold_out": 3}


def test_a_correction_of_what_fell_away_is_no_refusal(desk: Desk) -> None:
    """It moves no money, so that what it would have been changes no figure and is no step."""
    campaign = desk.opened(quota=2)
    assert [claim(desk, campaign, n) for n in (1, 2)] == ["claimed", "claimed"]
    coupon = coupon_id(campaign, person(2), 1)
    later = NOON + timedelta(hours=1)
    redeemed = c.RedeemCoupon(desk.book, coupon, "cafe", None, "o2", Money(900, "CNY"))
    assert desk.send(redeemed, CAFE, at=later).code == "redeemed"
    asked = ProposeCorrection(desk.book, coupon, None, NOON, "late")
    assert desk.send(asked, ALICE, at=later).code == "correction_proposed"
    agreed = ApproveCorrection(desk.book, coupon, None, NOON)
    assert desk.send(agreed, BOB, at=later).code == "corrected"
    assert_same(imagined(desk, campaign))
    outcome = imagined(desk, campaign, quota="1")
    assert outcome.would.claimed == 1
    assert outcome.steps_refused == []


def test_a_larger_coupon_is_below_the_threshold_of_small_orders(desk: Desk) -> None:
    """The order is what it was; a coupon worth more than it cannot be used on it."""
    outcome = imagined(desk, spring(desk), face="600")
    assert (outcome.more, outcome.less) == (2, 0)
    assert outcome.would.spent_minor == 600
    assert outcome.fell_away == {"below_threshold": 1}
    assert outcome.would.held_minor == 600


def test_a_higher_limit_gives_a_second_one_to_who_asked_twice(desk: Desk) -> None:
    """Where there is stock for it; the limit is the person's, the stock everybody's."""
    outcome = imagined(desk, spring(desk), limit="2", quota="9")
    assert outcome.gained == [person(3), person(4)]
    assert (outcome.more, outcome.would.claimed) == (1, 5)


def test_a_window_that_begins_later_turns_the_early_ones_away(desk: Desk) -> None:
    """And who was too early in the record may be in time in another window."""
    campaign = desk.opened(5, terms_of(claim_from=NOON + timedelta(hours=1)))
    assert claim(desk, campaign, 1) == "not_open"
    assert claim(desk, campaign, 2, at=NOON + timedelta(hours=1)) == "claimed"
    assert claim(desk, campaign, 3, at=NOON + timedelta(hours=13)) == "not_open"
    early = f"{NOON.isoformat()}/{(NOON + timedelta(hours=1)).isoformat()}"
    outcome = imagined(desk, campaign, window=early)
    assert (outcome.gained, outcome.lost) == ([person(1)], [person(2)])
    longer = f"{NOON.isoformat()}/{(NOON + timedelta(hours=14)).isoformat()}"
    assert imagined(desk, campaign, window=longer).gained == [person(1), person(3)]


def test_other_tiers_are_drawn_with_the_same_seed(desk: Desk) -> None:
    """Funded to the fen for the tiers that are imagined; payments take what there is."""
    tiers = PacketTerms(tiers=(Tier(500, 1), Tier(100, 2)))
    campaign = desk.opened(3, packet_terms(packet=tiers, merchants=["cafe"]), 700)
    for n in (1, 2, 3):
        assert claim(desk, campaign, n) == "claimed"
    packet = coupon_id(campaign, person(1), 1)
    paid = p.PayFromPacket(desk.book, packet, "cafe", None, "o", Money(1_000, "CNY"))
    assert desk.send(paid, CAFE).code == "paid"
    assert claim(desk, campaign, 4) == "sold_out"
    assert_same(imagined(desk, campaign))
    outcome = imagined(desk, campaign, tiers="200:4")
    assert outcome.gained == [person(4)]
    assert (outcome.would.granted_minor, outcome.would.spent_minor) == (800, 200)
    assert outcome.would.put_in_minor == 800


def drawn_lottery(desk: Desk) -> UUID:
    """Three entrants, two coupons, drawn and given, and a claim that came too late."""
    terms = terms_of(claim_from=NOON, intake=Intake(kind="lottery", seconds=30))
    campaign = desk.opened(2, terms)
    assert [claim(desk, campaign, n) for n in (1, 2, 3)] == ["entered"] * 3
    list(Drawer(desk.datastore, desk.writer, lambda: DRAW_KEY).steps(NOON + timedelta(hours=1)))
    assert claim(desk, campaign, 4) == "sold_out"
    return campaign


def test_a_lottery_is_drawn_again_among_who_would_have_entered(desk: Desk) -> None:
    """With more places more win, by the same ranks; first come, first served needs no draw."""
    campaign = drawn_lottery(desk)
    assert_same(imagined(desk, campaign))
    more = imagined(desk, campaign, quota="3")
    assert (len(more.gained), more.lost, more.would.winners) == (1, [], 3)
    fewer = imagined(desk, campaign, quota="1")
    assert (fewer.gained, len(fewer.lost)) == ([], 1)
    served = imagined(desk, campaign, intake="first_come")
    assert served.would.winners == 2
    assert {*served.gained, *served.lost} <= {person(n) for n in (1, 2, 3)}
    assert not served.steps_refused


def test_what_was_imagined_only_expires_where_the_sweeper_had_been(desk: Desk) -> None:
    """The sweeper had come to all that was overdue, and so it would have come to this one."""
    campaign = spring(desk)
    other = desk.opened(1, key="other")
    assert claim(desk, other, 9) == "claimed"
    expire = c.ExpireCoupon(desk.book, coupon_id(other, person(9), 1))
    assert desk.send(expire, SWEEPER, at=LATE).code == "expired"
    assert claim(desk, campaign, 3, at=LATE) == "not_open"
    close = c.CloseCampaign(desk.book, campaign, "over")
    assert desk.send(close, ALICE, at=LATE).code == "closed"
    outcome = imagined(desk, campaign, quota="3")
    assert (outcome.would.held_minor, outcome.would.returned_minor) == (0, 500)
    other_one = imagined(desk, other, quota="5")
    assert (other_one.gained, other_one.would.put_in_minor) == ([], 2_500)


@pytest.mark.parametrize(
    ("changes", "name", "rule"),
    [
        ({"quota": "none"}, "quota", "a whole number"),
        ({"quota": "0"}, "quota", "from 1"),
        ({"limit": "21"}, "limit", "1 to 20"),
        ({"face": "0"}, "face", "from 1"),
        ({"threshold": "700"}, "threshold", "of the kind `threshold`"),
        ({"window": "today/tomorrow"}, "window", "FROM/UNTIL"),
        ({"window": "2026-05-01T12:00:00/2026-05-01T13:00:00"}, "window", "offset"),
        ({"window": "2026-05-01T12:00:00Z/2026-05-01T12:00:00Z"}, "window", "ends after"),
        ({"window": "2026-05-01T12:00:00Z/2026-06-01T12:00:00Z"}, "window", "validity"),
        ({"merchants": "cafe,cafe"}, "merchants", "names"),
        ({"restock": "maybe"}, "restock", "`yes` or `no`"),
        ({"tiers": "100:2"}, "tiers", "packets of tiers"),
        ({"split": "100:2,3:4"}, "split", "TOTAL:COUNT"),
        ({"intake": "lottery"}, "intake", "first_come"),
        ({"colour": "red"}, "colour", "there is no such term"),
    ],
)
def test_terms_that_no_campaign_could_have_are_refused(
    desk: Desk, changes: dict[str, str], name: str, rule: str
) -> None:
    """By the name of the change, and the rule in words."""
    campaign = desk.opened(2)
    with pytest.raises(BadChange) as caught:
        imagined(desk, campaign, **changes)
    assert caught.value.name == name
    assert rule in caught.value.rule


def test_a_campaign_that_is_not_there(desk: Desk) -> None:
    """Nothing can be imagined of nothing."""
    with pytest.raises(UnknownCampaign):
        imagined(desk, UUID(int=7))


# Histories

ACTS = st.tuples(
    st.sampled_from(["claim", "claim", "redeem", "refund", "void", "expire", "pause", "resume"]),
    st.integers(1, 4),
    st.integers(1, 2),
    st.sampled_from([0, 0, 1, 3 * 24 * 60]),
)


def act(desk: Desk, campaign: UUID, what: str, n: int, nth: int, at: Any) -> None:
    """Do one thing, whatever comes of it."""
    coupon = coupon_id(campaign, person(n), nth)
    if what == "claim":
        claim(desk, campaign, n, at=at)
        return
    command: c.Command
    by = CAFE
    match what:
        case "redeem":
            command = c.RedeemCoupon(desk.book, coupon, "cafe", None, "o", Money(700, "CNY"))
        case "refund":
            command = c.RefundCoupon(desk.book, coupon, "cafe", "o", "cold")
        case "void":
            command, by = c.VoidCoupon(desk.book, coupon, "lost"), ALICE
        case "expire":
            command, by = c.ExpireCoupon(desk.book, coupon), SWEEPER
        case "pause":
            command, by = c.PauseCampaign(desk.book, campaign, "rain"), ALICE
        case _:
            command, by = c.ResumeCampaign(desk.book, campaign), ALICE
    desk.send(command, by, at=at)


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    acts=st.lists(ACTS, max_size=16),
    quota=st.integers(1, 5),
    limit=st.integers(1, 2),
    restock=st.booleans(),
    more=st.integers(0, 4),
)
@example(  # refusals of one position, of which the last one came after the window
    acts=[*(7 * [("claim", 1, 1, 0)]), ("claim", 1, 1, 4320)],
    quota=1,
    limit=1,
    restock=False,
    more=0,
)
def test_unchanged_terms_change_nothing_and_a_higher_quota_loses_nobody(
    datastore: Datastore,
    acts: list[tuple[str, int, int, int]],
    quota: int,
    limit: int,
    restock: bool,
    more: int,
) -> None:
    """Whatever happened, and whatever was refused."""
    desk = Desk(datastore, next(_books))
    try:
        campaign = desk.opened(quota, terms_of(per_person_limit=limit, restock=restock))
        now = NOON
        for what, n, nth, minutes in acts:
            now += timedelta(minutes=minutes)
            act(desk, campaign, what, n, nth, now)
        assert_same(imagined(desk, campaign))
        assert_same(imagined(desk, campaign, quota=str(quota), face="500", limit=str(limit)))
        higher = imagined(desk, campaign, quota=str(quota + more))
        assert higher.lost == []
        assert higher.would.winners >= higher.was.winners
        assert higher.would.granted_minor >= higher.was.granted_minor
    finally:
        desk.close()


def test_a_comparison_that_forgets_refusals_is_seen(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Control: when nobody who was refused asks again, a higher quota would gain nobody."""
    campaign = spring(desk)
    monkeypatch.setattr(whatif.Imagining, "_ask_refused", lambda *_: None)
    assert imagined(desk, campaign, quota="3").gained == []
