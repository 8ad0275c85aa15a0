"""The invariant check is red on every corrupted history and green on a true one."""

from __future__ import annotations

import ast
import copy
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from loadtest.invariants import Books, fold
from loadtest.testimony import SPANS
from tests.loadtest.histories import (
    CAMPAIGN,
    FACE,
    Event,
    History,
    coupon,
    day,
    lottery_terms,
)

HERE = Path(__file__).parent
LOADTEST = HERE.parents[1] / "loadtest"


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
        (change(5, currency="USD"), "money is conserved"),
        (change(17, amount_minor=1), "holders hold their coupons' worth"),
        (change(5, campaign=str(uuid4())), "campaigns are drafted first"),
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


ENTRANTS = "abcd"


def lottery() -> History:
    """Four enter, the two of lowest rank win, and a loser takes what comes back."""
    history = History(restock=True, **lottery_terms(9)).lottery(2, 2 * FACE)
    for person in ENTRANTS:
        history.entered(person)
    history.campaign("intake_closed", places=2)
    winners = history.drawn(ENTRANTS, 2)
    for person in winners:
        history.claimed(person, drawn=True)
    history.returned("voided", winners[0])
    [loser, _] = sorted(set(ENTRANTS) - set(winners))
    return history.claimed(loser)


def win_unduly(events: list[Event]) -> None:
    """The coupon of a winner goes to somebody who entered and lost."""
    winners = {event["stream"] for event in events[10:12]}
    loser = next(event for event in events[4:8] if event["stream"] not in winners)
    events[11]["stream"] = loser["stream"]
    events[11]["state"]["person"] = loser["state"]["person"]


def test_a_true_lottery_has_no_findings() -> None:
    """Entries take no stock; winners and, once something comes back, losers get coupons."""
    books = fold(lottery().events)
    assert books.findings == []
    assert {state: count for state, (count, _) in books.states().items()} == {
        "entered": 1,
        "held": 2,
        "voided": 1,
    }


@pytest.mark.parametrize(
    ("corrupt", "rule"),
    [
        (change(8, places=3), "a draw has as many places as coupons"),
        (change(9, seed="5f" * 32), "a draw shows the seed that it committed to"),
        (change(9, entrants=3), "a draw is among all who entered"),
        (change(9, entrants_sha256="00" * 32), "a draw is among all who entered"),
        (change(9, threshold="ff" * 32), "those of the lowest ranks win"),
        (change(9, winners=1), "no more win than were drawn"),
        (change(9, winners=3), "every winner gets a coupon"),
        (change(0, terms={**lottery().terms, **lottery_terms(7)}), "entries only in the intake"),
        (win_unduly, "only who drew a winning rank wins"),
        (swap(7), "entries only while open"),
    ],
)
def test_a_forged_lottery_is_found(corrupt: Callable[[list[Event]], None], rule: str) -> None:
    """Each forged draw breaks the rule that it was forged against."""
    events = copy.deepcopy(lottery().events)
    if rule == "entries only while open":
        events[8]["topic"] = "campaign.paused"
    corrupt(events)
    assert rule in rules(fold(events))


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
    assert rules(books) == {"figures equal the fold"}
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


def rules_in(file: str) -> set[str]:
    """Every rule that a module checks by a name of its own."""
    found: set[str] = set()
    for node in ast.walk(ast.parse((LOADTEST / file).read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.args:
            first = node.args[0]
            if node.func.attr in {"check", "find", "checked"} and isinstance(first, ast.Constant):
                found.add(str(first.value))
        elif isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "rule":
            found.add(ast.literal_eval(node.value))
    return found


def test_every_rule_is_turned_red_by_a_forged_history() -> None:
    """A rule that no test can break would be worth nothing."""
    forged = "".join(
        (HERE / name).read_text()
        for name in (
            Path(__file__).name,
            "test_chapters.py",
            "test_testimony.py",
            "test_fairplay.py",
        )
    )
    judges = ("books.py", "packets.py", "publicdraws.py", "testimony.py", "fairplay.py")
    rules = set[str]().union(*map(rules_in, judges), SPANS.values())
    assert len(rules) > 85
    spelled = {"coupon_voided", "coupon_expired", "coupon_reclaimed"}  # built from their codes
    rules -= {SPANS[code] for code in spelled}
    assert {rule for rule in rules if rule not in forged} == set()


def claims(people: int) -> Iterator[Event]:
    """A rush of so many people, each with a coupon, event by event."""
    yield from History().funded(people, people * FACE).events
    for number in range(people):
        claim = History().claimed(f"person {number}", key=f"key {number}").events[0]
        yield {**claim, "position": number + 5, "state": {**claim["state"], "at": "2026-06-01"}}


def test_a_long_book_takes_no_more_memory_than_a_short_one() -> None:
    """What grows with the events lies on the shelf, not in Python's memory."""
    peaks = []
    for people in (200, 200, 2_000):
        tracemalloc.start()
        books = fold(claims(people))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert books.findings == []
        assert books.coupon_count == people
    assert peaks[2] < peaks[1] + 200_000
