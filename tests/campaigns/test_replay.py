"""Replay: any past position of a book, of a coupon, of a campaign, of a person.

Goal: the fast way to one thing agrees with the fold of everything, at every position.
Method: Hypothesis makes histories out of commands, refused ones included; what replay tells is
compared at every position with a fold of the stored events that knows no shortcut.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import NamedTuple
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from campaigns import commands as c
from campaigns.accounting import postings_of
from campaigns.campaign import CAMPAIGN_FOLD, Campaign
from campaigns.coupon import COUPON_FOLD, Coupon, CouponClaimed, coupon_id
from campaigns.event_types import MAPPER
from campaigns.replay import (
    ACCOUNT_KINDS,
    campaign_life,
    coupon_life,
    fold_book,
    holdings_of,
)
from campaigns.verification import verify
from ledger.datastore import Datastore
from ledger.events import Actor, Event
from ledger.history import History, PositionGap
from ledger.money import Money
from ledger.postings import TrialBalance
from tests.support.damage import damaged
from tests.support.desk import ALICE, NOON, Desk, person, terms_of, tourist
from tests.support.story import BAR, CAFE, SWEEPER, Story, tell

_books = (f"replay{n}" for n in itertools.count())
PERSONS = [person(n) for n in range(3)]


class Plain(NamedTuple):
    """Everything that a list of events says, folded without any shortcut."""

    campaigns: dict[UUID, Campaign]
    coupons: dict[UUID, Coupon]
    claims: list[UUID]
    trial: TrialBalance


def plain(events: list[Event]) -> Plain:
    """Fold events the slow and obvious way."""
    told = Plain({}, {}, [], TrialBalance())
    for event in events:
        stream = event.originator_id
        if event.TOPIC.startswith("campaign."):
            told.campaigns[stream] = CAMPAIGN_FOLD.evolve(told.campaigns.get(stream), event)
        else:
            told.coupons[stream] = COUPON_FOLD.evolve(told.coupons.get(stream), event)
        if isinstance(event, CouponClaimed):
            told.claims.append(stream)
        told.trial.post(postings_of(event))
    return told


def compare(history: History, events: list[Event], until: int) -> None:
    """Compare replay at a position with the plain fold of the events up to it."""
    told = plain(events[:until])
    book = fold_book(history.events(until))
    assert book.position == until
    assert {key: at.campaign for key, at in book.campaigns.items()} == told.campaigns
    states = Counter(coupon.state for coupon in told.coupons.values())
    assert {s: getattr(book.coupons, s) for s in states} == states
    assert book.coupons.claimed == len(told.coupons)
    for campaign, at in book.campaigns.items():
        own = Counter(x.state for x in told.coupons.values() if x.campaign == campaign)
        assert {s: getattr(at.coupons, s) for s in own} == own
        assert at.coupons.claimed == own.total()
    for money in book.money():
        assert money.sum_minor == 0
        for kind in ACCOUNT_KINDS:
            balance = getattr(money, f"{kind}_minor")
            assert balance == told.trial.total(kind, money.currency)
    for campaign, state in told.campaigns.items():
        assert campaign_life(history, campaign, until)[-1].state == state
    for coupon in {event.originator_id for event in events if isinstance(event, CouponClaimed)}:
        life = coupon_life(history, coupon, until)
        assert (life[-1].state if life else None) == told.coupons.get(coupon)
    for who in PERSONS:
        expected = [told.coupons[coupon] for coupon in told.claims]
        assert holdings_of(history, who, until) == [x for x in expected if x.person == who]


ACTS: dict[str, tuple[Callable[[Desk, UUID, str, int], c.Command], Actor | None]] = {
    "claim": (lambda d, campaign, who, n: c.ClaimCoupon(d.book, campaign, who), None),
    "redeem": (
        lambda d, campaign, who, n: c.RedeemCoupon(
            d.book, coupon_id(campaign, who, n), "cafe", None, "o", Money(900, "CNY")
        ),
        CAFE,
    ),
    "refund": (
        lambda d, campaign, who, n: c.RefundCoupon(
            d.book, coupon_id(campaign, who, n), "cafe", "o", "r"
        ),
        CAFE,
    ),
    "void": (
        lambda d, campaign, who, n: c.VoidCoupon(d.book, coupon_id(campaign, who, n), "r"),
        ALICE,
    ),
    "expire": (
        lambda d, campaign, who, n: c.ExpireCoupon(d.book, coupon_id(campaign, who, n)),
        SWEEPER,
    ),
    "pause": (lambda d, campaign, who, n: c.PauseCampaign(d.book, campaign, "r"), ALICE),
    "resume": (lambda d, campaign, who, n: c.ResumeCampaign(d.book, campaign), ALICE),
    "close": (lambda d, campaign, who, n: c.CloseCampaign(d.book, campaign, "r"), ALICE),
}

steps = st.tuples(
    st.sampled_from([*(["claim", "redeem", "refund"] * 4), *ACTS]),
    st.integers(0, 1),
    st.sampled_from(PERSONS),
    st.integers(1, 2),
    st.sampled_from([0, 0, 0, 1, 7, 30]),
)


@settings(
    max_examples=15,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(plan=st.lists(steps, min_size=5, max_size=25), data=st.data())
def test_every_history_replays_to_what_it_was(
    datastore: Datastore, plan: list[tuple[str, int, str, int, int]], data: st.DataObject
) -> None:
    """At any position, replay of one thing or of all is the plain fold; and it verifies."""
    desk = Desk(datastore, next(_books))
    try:
        campaigns = [
            desk.opened(quota=3, terms=terms_of(per_person_limit=2, restock=True), key="a"),
            desk.opened(quota=4, budget_minor=1_500, key="b"),
        ]
        now = NOON
        for act, which, who, n, hours in plan:
            now += timedelta(hours=hours)
            make, by = ACTS[act]
            command = make(desk, campaigns[which], who, n)
            desk.send(command, by or tourist(who), at=now)
    finally:
        desk.close()
    history = History(datastore, desk.book, MAPPER, page_events=8)
    events = desk.events()
    for until in data.draw(st.sets(st.integers(0, len(events)), min_size=3, max_size=4)):
        compare(history, events, until)
    compare(history, events, len(events))
    standing = history.standing()
    assert list(verify(desk.book, history.entries(), standing)) == []


@pytest.fixture
def desk(datastore: Datastore) -> Iterator[Desk]:
    """A desk on a fresh book."""
    desk = Desk(datastore)
    yield desk
    desk.close()


@pytest.fixture
def story(desk: Desk) -> Story:
    """A book in which everything happened."""
    return tell(desk)


@pytest.fixture
def history(datastore: Datastore, story: Story) -> History:
    """The story's book."""
    return History(datastore, "main", MAPPER)


def test_every_position_of_the_story(history: History, desk: Desk) -> None:
    """Every position replays, the empty one before the first event included."""
    events = desk.events()
    for until in range(len(events) + 1):
        compare(history, events, until)


def test_a_coupons_life_step_by_step(history: History, story: Story) -> None:
    """Each step has its state, its money and its place."""
    life = coupon_life(history, story.used, history.head())
    assert [(step.event.TOPIC, step.state.state) for step in life] == [
        ("coupon.claimed", "held"),
        ("coupon.redeemed", "redeemed"),
        ("coupon.refunded", "held"),
        ("coupon.redeemed", "redeemed"),
    ]
    assert [step.transfers[0].amount_minor for step in life] == [500] * 4
    assert life[-1].transfers[0].debit == "merchant:bar"
    assert life[-1].state.merchant == BAR.id
    assert [step.position for step in life] == sorted({step.position for step in life})


def test_nothing_was_there_before_it_happened(history: History, story: Story) -> None:
    """Before its claim a coupon has no life, and a stranger never has one."""
    first = coupon_life(history, story.used, history.head())[0].position
    assert coupon_life(history, story.used, first - 1) == []
    assert campaign_life(history, story.spring, 0) == []
    assert holdings_of(history, person(99), history.head()) == []


def test_a_lost_event_stops_the_replay(history: History, database_url: str) -> None:
    """A fold over a gap would be a wrong balance, so there is none."""
    with damaged(database_url) as damage:
        damage.run("DELETE FROM event WHERE position = 11")
    with pytest.raises(PositionGap, match="no position 11"):
        fold_book(history.events())
    assert fold_book(history.events(10)).position == 10
