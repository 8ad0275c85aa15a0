"""Waiting rooms and draws, held against what people were told: red on each forged one."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest.books import fold
from loadtest.chance import BOUNDS, chi_square, unevenness
from loadtest.fairplay import check_fairness
from loadtest.recording import Recording, Times
from loadtest.testimony import check_answers
from loadtest.visits import Answer, Who, claim_call, place_call
from tests.loadtest.histories import FACE, History, instant, lottery_terms
from tests.loadtest.test_testimony import PUBLIC, claim_body, public, refusal

PER_S = 5
OPENS_S = 10.0
RELEASED = "2026-05-01T02:00:00+00:00"
EARLY, LATE = 40, 8
CLAIMERS = 3
ROOM: dict[str, Any] = {
    "claim_from": instant(10),
    "claim_until": "2026-06-01T00:00:00Z",
    "intake": {"kind": "waiting_room", "rate_per_s": PER_S},
}


class Told(NamedTuple):
    """What somebody was told of his place: between which moments, and what."""

    who: str
    begin: float
    at: float
    state: str
    number: int | None
    wait_s: float
    asked: bool = True


def turn_of(number: int) -> float:
    """When a number comes to its turn."""
    return OPENS_S + max(0.0, (number - PER_S) / PER_S)


class Room:
    """A run with a waiting room: forty were early, eight late, and the first three claimed."""

    def __init__(self) -> None:
        self.history = History(**ROOM).funded(CLAIMERS, CLAIMERS * FACE)
        numbers = [*range(1, EARLY + 1)]
        random.Random(7).shuffle(numbers)
        numbers += range(EARLY + 1, EARLY + LATE + 1)
        self.numbers = {f"p{n}": number for n, number in enumerate(numbers)}
        self.told: list[Told] = []
        for n, (who, number) in enumerate(self.numbers.items()):
            turn = turn_of(number)
            if n < EARLY:
                came = n / 5
                self.told.append(Told(who, came, came + 0.1, "early", None, OPENS_S - came))
            look = 10.5 if n < EARLY else 12 + n / 10
            if turn > look + 1:
                wait = turn - look - 0.05
                self.told.append(Told(who, look, look + 0.05, "waiting", number, wait))
            self.told.append(Told(who, turn + 1, turn + 1.1, "turn", number, 0.0))
        self.claims: list[tuple[str, float, int]] = []
        for place, who in enumerate(sorted(self.numbers, key=self.numbers.__getitem__)[:CLAIMERS]):
            self.history.claimed(who, key=f"key {who}")
            self.claims.append((who, turn_of(self.numbers[who]) + 1.2, 5 + place))

    def whose(self, number: int) -> str:
        """Who has a number."""
        return next(who for who, other in self.numbers.items() if other == number)

    def change(self, who: str, state: str, **values: Any) -> None:
        """Forge what somebody was told."""
        at = next(n for n, one in enumerate(self.told) if (one.who, one.state) == (who, state))
        self.told[at] = self.told[at]._replace(**values)

    def renumber(self, numbers: Sequence[int]) -> None:
        """Forge everybody's numbers, in order of arrival, as if they had always been so."""
        now = dict(zip(self.numbers, numbers, strict=True))
        self.told = [one._replace(number=one.number and now[one.who]) for one in self.told]

    def broken(self) -> set[str]:
        """The rules that the check finds broken."""
        with Recording(None, new=True) as recording:
            for who, begin, position in self.claims:
                body = claim_body(who, position)
                answer = Answer(201, "", body, f"main:{position}")
                call = claim_call(Who(who, ""), PUBLIC, f"key {who}")
                recording.add(call, Times(begin, begin, begin + 0.1), answer)
            for one in sorted(self.told, key=lambda told: told.at):
                place = {"state": one.state, "number": one.number, "wait_s": one.wait_s}
                if one.state == "turn":
                    place["pass"] = "a pass"
                call = place_call(Who(one.who, ""), PUBLIC, "look")
                text = json.dumps(place).encode()
                if one.asked:
                    times = Times(one.begin, one.begin, one.at)
                    recording.add(call, times, Answer(200, "", text))
                else:
                    recording.saw(call, one.begin, one.at, text, asked=False)
            recording.flush()
            recording.note(campaigns=[PUBLIC], release_utc=RELEASED)
            books = fold(self.history.events, recording.shelf)
            check_answers(books, recording)
            check_fairness(books, recording)
            return {finding.rule for finding in books.findings}


def test_a_true_waiting_room_has_no_findings() -> None:
    """Places by lot, turns by the clock, claims with a pass."""
    assert Room().broken() == set()


def change_places(room: Room) -> None:
    """Somebody's number is another one later on."""
    room.change(room.whose(20), "turn", number=19)


def share_a_place(room: Room) -> None:
    """Two people are told the same number."""
    for state in ("waiting", "turn"):
        room.change(room.whose(20), state, number=21)


def first_come_first_served(room: Room) -> None:
    """Whoever came first before the opening stands first."""
    room.renumber(range(1, EARLY + LATE + 1))


def let_push_in(room: Room) -> None:
    """The last of all gets the place of somebody who was early."""
    numbers = list(room.numbers.values())
    at = numbers.index(12)
    numbers[at], numbers[-1] = numbers[-1], numbers[at]
    room.renumber(numbers)


def overtake(room: Room) -> None:
    """Of two who came after the opening the later one stands in front."""
    numbers = list(room.numbers.values())
    numbers[-2:] = numbers[-1], numbers[-2]
    room.renumber(numbers)


def call_up_out_of_turn(room: Room) -> None:
    """Number 40 has its turn while number 30 waits."""
    room.change(room.whose(40), "turn", begin=10.2, at=10.3)
    room.change(room.whose(30), "waiting", begin=11.0, at=11.1)


def let_in_too_fast(room: Room) -> None:
    """Number 30 has its turn four seconds early, and nobody who waits before it looks."""
    room.told = [one for one in room.told if one.state != "waiting"]
    room.change(room.whose(30), "turn", begin=10.8, at=10.9)


def estimate_too_little(room: Room) -> None:
    """Somebody is told a wait of a second and looks again after three, still waiting."""
    who = room.whose(40)
    room.change(who, "waiting", wait_s=1.0)
    turn = next(one for one in room.told if (one.who, one.state) == (who, "waiting"))
    room.told.append(turn._replace(begin=14.0, at=14.1, wait_s=turn_of(40) - 14.05))


def estimate_too_much(room: Room) -> None:
    """Somebody is told a wait of a minute and has his turn after seconds."""
    room.change(room.whose(40), "waiting", wait_s=60.0)


def open_late(room: Room) -> None:
    """Somebody early is told that claims begin in a minute."""
    room.change("p3", "early", wait_s=60.0)


def claim_before_the_turn(room: Room) -> None:
    """A claim succeeds that was sent before its sender was told that it is his turn."""
    who, begin, position = room.claims[0]
    room.claims[0] = (who, begin - 1.0, position)


def say_sold_out(room: Room) -> None:
    """The room says that nothing is left before anybody claimed."""
    room.told.append(Told("p45", 10.0, 10.1, "sold_out", None, 0.0))


@pytest.mark.parametrize(
    ("forge", "rule"),
    [
        (change_places, "a person keeps his place"),
        (share_a_place, "a place is one person's"),
        (first_come_first_served, "places before the opening are by lot"),
        (let_push_in, "who came early stands in front"),
        (overtake, "who comes later stands behind"),
        (call_up_out_of_turn, "turns come in the order of places"),
        (let_in_too_fast, "turns come no faster than the rate"),
        (estimate_too_little, "an estimate comes true"),
        (estimate_too_much, "an estimate comes true"),
        (open_late, "the opening is as it was told"),
        (claim_before_the_turn, "nobody claims before the turn"),
        (say_sold_out, "sold out is said when it is so"),
    ],
)
def test_a_forged_waiting_room_is_found(forge: Callable[[Room], None], rule: str) -> None:
    """Each forged room breaks the rule that it was forged against."""
    room = Room()
    forge(room)
    assert rule in room.broken()


def test_what_a_stream_brings_late_is_no_finding() -> None:
    """An event that was on its way for seconds says nothing about the moment when it came."""
    room = Room()
    late = next(one for one in room.told if one.state == "waiting")
    room.told.append(late._replace(at=late.at + 30, asked=False))
    assert room.broken() == set()


# --- lotteries ------------------------------------------------------------------------------------

PEOPLE = [f"p{n}" for n in range(40)]
INTAKE_S = 60


class Raffle:
    """A run with a lottery: forty entered, one after the other, and ten won."""

    def __init__(self, winners: int = 10) -> None:
        self.history = History(**lottery_terms(INTAKE_S)).lottery(winners, winners * FACE)
        self.calls: dict[str, tuple[str, float, Answer]] = {}
        for n, who in enumerate(PEOPLE):
            self.history.entered(who, key=f"key {who}")
            self.calls[who] = (f"key {who}", float(n), self.entry(who, 5 + n))
        self.history.campaign("intake_closed", places=winners)
        for who in self.history.drawn(PEOPLE, winners):
            self.history.claimed(who, drawn=True)

    def entry(self, who: str, position: int, **changes: Any) -> Answer:
        """The answer to an entry."""
        body = {
            "coupon": public(who),
            "campaign": PUBLIC,
            "state": "entered",
            "entered_at": instant(position),
            "draws_at": instant(INTAKE_S),
        }
        return Answer(202, "", json.dumps({**body, **changes}).encode(), f"main:{position}")

    def claim(self, who: str, key: str, begin: float, answer: Answer) -> None:
        """Keep a further call of somebody."""
        self.calls[f"{who} {key}"] = (key, begin, answer)

    def broken(self) -> set[str]:
        """The rules that the check finds broken."""
        with Recording(None, new=True) as recording:
            for name, (key, begin, answer) in self.calls.items():
                call = claim_call(Who(name.partition(" ")[0], ""), PUBLIC, key)
                recording.add(call, Times(begin, begin, begin + 0.5), answer)
            recording.flush()
            recording.note(campaigns=[PUBLIC], release_utc=RELEASED)
            books = fold(self.events(), recording.shelf)
            check_answers(books, recording)
            check_fairness(books, recording)
            return {finding.rule for finding in books.findings}

    def events(self) -> list[dict[str, Any]]:
        """The history, with its end after the intake."""
        events = self.history.events
        for event in events:
            if event["position"] > 4 + len(PEOPLE):
                event["state"]["at"] = instant(INTAKE_S + event["position"])
        return events


def test_a_true_lottery_has_no_findings() -> None:
    """Entries, a second try, a claim too late for the intake, and a winner who asks again."""
    raffle = Raffle()
    raffle.claim("p3", "again", 10.0, refusal("already_entered", 14, coupon=public("p3")))
    raffle.claim("late", "late", 61.0, refusal("draw_pending", 44))
    winner = raffle.history.events[-1]["state"]["person"]
    raffle.claim(winner, "more", 90.0, refusal("already_claimed", 56, coupon=public(winner)))
    assert raffle.broken() == set()


def misquote(raffle: Raffle) -> None:
    """The answer to an entry names another instant than the book."""
    raffle.calls["p3"] = ("key p3", 3.0, raffle.entry("p3", 8, entered_at=instant(9)))


def enter_after_the_end(raffle: Raffle) -> None:
    """Somebody is told to be in the draw, and his entry comes behind it."""
    raffle.history.entered("x", key="key x")
    position = len(raffle.history.events)
    raffle.calls["x"] = ("key x", 70.0, raffle.entry("x", position))


def forget_an_entry(raffle: Raffle) -> None:
    """Somebody is told to be in the draw, and the book knows nothing."""
    raffle.calls["y"] = ("key y", 5.0, raffle.entry("y", 9))


def refuse_a_stranger(raffle: Raffle) -> None:
    """Somebody who never entered is told that he has."""
    raffle.claim("y", "key y", 10.0, refusal("already_entered", 14, coupon=public("p3")))


def say_pending_too_early(raffle: Raffle) -> None:
    """In the middle of the intake somebody is told to wait for the draw."""
    raffle.claim("y", "key y", 10.0, refusal("draw_pending", 14))


def say_pending_too_late(raffle: Raffle) -> None:
    """When each winner has the coupon somebody is told to wait for the draw."""
    raffle.claim("y", "key y", 200.0, refusal("draw_pending", 56))


def enter_for_two(raffle: Raffle) -> None:
    """Two people's entries were asked for by one identity."""
    raffle.calls["p3 too"] = raffle.calls.pop("p4")


@pytest.mark.parametrize(
    ("forge", "rule"),
    [
        (misquote, "an answer says what is stored"),
        (enter_after_the_end, "what was entered is in the draw"),
        (forget_an_entry, "what was answered is stored"),
        (refuse_a_stranger, "already entered is said when it is so"),
        (say_pending_too_early, "draw pending is said when it is so"),
        (say_pending_too_late, "a refusal names a position at which it was so"),
        (enter_for_two, "one entry an identity"),
    ],
)
def test_a_forged_lottery_is_found(forge: Callable[[Raffle], None], rule: str) -> None:
    """Each forged answer breaks the rule that it was forged against."""
    raffle = Raffle()
    forge(raffle)
    assert rule in raffle.broken()


def test_a_draw_in_order_of_arrival_is_found() -> None:
    """Those who won are the first who came: by chance that happens once in a million runs."""
    raffle = Raffle(20)
    won = {event["state"]["person"] for event in raffle.history.events if _is_win(event)}
    arrived = sorted(PEOPLE, key=lambda who: who not in won)
    for n, who in enumerate(arrived):
        key, _, answer = raffle.calls[who]
        raffle.calls[who] = (key, float(n), answer)
    assert "an early entry wins no more often" in raffle.broken()


def _is_win(event: dict[str, Any]) -> bool:
    return bool(event["state"].get("drawn"))


# --- chance ---------------------------------------------------------------------------------------


@given(st.integers(0, 2**32), st.integers(20, 300))
def test_blind_luck_passes(seed: int, people: int) -> None:
    """Random order is called uneven so rarely that nobody sees it, whatever the number."""
    luck = [float(n) for n in range(people)]
    random.Random(f"luck {seed}").shuffle(luck)
    found = unevenness(luck)
    assert found is not None
    assert found[0] <= found[1]


@pytest.mark.parametrize("people", [24, 45, 80, 1000])
def test_an_order_is_found(people: int) -> None:
    """First come first served is found, and last come first served too."""
    for luck in (range(people), range(people, 0, -1)):
        found = unevenness([float(n) for n in luck])
        assert found is not None
        assert found[0] > found[1]


@pytest.mark.parametrize("luck", [[], [1.0] * 100, [1.0, 2.0] * 3])
def test_too_few_people_say_nothing(luck: list[float]) -> None:
    """Nobody, all the same, or a handful."""
    assert unevenness(luck) is None


def test_chi_square_is_that_of_the_textbook() -> None:
    """A table of two by two: n (ad - bc)² over the product of the sums."""
    rows = [0] * 30 + [1] * 20
    columns = [0] * 10 + [1] * 20 + [0] * 15 + [1] * 5
    expected = 50 * (10 * 5 - 20 * 15) ** 2 / (30 * 20 * 25 * 25)
    assert chi_square(rows, columns) == pytest.approx(expected)
    assert sorted(BOUNDS.values()) == list(BOUNDS.values())
