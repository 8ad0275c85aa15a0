"""What was answered, held against the book: green on a true run, red on each forged one."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest.books import FOREVER, fold
from loadtest.feed import plain_id
from loadtest.recording import Recording, Times
from loadtest.testimony import bound_positions, check_answers
from loadtest.visits import (
    Amiss,
    Answer,
    Call,
    Who,
    claim_call,
    redemption_call,
)
from tests.loadtest.histories import CAMPAIGN, FACE, THRESHOLD, History, coupon, instant

PUBLIC = f"cmp_main_{CAMPAIGN.hex}"
VALID_UNTIL = "2027-05-01T00:00:00Z"


def money(amount_minor: int) -> dict[str, Any]:
    """An amount as the API writes it."""
    return {"amount_minor": amount_minor, "currency": "CNY"}


def public(person: str) -> str:
    """The public id of a person's coupon."""
    return f"cpn_main_{UUID(coupon(person)).hex}"


def claim_body(person: str, position: int, **changes: Any) -> bytes:
    """The answer to a claim whose event is at a position."""
    body = {
        "coupon": public(person),
        "campaign": PUBLIC,
        "n": 1,
        "state": "held",
        "face": money(FACE),
        "threshold": money(THRESHOLD),
        "valid_from": instant(0),
        "valid_until": VALID_UNTIL,
        "claimed_at": instant(position),
    }
    return json.dumps({**body, **changes}).encode()


def redemption_body(person: str, position: int) -> bytes:
    """The answer to a redemption whose event is at a position."""
    body = {
        "coupon": public(person),
        "campaign": PUBLIC,
        "merchant": "inn",
        "order": "A1",
        "discount": money(FACE),
        "redeemed_at": instant(position),
    }
    return json.dumps(body).encode()


def refusal(code: str, position: int, **facts: Any) -> Answer:
    """A 409."""
    body = json.dumps({"code": code, **facts}).encode()
    return Answer(409, code, body, f"main:{position}")


class Run:
    """A run of two coupons: who asked when, what each was told, and what the book says.

    Positions 5 and 6 are the claims of «a» and «b», 7 the redemption of «b»'s coupon; at 6 the
    campaign is sold out.
    """

    def __init__(self, *, restock: bool = False) -> None:
        self.history = History(restock=restock).funded(2, 2 * FACE)
        self.history.claimed("a", key="a1").claimed("b", key="b1").redeemed("b", key="t1")
        self.recording = Recording(None, new=True)
        self.calls: dict[str, tuple[Call, Times, Answer]] = {}
        self.claim("a", "a1", (0, 2), Answer(201, "", claim_body("a", 5), "main:5"))
        self.claim("b", "b1", (1, 3), Answer(201, "", claim_body("b", 6), "main:6"))
        self.claim("late", "c1", (2, 4), refusal("sold_out", 6), who="c")
        again = Answer(201, "", claim_body("a", 5), "main:5", replayed=True)
        self.claim("again", "a1", (5, 6), again, who="a")
        second = refusal("already_claimed", 6, coupon=public("a"))
        self.claim("second", "a2", (5, 6), second, who="a")
        self.claim("cut off", "d1", (5, 9), Answer(0, "no_answer"), who="d")
        self.redeem("t1", (6, 7), Answer(200, "", redemption_body("b", 7), "main:7"))
        self.redeem("t2", (8, 9), refusal("already_redeemed", 7))

    def add(self, name: str, call: Call, moments: tuple[float, float], answer: Answer) -> None:
        """Keep a call under a name, to be changed by that name."""
        begin, end = moments
        self.calls[name] = (call, Times(begin, begin, end), answer)

    def claim(
        self, name: str, key: str, moments: tuple[float, float], answer: Answer, who: str = ""
    ) -> None:
        """Keep a claim."""
        caller = Who(who or name, "token")
        self.add(name, claim_call(caller, PUBLIC, key), moments, answer)

    def redeem(self, key: str, moments: tuple[float, float], answer: Answer) -> None:
        """Keep a redemption of the coupon of «b»."""
        till = Who(f"till {key}", "token", kind="staff")
        call = redemption_call(till, public("b"), "A1", money(30_000), key)
        self.add(key, call, moments, answer)

    def change(self, name: str, **values: Any) -> None:
        """Forge the answer to a call."""
        call, times, answer = self.calls[name]
        self.calls[name] = (call, times, answer._replace(**values))

    def move(self, name: str, begin: float, end: float) -> None:
        """Forge the moments of a call."""
        call, _, answer = self.calls[name]
        self.calls[name] = (call, Times(begin, begin, end), answer)

    def broken(self) -> set[str]:
        """The rules that the check finds broken."""
        recording = self.recording
        for call, times, answer in self.calls.values():
            recording.add(call, times, answer)
        recording.flush()
        recording.note(campaigns=[PUBLIC], release_utc="2026-05-01T02:00:00+00:00")
        books = fold(self.history.events, recording.shelf)
        check_answers(books, recording)
        return {finding.rule for finding in books.findings}


def test_a_true_run_has_no_findings() -> None:
    """Successes, replays, refusals and a call without an answer, all as they must be."""
    assert Run().broken() == set()


def forget(run: Run) -> None:
    """Somebody is told 201, and the book knows nothing."""
    run.claim("e", "e1", (5, 6), Answer(201, "", claim_body("e", 9), "main:9"))


def misstate(run: Run) -> None:
    """The answer promises more than the book."""
    run.change("a", body=claim_body("a", 5, face=money(2 * FACE)))
    del run.calls["again"]


def misplace(run: Run) -> None:
    """The answer names another position."""
    run.change("a", position="main:6")


def do_twice(run: Run) -> None:
    """One key, two redemptions with a refund between."""
    run.history.refunded("b").redeemed("b", key="t1")


def tell_another(run: Run) -> None:
    """The replay is not what was told first."""
    run.change("again", body=b"{}")


def take_back(run: Run) -> None:
    """After a success the same key is refused."""
    run.change("again", **refusal("sold_out", 6)._asdict())


def refuse_yet_do(run: Run) -> None:
    """The claim is refused, and the coupon is in the book."""
    run.change("b", **refusal("sold_out", 6)._asdict())


def invent(run: Run) -> None:
    """A claim that nobody sent."""
    del run.calls["a"], run.calls["again"], run.calls["second"]


def refuse_too_early(run: Run) -> None:
    """Sold out is said before the last coupon was asked for."""
    run.move("late", -3, -1)
    run.change("late", position="")


def refuse_at_the_wrong_place(run: Run) -> None:
    """Sold out names a position at which there was one left."""
    run.change("late", position="main:5")


def refuse_a_stranger(run: Run) -> None:
    """Somebody without a coupon is told that he has one."""
    run.claim("f", "f1", (5, 6), refusal("already_claimed", 6, coupon=public("a")))


def name_anothers_coupon(run: Run) -> None:
    """The coupon that «a» is told to have is that of «b»."""
    run.change("second", body=json.dumps({"coupon": public("b")}).encode())


def refuse_before_it_was_claimed(run: Run) -> None:
    """«a» is told to have a coupon before he asked for it."""
    run.move("second", -3, -1)


def refuse_an_unspent_coupon(run: Run) -> None:
    """A till is told that a coupon is spent, before anybody spent it."""
    run.move("t2", 4, 5)
    run.change("t2", position="")


def answer_out_of_order(run: Run) -> None:
    """«b» is answered before «a» asks, and «a» comes first in the book."""
    run.move("a", 4, 5)
    run.move("b", 1, 3)


def be_two_persons(run: Run) -> None:
    """The coupon of «b» was asked for by the identity of «a»."""
    run.claim("b", "b1", (1, 3), Answer(201, "", claim_body("b", 6), "main:6"), who="a")


def share_a_person(run: Run) -> None:
    """One person's claim was sent by two identities."""
    run.claim("x", "a1", (5, 6), run.calls["again"][2])


def fail(run: Run) -> None:
    """A fault of the service's own."""
    run.change("cut off", status=500, code="internal_error")


def turn_away(run: Run) -> None:
    """A caller with a good token is not known."""
    run.claim("g", "g1", (5, 6), Answer(401, "unauthenticated"))


def complain(run: Run) -> None:
    """Somebody saw that an answer was wrong."""
    run.recording.amiss(1.0, run.calls["a"][0], Amiss("a wallet lacks a coupon").what)


@pytest.mark.parametrize(
    ("forge", "rule"),
    [
        (forget, "what was answered is stored"),
        (misstate, "an answer says what is stored"),
        (misplace, "an answer names its event's position"),
        (do_twice, "one key, one effect"),
        (tell_another, "a replay is what was told first"),
        (take_back, "what succeeded stays so"),
        (refuse_yet_do, "what was refused is not stored"),
        (invent, "what is stored was asked for"),
        (refuse_too_early, "sold out is said when it is so"),
        (refuse_at_the_wrong_place, "a refusal names a position at which it was so"),
        (refuse_a_stranger, "already claimed is said when it is so"),
        (name_anothers_coupon, "already claimed is said when it is so"),
        (refuse_before_it_was_claimed, "already claimed is said when it is so"),
        (refuse_an_unspent_coupon, "already redeemed is said when it is so"),
        (answer_out_of_order, "what was answered first comes first"),
        (be_two_persons, "an identity is one person"),
        (be_two_persons, "the limit per identity"),
        (share_a_person, "a person is one identity"),
        (fail, "every answer is as it must be"),
        (turn_away, "every answer is as it must be"),
        (complain, "every answer is as it must be"),
    ],
)
def test_a_forged_run_is_found(forge: Callable[[Run], None], rule: str) -> None:
    """Each forged answer breaks the rule that it was forged against."""
    run = Run()
    forge(run)
    assert rule in run.broken()


@pytest.mark.parametrize(
    "forge", [refuse_too_early, refuse_an_unspent_coupon, refuse_at_the_wrong_place]
)
def test_a_false_refusal_breaks_nothing_else(forge: Callable[[Run], None]) -> None:
    """The finding says what is wrong, not everything around it."""
    run = Run()
    forge(run)
    assert len(run.broken()) == 1


@pytest.mark.parametrize(
    ("code", "begin", "rule"),
    [
        ("not_open", 8, "not open is said when it is so"),
        ("budget_exhausted", -2, "budget exhausted is said when it is so"),
        ("limit_reached", 8, "limit reached is said when it is so"),
    ],
)
def test_each_refusal_of_a_claim_has_its_own_truth(code: str, begin: float, rule: str) -> None:
    """A campaign is open at the end, has money at the start, and «h» never has a coupon."""
    run = Run()
    run.claim("h", "h1", (begin, begin + 1), refusal(code, 7 if begin > 0 else 4))
    assert rule in run.broken()


@pytest.mark.parametrize("code", ["coupon_voided", "coupon_expired", "coupon_reclaimed"])
def test_a_coupon_that_goes_on_cannot_be_said_to_have_ended(code: str) -> None:
    """A till is told that a coupon has ended, and the book does not say so."""
    run = Run()
    run.redeem("t3", (8, 9), refusal(code, 7))
    assert run.broken() == {
        f"{code.removeprefix('coupon_')} is said when it is so",
        "a refusal names a position at which it was so",
    }


def test_a_coupon_that_ended_is_said_to_have_ended() -> None:
    """From the event on, that refusal is true."""
    run = Run()
    run.history.refunded("b").returned("expired", "b")
    run.redeem("t3", (20, 21), refusal("coupon_expired", 9))
    assert run.broken() == set()


def test_the_clock_alone_can_end_a_coupon() -> None:
    """After its validity a coupon is refused even before anybody wrote down that it ended."""
    year_s = 366 * 86_400
    run = Run()
    run.redeem("t3", (year_s, year_s + 1), refusal("coupon_expired", 7))
    assert run.broken() == set()


def test_sold_out_is_over_once_a_coupon_comes_back() -> None:
    """With restock, the end of a coupon frees one: whoever asks afterwards is not refused."""
    run = Run(restock=True)
    run.history.returned("voided", "a").claimed("i", key="i1")
    body = claim_body("i", 9)
    run.claim("i", "i1", (20, 30), Answer(201, "", body, "main:9"))
    run.claim("true", "j1", (7.5, 22), refusal("sold_out", 7))
    assert run.broken() == set()
    run = Run(restock=True)
    run.history.returned("voided", "a").redeemed("c", key="k1")
    run.claim("false", "j1", (40, 41), refusal("sold_out", 8))
    run.add(
        "head",
        Call("head", Who("auditor", ""), "GET", "/"),
        (30, 31),
        Answer(200, "", b"", "main:8"),
    )
    assert "sold out is said when it is so" in run.broken()


def test_a_call_without_an_answer_may_have_had_its_effect() -> None:
    """What is stored may come from a call whose outcome nobody knows."""
    run = Run()
    run.change("b", status=0, code="no_answer", body=b"", position="")
    assert run.broken() == set()


MOMENTS = st.integers(0, 30)


@st.composite
def timed_calls(draw: st.DrawFn) -> list[tuple[int, int, int, bool]]:
    """Calls with begin, end, a position or 0, and whether the position is of their own event."""
    count = draw(st.integers(1, 12))
    made = draw(st.permutations(range(1, count + 1)))
    calls = []
    for position in made:
        begin, length = draw(MOMENTS), draw(st.integers(1, 10))
        kind = draw(st.sampled_from(["made", "named", "none"]))
        calls.append((begin, begin + length, position if kind != "none" else 0, kind == "made"))
    return calls


@given(timed_calls())
def test_the_bounds_are_those_of_every_pair_of_calls(
    calls: list[tuple[int, int, int, bool]],
) -> None:
    """The sweep finds what comparing each call with each other finds."""
    with Recording(None, new=True) as recording:
        for number, (begin, end, position, made) in enumerate(calls):
            call = claim_call(Who(str(number), ""), PUBLIC, f"key {number}")
            status, code = (201, "") if made else (409, "sold_out")
            place = f"main:{position}" if position else ""
            recording.add(call, Times(begin, begin, end), Answer(status, code, b"", place))
        recording.flush()
        bound_positions(recording.shelf)
        found = recording.shelf.execute("SELECT low, high FROM call ORDER BY id").fetchall()
    expected = [
        (
            max([0, *(p for _, e, p, _ in calls if p and e <= begin)]),
            min([FOREVER, *(p - 1 for b, _, p, made in calls if p and made and b >= end)]),
        )
        for begin, end, _, _ in calls
    ]
    assert found == expected


def test_ids_of_calls_and_of_events_are_the_same_thing() -> None:
    """A call is about what the events call it."""
    assert claim_call(Who("a", ""), PUBLIC, "k").about == plain_id(str(CAMPAIGN))
