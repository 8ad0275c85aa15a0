"""The whole life of campaigns and coupons, in any order and at once, on real PostgreSQL.

Goal: the invariants I1 to I7, I9, I11 and I12 hold after every step, whatever people do.
Method: a Hypothesis state machine sends commands through two writers of one book, as two
processes would, repeats requests, races them, moves the clock, and after each step recomputes
everything from the stored events alone.
"""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import msgspec
import psycopg2
import pytest
from hypothesis import strategies as st
from hypothesis.errors import FlakyFailure
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    invariant,
    multiple,
    precondition,
    rule,
)

from campaigns import accounting
from campaigns import commands as c
from campaigns.accounting import postings_of
from campaigns.campaign import (
    BudgetReclaimed,
    CampaignClosed,
    CampaignDrafted,
    CampaignFunded,
    CampaignOpened,
    CampaignPaused,
    CampaignResumed,
    Terms,
)
from campaigns.corrections.correction import CorrectionApproved, CorrectionProposed
from campaigns.coupon import (
    CouponClaimed,
    CouponExpired,
    CouponReclaimed,
    CouponRedeemed,
    CouponRefunded,
    CouponVoided,
    coupon_id,
)
from ledger import appending
from ledger.commit import Answer, KeyReused
from ledger.datastore import Datastore
from ledger.events import Actor, Event
from ledger.money import Money
from ledger.postings import TrialBalance
from projections.registry import PROJECTIONS
from projections.runner import Runner
from projections.verification import verify
from tests.support.desk import ALICE, BOB, NOON, SPONSOR, Desk, person, terms_of, tourist
from tests.support.machines import given_stores, hunt, run

SUCCESSES = {
    "drafted",
    "funding_proposed",
    "funded",
    "opened",
    "paused",
    "resumed",
    "closed",
    "claimed",
    "redeemed",
    "refunded",
    "voided",
    "expired",
    "correction_proposed",
    "corrected",
}
_books = (f"life{n}" for n in itertools.count())


@dataclass
class Pot:
    """A campaign recomputed from its events."""

    terms: Terms
    state: str = "draft"
    quota: int = 0
    budget: int = 0
    issued: int = 0
    granted: int = 0

    def takes_a_claim(self, now: Any) -> bool:
        """Whether stock, budget, state and window let somebody claim."""
        return (
            self.state == "open"
            and self.terms.claim_from <= now < self.terms.claim_until
            and self.issued < self.quota
            and self.granted + self.terms.face_minor <= self.budget
        )


@dataclass
class Truth:
    """What the stored events say, checked at every position while it is recomputed."""

    pots: dict[UUID, Pot] = field(default_factory=dict)
    coupons: dict[UUID, tuple[str, CouponClaimed]] = field(default_factory=dict)
    redeemed: dict[UUID, CouponRedeemed] = field(default_factory=dict)
    counted: dict[UUID, datetime] = field(default_factory=dict)
    proposed: dict[UUID, CorrectionProposed] = field(default_factory=dict)
    persons: Counter[tuple[UUID, str]] = field(default_factory=Counter)
    trial: TrialBalance = field(default_factory=TrialBalance)
    keys: defaultdict[tuple[str, str], list[int]] = field(default_factory=lambda: defaultdict(list))

    def add(self, position: int, event: Event) -> None:
        """Fold one more event and check what must hold from this position on."""
        if event.why.key is not None:
            self.keys[f"{event.by.role}:{event.by.id}", event.why.key].append(position)
        self.trial.post(postings_of(event))
        assert self.trial.is_zero, "I6: debits equal credits"
        assert not self.trial.overdrawn(), "I6: nothing is negative"
        if isinstance(event, CouponRedeemed):
            self.redeemed[event.originator_id] = event
        if isinstance(event, CouponClaimed):
            self._claimed(event)
        elif isinstance(event, CorrectionProposed | CorrectionApproved):
            self._corrected(event)
        elif event.originator_id in self.coupons:
            self._moved(event)
        else:
            self._campaign(event)
        for campaign, pot in self.pots.items():
            assert 0 <= pot.issued <= pot.quota, "I2: issued ≤ quota"
            assert 0 <= pot.granted <= pot.budget, "I2: granted ≤ budget"
            in_pot = self.trial.balance(f"campaign:{campaign.hex}", "CNY")
            assert in_pot == pot.budget - pot.granted, "I6: the pot holds what is not granted"
        assert self.trial.total("holder", "CNY") == self.face_of("held"), "I6: held is reserved"
        assert self.trial.total("merchant", "CNY") == self.face_of("redeemed"), "I6: spent is paid"

    def face_of(self, state: str) -> int:
        """The face value of all coupons in a state, in minor units."""
        return sum(claim.face_minor for now, claim in self.coupons.values() if now == state)

    def _campaign(self, event: Event) -> None:
        if isinstance(event, CampaignDrafted):
            self.pots[event.originator_id] = Pot(event.terms)
            return
        pot = self.pots[event.originator_id]
        match event:
            case CampaignFunded():
                pot.quota, pot.budget = event.quota, event.budget_minor
                pot.state = "funded" if pot.state == "draft" else pot.state
                assert event.proposed_by != event.by.id, "two people for money"
            case CampaignOpened() | CampaignResumed():
                pot.state = "open"
            case CampaignPaused():
                pot.state = "paused"
            case CampaignClosed():
                pot.state = "closed"
            case BudgetReclaimed():
                pot.budget -= event.amount_minor

    def _claimed(self, event: CouponClaimed) -> None:
        pot = self.pots[event.campaign]
        assert pot.takes_a_claim(event.at), "no claim outside an open campaign's stock and window"
        assert event.originator_id not in self.coupons, "I7: claimed once"
        self.persons[event.campaign, event.person] += 1
        count = self.persons[event.campaign, event.person]
        assert count == event.n <= pot.terms.per_person_limit, "I3: the limit"
        pot.issued += 1
        pot.granted += event.face_minor
        self.coupons[event.originator_id] = ("held", event)

    def _corrected(self, event: CorrectionProposed | CorrectionApproved) -> None:
        state, claim = self.coupons[event.holding]
        redemption, stream = self.redeemed[event.holding], event.originator_id
        assert state == "redeemed", "only a redemption that stands is corrected"
        assert (redemption.originator_version, redemption.at) == (
            event.holding_version,
            event.recorded_at,
        )
        assert max(claim.at, claim.valid_from) <= event.effective_at <= event.recorded_at
        assert event.counted_for == self.counted.get(stream, event.recorded_at)
        assert event.effective_at != event.counted_for
        if isinstance(event, CorrectionProposed):
            self.proposed[stream] = event
            return
        asked = self.proposed.pop(stream)
        assert (asked.by.id, asked.effective_at) == (event.proposed_by, event.effective_at)
        assert event.by.id != event.proposed_by, "two people for a day's figures"
        self.counted[stream] = event.effective_at

    def _moved(self, event: Event) -> None:
        state, claim = self.coupons[event.originator_id]
        before = {
            CouponRedeemed: "held",
            CouponRefunded: "redeemed",
            CouponReclaimed: "held",
            CouponExpired: "held",
            CouponVoided: "held",
        }[type(event)]
        assert state == before, f"I7: {event.TOPIC} of a {state} coupon"
        in_time = claim.valid_from <= event.at < claim.valid_until
        assert in_time or not isinstance(event, CouponRedeemed)
        assert not in_time or not isinstance(event, CouponExpired | CouponReclaimed)
        after = {CouponRedeemed: "redeemed", CouponRefunded: "held"}.get(type(event), "ended")
        self.coupons[event.originator_id] = (after, claim)
        if after == "ended":
            pot = self.pots[claim.campaign]
            pot.granted -= claim.face_minor
            pot.issued -= pot.terms.restock
            pot.budget -= claim.face_minor if pot.state == "closed" else 0


@dataclass(frozen=True)
class Sent:
    """A request that was answered, to be repeated."""

    command: c.Command
    by: Actor
    key: str
    answer: Answer


class Life(RuleBasedStateMachine):
    """People, operators, merchants and a sweeper at work on one book."""

    datastore: Datastore
    owner: Datastore
    read_models_are_checked = True
    campaigns = Bundle("campaigns")
    coupons = Bundle("coupons")
    sent = Bundle("sent")

    def __init__(self) -> None:
        super().__init__()
        book = next(_books)
        self.desks = [Desk(self.datastore, book), Desk(self.datastore, book)]
        self.book = self.desks[0].book
        self.runners = [Runner(self.datastore, p, book, "machine") for p in PROJECTIONS]
        self.now = NOON
        self.numbers = itertools.count()
        self.truth = Truth()
        self.claims: list[Sent] = []
        self.position = 0
        self.answered_position = 0

    def teardown(self) -> None:
        """I9: in the end every read model has applied every event exactly once."""
        for desk in self.desks:
            desk.close()
        if self.read_models_are_checked:
            for runner in self.runners:
                while runner.run_once():
                    pass
            assert verify(self.owner, books=[self.book]) == []

    # Sending

    def submit(
        self, command: c.Command, by: Actor, key: str | None = None, desk: int = 0
    ) -> tuple[str, Future[Answer]]:
        key = key or f"k{next(self.numbers)}"
        return key, self.desks[desk].submit(command, by, key, at=self.now)

    def send(self, command: c.Command, by: Actor) -> Sent:
        """Send one request alone: its effect, if any, comes after everything answered before."""
        key, future = self.submit(command, by)
        answer = future.result(20)
        self.catch_up()
        positions = self.truth.keys.get((f"{by.role}:{by.id}", key), [])
        if answer.code in SUCCESSES:
            assert positions, "I1: an effect that was answered is in the store"
            assert positions[0] > self.answered_position, "I11: order of answers"
            assert positions[-1] == answer.position
            self.answered_position = answer.position
        else:
            assert not positions, "I12: a refusal has surely not been done"
        return Sent(command, by, key, answer)

    def catch_up(self) -> None:
        """Fold what was stored since the last look."""
        for position, event in enumerate(self.desks[0].events(), 1):
            if position > self.position:
                self.truth.add(position, event)
                self.position = position

    # What people do

    @rule(
        target=campaigns,
        face=st.sampled_from([1, 500, 999]),
        limit=st.integers(1, 3),
        restock=st.booleans(),
        merchants=st.sampled_from([None, ["mall"], ["airport"]]),
    )
    def draft(self, face: int, limit: int, restock: bool, merchants: list[str] | None) -> UUID:
        terms = terms_of(
            face_minor=face, per_person_limit=limit, restock=restock, merchants=merchants
        )
        key = f"draft{next(self.numbers)}"
        campaign = c.campaign_id(self.book, ALICE, key)
        draft = c.DraftCampaign(self.book, campaign, "Any", SPONSOR, terms)
        _, future = self.submit(draft, ALICE, key)
        assert future.result(20).code == "drafted"
        return campaign

    @rule(target=campaigns, quota=st.integers(1, 4), limit=st.integers(1, 2), short=st.booleans())
    def launch(self, quota: int, limit: int, short: bool) -> UUID:
        """A campaign that opens at once, sometimes with money for less than its stock."""
        desk, terms = self.desks[0], terms_of(per_person_limit=limit, restock=quota % 2 == 0)
        budget = quota * 500 - (1 if short else 0)
        return desk.opened(quota, terms, budget, f"launch{next(self.numbers)}")

    @rule(
        target=sent,
        campaign=campaigns,
        quota=st.integers(0, 5),
        budget=st.integers(0, 2600),
        approver=st.sampled_from([ALICE, BOB]),
    )
    def refund_the_pot(self, campaign: UUID, quota: int, budget: int, approver: Actor) -> Any:
        """Propose other targets than today's and let somebody approve them."""
        self.catch_up()
        pot, money = self.truth.pots[campaign], Money(budget, "CNY")
        seen = (pot.quota, pot.budget)
        proposed = self.send(c.ProposeFunding(self.book, campaign, quota, money, *seen), ALICE)
        approved = self.send(c.ApproveFunding(self.book, campaign, quota, money), approver)
        if proposed.answer.code == "funding_proposed":
            expected = "self_approval" if approver == ALICE else "funded"
            assert approved.answer.code == expected
        return multiple(proposed, approved)

    @rule(target=sent, campaign=campaigns, step=st.sampled_from(["open", "pause", "resume"]))
    def step(self, campaign: UUID, step: str) -> Sent:
        command: c.Command = {
            "open": c.OpenCampaign(self.book, campaign),
            "pause": c.PauseCampaign(self.book, campaign, "why"),
            "resume": c.ResumeCampaign(self.book, campaign),
        }[step]
        return self.send(command, BOB)

    @rule(target=sent, campaign=consumes(campaigns))
    def close(self, campaign: UUID) -> Sent:
        return self.send(c.CloseCampaign(self.book, campaign, "over"), BOB)

    @rule(target=coupons, campaign=campaigns, n=st.integers(1, 4))
    def claim(self, campaign: UUID, n: int) -> Any:
        self.catch_up()
        pot = self.truth.pots[campaign]
        had = self.truth.persons[campaign, person(n)]
        deserves = pot.takes_a_claim(self.now) and had < pot.terms.per_person_limit
        sent = self.send(c.ClaimCoupon(self.book, campaign, person(n)), tourist(person(n)))
        assert (sent.answer.code == "claimed") == deserves, "no false refusal, no false success"
        self.claims.append(sent)
        return multiple(*self.coupons_of(campaign, person(n)))

    @rule(target=coupons, campaign=campaigns, people=st.lists(st.integers(1, 6), min_size=2))
    def rush(self, campaign: UUID, people: list[int]) -> Any:
        """Many claim at once through two writers, some of them twice."""
        self.catch_up()
        waiting = [
            self.submit(
                c.ClaimCoupon(self.book, campaign, person(n)), tourist(person(n)), None, i % 2
            )[1]
            for i, n in enumerate(people)
        ]
        codes = Counter(future.result(20).code for future in waiting)
        before = len(self.truth.coupons)
        self.catch_up()
        assert len(self.truth.coupons) - before == codes["claimed"], "I1 and I12"
        if codes["sold_out"]:
            pot = self.truth.pots[campaign]
            assert pot.issued == pot.quota, "sold out is only said when it is true"
        return multiple(*(x for n in set(people) for x in self.coupons_of(campaign, person(n))))

    def coupons_of(self, campaign: UUID, who: str) -> list[UUID]:
        """Every coupon that a person may have, claimed or not: what is drawn next is no race's."""
        limit = self.truth.pots[campaign].terms.per_person_limit
        return [coupon_id(campaign, who, n) for n in range(1, limit + 1)]

    def coupon_command(self, kind: str, coupon: UUID, order: str) -> tuple[c.Command, Actor]:
        mall = Actor("merchant", "mall")
        total = Money(1000, "CNY")
        commands: dict[str, tuple[c.Command, Actor]] = {
            "redeem": (c.RedeemCoupon(self.book, coupon, "mall", None, order, total), mall),
            "refund": (c.RefundCoupon(self.book, coupon, "mall", order, "returned"), mall),
            "void": (c.VoidCoupon(self.book, coupon, "fraud"), BOB),
            "expire": (c.ExpireCoupon(self.book, coupon), Actor("sweeper", "system")),
        }
        return commands[kind]

    @rule(
        target=sent,
        coupon=coupons,
        kind=st.sampled_from(["redeem", "redeem", "refund", "void", "expire"]),
        order=st.sampled_from(["o1", "o2"]),
    )
    def use(self, coupon: UUID, kind: str, order: str) -> Sent:
        return self.send(*self.coupon_command(kind, coupon, order))

    @rule(coupon=coupons, kinds=st.lists(st.sampled_from(["redeem", "refund", "void", "expire"])))
    def race(self, coupon: UUID, kinds: list[str]) -> None:
        """Redeem, refund, void and expire one coupon at once; each effect finds a legal state."""
        asked = [(*self.coupon_command(kind, coupon, "o1"), i % 2) for i, kind in enumerate(kinds)]
        waiting = [(by, *self.submit(command, by, None, desk)) for command, by, desk in asked]
        done = [(by, key, future.result(20)) for by, key, future in waiting]
        self.catch_up()
        for by, key, answer in done:
            stored = (f"{by.role}:{by.id}", key) in self.truth.keys
            assert stored == (answer.code in SUCCESSES), "I1 and I12"

    @rule(one=sent, desk=st.integers(0, 1))
    def repeat(self, one: Sent, desk: int) -> None:
        """The same request under the same key has no second effect and the same bytes."""
        self.send_again(one, desk)

    @precondition(lambda self: self.claims)
    @rule(which=st.integers(0, 20), desk=st.integers(0, 1))
    def repeat_a_claim(self, which: int, desk: int) -> None:
        """A claim is told again from its event, whatever became of the coupon since."""
        self.send_again(self.claims[which % len(self.claims)], desk)

    def send_again(self, one: Sent, desk: int) -> None:
        before = len(self.desks[0].events())
        _, future = self.submit(one.command, one.by, one.key, desk)
        again = future.result(20)
        assert again == one.answer._replace(replayed=True), "I4: byte-equal replies"
        assert len(self.desks[0].events()) == before, "I4: one effect"

    @rule(one=sent)
    def misuse(self, one: Sent) -> None:
        """The same key with another request is refused."""
        with pytest.raises(KeyReused):
            self.desks[0].send(one.command, one.by, one.key, at=self.now, fingerprint=b"other")

    @rule()
    def project(self) -> None:
        """Let the read models follow a little, so that they stand at different places."""
        if self.read_models_are_checked:
            self.runners[next(self.numbers) % len(self.runners)].run_once()

    @rule(hours=st.sampled_from([1, 12, 48]))
    def wait(self, hours: int) -> None:
        if self.now < NOON + timedelta(days=4):
            self.now += timedelta(hours=hours)

    # What must hold

    @invariant()
    def stored_capacity_is_what_the_events_say(self) -> None:
        """I5: nothing leaks: the capacity row is the fold of the events."""
        self.catch_up()
        for campaign, pot in self.truth.pots.items():
            if pot.quota or pot.budget or pot.issued:
                stored = self.desks[0].capacity(campaign)
                assert stored == (pot.issued, pot.quota, pot.granted, pot.budget)


@pytest.fixture
def life(datastore: Datastore, database_url: str) -> Iterator[type[Life]]:
    """The machine on a fresh database; every run has a book of its own."""
    with given_stores(Life, datastore, database_url):
        yield Life


@pytest.mark.slow
def test_the_invariants_hold_after_every_step(life: type[Life]) -> None:
    """Whatever people do, in whatever order and at once, the invariants hold."""
    run(life, 25, 25, shrinks=True)


def _plant_no_open_check(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(c, "require_open", lambda *_: None)


def _plant_no_person_key(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(c, "coupon_id", lambda *_: uuid4())


def _plant_capacity_not_taken(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(appending, "capacity_statement", lambda *_: b"SELECT 1")


def _plant_replies_not_kept(patch: pytest.MonkeyPatch) -> None:
    reply_rows = appending.reply_rows
    patch.setattr(appending, "reply_rows", lambda book, _: reply_rows(book, ()))


def _plant_requests_not_written(patch: pytest.MonkeyPatch) -> None:
    event_rows = appending.event_rows

    def forgetful(book: str, after: int, events: list[appending.NewEvent]) -> bytes:
        return event_rows(book, after, [event._replace(request=None) for event in events])

    patch.setattr(appending, "event_rows", forgetful)


def _plant_stock_that_leaks(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(c, "_return_to_capacity", lambda *_: ())


def _plant_money_that_vanishes(patch: pytest.MonkeyPatch) -> None:
    rules: dict[Any, Any] = accounting._RULES
    patch.setitem(rules, CouponRedeemed, lambda _: ())


def _plant_one_person_for_money(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(c.ApproveFunding, "decide", _approve_without_second_person)


def _approve_without_second_person(
    self: c.ApproveFunding, view: Any, header: c.Header, decide: Any = c.ApproveFunding.decide
) -> c.Decision:
    stranger = header._replace(by=Actor("operator", "somebody else"))
    decision: c.Decision = decide(self, view, stranger)
    events = [msgspec.structs.replace(event, by=header.by) for event in decision.events]
    return msgspec.structs.replace(decision, events=events)


def _plant_endings_without_state(patch: pytest.MonkeyPatch) -> None:
    def usable(self: c.RedeemCoupon, coupon: Any, *_: Any) -> None:
        assert coupon

    patch.setattr(c.RedeemCoupon, "_require_usable", usable)


RED = (AssertionError, psycopg2.Error, KeyError, pytest.fail.Exception, FlakyFailure)
"""How a run fails; a failing race need not fail again when it is tried again."""

PLANTED = [
    _plant_no_open_check,
    _plant_no_person_key,
    _plant_capacity_not_taken,
    _plant_replies_not_kept,
    _plant_requests_not_written,
    _plant_stock_that_leaks,
    _plant_money_that_vanishes,
    _plant_one_person_for_money,
    _plant_endings_without_state,
]


@pytest.mark.slow
@pytest.mark.parametrize("plant", PLANTED, ids=lambda plant: plant.__name__.removeprefix("_plant_"))
def test_a_planted_bug_is_found(
    life: type[Life], monkeypatch: pytest.MonkeyPatch, plant: Callable[[pytest.MonkeyPatch], None]
) -> None:
    """Control: the machine goes red on each rule that somebody forgot."""
    plant(monkeypatch)
    monkeypatch.setattr(Life, "read_models_are_checked", False)  # it takes most of a run's time
    with pytest.raises(RED):
        hunt(life, 150, 30)
