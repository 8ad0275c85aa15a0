"""Decisions on packets: given what happened, when asked, then this follows."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET

from campaigns import commands as c
from campaigns.campaign import POOL, SPLIT_POOL, Intake
from campaigns.commands import Command
from campaigns.coupon import coupon_id
from campaigns.drawing import CloseIntake
from campaigns.event_types import MAPPER
from campaigns.packets.commands import CloseWallet, PayFromPacket
from campaigns.packets.packet import PAYMENTS_MAX, REFUNDS_MAX, Payment, payment_id
from campaigns.packets.rolling import RollOver, ShowSplit
from campaigns.packets.sharing import WrongSplitKey
from campaigns.packets.spending import parts_of_payment, parts_of_refund
from campaigns.packets.terms import PacketTerms, RefundOrder, Split, Tier
from campaigns.refusals import PRECEDENCE
from campaigns.seeds import commitment_of
from campaigns.splitting import shares
from ledger.events import Actor, canonical
from ledger.money import Money
from tests.campaigns.test_decisions import BOOK, CAMPAIGN, Story, topics
from tests.support.desk import ALICE, BOB, DRAW_KEY, NOON, SPONSOR, person, terms_of, tourist
from tests.support.packets import (
    CAFE,
    CLOSE,
    CLOSE_WALLET,
    ENDS,
    EXPIRE,
    FACE,
    MALL,
    NEXT,
    PACKET,
    ROLL_OVER,
    SHOW_SPLIT,
    SWEEPER,
    PacketStory,
    cny,
    packet_terms,
    pay,
    refund,
)

PACKET_FIRST = PacketTerms(refund_order="packet_first")
ROLLS = PacketTerms(leftover="next_round", next_round=NEXT)
MIXED = PacketTerms(tiers=(Tier(20_000, 2), Tier(50_000, 2), Tier(80_000, 1)))
SHARED = PacketTerms(split=Split(1_000, 7))


# --- claiming -------------------------------------------------------------------------------------


def test_a_claim_fills_a_packet_from_the_pot() -> None:
    """The money leaves the pot for an account of the packet's own."""
    story = PacketStory().claimed()
    assert story.packet.balance_minor == story.packet_account() == FACE
    assert story.pot() == 2 * FACE
    assert story.capacity((CAMPAIGN, POOL)) == (1, 3, FACE, 3 * FACE)


def test_a_second_claim_is_refused_and_told_of_the_packet() -> None:
    """The person's limit is the primary key, for packets as for coupons."""
    story = PacketStory().claimed()
    asked = c.ClaimCoupon(BOOK, CAMPAIGN, person(1))
    refusal = story.refused(asked, tourist(person(1)))
    assert refusal.code == "already_claimed"
    assert refusal.facts == {"packet": f"pkt_main_{PACKET.hex}"}


def test_a_claim_tells_the_packet_and_what_is_in_it() -> None:
    """The reply is cast from the moulds, and told again from the event byte for byte."""
    story = PacketStory().opened()
    asked = c.ClaimCoupon(BOOK, CAMPAIGN, person(1))
    decision = story.when(asked, tourist(person(1)))
    event = story.streams[PACKET][0]
    assert decision.own_record
    assert asked.retell(event) == ("claimed", bytes(decision.reply))
    assert b'"balance":{"amount_minor":20000,"currency":"CNY"}' in bytes(decision.reply)


@pytest.mark.parametrize("terms", [PacketTerms(), MIXED, SHARED])
def test_granted_packets_have_the_bytes_that_the_plain_encoder_makes(terms: PacketTerms) -> None:
    """The second claim is cast from the first one's moulds, with its own amount and number."""
    face = terms.least_minor if terms.is_seeded else FACE
    story = PacketStory(terms, face_minor=face).opened().claimed(1)
    asked = c.ClaimCoupon(BOOK, CAMPAIGN, person(2), lambda: DRAW_KEY)
    decision = story.when(asked, tourist(person(2)))
    cast: Any = decision.events[0]
    plain: Any = MAPPER.decode(cast.TOPIC, cast.state, cast.originator_id, 1)
    assert canonical(plain) == cast.state
    assert plain.award == (2 if terms.is_seeded else UNSET)
    assert asked.retell(plain) == ("claimed", bytes(decision.reply))


# --- spending -------------------------------------------------------------------------------------


def test_a_packet_is_spent_in_several_payments_until_it_is_empty() -> None:
    """Packet first, then the payer's own money."""
    story = PacketStory().paid(12_000, "o-1").paid(5_000, "o-2").paid(9_000, "o-3")
    paid = [(each.packet_minor, each.own_minor) for each in story.packet.payments]
    assert paid == [(12_000, 0), (5_000, 0), (3_000, 6_000)]
    assert story.packet.balance_minor == story.packet_account() == 0
    assert story.merchant() == FACE, "the payer's own money was never in the ledger"
    assert story.refused(pay(100, "o-4"), MALL).code == "packet_empty"


def test_a_till_that_asks_again_with_a_new_key_pays_nothing_twice() -> None:
    """An order is paid once from a packet; the refusal names the payment, even of an empty one."""
    story = PacketStory().paid(FACE)
    refusal = story.refused(pay(FACE), MALL)
    assert refusal.code == "already_paid"
    assert refusal.facts == {"payment": f"pay_main_{payment_id(PACKET, 'mall', 'o-1').hex}"}
    story.when(refund(100), MALL)
    assert story.when(pay(100, merchant="cafe"), CAFE).code == "paid", "another shop's number"


def test_a_payment_tells_the_till_nothing_of_what_is_left() -> None:
    """What the packet paid and what is left to pay, and no balance."""
    reply = PacketStory().claimed().when(pay(25_000), MALL).reply
    assert (reply.from_packet, reply.payable, reply.total) == (cny(20_000), cny(5_000), cny(25_000))
    assert not any("balance" in name for name in reply.__struct_fields__)


def test_a_packet_can_be_spent_while_its_campaign_is_paused_or_closed() -> None:
    """Neither takes back what somebody has."""
    story = PacketStory().claimed()
    story.when(c.PauseCampaign(BOOK, CAMPAIGN, "rain"))
    story.paid(100)
    story.when(CLOSE)
    story.paid(100, "o-2")


# --- refunds --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("order", "parts"),
    [
        ("own_first", [(0, 4_000), (3_000, 1_000), (17_000, 0)]),
        ("packet_first", [(4_000, 0), (4_000, 0), (12_000, 5_000)]),
    ],
)
def test_refunds_come_in_the_order_that_the_campaign_chose(
    order: RefundOrder, parts: list[tuple[int, int]]
) -> None:
    """A payment of 250 yuan, 200 of them from the packet, comes back in three refunds."""
    story = PacketStory(PacketTerms(refund_order=order)).paid(25_000)
    found = [story.refunded(amount).reply for amount in (4_000, 4_000, None)]
    assert [(each.to_packet, each.to_own) for each in found] == [
        (cny(packet), cny(own)) for packet, own in parts
    ]
    assert story.packet.balance_minor == story.packet_account() == FACE
    assert story.merchant() == 0
    assert story.refused(refund(1), MALL).code == "refund_too_large"


def test_a_refund_inside_the_validity_can_be_spent_again() -> None:
    """Amount, rule and end of validity stay as they are."""
    story = PacketStory().paid(FACE)
    story.refunded(8_000)
    story.paid(8_000, "o-2")
    assert story.packet.valid_until == ENDS


def test_a_refund_after_the_validity_goes_back_to_the_sponsor_at_once() -> None:
    """The payer gets back what was the payer's own, and of the packet's part nothing."""
    story = PacketStory().paid(25_000)
    before = story.put_in()
    reply = story.refunded(at=ENDS).reply
    assert (reply.to_packet, reply.to_own, reply.reclaimed) == (cny(0), cny(5_000), cny(FACE))
    assert before - story.put_in() == FACE
    assert story.capacity((CAMPAIGN, POOL)) == (1, 3, 0, 2 * FACE)


def test_a_late_refund_does_not_wait_for_the_sweeper() -> None:
    """With money in it and no expiry recorded, a packet past its validity takes nothing back."""
    story = PacketStory().paid(5_000)
    assert story.refunded(at=ENDS).reply.reclaimed == cny(5_000)
    assert story.when(EXPIRE, SWEEPER, ENDS).reply.returned == cny(15_000)
    assert story.put_in() == 2 * FACE


def test_refunds_after_an_expiry_are_the_sponsors() -> None:
    """An expired packet stays empty."""
    story = PacketStory().paid(5_000)
    story.when(EXPIRE, SWEEPER, ENDS)
    story.refunded(2_000, at=ENDS)
    story.refunded(at=ENDS)
    assert story.packet.balance_minor == story.packet_account() == 0
    assert story.put_in() == 2 * FACE


def test_a_closed_wallet_takes_no_refund_and_makes_no_payment() -> None:
    """The rest is reclaimed at once, and so is whatever comes back later."""
    story = PacketStory().paid(25_000 - 10_000)
    reply = story.when(CLOSE_WALLET).reply
    assert (reply.state, reply.returned, reply.returned_to) == ("closed", cny(5_000), "sponsor")
    assert story.refused(pay(100, "o-2"), MALL).code == "packet_closed"
    assert story.refunded().reply.reclaimed == cny(15_000)
    assert story.put_in() == 2 * FACE
    assert story.refused(EXPIRE, SWEEPER, ENDS).code == "not_held"


def test_an_empty_packet_ends_with_its_wallet_as_well() -> None:
    """There is nothing to give back now, and there will be nowhere to put it later."""
    story = PacketStory().paid(FACE)
    decision = story.when(CLOSE_WALLET)
    assert decision.reply.returned == cny(0)
    assert decision.capacity == ()
    assert story.refunded().reply.reclaimed == cny(FACE)


MONEY = st.integers(1, 10**9)


@given(st.integers(0, 10**9), MONEY)
def test_a_payment_is_the_packets_first(balance: int, total: int) -> None:
    """The parts sum to the total, and own money is only asked for when the packet is empty."""
    packet, own = parts_of_payment(balance, total)
    assert packet + own == total
    assert 0 <= packet <= balance
    assert own == 0 or packet == balance


@given(
    st.integers(1, 10**6),
    st.integers(0, 10**6),
    st.lists(st.integers(1, 10**5), max_size=8),
    st.sampled_from(["own_first", "packet_first"]),
)
def test_many_refunds_come_to_the_same_as_one(
    packet: int, own: int, amounts: list[int], order: RefundOrder
) -> None:
    """Over all refunds of a payment the order holds, and neither side gets more than it paid."""
    whole = payment(packet, own)
    done = whole
    asked = 0
    for amount in amounts:
        if amount > done.left_minor:
            continue
        back = parts_of_refund(done, amount, order)
        assert sum(back) == amount
        assert min(back) >= 0
        asked += amount
        done = payment(
            packet, own, done.packet_back_minor + back.packet_minor, done.own_back_minor + back[1]
        )
    assert done.packet_back_minor <= packet
    assert done.own_back_minor <= own
    if asked:
        at_once = parts_of_refund(whole, asked, order)
        assert at_once == (done.packet_back_minor, done.own_back_minor)


def payment(packet: int, own: int, packet_back: int = 0, own_back: int = 0) -> Payment:
    """A payment with these parts, of which so much has come back."""
    return Payment(
        id=PACKET,
        version=2,
        paid_at=NOON,
        merchant="mall",
        order="o-1",
        packet_minor=packet,
        own_minor=own,
        packet_back_minor=packet_back,
        own_back_minor=own_back,
    )


# --- the end --------------------------------------------------------------------------------------


def test_an_expiry_returns_the_rest_to_the_sponsor() -> None:
    """Also while the campaign is open: its budget shrinks by what the sponsor has back."""
    story = PacketStory().paid(12_600)
    reply = story.when(EXPIRE, SWEEPER, ENDS).reply
    assert (reply.state, reply.returned, reply.returned_to) == ("expired", cny(7_400), "sponsor")
    assert story.capacity((CAMPAIGN, POOL)) == (1, 3, 12_600, 3 * FACE - 7_400)
    assert story.put_in() == 3 * FACE - 7_400


def test_every_fen_is_with_a_merchant_or_the_sponsor_in_the_end() -> None:
    """Luohu in small: paid and returned sum to what was funded."""
    story = PacketStory().claimed(1).claimed(2).paid(12_600)
    story.when(CLOSE)
    story.when(EXPIRE, SWEEPER, ENDS)
    other = type(EXPIRE)(BOOK, coupon_id(CAMPAIGN, person(2), 1))
    story.when(other, SWEEPER, ENDS)
    assert story.merchant() == story.put_in() == 12_600
    assert story.pot() == 0


def test_leftovers_roll_into_the_next_round() -> None:
    """They wait in the pot, also at the close, until one event moves them all."""
    story = PacketStory(ROLLS).next_round().paid(12_600)
    story.when(EXPIRE, SWEEPER, ENDS)
    assert story.pot() == 2 * FACE + 7_400
    assert topics(story.when(CLOSE)) == ["campaign.closed"]
    decision = story.when(ROLL_OVER, SWEEPER)
    assert topics(decision) == ["campaign.rolled_over", "campaign.rolled_in"]
    assert story.pot() == 0
    assert story.trial.balance(f"campaign:{NEXT.hex}", "CNY") == 2 * FACE + 7_400
    assert story.capacity((NEXT, POOL)) == (0, 0, 0, 2 * FACE + 7_400)
    assert story.refused(ROLL_OVER, SWEEPER).code == "nothing_left"


def test_a_late_refund_rolls_over_later() -> None:
    """What comes back after the leftovers moved on waits in the pot again."""
    story = PacketStory(ROLLS).next_round().paid(FACE)
    story.when(CLOSE)
    story.when(ROLL_OVER, SWEEPER)
    assert story.refunded(5_000, at=ENDS).reply.reclaimed == cny(5_000)
    assert story.pot() == 5_000
    story.when(ROLL_OVER, SWEEPER)
    assert story.trial.balance(f"campaign:{NEXT.hex}", "CNY") == 2 * FACE + 5_000


def test_a_next_round_that_is_closed_itself_gets_nothing() -> None:
    """Then the sponsor has it back."""
    story = PacketStory(ROLLS).next_round().claimed()
    story.when(c.CloseCampaign(BOOK, NEXT, "never"))
    story.when(CLOSE)
    assert topics(story.when(ROLL_OVER, SWEEPER)) == ["campaign.budget_reclaimed"]
    assert story.put_in() == FACE


def test_money_that_rolls_in_voids_a_proposal_made_without_it() -> None:
    """Quota and budget must be proposed anew, on the values that they are now."""
    story = PacketStory(ROLLS).next_round().opened()
    story.when(c.ProposeFunding(BOOK, NEXT, 1, cny(FACE), 0, 0))
    story.when(CLOSE)
    story.when(ROLL_OVER, SWEEPER)
    approve = c.ApproveFunding(BOOK, NEXT, 1, cny(FACE))
    assert story.refused(approve, BOB).code == "no_funding_proposed"
    story.when(c.ProposeFunding(BOOK, NEXT, 3, cny(3 * FACE), 0, 3 * FACE))
    decision = story.when(c.ApproveFunding(BOOK, NEXT, 3, cny(3 * FACE)), BOB)
    assert story.put_in() == 3 * FACE, "the sponsor pays once"
    assert decision.reply.state == "funded"


# --- tiers and split sums -------------------------------------------------------------------------


def amounts_of(story: PacketStory, people: int) -> list[int]:
    """Claim for so many people; return what each got."""
    for n in range(1, people + 1):
        story.claimed(n)
    packets = [coupon_id(CAMPAIGN, person(n), 1) for n in range(1, people + 1)]
    return [story.packet_account(packet) for packet in packets]


def test_a_split_sum_is_given_out_to_the_last_fen() -> None:
    """Share after share as the seed says, whoever claims."""
    story = PacketStory(SHARED, face_minor=1).opened()
    seed = SHOW_SPLIT.seed
    assert amounts_of(story, 7) == shares(seed, 1_000, 7)
    assert story.pot() == 0
    assert story.capacity((CAMPAIGN, SPLIT_POOL)) == (7, 7, 1_000, 1_000)
    refusal = story.refused(c.ClaimCoupon(BOOK, CAMPAIGN, person(8)), tourist(person(8)))
    assert refusal.code == "sold_out"


def test_tiers_are_given_out_in_an_order_that_nobody_chose() -> None:
    """As many of each as the terms say."""
    found = amounts_of(PacketStory(MIXED).opened(), 5)
    assert sorted(found) == [20_000, 20_000, 50_000, 50_000, 80_000]


def test_claims_are_numbered_in_the_order_of_awards() -> None:
    """Whoever knows the seed and the number knows what the packet must hold."""
    story = PacketStory(MIXED).opened()
    amounts_of(story, 5)
    awards = [
        story.streams[coupon_id(CAMPAIGN, person(n), 1)][0].award  # type: ignore[attr-defined]
        for n in range(1, 6)
    ]
    assert awards == [1, 2, 3, 4, 5]


def test_an_opening_commits_to_the_seed_and_the_end_shows_it() -> None:
    """Nobody can claim any more when it is shown, so that nobody can choose a share by it."""
    story = PacketStory(MIXED).opened()
    campaign: Any = story.streams[CAMPAIGN][-1]
    assert campaign.split_commitment == commitment_of(SHOW_SPLIT.seed)
    assert story.refused(SHOW_SPLIT, SWEEPER).code == "wrong_state"
    amounts_of(story, 5)
    assert topics(story.when(SHOW_SPLIT, SWEEPER)) == ["campaign.split_shown"]
    assert story.refused(SHOW_SPLIT, SWEEPER).code == "wrong_state"


def test_the_seed_is_shown_after_the_claim_window_too() -> None:
    """Although there are packets left: they go to nobody."""
    story = PacketStory(MIXED).opened()
    later = NOON + timedelta(hours=12)
    assert topics(story.when(SHOW_SPLIT, SWEEPER, later)) == ["campaign.split_shown"]


def test_a_server_with_another_draw_key_gives_nothing_out() -> None:
    """A share by another seed would be a lie; this is a mistake of set-up, not of the caller."""
    story = PacketStory(SHARED, face_minor=1).opened()
    asked = c.ClaimCoupon(BOOK, CAMPAIGN, person(1), lambda: b"x" * 32)
    with pytest.raises(WrongSplitKey):
        story.when(asked, tourist(person(1)))


def test_the_funds_of_tiers_cannot_change_once_they_are_open() -> None:
    """What was promised is given, no more and no less."""
    story = PacketStory(MIXED).opened()
    quota, budget = MIXED.promised
    asked = c.ProposeFunding(BOOK, CAMPAIGN, quota, cny(budget), quota, budget)
    assert story.refused(asked).code == "wrong_state"


@given(st.binary(min_size=32, max_size=32), st.integers(1, 12), st.integers(0, 500))
def test_any_sum_can_be_split_among_claims(key: bytes, count: int, more: int) -> None:
    """Whatever the seed: the pot is empty after the last claim, and no packet is."""
    split = PacketTerms(split=Split(count + more, count))
    story = PacketStory(split, face_minor=1)
    story.funded(*split.promised)
    story.when(c.OpenCampaign(BOOK, CAMPAIGN, lambda: key))
    for n in range(1, count + 1):
        story.when(c.ClaimCoupon(BOOK, CAMPAIGN, person(n), lambda: key), tourist(person(n)))
    assert story.pot() == 0
    packets = [coupon_id(CAMPAIGN, person(n), 1) for n in range(1, count + 1)]
    assert min(story.packet_account(packet) for packet in packets) >= 1


# --- refusals -------------------------------------------------------------------------------------

Case = tuple[Story, Command, Actor, datetime]
DOLLARS = Money(100, "USD")


def wrong_drafts() -> dict[str, Case]:
    """A draft for its refusal."""
    draft = c.DraftCampaign(BOOK, CAMPAIGN, "Spring", SPONSOR, packet_terms(ROLLS))
    return {"next_round_unfit": (PacketStory(), draft, ALICE, NOON)}


def wrong_payments() -> dict[str, Case]:
    """A payment for each of its refusals."""
    closed = PacketStory().claimed()
    closed.when(CLOSE_WALLET)
    early = PacketStory(valid_from=NOON + timedelta(hours=1)).claimed()
    many = PacketStory().claimed()
    for n in range(PAYMENTS_MAX):
        many.paid(1, f"o-{n}")
    return {
        "not_found": (PacketStory().opened(), pay(100), MALL, NOON),
        "already_paid": (PacketStory().paid(100), pay(100), MALL, NOON),
        "packet_closed": (closed, pay(100), MALL, NOON),
        "packet_expired": (PacketStory().claimed(), pay(100), MALL, ENDS),
        "not_yet_valid": (early, pay(100), MALL, NOON),
        "merchant_not_designated": (
            PacketStory().claimed(),
            pay(100, merchant="bar"),
            Actor("merchant", "bar"),
            NOON,
        ),
        "unit_mismatch": (PacketStory().claimed(), pay(0, total=DOLLARS), MALL, NOON),
        "packet_empty": (PacketStory().paid(FACE), pay(100, "o-2"), MALL, NOON),
        "too_many_payments": (many, pay(100, "one more"), MALL, NOON),
    }


def wrong_refunds() -> dict[str, Case]:
    """A refund for each of its refusals."""
    many = PacketStory().paid(1_000)
    for _ in range(REFUNDS_MAX):
        many.refunded(1)
    return {
        "not_found": (PacketStory().opened(), refund(), MALL, NOON),
        "not_paid": (PacketStory().paid(100), refund(merchant="cafe"), CAFE, NOON),
        "unit_mismatch": (PacketStory().paid(100), refund(amount=DOLLARS), MALL, NOON),
        "refund_too_large": (PacketStory().paid(100), refund(101), MALL, NOON),
        "too_many_refunds": (many, refund(), MALL, NOON),
    }


def wrong_closures() -> dict[str, Case]:
    """A closure of a wallet for each of its refusals."""
    closed = PacketStory().claimed()
    closed.when(CLOSE_WALLET)
    return {
        "not_found": (PacketStory().opened(), CLOSE_WALLET, ALICE, NOON),
        "packet_closed": (closed, CLOSE_WALLET, ALICE, NOON),
        "packet_expired": (PacketStory().claimed(), CLOSE_WALLET, ALICE, ENDS),
    }


def wrong_expiries() -> dict[str, Case]:
    """An expiry for each of its refusals."""
    expired = PacketStory().claimed()
    expired.when(EXPIRE, SWEEPER, ENDS)
    return {
        "not_found": (PacketStory().opened(), EXPIRE, SWEEPER, ENDS),
        "not_held": (expired, EXPIRE, SWEEPER, ENDS),
        "still_valid": (PacketStory().claimed(), EXPIRE, SWEEPER, NOON),
        "packet_empty": (PacketStory().paid(FACE), EXPIRE, SWEEPER, ENDS),
    }


def wrong_roll_overs() -> dict[str, Case]:
    """A roll-over for each of its refusals."""
    nothing = PacketStory(ROLLS).next_round().opened(1)
    nothing.claimed()
    nothing.when(CLOSE)
    drawing = PacketStory(ROLLS)
    lottery = terms_of(claim_from=NOON, intake=Intake(kind="lottery", seconds=30))
    drawing.when(c.DraftCampaign(BOOK, NEXT, "Next", SPONSOR, lottery))
    drawing.when(c.ProposeFunding(BOOK, NEXT, 1, cny(500), 0, 0))
    drawing.when(c.ApproveFunding(BOOK, NEXT, 1, cny(500)), BOB)
    drawing.when(c.OpenCampaign(BOOK, NEXT, lambda: DRAW_KEY))
    drawing.opened()
    drawing.when(CLOSE)
    drawing.when(CloseIntake(BOOK, NEXT), SWEEPER, NOON + timedelta(minutes=1))
    return {
        "not_found": (PacketStory(), ROLL_OVER, SWEEPER, NOON),
        "wrong_state": (PacketStory(ROLLS).next_round().opened(), ROLL_OVER, SWEEPER, NOON),
        "nothing_left": (nothing, ROLL_OVER, SWEEPER, NOON),
        "draw_pending": (drawing, ROLL_OVER, SWEEPER, NOON),
    }


def wrong_shows() -> dict[str, Case]:
    """A showing of a seed for each of its refusals."""
    over = PacketStory(MIXED).opened()
    over.when(CLOSE)
    return {
        "not_found": (PacketStory(), SHOW_SPLIT, SWEEPER, NOON),
        "wrong_state": (PacketStory(MIXED).opened(), SHOW_SPLIT, SWEEPER, NOON),
        "other_seed": (over, ShowSplit(BOOK, CAMPAIGN, b"s" * 32), SWEEPER, NOON),
    }


WRONG: dict[str, Callable[[], dict[str, Case]]] = {
    "draft": wrong_drafts,
    "pay": wrong_payments,
    "refund_payment": wrong_refunds,
    "close_wallet": wrong_closures,
    "expire_packet": wrong_expiries,
    "roll_over": wrong_roll_overs,
    "show_split": wrong_shows,
}


@pytest.mark.parametrize("command", WRONG)
def test_every_refusal_about_packets_can_be_earned(command: str) -> None:
    """Each code of the table is answered to a call that breaks exactly its rule."""
    cases = WRONG[command]()
    assert tuple(cases) == PRECEDENCE[command]
    for code, (story, asked, by, at) in cases.items():
        assert story.refused(asked, by, at).code == code


def unfit() -> dict[str, dict[str, Any]]:
    """Next rounds that cannot take leftovers, by what is wrong with them."""
    return {
        "another sponsor": {"sponsor": "somebody else"},
        "another currency": {"currency": "EUR"},
        "funded to the fen": {"packet": MIXED},
    }


@pytest.mark.parametrize("why", unfit())
def test_a_next_round_must_be_able_to_take_the_money(why: str) -> None:
    """Leftovers stay the sponsor's, in their currency, and where they can be granted."""
    story = PacketStory().next_round(**unfit()[why])
    draft = c.DraftCampaign(BOOK, CAMPAIGN, "Spring", SPONSOR, packet_terms(ROLLS))
    assert story.refused(draft).code == "next_round_unfit"


def test_a_campaign_is_not_its_own_next_round() -> None:
    """Nor is one that is closed."""
    itself = PacketTerms(leftover="next_round", next_round=CAMPAIGN)
    draft = c.DraftCampaign(BOOK, CAMPAIGN, "Spring", SPONSOR, packet_terms(itself))
    assert PacketStory().refused(draft).code == "next_round_unfit"
    story = PacketStory().next_round()
    story.when(c.CloseCampaign(BOOK, NEXT, "never"))
    draft = c.DraftCampaign(BOOK, CAMPAIGN, "Spring", SPONSOR, packet_terms(ROLLS))
    assert story.refused(draft).code == "next_round_unfit"


def test_the_first_broken_rule_about_payments_is_answered() -> None:
    """Later rules are not even looked at."""
    story = PacketStory().paid(FACE)
    story.when(CLOSE_WALLET)
    elsewhere = Actor("merchant", "bar")
    asked = {
        "already_paid": (pay(100), MALL),
        "packet_closed": (pay(100, "o-2", "bar"), elsewhere),
    }
    for code, (command, by) in asked.items():
        assert story.refused(command, by, ENDS).code == code
    spent = PacketStory().paid(FACE)
    assert spent.refused(pay(100, "o-2", "bar"), elsewhere).code == "merchant_not_designated"
    assert spent.refused(pay(0, "o-2", total=DOLLARS), MALL).code == "unit_mismatch"
    assert spent.refused(pay(100, "o-2", "bar"), elsewhere, ENDS).code == "packet_expired"
    for one, other in pairwise(PRECEDENCE["pay"]):
        assert one != other


# --- a packet is not a coupon ---------------------------------------------------------------------


def test_what_is_done_to_coupons_is_not_done_to_packets() -> None:
    """A caller writes the prefix of an id; the stream says what it is."""
    story = PacketStory().claimed()
    coupons: tuple[Command, ...] = (
        c.RedeemCoupon(BOOK, PACKET, "mall", None, "o-1", cny(FACE)),
        c.RefundCoupon(BOOK, PACKET, "mall", "o-1", "returned"),
        c.VoidCoupon(BOOK, PACKET, "fraud"),
        c.ExpireCoupon(BOOK, PACKET),
    )
    for command in coupons:
        assert story.refused(command, MALL).code == "not_found"
    held = Story().claimed()
    for asked in (pay(100), refund(), CLOSE_WALLET, EXPIRE):
        assert held.refused(asked, MALL).code == "not_found"


def test_a_campaign_is_neither() -> None:
    """Its id under a packet's prefix leads nowhere."""
    story = PacketStory().claimed()
    asked = PayFromPacket(BOOK, CAMPAIGN, "mall", None, "o-1", cny(100))
    assert story.refused(asked, MALL).code == "not_found"
    assert story.refused(CloseWallet(BOOK, CAMPAIGN, "why")).code == "not_found"
    assert story.refused(c.VoidCoupon(BOOK, CAMPAIGN, "why")).code == "not_found"


def test_roll_overs_read_the_next_round_at_once() -> None:
    """A batch reads both campaigns and their pools in one look."""
    story = PacketStory(ROLLS).next_round().opened()
    further = RollOver(BOOK, CAMPAIGN).further(story)
    assert [read.stream for read in further.reads] == [NEXT]
    assert further.pools[0] == (NEXT, POOL)
