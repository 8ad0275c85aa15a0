"""The invariant check is red on every corrupted history and green on a true one."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any
from uuid import UUID, uuid4, uuid5

import pytest

from loadtest.invariants import Books, fold

Event = dict[str, Any]

CAMPAIGN = UUID(int=1)
FACE = 5_000


def coupon(person: str, n: int = 1) -> str:
    """The coupon's stream as the service derives it; any distinct text would do."""
    return str(uuid5(CAMPAIGN, f"{person}:{n}"))


class History:
    """A true history, written event by event."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self._versions: dict[str, int] = {}

    def add(self, topic: str, stream: str, **data: Any) -> History:
        """Append an event with its position, version and time."""
        version = self._versions[stream] = self._versions.get(stream, 0) + 1
        position = len(self.events) + 1
        self.events.append(
            {
                "position": position,
                "topic": topic,
                "stream": stream,
                "version": version,
                "state": {"at": f"2026-05-01T02:00:{position:02}Z", **data},
            }
        )
        return self

    def campaign(self, topic: str, **data: Any) -> History:
        """Append an event of the campaign."""
        return self.add(f"campaign.{topic}", str(CAMPAIGN), **data)

    def funded(self, quota: int, budget: int) -> History:
        """Draft, fund and open the campaign."""
        self.campaign("drafted", terms={"per_person_limit": 1, "restock": False})
        self.campaign("funding_proposed", quota=quota, budget_minor=budget)
        self.campaign(
            "funded",
            quota=quota,
            budget_minor=budget,
            quota_change=quota,
            budget_change_minor=budget,
            currency="CNY",
            sponsor="city",
        )
        return self.campaign("opened")

    def claimed(self, person: str, n: int = 1) -> History:
        """Append a claim."""
        return self.add(
            "coupon.claimed",
            coupon(person, n),
            campaign=str(CAMPAIGN),
            person=person,
            n=n,
            face_minor=FACE,
            threshold_minor=20_000,
            currency="CNY",
        )

    def of_coupon(self, topic: str, person: str, **data: Any) -> History:
        """Append a later event of a person's first coupon."""
        common = {"campaign": str(CAMPAIGN), "person": person, "currency": "CNY"}
        return self.add(f"coupon.{topic}", coupon(person), **common, **data)

    def redeemed(self, person: str, total: int = 30_000) -> History:
        """Append a redemption at the one merchant."""
        return self.of_coupon(
            "redeemed",
            person,
            merchant="inn",
            order="A1",
            order_total_minor=total,
            discount_minor=FACE,
        )

    def refunded(self, person: str, order: str = "A1") -> History:
        """Append the refund of that redemption."""
        return self.of_coupon("refunded", person, merchant="inn", order=order, amount_minor=FACE)

    def returned(self, topic: str, person: str, to: str = "campaign") -> History:
        """Append an expiry, a void or a reclaim."""
        return self.of_coupon(topic, person, amount_minor=FACE, to=to, sponsor="city")


def day() -> History:
    """A true history with every kind of event: claims, spending, refunds, ends and a close."""
    history = History().funded(10, 10 * FACE)
    for person in "abcdef":
        history.claimed(person)
    history.redeemed("a").redeemed("b").refunded("b").redeemed("c").refunded("c")
    history.campaign("paused").campaign("resumed")
    history.returned("voided", "c").returned("expired", "d")
    history.campaign("closed")
    history.campaign("budget_reclaimed", amount_minor=6 * FACE, currency="CNY", sponsor="city")
    return (
        history.returned("expired", "e", to="sponsor")
        .refunded("a")
        .returned("reclaimed", "a", to="sponsor")
    )


def rules(books: Books) -> set[str]:
    """The names of the rules that were found broken."""
    return {finding.rule for finding in books.findings}


def test_a_true_history_has_no_findings() -> None:
    """A day with every kind of event folds without a finding."""
    books = fold(day().events)
    assert books.findings == []
    assert books.position == len(day().events)
    assert set(books.states()) == {"held", "voided", "expired", "reclaimed"}


def drop(index: int) -> Callable[[list[Event]], None]:
    """A corruption that loses an event."""

    def corrupt(events: list[Event]) -> None:
        del events[index]

    return corrupt


def change(index: int, **values: Any) -> Callable[[list[Event]], None]:
    """A corruption that changes fields of an event."""

    def corrupt(events: list[Event]) -> None:
        for name, value in values.items():
            target = events[index] if name in events[index] else events[index]["state"]
            target[name] = value

    return corrupt


def swap(index: int) -> Callable[[list[Event]], None]:
    """A corruption that exchanges two neighbours but keeps the positions dense."""

    def corrupt(events: list[Event]) -> None:
        events[index], events[index + 1] = events[index + 1], events[index]
        for position, event in enumerate(events, 1):
            event["position"] = position

    return corrupt


@pytest.mark.parametrize(
    ("corrupt", "rule"),
    [
        (drop(5), "positions are dense"),
        (change(5, version=2), "versions are dense"),
        (swap(5), "time does not run back"),
        (change(3, topic="campaign.renamed"), "known events only"),
        (change(2, quota=5, quota_change=5), "issued ≤ quota"),
        (change(2, budget_minor=FACE, budget_change_minor=FACE), "granted ≤ budget"),
        (change(2, budget_change_minor=FACE), "funding adds up"),
        (change(5, person="a"), "the limit per person"),
        (change(5, n=2), "the limit per person"),
        (change(5, stream=coupon("a")), "a coupon is claimed once"),
        (change(10, discount_minor=FACE - 1), "a discount is the face value"),
        (change(10, order_total_minor=FACE), "an order reaches the threshold"),
        (change(12, amount_minor=FACE + 1), "a refund is what was redeemed"),
        (change(12, order="B9"), "a refund is for the order that was redeemed"),
        (change(17, amount_minor=1), "all of a coupon returns"),
        (change(17, person="f"), "a coupon keeps its holder and campaign"),
        (change(17, stream=str(uuid4())), "coupons are claimed first"),
        (change(20, amount_minor=FACE), "a close reclaims what is free"),
        (change(5, face_minor=100 * FACE), "nothing is negative"),
        (
            change(12, topic="coupon.expired", to="campaign", sponsor="city"),
            "coupon.expired only when ('held',)",
        ),
    ],
)
def test_a_corrupted_history_is_found(corrupt: Callable[[list[Event]], None], rule: str) -> None:
    """Each forged history breaks the rule that it was forged against."""
    events = copy.deepcopy(day().events)
    corrupt(events)
    assert rule in rules(fold(events))


def test_a_claim_outside_the_open_campaign_is_found() -> None:
    """Before opening, while paused and after closing nobody may have claimed."""
    for closing in ("paused", "closed"):
        history = History().funded(10, 10 * FACE).campaign(closing).claimed("a")
        assert rules(fold(history.events)) == {"claims only while open"}


def test_a_closed_campaign_that_opens_again_is_found() -> None:
    """Closed is final."""
    history = History().funded(10, 10 * FACE).campaign("closed").campaign("resumed")
    assert rules(fold(history.events)) == {"a closed campaign stays closed"}


def test_a_coupon_spent_twice_is_found() -> None:
    """A second redemption of one coupon, without a refund between, is found and counted."""
    history = History().funded(10, 10 * FACE).claimed("a").redeemed("a").redeemed("a")
    assert {"coupon.redeemed only when ('held',)", "nothing is negative"} <= rules(
        fold(history.events)
    )


def test_an_answer_that_is_not_stored_is_found() -> None:
    """A 2xx whose coupon is nowhere in the book is the worst of findings."""
    books = fold(History().funded(10, 10 * FACE).claimed("a").events)
    books.check_claim_answers(str(CAMPAIGN), [coupon("a")], unknown=0)
    assert books.findings == []
    books.check_claim_answers(str(CAMPAIGN), [coupon("a"), coupon("b")], unknown=0)
    assert rules(books) == {"what was answered is stored"}


def test_a_claim_that_nobody_asked_for_is_found_unless_an_outcome_is_unknown() -> None:
    """One more in the store than was answered needs one request without an answer."""
    books = fold(History().funded(10, 10 * FACE).claimed("a").claimed("b").events)
    books.check_claim_answers(str(CAMPAIGN), [coupon("a")], unknown=1)
    assert books.findings == []
    books.check_claim_answers(str(CAMPAIGN), [coupon("a")], unknown=0)
    assert rules(books) == {"what is stored was asked for"}


def test_one_coupon_answered_to_two_requests_is_found() -> None:
    """Distinct requests of distinct people cannot have got the same coupon."""
    books = fold(History().funded(10, 10 * FACE).claimed("a").events)
    books.check_claim_answers(str(CAMPAIGN), [coupon("a"), coupon("a")], unknown=0)
    assert rules(books) == {"one answer per claim"}


def test_a_false_sold_out_is_found() -> None:
    """Sold out may only be said when the stock was used up at some time."""
    books = fold(History().funded(2, 2 * FACE).claimed("a").events)
    books.check_claim_answers(str(CAMPAIGN), [coupon("a")], unknown=0, sold_out=3)
    assert rules(books) == {"sold out is said when it is so"}


def test_figures_that_differ_from_the_fold_are_found() -> None:
    """The service's counts and money of a campaign are compared with the fold."""
    history = History().funded(10, 10 * FACE).claimed("a").claimed("b").redeemed("b")
    coupons = {"claimed": 2, "held": 1, "redeemed": 1, "expired": 0, "voided": 0, "reclaimed": 0}
    money = {"pot": {"amount_minor": 8 * FACE}, "held": {"amount_minor": FACE}}
    books = fold(history.events)
    books.check_figures(CAMPAIGN.hex, {"quota": 10, "coupons": coupons, "money": money})
    assert books.findings == []
    wrong = coupons | {"held": 2}
    books.check_figures(CAMPAIGN.hex, {"quota": 10, "coupons": wrong, "money": money})
    assert [finding.detail for finding in books.findings] == ["held 2, folded 1"]


def test_a_merchants_balance_that_differs_from_the_fold_is_found() -> None:
    """What a merchant is owed is compared with what was redeemed and not refunded."""
    books = fold(History().funded(10, 10 * FACE).claimed("a").redeemed("a").events)
    books.check_merchant("inn", [{"balance": {"amount_minor": FACE, "currency": "CNY"}}])
    assert books.findings == []
    books.check_merchant("inn", [])
    assert rules(books) == {"a merchant's balance equals the fold"}


def test_the_ids_of_answers_and_of_events_are_the_same_thing() -> None:
    """A public id with its book and a plain UUID name the same coupon."""
    books = fold(History().funded(10, 10 * FACE).claimed("a").events)
    public = f"cpn_main_{UUID(coupon('a')).hex}"
    books.check_claim_answers(f"cmp_main_{CAMPAIGN.hex}", [public], unknown=0)
    assert books.findings == []
