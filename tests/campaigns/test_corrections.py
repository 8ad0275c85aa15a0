"""Corrections: a till's late report counts for when it happened, if two operators say so.

Goal: no money moves, every day stated twice sums to the account, and nothing that was given back
or never taken is corrected, whatever happens at the same time. Method: a real book, every refusal,
a race with refunds, and the verification as a judge that shares no code; a guard is taken away.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import date, datetime, timedelta
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest

from campaigns.accounting import postings_of
from campaigns.commands import RedeemCoupon, RefundCoupon
from campaigns.corrections import commands, takings
from campaigns.corrections.commands import ApproveCorrection, ProposeCorrection
from campaigns.corrections.correction import CorrectionApproved, CorrectionProposed
from campaigns.corrections.takings import Bill
from campaigns.coupon import coupon_id
from campaigns.event_types import MAPPER
from campaigns.packets.commands import PayFromPacket, RefundPayment
from campaigns.packets.terms import PacketTerms
from campaigns.refusals import PRECEDENCE
from campaigns.replaying.restating import Total, day_of, lines_of, restated
from campaigns.verification import verify
from ledger.commit import Answer
from ledger.datastore import Datastore
from ledger.events import Actor
from ledger.history import History
from ledger.money import Money
from tests.campaigns.test_lottery import EVENING, draw_all, lottery
from tests.campaigns.test_reexecution import again
from tests.support.desk import ALICE, BOB, NOON, Desk, person, terms_of

CAFE = Actor("merchant", "cafe")
SHANGHAI = ZoneInfo("Asia/Shanghai")
REPORTED = NOON + timedelta(hours=6)
"""Two in the morning of 2 May in Shanghai."""
HAPPENED = NOON + timedelta(hours=1)
"""Nine in the evening of 1 May there."""
LATER = NOON + timedelta(hours=8)
BILL = Bill("cafe", "o-1")


class Corrections(Desk):
    """A desk with a coupon that the café redeemed, and a packet that it was paid from."""

    def held(self) -> UUID:
        """Claim a coupon; return its id."""
        campaign = self.opened()
        assert self.claim(campaign, person(1)).code == "claimed"
        return coupon_id(campaign, person(1), 1)

    def redeemed(self) -> UUID:
        """Claim a coupon and redeem it; return its id."""
        coupon = self.held()
        assert self.redeem(coupon, "o-1", REPORTED).code == "redeemed"
        return coupon

    def both(self) -> tuple[UUID, UUID]:
        """Claim and use a coupon and a packet."""
        coupon, packet = self.held(), self.paid()
        assert self.redeem(coupon, "o-1", REPORTED).code == "redeemed"
        return coupon, packet

    def redeem(self, coupon: UUID, order: str, at: datetime) -> Answer:
        """Redeem a coupon at the café."""
        command = RedeemCoupon(self.book, coupon, "cafe", None, order, Money(900, "CNY"))
        return self.send(command, CAFE, at=at)

    def refund(self, coupon: UUID, order: str = "o-1", at: datetime = LATER) -> Answer:
        """Take a redemption back."""
        return self.send(RefundCoupon(self.book, coupon, "cafe", order, "cold"), CAFE, at=at)

    def paid(self) -> UUID:
        """Claim a packet and pay from it; return its id."""
        terms = terms_of(kind="packet", face_minor=2_000, packet=PacketTerms())
        campaign = self.opened(terms=terms, key="packets")
        assert self.claim(campaign, person(1)).code == "claimed"
        packet = coupon_id(campaign, person(1), 1)
        command = PayFromPacket(self.book, packet, "cafe", None, "o-1", Money(700, "CNY"))
        assert self.send(command, CAFE, at=REPORTED).code == "paid"
        return packet

    def propose(
        self,
        holding: UUID,
        bill: Bill | None = None,
        effective_at: datetime = HAPPENED,
        by: Actor = ALICE,
    ) -> Answer:
        """Ask for another instant."""
        reason = "the till was offline"
        command = ProposeCorrection(self.book, holding, bill, effective_at, reason)
        return self.send(command, by, at=LATER)

    def approve(
        self,
        holding: UUID,
        bill: Bill | None = None,
        effective_at: datetime = HAPPENED,
        by: Actor = BOB,
    ) -> Answer:
        """Agree to it."""
        command = ApproveCorrection(self.book, holding, bill, effective_at)
        return self.send(command, by, at=LATER)

    def day(self, day: date, known: int) -> Any:
        """State the café's day."""
        history = History(self.datastore, self.book, MAPPER)
        events = history.events(history.head())
        return restated(lines_of("cafe", events), day_of(day, SHANGHAI), known)

    def problems(self) -> list[str]:
        """What the verification of the book finds."""
        history = History(self.datastore, self.book, MAPPER)
        standing = history.standing()
        found = verify(self.book, history.entries(0, standing.last), standing)
        return [f"{one.code} {one.where}: {one.expected} / {one.found}" for one in found]

    def account(self) -> int:
        """What the café's account has, by the postings."""
        return sum(
            ((one.debit == "merchant:cafe") - (one.credit == "merchant:cafe")) * one.amount_minor
            for event in self.events()
            for one in postings_of(event)
        )


@pytest.fixture
def desk(datastore: Datastore) -> Iterator[Corrections]:
    """A desk on a new book."""
    desk = Corrections(datastore)
    yield desk
    desk.close()


def test_a_redemption_counts_for_when_it_happened(desk: Corrections) -> None:
    """Both times stay, the first statements stay, both days are restated, no money moves."""
    coupon = desk.redeemed()
    before, known = desk.account(), len(desk.events())
    asked = desk.propose(coupon)
    assert asked.code == "correction_proposed"
    assert json.loads(asked.body)["proposal"]["proposed_by"] == ALICE.id
    assert desk.day(date(2026, 5, 1), known).restated == []
    assert desk.approve(coupon).code == "corrected"
    proposed, approved = desk.events()[-2:]
    assert isinstance(proposed, CorrectionProposed)
    assert isinstance(approved, CorrectionApproved)
    assert (approved.proposed_by, approved.by.id) == (ALICE.id, BOB.id)
    assert (approved.recorded_at, approved.effective_at) == (REPORTED, HAPPENED)
    first, second = (desk.day(date(2026, 5, day), known) for day in (1, 2))
    assert (first.first, first.restated) == ([], [Total("CNY", 500, 0)])
    assert (second.first, second.restated) == ([Total("CNY", 500, 0)], [Total("CNY", 0, 0)])
    assert [line.amount_minor for line in first.changes + second.changes] == [500, -500]
    assert desk.account() == before == 500
    assert desk.problems() == []


def test_what_comes_back_later_follows_to_the_day_of_the_order(desk: Corrections) -> None:
    """A refund after the correction counts for the corrected day; a new redemption for its own."""
    coupon = desk.redeemed()
    desk.propose(coupon)
    desk.approve(coupon)
    assert desk.refund(coupon).code == "refunded"
    assert desk.redeem(coupon, "o-2", LATER).code == "redeemed"
    first, second = (desk.day(date(2026, 5, day), 0).restated for day in (1, 2))
    assert (first, second) == ([Total("CNY", 500, 500)], [Total("CNY", 500, 0)])
    assert desk.approve(coupon).code == "no_correction_proposed"
    assert desk.problems() == []


def test_a_payment_moves_with_what_was_given_back_of_it(desk: Corrections) -> None:
    """Seven yuan taken and two given back: both are of the day on which it happened."""
    packet = desk.paid()
    back = RefundPayment(desk.book, packet, "cafe", "o-1", Money(200, "CNY"), "cold")
    assert desk.send(back, CAFE, at=LATER).code == "refunded"
    assert desk.propose(packet, BILL).code == "correction_proposed"
    answer = desk.approve(packet, BILL)
    assert answer.code == "corrected"
    assert json.loads(answer.body)["of"].startswith("pay_main_")
    first, second = (desk.day(date(2026, 5, day), 0).restated for day in (1, 2))
    assert (first, second) == ([Total("CNY", 700, 200)], [Total("CNY", 0, 0)])
    assert desk.account() == 500
    assert desk.problems() == []


def test_it_is_corrected_again_from_where_it_counts(desk: Corrections) -> None:
    """The second correction starts from the first one, and may lead back to the record."""
    coupon = desk.redeemed()
    desk.propose(coupon)
    desk.approve(coupon)
    assert desk.propose(coupon).code == "nothing_to_correct"
    assert desk.propose(coupon, effective_at=REPORTED).code == "correction_proposed"
    assert desk.approve(coupon, effective_at=REPORTED).code == "corrected"
    first, second = (desk.day(date(2026, 5, day), 0).restated for day in (1, 2))
    assert (first, second) == ([Total("CNY", 0, 0)], [Total("CNY", 500, 0)])
    assert desk.problems() == []


def test_every_decision_about_corrections_is_made_again_as_it_was(
    desk: Corrections, datastore: Datastore
) -> None:
    """From the events alone, byte for byte."""
    coupon, packet = desk.both()
    for holding, bill in ((coupon, None), (packet, BILL)):
        desk.propose(holding, bill)
        assert desk.approve(holding, bill).code == "corrected"
    findings, tally = again(datastore)
    assert findings == []
    assert (tally.decided["correction_proposed"], tally.decided["corrected"]) == (2, 2)


def test_every_refusal_of_a_correction_can_be_earned(desk: Corrections) -> None:
    """Each code of the tables, in their order."""
    (coupon, packet), early = desk.both(), NOON - timedelta(microseconds=1)
    late, nobody = REPORTED + timedelta(microseconds=1), UUID(int=7)
    found: dict[str, list[str]] = {}
    for holding, bill, other, missing, names in (
        (coupon, None, BILL, None, ("propose_correction", "approve_correction")),
        (
            packet,
            BILL,
            None,
            Bill("cafe", "o-9"),
            ("propose_payment_correction", "approve_payment_correction"),
        ),
    ):
        assert desk.propose(holding, other).code == "not_found"
        gone: list[str] = []
        if missing is not None:
            gone = [desk.propose(holding, missing).code, desk.approve(holding, missing).code]
        proposing = [
            desk.propose(nobody, bill).code,
            *gone[:1],
            desk.propose(holding, bill, early).code,
            desk.propose(holding, bill, late).code,
            desk.propose(holding, bill, REPORTED).code,
        ]
        approving = [desk.approve(nobody, bill).code, *gone[1:], desk.approve(holding, bill).code]
        assert desk.propose(holding, bill).code == "correction_proposed"
        approving.append(desk.approve(holding, bill, by=ALICE).code)
        approving.append(desk.approve(holding, bill, effective_at=NOON).code)
        found |= dict(zip(names, (proposing, approving), strict=True))
    desk.refund(coupon)
    found["propose_correction"].insert(1, desk.propose(coupon).code)
    found["approve_correction"].insert(1, desk.approve(coupon).code)
    assert found == {name: list(PRECEDENCE[name]) for name in found}


def test_what_was_in_use_cannot_have_been_taken_for_another_order(desk: Corrections) -> None:
    """A coupon that came back counts for no instant before the refund that gave it back."""
    coupon = desk.redeemed()
    assert desk.refund(coupon).code == "refunded"
    assert desk.redeem(coupon, "o-2", LATER + timedelta(hours=2)).code == "redeemed"
    for in_use in (HAPPENED, REPORTED, LATER - timedelta(microseconds=1)):
        assert desk.propose(coupon, effective_at=in_use).code == "effective_too_early"
    assert desk.propose(coupon, effective_at=LATER).code == "correction_proposed"
    assert desk.problems() == []


def test_what_was_won_cannot_have_been_taken_before_the_draw(desk: Corrections) -> None:
    """Whoever entered a lottery does not hold the coupon yet."""
    campaign = lottery(desk, quota=1, people=1)
    coupon = coupon_id(campaign, person(1), 1)
    assert [step.code for step in draw_all(desk)] == ["intake_closed", "drawn", "given"]
    later = EVENING + timedelta(hours=1)
    assert desk.redeem(coupon, "o-1", later).code == "redeemed"
    command = ProposeCorrection(desk.book, coupon, None, EVENING - timedelta(seconds=1), "late")
    assert desk.send(command, ALICE, at=later).code == "effective_too_early"
    command = ProposeCorrection(desk.book, coupon, None, EVENING, "late")
    assert desk.send(command, ALICE, at=later).code == "correction_proposed"
    assert desk.problems() == []


def _race(desk: Corrections, coupon: UUID) -> list[str]:
    """Let an approval and a refund go at once; return their codes."""
    approval = ApproveCorrection(desk.book, coupon, None, HAPPENED)
    refund = RefundCoupon(desk.book, coupon, "cafe", "o-1", "cold")
    futures = [desk.submit(approval, BOB, at=LATER), desk.submit(refund, CAFE, at=LATER)]
    return [future.result(20).code for future in futures[::-1]][::-1]


def test_a_refund_at_the_same_moment_leaves_every_day_true(desk: Corrections) -> None:
    """Whichever is first: the approval stands before the refund, or is refused after it."""
    coupon = desk.redeemed()
    desk.propose(coupon)
    approved, refunded = _race(desk, coupon)
    assert refunded == "refunded"
    assert approved in ("corrected", "not_redeemed")
    assert desk.refund(coupon).code == "not_redeemed"
    assert desk.approve(coupon).code == "not_redeemed"
    days = [desk.day(date(2026, 5, day), 0).restated for day in (1, 2)]
    assert sum(total.net_minor for day in days for total in day) == desk.account() == 0
    assert desk.problems() == []


def test_two_approvals_at_once_correct_it_once(desk: Corrections) -> None:
    """Every other one finds no proposal any more."""
    coupon = desk.redeemed()
    desk.propose(coupon)
    command = ApproveCorrection(desk.book, coupon, None, HAPPENED)
    futures = [desk.submit(command, BOB, at=LATER) for _ in range(8)]
    codes = sorted(future.result(20).code for future in futures)
    assert codes == ["corrected", *["no_correction_proposed"] * 7]
    assert desk.problems() == []


def test_a_correction_of_what_was_given_back_is_found(
    desk: Corrections, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Control: with the guard off an approval after the refund is written, and verify names it."""
    coupon = desk.redeemed()
    desk.propose(coupon)
    stood = takings.taking_of
    redeemed: list[Any] = []

    def blind(holding: Any, bill: Any) -> Any:
        if holding.state == "redeemed":
            redeemed.append(stood(holding, bill))
        return redeemed[-1]

    monkeypatch.setattr(commands, "taking_of", blind)
    assert desk.approve(coupon, by=ALICE).code == "self_approval"
    assert desk.refund(coupon).code == "refunded"
    assert desk.approve(coupon).code == "corrected"
    assert [one.split()[0] for one in desk.problems()] == ["correction_unfounded"]
