"""Decisions about public draws, on a book in memory: each rule, each refusal, each deadline."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from hashlib import sha256
from typing import Any

import msgspec
import pytest

from campaigns import commands as c
from campaigns.campaign import POOL
from campaigns.draws.beacon import Beacon
from campaigns.draws.draw import DrawDrawn, DrawMovedUp
from campaigns.draws.entry import DrawEntered, entry_id
from campaigns.draws.holding import MoveUp
from campaigns.draws.registering import VoidEntry
from campaigns.draws.terms import QUICKNET, problems_of
from campaigns.packets.terms import Tier
from campaigns.refusals import PRECEDENCE
from ledger.appending import Capacity
from tests.campaigns.test_decisions import BOOK, CAMPAIGN, Case, Story
from tests.draws.stories import (
    CLOSES,
    COUPONS,
    DEADLINE,
    DRAWER,
    DRAWN_AT,
    LATER,
    SIGNATURE,
    TIERED,
    DrawStory,
    claim_win,
    enter,
    packets,
    public_draw,
    signed,
    withdraw,
)
from tests.support.desk import NOON, person, terms_of, tourist

WHO = tourist(person(1))
LAST = CLOSES - timedelta(microseconds=1)


class TestRegistering:
    """One identity, one telephone, one place."""

    def test_places_are_numbered_in_order(self) -> None:
        """The index is the next place in the list, and the reply says what stands there."""
        story = DrawStory().opened()
        replies = [story.when(enter(n), tourist(person(n))).reply for n in range(1, 4)]
        assert [reply.index for reply in replies] == [0, 1, 2]
        entry = entry_id(CAMPAIGN, person(1))
        assert replies[0].leaf == entry.hex + "00000001"
        assert replies[0].round == QUICKNET.round_at(DRAWN_AT)

    def test_the_registration_is_half_open(self) -> None:
        """The first instant is in, the last one is not."""
        begins = NOON + timedelta(minutes=1)
        story = DrawStory(terms_of(public_draw=public_draw(register_from=begins))).opened()
        early = begins - timedelta(microseconds=1)
        assert story.refused(enter(), WHO, early).code == "not_open"
        assert story.when(enter(), WHO, begins).code == "registered"
        assert story.when(enter(2), WHO, LAST).code == "registered"
        assert story.refused(enter(3), WHO, CLOSES).code == "registration_over"

    @pytest.mark.parametrize(
        ("again", "reason"),
        [(enter(1, 9), "same_person"), (enter(1, 1), "same_person"), (enter(9, 1), "same_phone")],
    )
    def test_the_first_entry_counts(self, again: Any, reason: str) -> None:
        """A second one of an identity or of a telephone is void and says why."""
        story = DrawStory().entered([1])
        refusal = story.refused(again)
        assert (refusal.code, refusal.facts["reason"]) == ("entry_void", reason)

    def test_a_void_entry_is_refused_under_a_signature(self) -> None:
        """The statement names who, what, why and when, and the signature is over its bytes."""
        facts = DrawStory().entered([1]).refused(enter(9, 1)).facts
        statement = facts["statement"].encode()
        assert facts["signature"] == signed(statement).hex()
        assert json.loads(statement) == {
            "format": "tidebook-refusal/1",
            "campaign": f"cmp_main_{CAMPAIGN.hex}",
            "person": person(9),
            "reason": "same_phone",
            "at": "2026-05-01T12:00:00Z",
        }

    def test_eligibility_is_judged_once_and_kept(self) -> None:
        """What was judged stands in the event; others are void with the reason."""
        terms = terms_of(public_draw=public_draw(regions=("460000",), operators=("icbc", "boc")))
        story = DrawStory(terms).opened()
        assert story.refused(enter(region="110000", operator="boc")).facts["reason"] == "region"
        assert story.refused(enter(region="460000", operator="abc")).facts["reason"] == "operator"
        assert story.refused(enter()).facts["reason"] == "region"
        story.when(enter(region="460000", operator="boc"), WHO)
        event = story.streams[entry_id(CAMPAIGN, person(1))][0]
        assert isinstance(event, DrawEntered)
        assert (event.region, event.operator) == ("460000", "boc")

    def test_who_withdraws_may_come_again(self) -> None:
        """The place stays empty, person and telephone are free, and the new place is another."""
        story = DrawStory().entered([1, 2])
        assert story.when(withdraw(1), WHO).reply.state == "withdrawn"
        assert story.when(enter(3, 1), tourist(person(3))).reply.index == 2
        reply = story.when(enter(1, 4), WHO).reply
        assert (reply.index, reply.leaf) == (3, entry_id(CAMPAIGN, person(1)).hex + "00000003")
        assert story.capacity((CAMPAIGN, "list")).issued == 4
        assert story.capacity((CAMPAIGN, "withdrawn")).issued == 1

    def test_who_was_voided_stays_out(self) -> None:
        """Neither the identity nor the telephone comes in again."""
        story = DrawStory().entered([1])
        void = VoidEntry(BOOK, CAMPAIGN, entry_id(CAMPAIGN, person(1)), "bought account")
        assert story.when(void).reply.state == "voided"
        assert story.refused(enter(1, 5)).facts["reason"] == "voided"
        assert story.refused(enter(5, 1)).facts["reason"] == "same_phone"

    def test_no_telephone_is_in_an_event(self) -> None:
        """Only its pseudonym, made before the command, is."""
        story = DrawStory().entered([1])
        for events in story.streams.values():
            for event in events:
                assert b"+86" not in msgspec.json.encode(event)


class TestDrawing:
    """The list is frozen in time, drawn by its round, and given rank by rank."""

    def test_a_list_that_is_frozen_too_late_is_never_drawn(self) -> None:
        """Once the beacon has spoken, a list could have been chosen by its value."""
        story = DrawStory().entered([1, 2])
        in_time = story.of_draw.round_time - timedelta(microseconds=1)
        late = story.when(story.freeze(), DRAWER, story.of_draw.round_time)
        assert (late.code, late.reply.state) == ("draw_voided", "voided")
        assert story.refused(story.freeze(), DRAWER).code == "wrong_state"
        other = DrawStory().entered([1, 2])
        assert other.when(other.freeze(), DRAWER, in_time).code == "list_frozen"

    def test_a_pause_does_not_keep_the_list_open(self) -> None:
        """The beacon will not wait; the draw itself does."""
        story = DrawStory().entered([1, 2])
        story.when(c.PauseCampaign(BOOK, CAMPAIGN, "rain"))
        story.frozen()
        assert story.refused(story.record(), DRAWER, DRAWN_AT).code == "wrong_state"
        story.when(c.ResumeCampaign(BOOK, CAMPAIGN))
        assert story.when(story.record(), DRAWER, DRAWN_AT).code == "draw_recorded"

    def test_the_beacon_is_not_believed_before_its_time(self) -> None:
        """Nobody honest knows the value before the round is emitted."""
        story = DrawStory().frozen()
        early = story.of_draw.round_time - timedelta(microseconds=1)
        assert story.refused(story.record(), DRAWER, early).code == "other_round"

    def test_everything_follows_from_the_record(self) -> None:
        """The event shows seed, signature and randomness, seats and deadline."""
        story = DrawStory(TIERED).drawn()
        event = story.streams[story.draw().id][-1]
        assert isinstance(event, DrawDrawn)
        assert event.randomness == sha256(SIGNATURE).hexdigest()
        assert (event.winners, event.runners_up, event.seats) == (3, 2, (1, 2))
        assert event.claim_until == DEADLINE
        assert story.capacity((CAMPAIGN, "claims2")) == Capacity(quota=2)

    def test_fewer_entries_than_seats(self) -> None:
        """Everybody wins, from the first tier on, and nobody is a runner-up."""
        story = DrawStory(TIERED).entered([1, 2]).drawn()
        assert story.draw().turns[0].seats == (1, 1)
        assert story.draw().held.runners_up == 0  # type: ignore[union-attr]

    def test_nobody_registered(self) -> None:
        """A draw without entries is held and has no winners."""
        story = DrawStory().opened().drawn().given()
        assert story.draw().turns[0].count == 0

    def test_seats_are_given_by_rank(self) -> None:
        """The entry's own stream says what it won and until when it may claim."""
        story = DrawStory(TIERED).given()
        won = [story.entry(story.of_rank(rank)).won for rank in range(3)]
        assert [(one.tier, one.amount_minor) for one in won if one] == [
            (1, 80_000),
            (2, 20_000),
            (2, 20_000),
        ]
        assert story.entry(story.of_rank(3)).won is None

    def test_a_winner_claims_a_coupon(self) -> None:
        """Stock and money are taken when it is claimed."""
        story = DrawStory().given()
        first = story.of_rank(0)
        assert story.when(claim_win(first), tourist(person(first))).code == "claimed"
        assert story.capacity((CAMPAIGN, POOL)) == Capacity(1, 2, 500, 1000)
        assert story.holder(first) == 500

    def test_a_winner_claims_a_packet_of_the_tier(self) -> None:
        """The seat says how much it holds."""
        story = DrawStory(TIERED).given()
        first = story.of_rank(0)
        reply = story.when(claim_win(first), tourist(person(first))).reply
        assert msgspec.json.decode(msgspec.json.encode(reply))["amount"]["amount_minor"] == 80_000

    def test_the_deadline_is_half_open(self) -> None:
        """The last microsecond is in."""
        story = DrawStory().given()
        first, second = story.of_rank(0), story.of_rank(1)
        last = DEADLINE - timedelta(microseconds=1)
        assert story.when(claim_win(first), at=last).code == "claimed"
        assert story.refused(claim_win(second), at=DEADLINE).code == "claim_deadline_passed"

    def test_runners_up_move_up(self) -> None:
        """Vacant seats go to the next ranks, the highest tier first, with a new deadline."""
        story = DrawStory(TIERED).given()
        story.when(claim_win(story.of_rank(1)))
        story.moved_up()
        event = next(e for e in story.streams[story.draw().id] if isinstance(e, DrawMovedUp))
        assert (event.turn, event.first_rank, event.seats) == (1, 3, (1, 1))
        won = story.entry(story.of_rank(3)).won
        assert won is not None
        assert (won.turn, won.tier, won.claim_until) == (1, 1, DEADLINE + timedelta(hours=1))
        assert story.when(claim_win(story.of_rank(3))).code == "claimed"
        assert story.refused(claim_win(story.of_rank(0))).code == "claim_deadline_passed"

    def test_seats_of_a_turn_that_are_not_claimed_move_on(self) -> None:
        """Until there is nobody left who could move up."""
        terms = packets(Tier(80_000, 1), Tier(20_000, 1), runners_up=3)
        story = DrawStory(terms).entered(range(1, 9)).given().moved_up()
        assert story.draw().turns[1].seats == (1, 1)
        story.when(MoveUp(BOOK, CAMPAIGN), DRAWER, LATER)
        assert story.draw().turns[2].seats == (1, 0)
        story.given()
        after = LATER + timedelta(hours=1)
        assert story.refused(MoveUp(BOOK, CAMPAIGN), DRAWER, after).code == "nobody_moves_up"

    def test_what_is_left_goes_back_at_the_close(self) -> None:
        """Unclaimed seats are money of the sponsor again."""
        story = DrawStory().given()
        close = c.CloseCampaign(BOOK, CAMPAIGN, "over")
        story.when(claim_win(story.of_rank(0)))
        assert story.refused(close).code == "winners_may_claim"
        assert story.when(close, at=DEADLINE).code == "closed"
        assert story.put_in() == 500


def done(*steps: Any) -> DrawStory:
    """A draw on which steps were taken, with who takes them and when."""
    story = DrawStory().opened()
    for step, by, at in steps:
        story.when(step, by, at)
    return story


def closed() -> DrawStory:
    """A draw whose campaign was closed before it was drawn."""
    story = DrawStory().entered([1])
    story.when(c.CloseCampaign(BOOK, CAMPAIGN, "over"))
    return story


def fickle() -> DrawStory:
    """Somebody who came and went as often as one may."""
    story = DrawStory().opened()
    for _ in range(20):
        story.when(enter(), WHO)
        story.when(withdraw(), WHO)
    return story


def wrong_entries() -> dict[str, Case]:
    """An entry for each of its refusals."""
    return {
        "not_found": (DrawStory().drafted(), enter(), WHO, NOON),
        "no_public_draw": (Story().opened(), enter(), WHO, NOON),
        "not_open": (closed(), enter(2), WHO, NOON),
        "registration_over": (DrawStory().opened(), enter(), WHO, CLOSES),
        "entry_void": (DrawStory().entered([1]), enter(), WHO, NOON),
        "withdrawn_too_often": (fickle(), enter(), WHO, NOON),
    }


def wrong_emptyings(step: Any) -> dict[str, Case]:
    """A withdrawal or a voiding for each of its refusals."""
    return {
        "not_found": (DrawStory().opened(), step, WHO, NOON),
        "no_public_draw": (Story().opened(), step, WHO, NOON),
        "not_open": (closed(), step, WHO, NOON),
        "registration_over": (DrawStory().entered([1]), step, WHO, CLOSES),
        "not_registered": (done((enter(), WHO, NOON), (withdraw(), WHO, NOON)), step, WHO, NOON),
    }


def wrong_freezes() -> dict[str, Case]:
    """A freeze for each of its refusals."""
    short = DrawStory().entered([1])
    less = short.freeze()
    short.when(enter(2), WHO)
    step = DrawStory().entered([1]).freeze()
    return {
        "not_found": (DrawStory(), step, DRAWER, CLOSES),
        "no_public_draw": (Story().opened(), step, DRAWER, CLOSES),
        "wrong_state": (closed(), step, DRAWER, CLOSES),
        "still_entering": (DrawStory().entered([1]), step, DRAWER, LAST),
        "list_differs": (short, less, DRAWER, CLOSES),
    }


def wrong_records() -> dict[str, Case]:
    """A record of a draw for each of its refusals."""
    frozen = DrawStory().frozen()
    right, other = frozen.record(), Beacon(frozen.draw().round + 1, SIGNATURE)
    return {
        "not_found": (DrawStory(), right, DRAWER, DRAWN_AT),
        "no_public_draw": (Story().opened(), right, DRAWER, DRAWN_AT),
        "wrong_state": (DrawStory().drawn(), right, DRAWER, DRAWN_AT),
        "other_round": (frozen, frozen.record(beacon=other), DRAWER, DRAWN_AT),
        "commitment_mismatch": (
            DrawStory().frozen(),
            frozen.record(seed=b"x" * 32),
            DRAWER,
            DRAWN_AT,
        ),
    }


def wrong_seats() -> dict[str, Case]:
    """A seat for each of its refusals."""
    drawn = DrawStory().drawn()
    right = drawn.give(0)
    return {
        "not_found": (DrawStory(), right, DRAWER, DRAWN_AT),
        "no_public_draw": (Story().opened(), right, DRAWER, DRAWN_AT),
        "wrong_state": (closed(), right, DRAWER, DRAWN_AT),
        "already_won": (DrawStory().given(), right, DRAWER, DRAWN_AT),
        "not_drawn": (drawn, drawn.give(0, drawn.ranks()[1]), DRAWER, DRAWN_AT),
    }


def wrong_moves() -> dict[str, Case]:
    """A moving up for each of its refusals."""
    step = MoveUp(BOOK, CAMPAIGN)
    nobody = DrawStory().entered([1]).given()
    return {
        "not_found": (DrawStory(), step, DRAWER, DEADLINE),
        "no_public_draw": (Story().opened(), step, DRAWER, DEADLINE),
        "wrong_state": (DrawStory().frozen(), step, DRAWER, DEADLINE),
        "winners_may_claim": (DrawStory().given(), step, DRAWER, DRAWN_AT),
        "nobody_moves_up": (nobody, step, DRAWER, DEADLINE),
    }


def wrong_claims() -> dict[str, Case]:
    """A claim of a winner for each of its refusals."""
    given, claimed = DrawStory().given(), DrawStory().given()
    winner, loser = given.of_rank(0), given.of_rank(2)
    claimed.when(claim_win(winner))
    no_stock, no_money = DrawStory().given(), DrawStory().given()
    no_stock.pools[CAMPAIGN, POOL] = Capacity(0, 0, 0, 1000)
    no_money.pools[CAMPAIGN, POOL] = Capacity(0, 2, 0, 499)
    return {
        "not_found": (DrawStory(), claim_win(winner), WHO, DRAWN_AT),
        "no_public_draw": (Story().opened(), claim_win(winner), WHO, DRAWN_AT),
        "not_open": (closed(), claim_win(winner), WHO, DRAWN_AT),
        "draw_pending": (DrawStory().frozen(), claim_win(winner), WHO, DRAWN_AT),
        "already_claimed": (claimed, claim_win(winner), WHO, LATER),
        "not_drawn": (given, claim_win(loser), WHO, DRAWN_AT),
        "claim_deadline_passed": (DrawStory().given(), claim_win(winner), WHO, DEADLINE),
        "sold_out": (no_stock, claim_win(winner), WHO, DRAWN_AT),
        "budget_exhausted": (no_money, claim_win(winner), WHO, DRAWN_AT),
    }


VOID = VoidEntry(BOOK, CAMPAIGN, entry_id(CAMPAIGN, person(1)), "fraud")

WRONG: dict[str, Callable[[], dict[str, Case]]] = {
    "enter_draw": wrong_entries,
    "withdraw_entry": lambda: wrong_emptyings(withdraw()),
    "void_entry": lambda: wrong_emptyings(VOID),
    "freeze_list": wrong_freezes,
    "record_draw": wrong_records,
    "give_seat": wrong_seats,
    "move_up": wrong_moves,
    "claim_win": wrong_claims,
}


@pytest.mark.parametrize("command", WRONG)
def test_every_refusal_can_be_earned(command: str) -> None:
    """Each code of the table is answered to a call that breaks exactly its rule."""
    cases = WRONG[command]()
    assert tuple(cases) == PRECEDENCE[command]
    for code, (story, asked, by, at) in cases.items():
        assert story.refused(asked, by, at).code == code


def test_a_winner_cannot_be_made_by_a_proof_of_another_rank() -> None:
    """Neither another entry nor another rank fits the published root."""
    story = DrawStory(TIERED).drawn()
    right = story.give(0)
    for wrong in (
        story.give(0, story.ranks()[4]),
        type(right)(BOOK, CAMPAIGN, right.entry, 1, right.proof),
        type(right)(BOOK, CAMPAIGN, right.entry, 0, right.proof[:-1]),
        type(right)(BOOK, CAMPAIGN, right.entry, 0, ()),
        type(right)(BOOK, CAMPAIGN, right.entry, 4, right.proof),
    ):
        assert story.refused(wrong, DRAWER, DRAWN_AT).code == "not_drawn"


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"register_until": NOON}, "register_until"),
        ({"draw_at": CLOSES + timedelta(seconds=50)}, "draw_at"),
        ({"draw_at": NOON + timedelta(hours=12)}, "draw_at"),
        ({"tiers": ()}, "tiers"),
        ({"tiers": (Tier(500, 0),)}, "tiers"),
        ({"runners_up": -1}, "runners_up"),
        ({"runners_up": 5_000_000}, "runners_up"),
        ({"claim_s": 0}, "claim_s"),
        ({"chain": msgspec.structs.replace(QUICKNET, hash="x")}, "chain"),
    ],
)
def test_terms_that_nobody_could_keep(changes: dict[str, Any], field: str) -> None:
    """Each has its rule; the ordinary ones break none."""
    assert not list(problems_of(public_draw(), COUPONS.claim_from, COUPONS.claim_until))
    found = list(problems_of(public_draw(**changes), COUPONS.claim_from, COUPONS.claim_until))
    assert [name for name, _ in found] == [field]


def test_the_round_is_the_first_after_the_instant() -> None:
    """On the second of a round it is that round; a microsecond later the next one."""
    time = QUICKNET.time_of(1000)
    assert time.isoformat() == "2023-08-23T15:59:24+00:00"
    assert QUICKNET.round_at(time) == 1000
    assert QUICKNET.round_at(time + timedelta(microseconds=1)) == 1001
    assert QUICKNET.round_at(time - timedelta(seconds=3)) == 999
