"""The worked example of docs/money.md, sent to a real book and compared cell by cell."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import NamedTuple
from uuid import UUID

import pytest

from campaigns import commands as c
from campaigns.accounting import postings_of
from campaigns.coupon import coupon_id
from campaigns.event_types import EVENT_TYPES
from ledger.datastore import Datastore
from ledger.events import Actor
from ledger.money import Money
from ledger.postings import TrialBalance
from tests.docs.pages import page
from tests.support.desk import ALICE, BOB, NOON, Desk, person, terms_of, tourist

MONEY = page("docs/money.md")
ACCOUNTS = ("sponsor", "campaign", "holder", "merchant")
BALANCES = MONEY.table("step", "events", *ACCOUNTS)
CAPACITY = MONEY.table("step", "issued", "quota", "granted_minor", "budget_minor")

LI, WANG, ZHAO = person(1), person(2), person(3)
MALL = Actor("merchant", "mall")
LATER = NOON + timedelta(days=3)
TERMS = terms_of(kind="threshold", face_minor=10_000, threshold_minor=100_000)


class Seen(NamedTuple):
    """What a step made: its events, the balances and the capacity after it."""

    topics: list[str]
    balances: list[int]
    capacity: list[int]


class Story:
    """The example's steps, by the words of the document."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.campaign = desk.drafted(TERMS)
        self.steps: dict[str, Callable[[], object]] = {
            "fund 3 for 30000": self.fund,
            "Li claims": lambda: self.claim(LI),
            "Wang claims": lambda: self.claim(WANG),
            "Li redeems": lambda: self.redeem("o-1"),
            "refund to Li": lambda: self.refund("o-1"),
            "Li redeems again": lambda: self.redeem("o-2"),
            "cut to 3 for 25000": lambda: desk.fund(self.campaign, 3, 25_000, (3, 30_000)),
            "Wang's coupon is voided": lambda: self.end(c.VoidCoupon, WANG, "fraud"),
            "Zhao claims": lambda: self.claim(ZHAO),
            "close": lambda: desk.send(
                c.CloseCampaign(desk.book, self.campaign, "the season is over"), ALICE
            ),
            "Zhao's coupon expires": lambda: self.end(c.ExpireCoupon, ZHAO, at=LATER),
            "late refund to Li": lambda: self.refund("o-2", at=LATER),
        }

    def fund(self) -> None:
        self.desk.fund(self.campaign, 3, 30_000)
        self.desk.send(c.OpenCampaign(self.desk.book, self.campaign), ALICE)

    def coupon(self, who: str) -> UUID:
        return coupon_id(self.campaign, who, 1)

    def claim(self, who: str) -> None:
        assert self.desk.send(c.ClaimCoupon(self.desk.book, self.campaign, who), tourist(who))

    def redeem(self, order: str) -> None:
        total = Money(128_000, "CNY")
        redeem = c.RedeemCoupon(self.desk.book, self.coupon(LI), "mall", None, order, total)
        assert self.desk.send(redeem, MALL).code == "redeemed"

    def refund(self, order: str, at: object = NOON) -> None:
        refund = c.RefundCoupon(self.desk.book, self.coupon(LI), "mall", order, "returned")
        assert self.desk.send(refund, MALL, at=at).code == "refunded"

    def end(self, command: type[c.CouponCommand], who: str, *why: str, at: object = NOON) -> None:
        answer = self.desk.send(command(self.desk.book, self.coupon(who), *why), BOB, at=at)
        assert answer.code in {"voided", "expired"}

    def seen_after(self, step: str) -> Seen:
        """Take a step; return what it made, as the document tells it."""
        before = len(self.desk.events())
        self.steps[step]()
        events = self.desk.events()
        trial = TrialBalance()
        for event in events:
            trial.post(postings_of(event))
        assert trial.is_zero
        assert not trial.overdrawn()
        told = ("campaign.funding_proposed", "campaign.opened")
        return Seen(
            [event.TOPIC for event in events[before:] if event.TOPIC not in told],
            [trial.total(kind, "CNY") for kind in ACCOUNTS],
            list(self.desk.capacity(self.campaign)),
        )


@pytest.fixture
def desk(datastore: Datastore) -> Iterator[Desk]:
    """A desk on a fresh book."""
    desk = Desk(datastore)
    yield desk
    desk.close()


def test_the_worked_example_is_what_happens(desk: Desk) -> None:
    """Every cell of both tables is what the book says after that step."""
    story = Story(desk)
    assert [row[0] for row in BALANCES] == [row[0] for row in CAPACITY] == list(story.steps)
    for (step, events, *balances), (_, *capacity) in zip(BALANCES, CAPACITY, strict=True):
        seen = story.seen_after(step)
        assert [word.strip("` ") for word in events.split(",")] == seen.topics, step
        assert [int(cell) for cell in balances] == seen.balances, step
        assert [int(cell) for cell in capacity] == seen.capacity, step


def test_every_row_of_the_example_sums_to_zero() -> None:
    """What the document prints is in balance by itself."""
    for step, _, *balances in BALANCES:
        assert sum(int(cell) for cell in balances) == 0, step


def test_every_event_that_moves_money_has_a_row() -> None:
    """The table of postings names each topic with money, and the others move none."""
    rows = MONEY.table("event", "money leaves", "and goes to", "amount")
    named = {word.strip("` ") for row in rows for word in row[0].split(",")}
    moved = {
        topic for row in BALANCES for topic in (word.strip("` ") for word in row[1].split(","))
    } - {"campaign.closed"}
    assert named == moved
    assert named < EVENT_TYPES.topics
