"""Lotteries on real PostgreSQL: entered, closed, drawn and given in any order and at once.

Goal: whoever is killed or races, a draw is held once, by the seed that was committed to, among
all who entered and nobody else, and each winner has exactly one coupon.
Method: draws are cut off after every step and run twice at once; a Hypothesis state machine mixes
entries, draws, pauses, closes and funding; the draw is recomputed here from the stored events
with nothing but hashes, and the verification of the book must agree.
"""

from __future__ import annotations

import hmac
import itertools
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from hashlib import sha256
from typing import Any
from uuid import UUID

import psycopg2
import pytest
from hypothesis import strategies as st
from hypothesis.errors import Flaky
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    invariant,
    rule,
)

from api.drawer import Drawer, Step, WrongDrawKey
from campaigns import commands as c
from campaigns import drawing, intake
from campaigns.campaign import (
    CAMPAIGN_FOLD,
    CampaignClosed,
    CampaignDrafted,
    CampaignDrawn,
    CampaignFunded,
    CampaignIntakeClosed,
    CampaignOpened,
    CampaignPaused,
    CampaignResumed,
    Intake,
)
from campaigns.coupon import CouponClaimed, CouponEntered, coupon_id
from campaigns.event_types import MAPPER
from campaigns.verification import verify
from ledger.books import Book
from ledger.commit import Read
from ledger.datastore import Datastore
from ledger.events import Event
from ledger.history import History
from ledger.money import Money
from projections.registry import PROJECTIONS
from projections.runner import Runner
from projections.verification import verify as verify_read_models
from tests.support.desk import ALICE, BOB, DRAW_KEY, NOON, Desk, person, terms_of, tourist
from tests.support.machines import given_stores, hunt, run

SECONDS = 30
LOTTERY = terms_of(claim_from=NOON, intake=Intake(kind="lottery", seconds=SECONDS))
EVENING = NOON + timedelta(hours=1)
_books = (f"lot{n}" for n in itertools.count())


def drawer_of(desk: Desk, key: bytes = DRAW_KEY, batch: int = 2) -> Drawer:
    """A runner of draws that works in tiny steps."""
    return Drawer(desk.datastore, desk.writer, lambda: key, batch=batch)


def draw_all(desk: Desk, key: bytes = DRAW_KEY) -> list[Step]:
    """Do everything that is due in the evening."""
    return list(drawer_of(desk, key).steps(EVENING))


def lottery(desk: Desk, quota: int, people: int, key: str = "draft") -> UUID:
    """Open a lottery and let people enter it."""
    campaign = desk.opened(quota, LOTTERY, key=key)
    for n in range(1, people + 1):
        assert desk.claim(campaign, person(n)).code == "entered"
    return campaign


def problems(desk: Desk) -> list[str]:
    """What the verification of the book finds."""
    history = History(desk.datastore, desk.book, MAPPER)
    standing = history.standing()
    found = verify(desk.book, history.entries(0, standing.last), standing)
    return [f"{one.code} {one.where}" for one in found]


def winners_by_hand(events: list[Event], campaign: UUID) -> set[UUID]:
    """The k entrants with the smallest hashes, by the seed that the draw key gives."""
    opened = next(
        e for e in events if isinstance(e, CampaignOpened) and e.originator_id == campaign
    )
    told = b"tidebook draw 1\0" + campaign.bytes + opened.originator_version.to_bytes(4, "big")
    seed = hmac.digest(DRAW_KEY, told, "sha256")
    places = next(
        e.places
        for e in events
        if isinstance(e, CampaignIntakeClosed) and e.originator_id == campaign
    )
    entered = [
        e.originator_id for e in events if isinstance(e, CouponEntered) and e.campaign == campaign
    ]
    entered.sort(key=lambda coupon: sha256(seed + coupon.bytes).digest())
    return set(entered[:places])


def given_in(events: list[Event], campaign: UUID) -> list[UUID]:
    """The coupons that the draw gave, in order."""
    return [
        e.originator_id
        for e in events
        if isinstance(e, CouponClaimed) and e.campaign == campaign and e.drawn is True
    ]


@pytest.fixture
def desk(datastore: Datastore) -> Iterator[Desk]:
    """A desk on a fresh book."""
    desk = Desk(datastore)
    yield desk
    desk.close()


# Drawing


def test_the_lowest_ranks_win(desk: Desk) -> None:
    """Five of twelve: exactly those whose hashes are smallest; the book is in order afterwards."""
    campaign = lottery(desk, 5, 12)
    assert [step.code for step in draw_all(desk)] == ["intake_closed", "drawn", *3 * ["given"]]
    events = desk.events()
    given = given_in(events, campaign)
    assert len(given) == 5
    assert set(given) == winners_by_hand(events, campaign)
    assert desk.capacity(campaign) == (5, 5, 2500, 2500)
    assert problems(desk) == []
    assert draw_all(desk) == []


def test_an_entry_is_answered_again_under_its_key(desk: Desk) -> None:
    """The same key gives the first bytes, before and after the draw; another one is refused."""
    campaign = desk.opened(1, LOTTERY)
    first = desk.claim(campaign, person(1), "mine")
    assert desk.claim(campaign, person(1), "mine") == first._replace(replayed=True)
    assert desk.claim(campaign, person(1), "other").code == "already_entered"
    draw_all(desk)
    assert desk.claim(campaign, person(1), "mine", at=EVENING) == first._replace(replayed=True)
    assert desk.claim(campaign, person(1), "third", at=EVENING).code == "already_claimed"


@pytest.mark.parametrize("done", range(6))
def test_a_draw_that_was_cut_off_goes_on(desk: Desk, datastore: Datastore, done: int) -> None:
    """Killed after any of its steps; another process with the same key finishes what is left."""
    campaign = lottery(desk, 5, 12)
    cut = drawer_of(desk).steps(EVENING)
    taken = list(itertools.islice(cut, done))
    cut.close()
    if 0 < done < 5:
        assert desk.claim(campaign, person(99), at=EVENING).code == "draw_pending"
    successor = Desk(datastore)
    taken += draw_all(successor)
    successor.close()
    assert sum(step.given for step in taken) == 5
    events = desk.events()
    assert sorted(given_in(events, campaign)) == sorted(winners_by_hand(events, campaign))
    assert problems(desk) == []


def test_two_runners_hold_one_draw(desk: Desk, datastore: Datastore) -> None:
    """Started at the same moment on two processes' writers: every step happens once."""
    campaign = lottery(desk, 20, 40)
    other = Desk(datastore)
    barrier = threading.Barrier(2)

    def run(one: Desk) -> list[Step]:
        barrier.wait()
        return draw_all(one)

    with ThreadPoolExecutor(2) as threads:
        steps = [step for taken in threads.map(run, (desk, other)) for step in taken]
    other.close()
    codes = Counter(step.code for step in steps)
    assert (codes["intake_closed"], codes["drawn"]) == (1, 1)
    assert sum(step.given for step in steps) == 20
    assert set(given_in(desk.events(), campaign)) == winners_by_hand(desk.events(), campaign)
    assert problems(desk) == []


def test_only_the_key_of_the_opening_can_draw(desk: Desk) -> None:
    """Nobody can choose another seed afterwards; with the right key the draw is still to be had."""
    campaign = lottery(desk, 2, 4)
    with pytest.raises(WrongDrawKey, match=f"cmp_main_{campaign.hex}"):
        draw_all(desk, b"another key of the same length..")
    assert [event.TOPIC for event in desk.events()[-1:]] == ["campaign.intake_closed"]
    assert sum(step.given for step in draw_all(desk)) == 2


def test_a_lottery_that_cannot_be_drawn_can_be_closed(desk: Desk) -> None:
    """With the key lost, the sponsor's money comes back by a close; nobody has won."""
    campaign = lottery(desk, 2, 4)
    with pytest.raises(WrongDrawKey):
        draw_all(desk, b"another key of the same length..")
    closed = desk.send(c.CloseCampaign(desk.book, campaign, "key lost"), ALICE, at=EVENING)
    assert closed.code == "closed"
    assert draw_all(desk) == []
    assert problems(desk) == []


def test_one_trouble_does_not_hold_up_the_others(desk: Desk) -> None:
    """A lottery opened with a lost key is named, after those that can be drawn were drawn."""
    lottery(desk, 1, 2, "one")
    campaign = desk.drafted(LOTTERY, "two")
    desk.fund(campaign, 1, 500)
    lost = c.OpenCampaign(desk.book, campaign, lambda: b"a key that nobody has any more..")
    assert desk.send(lost, ALICE).code == "opened"
    done: list[Step] = []
    with pytest.raises(WrongDrawKey):
        done.extend(drawer_of(desk).steps(EVENING))
    assert problems(desk) == []
    assert Counter(e.TOPIC for e in desk.events())["campaign.drawn"] == 1


def test_who_entered_is_not_forgotten_among_other_campaigns(desk: Desk) -> None:
    """Two lotteries at once, and claims of a third campaign in between."""
    ordinary = desk.opened(50, key="ordinary")
    one, two = desk.opened(3, LOTTERY, key="one"), desk.opened(4, LOTTERY, key="two")
    for n in range(1, 11):
        for campaign in (one, ordinary, two):
            desk.claim(campaign, person(n))
    draw_all(desk)
    events = desk.events()
    for campaign, places in ((one, 3), (two, 4)):
        assert len(given_in(events, campaign)) == places
        assert set(given_in(events, campaign)) == winners_by_hand(events, campaign)
    assert problems(desk) == []


# At once and in any order


class Lotteries(RuleBasedStateMachine):
    """People enter, operators pause and close, two runners draw; somebody may be killed."""

    datastore: Datastore
    owner: Datastore
    read_models_are_checked = True
    campaigns = Bundle("campaigns")

    def __init__(self) -> None:
        super().__init__()
        book = next(_books)
        self.desks = [Desk(self.datastore, book), Desk(self.datastore, book)]
        self.book: Book = self.desks[0].book
        self.runners = [Runner(self.datastore, p, book, "machine") for p in PROJECTIONS]
        self.now = NOON
        self.numbers = itertools.count()
        self.underway: dict[int, Iterator[Step]] = {}
        self.seen = 0
        self.truth: dict[UUID, Truth] = {}

    def teardown(self) -> None:
        """In the end the verification and the read models agree with what is stored."""
        assert problems(self.desks[0]) == []
        for desk in self.desks:
            desk.close()
        if not self.read_models_are_checked:
            return
        for runner in self.runners:
            while runner.run_once():
                pass
        assert verify_read_models(self.owner, books=[self.book]) == []

    @rule(target=campaigns, quota=st.integers(0, 4), short=st.booleans(), restock=st.booleans())
    def launch(self, quota: int, short: bool, restock: bool) -> UUID:
        """Open a lottery whose intake begins now."""
        return self.launched(quota, short, restock)

    def launched(self, quota: int, short: bool = False, restock: bool = False) -> UUID:
        """Draft, fund and open a lottery."""
        terms = terms_of(
            claim_from=self.now, intake=Intake(kind="lottery", seconds=SECONDS), restock=restock
        )
        budget = max(0, quota * 500 - short)
        return self.desks[0].opened(quota, terms, budget, f"launch{next(self.numbers)}")

    @rule(campaign=campaigns, people=st.lists(st.integers(1, 8), min_size=1, max_size=8))
    def press(self, campaign: UUID, people: list[int]) -> None:
        """Everybody presses «claim» at once, through two writers, some twice."""
        self.catch_up()
        before = self.truth[campaign]
        phase, entered = before.phase(self.now), set(before.entered)
        waiting = [
            self.desks[i % 2].submit(
                c.ClaimCoupon(self.book, campaign, person(n)),
                tourist(person(n)),
                f"k{next(self.numbers)}",
                at=self.now,
            )
            for i, n in enumerate(people)
        ]
        codes = Counter(future.result(20).code for future in waiting)
        self.catch_up()
        after = self.truth[campaign]
        assert codes["entered"] == len(after.entered) - len(entered), "answered as stored"
        if phase == "entering":
            assert set(codes) <= {"entered", "already_entered"}, "nobody waits, nobody is refused"
        elif phase == "pending":
            assert set(codes) <= {"draw_pending", "already_claimed"}, "nobody is before the draw"
        else:
            assert not codes["entered"], "no entry without an intake"

    @rule(
        target=campaigns, quota=st.integers(1, 3), people=st.integers(2, 8), steps=st.integers(0, 5)
    )
    def evening(self, quota: int, people: int, steps: int) -> UUID:
        """A lottery from its opening into its draw, as far as the runner comes."""
        campaign = self.launched(quota)
        self.press(campaign=campaign, people=list(range(1, people + 1)))
        self.now += timedelta(seconds=SECONDS)
        list(itertools.islice(drawer_of(self.desks[0]).steps(self.now), steps))
        return campaign

    @rule(seconds=st.sampled_from([1, 29, 3600]))
    def wait(self, seconds: int) -> None:
        """Let the time go on: into the intake, to its last moment, past it."""
        if self.now < NOON + timedelta(hours=6):
            self.now += timedelta(seconds=seconds)

    @rule(runner=st.integers(0, 1), steps=st.integers(1, 4))
    def draw(self, runner: int, steps: int) -> None:
        """One of the runners does some steps, and goes on from there the next time."""
        under_way = self.underway.pop(runner, None) or drawer_of(self.desks[runner]).steps(self.now)
        taken = list(itertools.islice(under_way, steps))
        if len(taken) == steps:
            self.underway[runner] = under_way

    @rule(runner=st.integers(0, 1))
    def kill(self, runner: int) -> None:
        """The runner is gone, wherever it was."""
        self.underway.pop(runner, None)

    @rule()
    def draw_at_once(self) -> None:
        """Both runners draw everything at the same moment."""
        with ThreadPoolExecutor(2) as threads:
            list(threads.map(lambda desk: list(drawer_of(desk).steps(self.now)), self.desks))

    @rule(
        campaign=campaigns,
        command=st.sampled_from([c.PauseCampaign, c.ResumeCampaign, c.VoidCoupon]),
    )
    def disturb(self, campaign: UUID, command: Any) -> None:
        """Pause it, resume it, or end one of its coupons, whatever goes on."""
        self.catch_up()
        if command is c.ResumeCampaign:
            self.desks[0].send(command(self.book, campaign), BOB, at=self.now)
        elif command is c.PauseCampaign:
            self.desks[0].send(command(self.book, campaign, "why"), BOB, at=self.now)
        else:
            for coupon in self.truth[campaign].holders[:1]:
                self.desks[0].send(command(self.book, coupon, "why"), BOB, at=self.now)

    @rule(campaign=campaigns, quota=st.integers(0, 6))
    def fund(self, campaign: UUID, quota: int) -> None:
        """Change stock and money, which a draw must not lose under its hands."""
        self.catch_up()
        one, money = self.truth[campaign], Money(quota * 500, "CNY")
        desk = self.desks[1]
        propose = c.ProposeFunding(self.book, campaign, quota, money, one.quota, one.budget)
        desk.send(propose, ALICE, f"p{next(self.numbers)}", at=self.now)
        approve = c.ApproveFunding(self.book, campaign, quota, money)
        answer = desk.send(approve, BOB, f"a{next(self.numbers)}", at=self.now)
        if one.promised():
            assert answer.code in {"draw_pending", "wrong_state"}, "what was promised stays there"

    @rule(campaign=consumes(campaigns))
    def close(self, campaign: UUID) -> None:
        """Closing ends a lottery before its draw, and waits for a draw that was held."""
        self.catch_up()
        one = self.truth[campaign]
        answer = self.desks[1].send(
            c.CloseCampaign(self.book, campaign, "over"), BOB, f"c{next(self.numbers)}", at=self.now
        )
        held = one.seed is not None and one.given != one.winners
        assert answer.code == ("draw_pending" if held else "closed")

    @rule()
    def project(self) -> None:
        """Let the read models follow a little."""
        if self.read_models_are_checked:
            self.runners[next(self.numbers) % len(self.runners)].run_once()

    @invariant()
    def draws_are_by_the_book(self) -> None:
        """Whatever was stored since the last look fits what was stored before it."""
        self.catch_up()

    def catch_up(self) -> None:
        """Fold what was stored since the last look, by rules of its own."""
        events = self.desks[0].events()
        for event in events[self.seen :]:
            if isinstance(event, CampaignDrafted):
                self.truth[event.originator_id] = Truth(event)
            else:
                campaign = getattr(event, "campaign", event.originator_id)
                self.truth[campaign].add(event)
        self.seen = len(events)


class Truth:
    """A lottery recomputed from its events, with nothing but hashes."""

    def __init__(self, drafted: CampaignDrafted) -> None:
        self.id = drafted.originator_id
        self.terms = drafted.terms
        self.state = "draft"
        self.quota = self.budget = 0
        self.commitment = ""
        self.entered: list[UUID] = []
        self.places: int | None = None
        self.seed: bytes | None = None
        self.winners: set[UUID] = set()
        self.given: set[UUID] = set()
        self.holders: list[UUID] = []

    def phase(self, now: Any) -> str:
        """What a claim is now."""
        terms = self.terms
        if self.state != "open" or not terms.claim_from <= now < terms.claim_until:
            return "shut"
        if self.seed is not None and self.given == self.winners:
            return "over"
        is_in_time = now < terms.claim_from + timedelta(seconds=SECONDS)
        return "entering" if is_in_time and self.places is None else "pending"

    def promised(self) -> bool:
        """Whether there are places that nobody may take away."""
        return self.places is not None and not (self.seed and self.given == self.winners)

    def add(self, event: Event) -> None:
        """Fold one more event and check what must hold of it."""
        match event:
            case CampaignFunded():
                assert not self.promised(), "stock and money stay as they are during a draw"
                self.quota, self.budget = event.quota, event.budget_minor
            case CampaignOpened(seed_commitment=str(commitment)):
                self.state, self.commitment = "open", commitment
            case CampaignResumed():
                self.state = "open"
            case CampaignPaused():
                self.state = "paused"
            case CampaignClosed():
                assert self.seed is None or self.given == self.winners, "a promise is kept"
                self.state, self.budget = "closed", 0
            case CouponEntered():
                assert self.phase(event.at) == "entering", "no entry outside the intake"
                assert event.originator_id == coupon_id(self.id, event.person, 1)
                assert event.originator_id not in self.entered, "one entry a person"
                self.entered.append(event.originator_id)
            case CampaignIntakeClosed() | CampaignDrawn() | CouponClaimed():
                self._drawn(event)
            case _:
                self.holders = [one for one in self.holders if one != event.originator_id]

    def _drawn(self, event: CampaignIntakeClosed | CampaignDrawn | CouponClaimed) -> None:
        assert self.state == "open", "a pause holds the draw"
        if isinstance(event, CampaignIntakeClosed):
            assert self.places is None
            assert event.at >= self.terms.claim_from + timedelta(seconds=SECONDS)
            self.places = min(self.quota, self.budget // 500)
            assert event.places == self.places, "as many as there are stock and money for"
        elif isinstance(event, CampaignDrawn):
            assert self.places is not None
            assert self.seed is None, "drawn once"
            self.seed = bytes.fromhex(event.seed)
            assert sha256(self.seed).hexdigest() == self.commitment, "the seed of the opening"
            seed = self.seed
            ranked = sorted(self.entered, key=lambda one: sha256(seed + one.bytes).digest())
            self.winners = set(ranked[: self.places])
            assert event.winners == len(self.winners)
        elif event.drawn is True:
            assert event.originator_id in self.winners - self.given, "a winner, once"
            self.given.add(event.originator_id)
            self.holders.append(event.originator_id)
        else:
            assert self.phase(event.at) == "over", "first come, first served after the draw"
            assert event.originator_id not in self.given
            self.holders.append(event.originator_id)


@pytest.fixture
def lotteries(datastore: Datastore, database_url: str) -> Iterator[type[Lotteries]]:
    """The machine on a fresh database; every run has a book of its own."""
    with given_stores(Lotteries, datastore, database_url):
        yield Lotteries


@pytest.mark.slow
def test_draws_are_right_whatever_happens(lotteries: type[Lotteries]) -> None:
    """In any order and at once: one draw, the right winners, a coupon each, nothing lost."""
    run(lotteries, 30, 30)


def _plant_entries_without_end(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(c, "phase_of", lambda _, draw, *__: "entering" if draw.seed is None else "over")


def _plant_first_come_before_the_draw(patch: pytest.MonkeyPatch) -> None:
    phase_of = intake.phase_of
    patch.setattr(
        c, "phase_of", lambda *all_: "over" if phase_of(*all_) == "pending" else phase_of(*all_)
    )


def _plant_early_birds_win(patch: pytest.MonkeyPatch) -> None:
    def hold(_seed: bytes, entrants: Any, places: int) -> intake.Drawing:
        ids = list(entrants)
        won = [UUID(bytes=one) for one in ids[:places]]
        right = intake.hold(_seed, ids, places)
        return right._replace(winners=won)

    patch.setattr("api.drawer.hold", hold)
    patch.setattr(drawing, "is_winner", lambda *_: True)


def _plant_an_entrant_is_overlooked(patch: pytest.MonkeyPatch) -> None:
    entrants = drawing.entrants
    patch.setattr("api.drawer.entrants", lambda *all_: itertools.islice(entrants(*all_), 1, None))


def _plant_any_seed_will_do(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(drawing, "commitment_of", lambda _: Anything())
    patch.setattr("api.drawer.commitment_of", lambda _: Anything())
    patch.setattr("api.drawer.seed_of", lambda *_: b"a seed that somebody liked......")


class Anything:
    """Equal to whatever it is compared with."""

    def __eq__(self, _other: object) -> bool:
        return True

    def __hash__(self) -> int:
        return 0


def _plant_funds_that_move_during_the_draw(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(c, "_require_drawn", lambda *_: None)


def _plant_too_many_places(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(drawing, "places_in", lambda free, _: free.quota)


def _plant_a_draw_through_a_pause(patch: pytest.MonkeyPatch) -> None:
    def lottery_whatever(view: Any, campaign: UUID) -> Any:
        known = view.state(Read(campaign, CAMPAIGN_FOLD, keep=True))
        return known, known.draw

    patch.setattr(drawing, "_lottery", lottery_whatever)
    patch.setattr(
        Drawer, "_lotteries", lambda _, standing: sorted({c for c, _ in standing.capacity})
    )


def _plant_gifts_not_counted(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(drawing, "DRAW_POOL", "all")


RED = (AssertionError, psycopg2.Error, Flaky)
"""How a run fails: a rule of the machine, of the writer or of the store. Who is drawn depends on
the book's name, so that a failing run need not fail again in the next one."""

PLANTED = [
    _plant_entries_without_end,
    _plant_first_come_before_the_draw,
    _plant_early_birds_win,
    _plant_an_entrant_is_overlooked,
    _plant_any_seed_will_do,
    _plant_funds_that_move_during_the_draw,
    _plant_too_many_places,
    _plant_a_draw_through_a_pause,
    _plant_gifts_not_counted,
]


@pytest.mark.slow
@pytest.mark.parametrize("plant", PLANTED, ids=lambda plant: plant.__name__.removeprefix("_plant_"))
def test_a_planted_bug_of_a_lottery_is_found(
    lotteries: type[Lotteries],
    monkeypatch: pytest.MonkeyPatch,
    plant: Callable[[pytest.MonkeyPatch], None],
) -> None:
    """Control: the machine goes red on each rule of the draw that somebody forgot."""
    plant(monkeypatch)
    monkeypatch.setattr(Lotteries, "read_models_are_checked", False)  # most of a run's time
    with pytest.raises(RED):
        hunt(lotteries, 100, 30)
