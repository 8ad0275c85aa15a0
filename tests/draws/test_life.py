"""The life of a public draw, in any order: a state machine on real PostgreSQL.

Goal: whatever people, operators, holders and the beacon do, and in whatever order, an identity and
a telephone are in the list once, the list and the seed decide, seats are claimed once and in time,
and the money is there.
Method: Hypothesis mixes entries, withdrawals, voidings, pauses, holders that are cut off after any
step, a beacon that is silent or contradicts itself, claims and closes, while time goes on. A model
of a few dictionaries says what each answer must be; at the end the book is verified and the draw
recomputed by the stand-alone verifier's functions. Rules that are taken away must be seen.
"""

from __future__ import annotations

import itertools
import tempfile
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.errors import Flaky
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

from api.publicdraws import DrawHolder
from api.upkeep import Troubled
from campaigns import commands as c
from campaigns.draws import holding, registering, verify_draw, winning
from campaigns.draws.announcing import announced, facts_of
from campaigns.draws.beacon import Beacon, BeaconDoubled
from campaigns.draws.draw import DrawDrawn, DrawFrozen
from campaigns.draws.entry import DrawEntered, DrawWon, entry_id
from campaigns.draws.registering import EnterDraw, VoidEntry, WithdrawEntry
from campaigns.draws.terms import Chain
from campaigns.draws.winning import ClaimWin
from campaigns.event_types import MAPPER
from campaigns.packets.terms import Tier
from campaigns.verification import verify
from ledger.datastore import Datastore
from ledger.history import History
from tests.draws.stories import CLOSES, DEADLINE, DRAWN_AT, packets, phone, signed
from tests.support.desk import ALICE, DRAW_KEY, NOON, Desk, person, tourist
from tests.support.figures import Figures, check_figures

TERMS = packets(Tier(80_000, 1), Tier(20_000, 1), runners_up=2)
PEOPLE, PHONES = st.integers(1, 6), st.integers(1, 6)
LATE = CLOSES + timedelta(minutes=2)
"""From then on nobody tries to register any more: it was refused often enough."""

_books = (f"life{n}" for n in itertools.count())


class Fickle:
    """A beacon that is silent, speaks, or has two values, as the machine says."""

    def __init__(self) -> None:
        self.mood = "silent"

    def value(self, _chain: Chain, number: int) -> Beacon | None:
        """What it says of a round now."""
        if self.mood == "doubled":
            raise BeaconDoubled(number)
        return Beacon(number, b"s" * 48) if self.mood == "speaks" else None


class PublicDraws(RuleBasedStateMachine):
    """One public draw and everybody around it."""

    datastore: Datastore

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.desk = Desk(self.datastore, next(_books))
        self.now = NOON
        self.beacon = Fickle()
        self.state = "open"
        self.pauses = 0
        self.entries: dict[int, tuple[int, str]] = {}
        """Person → telephone and state."""
        self.phones: dict[int, int] = {}
        self.claimed: set[int] = set()

    @initialize(people=st.sampled_from([0, 3, 4, 5]), mood=st.sampled_from(["silent", "speaks"]))
    def open(self, people: int, mood: str) -> None:
        """Draft, fund and open; the first people register at once."""
        draw = TERMS.public_draw
        self.campaign = self.desk.opened(draw.winners, TERMS, draw.worth_minor)
        self.beacon.mood = mood
        for who in range(1, people + 1):
            self.enter(who, who)

    def teardown(self) -> None:
        """Verify the book and recompute the draw."""
        try:
            if hasattr(self, "campaign"):
                self.check()
        finally:
            self.desk.close()
            self.folder.cleanup()

    # --- what happens -------------------------------------------------------------------------

    @precondition(lambda self: self.now < LATE)
    @rule(who=PEOPLE, number=PHONES)
    def enter(self, who: int, number: int) -> None:
        """An entry is in the list, or refused for the first reason that applies."""
        command = EnterDraw(
            self.desk.book, self.campaign, person(who), phone(number), None, None, sign=signed
        )
        answer = self.desk.send(command, tourist(person(who)), at=self.now)
        state = self.entries.get(who, (0, "none"))[1]
        if self.state != "open":
            assert answer.code == "not_open"
        elif self.now >= CLOSES:
            assert answer.code == "registration_over"
        elif state in {"registered", "voided"} or number in self.phones:
            assert answer.code == "entry_void"
        else:
            assert answer.code == "registered"
            self.entries[who] = (number, "registered")
            self.phones[number] = who

    @precondition(lambda self: self.now < LATE)
    @rule(who=PEOPLE)
    def withdraw(self, who: int) -> None:
        """Whoever is in the list may leave it while the registration lasts."""
        command = WithdrawEntry(self.desk.book, self.campaign, entry_id(self.campaign, person(who)))
        answer = self.desk.send(command, tourist(person(who)), at=self.now)
        number, state = self.entries.get(who, (0, "none"))
        if self._may_leave(answer.code, state):
            self.entries[who] = (number, "withdrawn")
            del self.phones[number]

    @precondition(lambda self: self.now < LATE)
    @rule(who=PEOPLE)
    def void(self, who: int) -> None:
        """An operator voids an entry; its telephone stays taken."""
        entry = entry_id(self.campaign, person(who))
        command = VoidEntry(self.desk.book, self.campaign, entry, "fraud")
        answer = self.desk.send(command, ALICE, at=self.now)
        number, state = self.entries.get(who, (0, "none"))
        if self._may_leave(answer.code, state):
            self.entries[who] = (number, "voided")

    def _may_leave(self, code: str, state: str) -> bool:
        if self.state == "closed":
            assert code == "not_open"
        elif self.now >= CLOSES:
            assert code == "registration_over"
        elif state == "none":
            assert code == "not_found"
        elif state != "registered":
            assert code == "not_registered"
        else:
            assert code in {"withdrawn", "entry_voided"}
            return True
        return False

    @rule(steps=st.sampled_from([0, 1, 2, 3, 9, 9]))
    def hold(self, steps: int) -> None:
        """A holder starts, takes some steps, and is cut off."""
        holder = DrawHolder(
            self.datastore,
            self.desk.writer,
            lambda: DRAW_KEY,
            self.beacon,
            Path(self.folder.name),
            batch=1,
        )
        before = len(self.happened(DrawDrawn))
        taken = holder.steps(self.now)
        try:
            for _ in itertools.islice(taken, steps):
                pass
        except Troubled:
            assert self.beacon.mood == "doubled"
        taken.close()
        if self.beacon.mood != "speaks" or self.now < DRAWN_AT:
            assert len(self.happened(DrawDrawn)) == before, "a draw waits for the beacon"

    @rule(mood=st.sampled_from(["silent", "speaks", "speaks", "speaks", "doubled"]))
    def say(self, mood: str) -> None:
        """The beacon changes its mind."""
        self.beacon.mood = mood

    @precondition(lambda self: self.now >= DRAWN_AT)
    @rule(who=PEOPLE, of_winners=st.sampled_from([True, True, False]))
    def claim(self, who: int, of_winners: bool) -> None:
        """A seat is claimed once, by its person, before its deadline."""
        seats = self.happened(DrawWon)
        if of_winners and seats:
            who = person_number(seats[who % len(seats)].person)
        command = ClaimWin(self.desk.book, self.campaign, person(who))
        answer = self.desk.send(command, tourist(person(who)), at=self.now)
        won = {one.person: one for one in self.happened(DrawWon)}.get(person(who))
        if answer.code == "claimed":
            assert self.state == "open"
            assert won is not None
            assert self.now < won.claim_until
            assert who not in self.claimed
            self.claimed.add(who)
        elif self.state == "open" and won is not None and who not in self.claimed:
            assert self.now >= won.claim_until, "who won may claim"
            assert answer.code == "claim_deadline_passed"

    @rule(moment=st.sampled_from(["+1m", "on", "on", "on"]), steps=st.sampled_from([0, 1, 9, 9, 9]))
    def wait(self, moment: str, steps: int) -> None:
        """Time goes on, and never back; most often somebody holds the draw then."""
        instants = {
            "+1m": self.now + timedelta(minutes=1),
            "closes": CLOSES,
            "drawn": DRAWN_AT,
            "deadline": DEADLINE,
            "later": self.now + timedelta(minutes=50),
        }
        following = next(name for name, at in instants.items() if at > self.now and name != "+1m")
        self.now = instants[following if moment == "on" else moment]
        self.hold(steps)

    @precondition(lambda self: self.pauses < 3)
    @rule()
    def pause(self) -> None:
        """Pause, or resume what is paused."""
        self.pauses += self.state == "paused"
        step: Any = c.ResumeCampaign(self.desk.book, self.campaign)
        if self.state == "open":
            step = c.PauseCampaign(self.desk.book, self.campaign, "rain")
        if self.state != "closed":
            assert self.desk.send(step, ALICE, at=self.now).code in {"paused", "resumed"}
            self.state = "paused" if self.state == "open" else "open"

    @precondition(lambda self: self.now >= DRAWN_AT and self.state != "closed")
    @rule()
    def close(self) -> None:
        """Nothing that was drawn can be taken away before the winners had their time."""
        step = c.CloseCampaign(self.desk.book, self.campaign, "over")
        answer = self.desk.send(step, ALICE, at=self.now)
        if answer.code == "closed":
            for won in self.happened(DrawWon):
                in_time = person_number(won.person) in self.claimed or self.now >= won.claim_until
                assert in_time, "winners had their time"
            self.state = "closed"
        else:
            assert answer.code in {"winners_may_claim", "wrong_state"}

    # --- what must be so ----------------------------------------------------------------------

    def happened(self, kind: type[Any]) -> list[Any]:
        """The events of a kind, in order."""
        return [event for event in self.desk.events() if isinstance(event, kind)]

    def check(self) -> None:
        """The book is clean; the list has whom the model has; the draw is the recomputed one."""
        history = History(self.datastore, self.desk.book, MAPPER)
        standing = history.standing()
        found = verify(self.desk.book, history.entries(0, standing.last), standing)
        assert [str(one) for one in found] == []
        self.check_figures(check_figures(history.entries(0, standing.last)))
        frozen, drawn = self.happened(DrawFrozen), self.happened(DrawDrawn)
        assert len(frozen) <= 1
        assert len(drawn) <= 1
        entered = self.happened(DrawEntered)
        if frozen:
            assert frozen[0].entries == len(entered)
            in_list = sum(state == "registered" for _, state in self.entries.values())
            assert frozen[0].entries - frozen[0].withdrawn == in_list
        if drawn:
            self.check_draw(entered, drawn[0])

    def check_figures(self, found: dict[str, Figures]) -> None:
        """The figures summed to the funds at every position, and end as the model does."""
        one = found[str(self.campaign)]
        states = Counter(state for _, state in self.entries.values())
        in_list = one["registered"] - one["withdrawn"] - one["found_void"]
        assert (in_list, one["found_void"]) == (states["registered"], states["voided"])
        assert one["seats"] == len(self.happened(DrawWon))
        assert one["claimed"] == len(self.claimed)

    def check_draw(self, entered: list[DrawEntered], drawn: DrawDrawn) -> None:
        """Whoever has a seat has it by the ranks that anybody can compute."""
        holder = DrawHolder(
            self.datastore,
            self.desk.writer,
            lambda: DRAW_KEY,
            self.beacon,
            Path(self.folder.name),
        )
        known = holder.lists.known(self.campaign)
        assert known is not None
        assert known.draw.frozen is not None
        told = verify_draw.canonical(
            announced(self.desk.book, known.campaign, known.draw, facts_of(known.draw.frozen))
        )
        key = sha256(
            b"tidebook public draw 1\0"
            + sha256(told).digest()
            + bytes.fromhex(drawn.seed)
            + sha256(b"s" * 48).digest()
        ).digest()
        last = {event.person: event.index for event in entered}
        kept = {
            last[person(who)] for who, (_, state) in self.entries.items() if state == "registered"
        }
        gone = set(range(len(entered))) - kept
        ranks = verify_draw.drawn(key, len(entered), gone, 4)
        seats = self.happened(DrawWon)
        assert [one.index for one in sorted(seats, key=lambda won: won.rank)] == [
            ranks[one.rank] for one in sorted(seats, key=lambda won: won.rank)
        ]
        assert len({one.rank for one in seats}) == len({one.person for one in seats}) == len(seats)


def person_number(pseudonym: str) -> int:
    """Which person of these tests it is."""
    return int(pseudonym, 16)


@pytest.fixture
def machine(datastore: Datastore) -> type[PublicDraws]:
    """The machine on a fresh database; every run has a book of its own."""
    PublicDraws.datastore = datastore
    return PublicDraws


def run(machine: type[PublicDraws], examples: int, **more: Any) -> None:
    """Let the machine loose."""
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=30,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            **more,
        ),
    )


@pytest.mark.slow
def test_draws_are_right_whatever_happens(machine: type[PublicDraws]) -> None:
    """In any order: one list, one draw, the right seats, claimed once and in time."""
    run(machine, 30, phases=[Phase.explicit, Phase.generate])


def _plant_one_phone_for_all(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(registering, "telephone_id", lambda campaign, _: entry_id(campaign, "all"))


def _plant_registration_without_end(patch: pytest.MonkeyPatch) -> None:
    def always(self: Any, view: Any, *_states: str) -> Any:
        return self.known(view)

    patch.setattr(registering.DrawCommand, "registering", always)


def _plant_claims_without_deadline(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(winning, "ClaimWin", winning.ClaimWin)
    decide = winning.ClaimWin.decide

    def timeless(self: Any, view: Any, header: Any) -> Any:
        view = _Earlier(view)
        return decide(self, view, header)

    patch.setattr(winning.ClaimWin, "decide", timeless)


class _Earlier:
    """A view in which it is always noon."""

    def __init__(self, view: Any) -> None:
        self._view = view
        self.now = NOON

    def __getattr__(self, name: str) -> Any:
        return getattr(self._view, name)


def _plant_no_wait_for_the_beacon(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Fickle, "value", lambda _, __, number: Beacon(number, b"s" * 48))


def _plant_seats_for_anybody(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(holding, "verify_inclusion", lambda *_: True)
    patch.setattr(
        "api.publicdraws.ranked", lambda _, entries, gone, count: [*range(entries)][:count]
    )


def _plant_closes_at_any_time(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(c, "require_kept", lambda *_: None)


PLANTED = [
    _plant_one_phone_for_all,
    _plant_registration_without_end,
    _plant_claims_without_deadline,
    _plant_no_wait_for_the_beacon,
    _plant_seats_for_anybody,
    _plant_closes_at_any_time,
]


@pytest.mark.slow
@pytest.mark.parametrize("plant", PLANTED, ids=lambda plant: plant.__name__.removeprefix("_plant_"))
def test_a_planted_bug_of_a_draw_is_found(
    machine: type[PublicDraws],
    monkeypatch: pytest.MonkeyPatch,
    plant: Callable[[pytest.MonkeyPatch], None],
) -> None:
    """Control: the machine goes red on each rule that somebody forgot."""
    plant(monkeypatch)
    with pytest.raises((AssertionError, psycopg2.Error, Flaky)):
        run(
            machine,
            120,
            derandomize=True,
            database=None,
            report_multiple_bugs=False,
            phases=[Phase.generate],
        )
