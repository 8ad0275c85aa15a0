"""Corrections in the middle of everything else that people do to coupons.

Goal: at every position what is corrected was taken and stands, for an instant that it can count
for, by two people, and all invariants of the life hold. Method: the machine of the life, which may
also propose and approve, alone and in races with refunds; its truth is folded from the events.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import rule
from msgspec.structs import replace

from campaigns import commands as c
from campaigns.corrections import commands, takings
from campaigns.corrections.commands import ApproveCorrection, CorrectionCommand, ProposeCorrection
from campaigns.coupon import Coupon, coupon_id
from ledger.datastore import Datastore
from ledger.events import Actor
from tests.campaigns.test_life import RED, SUCCESSES, Life
from tests.support.desk import ALICE, BOB, NOON, person, tourist
from tests.support.machines import given_stores, hunt, run


class Corrected(Life):
    """The life of coupons whose redemptions are corrected."""

    def correction(self, kind: str, coupon: UUID, at: datetime) -> tuple[c.Command, Actor]:
        """Return a step of a correction, and whose it is."""
        if kind not in ("propose", "approve"):
            return self.coupon_command(kind, coupon, "o1")
        if kind == "propose":
            return ProposeCorrection(self.book, coupon, None, at, "late"), ALICE
        return ApproveCorrection(self.book, coupon, None, at), BOB

    @rule(
        campaign=Life.campaigns,
        minutes=st.lists(st.integers(0, 2), min_size=1, max_size=3),
        refunded=st.booleans(),
        approver=st.sampled_from([ALICE, BOB, BOB]),
    )
    def correct(self, campaign: UUID, minutes: list[int], refunded: bool, approver: Actor) -> None:
        """Claim, redeem an hour later, perhaps refund; correct it, perhaps more than once."""
        who = person(100 + next(self.numbers))
        coupon, began = coupon_id(campaign, who, 1), self.now
        if (
            self.send(c.ClaimCoupon(self.book, campaign, who), tourist(who)).answer.code
            != "claimed"
        ):
            return
        self.now += timedelta(hours=1)
        self.send(*self.correction("redeem", coupon, began))
        for minute in minutes:
            at = began + timedelta(minutes=minute)
            proposed = self.send(*self.correction("propose", coupon, at))
            if refunded:
                self.send(*self.correction("refund", coupon, at))
            approved = self.send(self.correction("approve", coupon, at)[0], approver)
            if proposed.answer.code == "correction_proposed" and not refunded:
                expected = "self_approval" if approver == ALICE else "corrected"
                assert approved.answer.code == expected

    @rule(
        coupon=Life.coupons,
        kinds=st.lists(st.sampled_from(["propose", "approve", "approve", "refund"]), min_size=2),
    )
    def race_corrections(self, coupon: UUID, kinds: list[str]) -> None:
        """Propose, approve and refund at once; the truth judges what came of it."""
        asked = [(*self.correction(kind, coupon, NOON), n % 2) for n, kind in enumerate(kinds)]
        waiting = [(by, *self.submit(command, by, None, desk)) for command, by, desk in asked]
        done = [(by, key, future.result(20)) for by, key, future in waiting]
        self.catch_up()
        for by, key, answer in done:
            stored = (f"{by.role}:{by.id}", key) in self.truth.keys
            assert stored == (answer.code in SUCCESSES), "I1 and I12"


@pytest.fixture
def corrected(datastore: Datastore, database_url: str) -> Iterator[type[Corrected]]:
    """The machine on a fresh database; every run has a book of its own."""
    with given_stores(Corrected, datastore, database_url):
        yield Corrected


@pytest.mark.slow
def test_every_correction_is_of_what_stands(corrected: type[Corrected]) -> None:
    """Whatever else happens to the coupon, in whatever order and at once."""
    run(corrected, 15, 25, shrinks=True)


def _plant_one_operator(patch: pytest.MonkeyPatch) -> None:
    decide = ApproveCorrection.decide

    def alone(self: ApproveCorrection, view: Any, header: c.Header) -> c.Decision:
        stranger = header._replace(by=Actor("operator", "somebody else"))
        decision: c.Decision = decide(self, view, stranger)
        events = [replace(event, by=header.by) for event in decision.events]
        return replace(decision, events=events)

    patch.setattr(ApproveCorrection, "decide", alone)


def _plant_refunded_is_corrected(patch: pytest.MonkeyPatch) -> None:
    stood = takings.taking_of

    def once_redeemed(holding: Any, bill: Any) -> Any:
        if isinstance(holding, Coupon) and holding.redeemed_at is not None:
            holding = replace(holding, state="redeemed", held_since=holding.claimed_at)
        return stood(holding, bill)

    patch.setattr(commands, "taking_of", once_redeemed)


def _plant_it_counts_for_the_record(patch: pytest.MonkeyPatch) -> None:
    own = CorrectionCommand.own

    def forgetful(self: CorrectionCommand, *seen: Any) -> dict[str, Any]:
        said = own(self, *seen)
        return {**said, "counted_for": said["recorded_at"]}

    patch.setattr(CorrectionCommand, "own", forgetful)


OTHER_RULES = (
    *("draft", "refund_the_pot", "step", "close", "claim", "rush", "use", "race", "repeat"),
    *("repeat_a_claim", "misuse", "project", "race_corrections"),
)
"""What a hunt for these bugs does without, so that it never depends on what it happens to draw."""


@pytest.mark.slow
@pytest.mark.parametrize(
    "plant",
    [_plant_one_operator, _plant_refunded_is_corrected, _plant_it_counts_for_the_record],
    ids=lambda plant: plant.__name__.removeprefix("_plant_"),
)
def test_a_planted_bug_is_found(
    corrected: type[Corrected], monkeypatch: pytest.MonkeyPatch, plant: Any
) -> None:
    """Control: the machine goes red on each rule that somebody forgot."""
    plant(monkeypatch)
    monkeypatch.setattr(Corrected, "read_models_are_checked", False)
    with pytest.raises(RED):
        hunt(type("OnlyCorrected", (corrected,), dict.fromkeys(OTHER_RULES)), 150, 30)
