"""Group packets: each rule of purses, sending, taking and returning, against a real book.

Goal: everything that the commands promise, and each refusal in its order of precedence.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import UUID

import msgspec
import pytest

from campaigns import commands as c
from campaigns.accounting import group_account, packet_account, postings_of, purse_account
from campaigns.event_types import MAPPER
from campaigns.groups import commands as g
from campaigns.groups.group import GroupClosed, GroupFunded, GroupShareTaken
from campaigns.groups.purse import PurseReturned, purse_id
from campaigns.groups.sharing import CODE_CHARS, code_of, share_id
from campaigns.packets.packet import PacketClaimed
from campaigns.packets.terms import PacketTerms, Split, Tier
from campaigns.replay import BookAt, group_life
from ledger.datastore import Datastore
from ledger.history import History
from ledger.money import Money
from ledger.postings import TrialBalance
from tests.docs.pages import page
from tests.draws.stories import packets
from tests.support.desk import ALICE, BOB, DRAW_KEY, NOON, person, terms_of, tourist
from tests.support.groups import (
    NEXT_NOON,
    SENDER,
    GroupDesk,
    key,
    packet_terms,
    problems,
)

OTHER_KEY = b"another key of the same length.."


@pytest.fixture
def desk(datastore: Datastore) -> Iterator[GroupDesk]:
    """A desk on a fresh book, which must be in order when the test is done."""
    desk = GroupDesk(datastore)
    yield desk
    assert problems(desk) == []
    desk.close()


def told(answer: Any) -> Any:
    """What an answer says."""
    return msgspec.json.decode(answer.body)


def trial(desk: GroupDesk) -> TrialBalance:
    """All postings of the book."""
    balance = TrialBalance()
    for event in desk.events():
        balance.post(postings_of(event))
    assert balance.is_zero
    assert balance.overdrawn() == []
    return balance


# Purses


def test_two_operators_fill_a_purse(desk: GroupDesk) -> None:
    """One proposes and another approves: the money is in the purse and no more in the pot."""
    campaign = desk.opened(10, packet_terms(), 5_000)
    purse = desk.filled(campaign, 3_000)
    assert desk.capacity(campaign) == (0, 10, 3_000, 5_000)
    assert desk.purse_now(purse).balance_minor == 3_000
    assert trial(desk).balance(purse_account(purse), "CNY") == 3_000


def test_a_filling_needs_another_operator_and_another_person(desk: GroupDesk) -> None:
    """S37: nobody approves a filling of their own, and nobody fills a purse of their own."""
    campaign = desk.opened(10, packet_terms(), 5_000)
    amount = Money(1_000, "CNY")
    purse = purse_id(campaign, SENDER)
    own = g.ProposeFilling(desk.book, campaign, ALICE.id, amount)
    assert desk.send(own, ALICE).code == "own_purse"
    assert desk.send(own, BOB).code == "filling_proposed"
    own_purse = purse_id(campaign, ALICE.id)
    approve = g.ApproveFilling(desk.book, own_purse, amount, key)
    assert desk.send(approve, ALICE).code == "own_purse"
    assert desk.send(approve, BOB).code == "self_approval"
    propose = g.ProposeFilling(desk.book, campaign, SENDER, amount)
    assert desk.send(propose, ALICE).code == "filling_proposed"
    assert desk.send(g.ApproveFilling(desk.book, purse, amount, key), ALICE).code == "self_approval"
    other = g.ApproveFilling(desk.book, purse, Money(999, "CNY"), key)
    assert desk.send(other, BOB).code == "filling_changed"
    dollars = g.ApproveFilling(desk.book, purse, Money(1_000, "USD"), key)
    assert desk.send(dollars, BOB).code == "unit_mismatch"
    assert desk.send(g.ApproveFilling(desk.book, purse, amount, key), BOB).code == "purse_filled"
    again = g.ApproveFilling(desk.book, purse, amount, key)
    assert desk.send(again, BOB).code == "no_filling_proposed"


def test_a_purse_is_filled_from_what_the_pot_has(desk: GroupDesk) -> None:
    """S31: more than is funded is refused, and so is another currency."""
    campaign = desk.opened(10, packet_terms(), 5_000)
    amount = Money(5_001, "CNY")
    propose = g.ProposeFilling(desk.book, campaign, SENDER, amount)
    assert desk.send(propose, ALICE).code == "filling_proposed"
    approve = g.ApproveFilling(desk.book, purse_id(campaign, SENDER), amount, key)
    assert desk.send(approve, BOB).code == "budget_exhausted"
    dollars = g.ProposeFilling(desk.book, campaign, SENDER, Money(1, "USD"))
    assert desk.send(dollars, ALICE).code == "unit_mismatch"


@pytest.mark.parametrize(
    "terms",
    [
        terms_of(),
        packet_terms(packet=PacketTerms(tiers=(Tier(100, 10),))),
        packet_terms(face_minor=1, packet=PacketTerms(split=Split(1_000, 10))),
        packets(Tier(100, 10)),
    ],
    ids=["coupons", "tiers", "split", "public draw"],
)
def test_money_that_is_promised_to_others_goes_into_no_purse(desk: GroupDesk, terms: Any) -> None:
    """Coupons have no purses, and what tiers, a split or a draw may need stays in the pot."""
    campaign = desk.drafted(terms)
    desk.fund(campaign, 10, 1_000)
    propose = g.ProposeFilling(desk.book, campaign, SENDER, Money(100, "CNY"))
    assert desk.send(propose, ALICE).code == "no_purses"


def test_a_purse_is_emptied_into_the_pot(desk: GroupDesk) -> None:
    """What is there goes back, once; the campaign can give it to others."""
    campaign = desk.opened(10, packet_terms(), 5_000)
    purse = desk.filled(campaign, 3_000)
    assert told(desk.empty(purse))["balance"]["amount_minor"] == 0
    assert desk.empty(purse).code == "purse_empty"
    assert desk.capacity(campaign) == (0, 10, 0, 5_000)


def test_the_sweeper_empties_purses_from_which_nobody_can_send(desk: GroupDesk) -> None:
    """After the claim window or the close, not before; after the close the sponsor has it."""
    purse = desk.purse(5_000)
    campaign = desk.purse_now(purse).campaign
    assert desk.sweep_purse(purse, at=NEXT_NOON).code == "still_sending"
    closing = c.CloseCampaign(desk.book, campaign, "over")
    assert desk.send(closing, ALICE).code == "closed"
    assert desk.sweep_purse(purse).code == "purse_emptied"
    assert desk.capacity(campaign)[2:] == (0, 0)
    assert trial(desk).balance("sponsor:hainan", "CNY") == 0


# Sending


def test_a_group_is_sent_from_a_purse(desk: GroupDesk) -> None:
    """Its money leaves the purse, its shares leave the stock, and the next seed is committed to."""
    purse = desk.purse(5_000, quota=10)
    before = desk.purse_now(purse)
    group = desk.sent(purse, 4, 3_000)
    after = desk.purse_now(purse)
    assert after.balance_minor == 2_000
    assert before.commitment is not None
    assert after.commitment is not None
    assert desk.group(group).seed_commitment == before.commitment.sha256
    assert after.commitment.sha256 != before.commitment.sha256
    assert desk.capacity(before.campaign) == (4, 10, 5_000, 5_000)
    balance = trial(desk)
    assert balance.balance(purse_account(purse), "CNY") == 2_000
    assert balance.balance(group_account(group), "CNY") == 3_000


def test_sending_is_refused_in_its_order(desk: GroupDesk) -> None:
    """Somebody else's purse, a pause, too little money or stock, a currency, another key."""
    purse = desk.purse(5_000, quota=5)
    campaign = desk.purse_now(purse).campaign
    sending = desk.sending(purse, 2, 1_000, "one")
    other = desk.sending(purse, 2, 1_000, "two", who=person(5))
    assert desk.send(other, tourist(person(5))).code == "not_found"
    assert desk.send(c.PauseCampaign(desk.book, campaign, "rain"), ALICE).code == "paused"
    assert desk.send(sending, tourist(SENDER)).code == "not_open"
    assert desk.send(c.ResumeCampaign(desk.book, campaign), ALICE).code == "resumed"
    for command, code in (
        (desk.sending(purse, 9, 9_000, "x"), "purse_short"),
        (desk.sending(purse, 9, 5_000, "x"), "sold_out"),
        (replace(sending, total=Money(1_000, "USD")), "unit_mismatch"),
        (replace(sending, draw_key=lambda: OTHER_KEY), "other_seed"),
    ):
        assert desk.send(command, tourist(SENDER)).code == code
    too_late = NOON + timedelta(days=3)
    assert desk.send(sending, tourist(SENDER)).code == "group_funded"
    assert desk.send(sending, tourist(SENDER), at=too_late).code == "not_open"


def test_a_repeated_sending_is_one(desk: GroupDesk) -> None:
    """The same key gives the first bytes, and one group."""
    purse = desk.purse(5_000)
    sending = desk.sending(purse, 2, 1_000, "one")
    first = desk.send(sending, tourist(SENDER), "one")
    assert desk.send(sending, tourist(SENDER), "one") == first._replace(replayed=True)
    assert desk.purse_now(purse).balance_minor == 4_000


def test_a_group_ends_with_the_claim_window(desk: GroupDesk) -> None:
    """Never later than claims do, so that nobody is refused a share that seems to be there."""
    purse = desk.purse(5_000)
    group = desk.sent(purse, 2, 1_000, at=NOON + timedelta(days=2, hours=12))
    assert desk.group(group).until == NOON + timedelta(days=3)


# Taking


def test_a_share_is_taken_and_opened_at_once(desk: GroupDesk) -> None:
    """The reply has the amount, which is in a packet of the taker's in the same transaction."""
    purse = desk.purse(5_000)
    group = desk.sent(purse, 3, 1_000)
    answer = desk.take(group, person(1))
    reply = told(answer)
    share = share_id(group, person(1))
    assert answer.code == "share_taken"
    assert reply["share"] == f"pkt_main_{share.hex}"
    claimed, taken = desk.events()[-2:]
    assert isinstance(claimed, PacketClaimed)
    assert isinstance(taken, GroupShareTaken)
    assert claimed.amount_minor == taken.amount_minor == reply["amount"]["amount_minor"] > 0
    assert claimed.group == group
    assert trial(desk).balance(packet_account(share), "CNY") == taken.amount_minor


def test_all_shares_add_up_and_the_last_one_shows_the_seed(desk: GroupDesk) -> None:
    """Every fen is given; the group is closed by its last taker, with nothing to return."""
    purse = desk.purse(5_000)
    group = desk.sent(purse, 3, 1_000)
    replies = [told(desk.take(group, person(n))) for n in range(1, 4)]
    assert ["seed" in reply for reply in replies] == [False, False, True]
    assert sum(reply["amount"]["amount_minor"] for reply in replies) == 1_000
    assert sorted(reply["index"] for reply in replies) == [1, 2, 3]
    closed = desk.events()[-1]
    assert isinstance(closed, GroupClosed)
    assert (closed.returned, closed.returned_minor) == (0, 0)
    assert desk.take(group, person(4)).code == "group_empty"
    assert desk.give_back(group).code == "group_closed"


def test_equal_shares_are_equal(desk: GroupDesk) -> None:
    """To the minor unit; the odd ones go by lot, one to each."""
    purse = desk.purse(5_000)
    group = desk.sent(purse, 3, 1_000, kind="equal")
    replies = [told(desk.take(group, person(n))) for n in range(1, 4)]
    assert sorted(reply["amount"]["amount_minor"] for reply in replies) == [333, 333, 334]


def test_a_person_has_one_share(desk: GroupDesk) -> None:
    """S34: twice by one taker is refused, also when all are taken; the same key is replayed."""
    purse = desk.purse(5_000)
    group = desk.sent(purse, 2, 1_000)
    first = desk.take(group, person(1), "mine")
    assert desk.take(group, person(1), "mine") == first._replace(replayed=True)
    again = desk.take(group, person(1))
    assert again.code == "already_taken"
    assert told(again)["share"] == told(first)["share"]
    desk.take(group, person(2))
    assert desk.take(group, person(1)).code == "already_taken"


def test_a_sender_takes_no_share_unless_the_group_says_so(desk: GroupDesk) -> None:
    """S34: one's own group is refused, or allowed by a parameter, once like for anybody."""
    purse = desk.purse(5_000)
    assert desk.take(desk.sent(purse, 2, 1_000), SENDER).code == "own_group"
    allowed = desk.sent(purse, 2, 1_000, "two", sender_may_take=True)
    assert desk.take(allowed, SENDER, code="").code == "share_taken"
    assert desk.take(allowed, SENDER).code == "already_taken"


def test_a_group_with_a_code_is_for_whoever_has_it(desk: GroupDesk) -> None:
    """Without the code there is no such group; it has a hundred bits, and no event holds it."""
    purse = desk.purse(5_000)
    group = desk.sent(purse, 2, 1_000)
    code = code_of(DRAW_KEY, group)
    assert len(code) == CODE_CHARS == 20
    assert desk.take(group, person(1), code="").code == "not_found"
    assert desk.take(group, person(1), code=code[:-1]).code == "not_found"
    assert desk.take(group, person(1)).code == "share_taken"
    assert code.encode() not in b"".join(msgspec.json.encode(event) for event in desk.events())


def test_a_group_with_members_is_for_them(desk: GroupDesk) -> None:
    """S34: who is not named is refused, with any code."""
    purse = desk.purse(5_000)
    group = desk.sent(purse, 2, 1_000, members=(person(1), person(2)))
    assert desk.take(group, person(3)).code == "not_a_member"
    assert desk.take(group, person(1), code="").code == "share_taken"


def test_a_pause_and_a_close_stop_the_taking(desk: GroupDesk) -> None:
    """No share is taken after the campaign was paused or closed; the money comes back in time."""
    purse = desk.purse(5_000)
    group = desk.sent(purse, 2, 1_000)
    campaign = desk.purse_now(purse).campaign
    desk.send(c.PauseCampaign(desk.book, campaign, "rain"), ALICE)
    assert desk.take(group, person(1)).code == "not_open"
    desk.send(c.CloseCampaign(desk.book, campaign, "over"), ALICE)
    assert desk.take(group, person(1)).code == "not_open"
    assert desk.give_back(group).code == "group_returned"
    assert desk.sweep_purse(purse, NEXT_NOON).code == "purse_emptied"
    assert trial(desk).balance("sponsor:hainan", "CNY") == 0


def test_another_draw_key_gives_no_share(desk: GroupDesk) -> None:
    """A seed that was not committed to decides nothing."""
    purse = desk.purse(5_000)
    group = desk.sent(purse, 2, 1_000)
    lost = replace(desk.taking(group, person(1)), draw_key=lambda: OTHER_KEY)
    assert desk.send(lost, tourist(person(1))).code == "other_seed"


# Returning


def test_what_nobody_took_comes_back_after_a_day_once(desk: GroupDesk) -> None:
    """S34: not a moment earlier; then nobody takes any more, and a second return is refused."""
    purse = desk.purse(5_000, quota=10)
    campaign = desk.purse_now(purse).campaign
    group = desk.sent(purse, 4, 1_000)
    mine = told(desk.take(group, person(1)))["amount"]["amount_minor"]
    just_before = NEXT_NOON - timedelta(microseconds=1)
    assert desk.give_back(group, just_before).code == "still_open"
    assert desk.take(group, person(2), at=NEXT_NOON).code == "group_over"
    assert desk.give_back(group).code == "group_returned"
    assert desk.give_back(group).code == "group_closed"
    assert desk.take(group, person(2), at=NEXT_NOON).code == "group_over"
    closed, returned = desk.events()[-2:]
    assert isinstance(closed, GroupClosed)
    assert isinstance(returned, PurseReturned)
    assert returned.amount_minor == closed.returned_minor == 1_000 - mine
    assert desk.purse_now(purse).balance_minor == 5_000 - mine
    assert desk.capacity(campaign) == (1, 10, 5_000, 5_000)
    assert trial(desk).balance(group_account(group), "CNY") == 0


def test_money_that_came_back_can_be_sent_again(desk: GroupDesk) -> None:
    """Under the commitment that the purse made when it sent before."""
    purse = desk.purse(1_000)
    desk.give_back(desk.sent(purse, 4, 1_000))
    again = desk.sent(purse, 4, 1_000, "again", at=NEXT_NOON)
    first, second = (event for event in desk.events() if isinstance(event, GroupFunded))
    assert second.originator_id == again
    assert second.seed_commitment != first.seed_commitment


# All of it


def test_a_replay_tells_where_the_money_was_at_every_position(desk: GroupDesk) -> None:
    """Sent = taken + returned + outstanding, and outstanding is what the groups' accounts have."""
    purse = desk.purse(5_000)
    group = desk.sent(purse, 4, 1_000)
    desk.take(group, person(1))
    whole = desk.sent(purse, 1, 500, "whole")
    desk.take(whole, person(2))
    desk.give_back(group)
    history, book = History(desk.datastore, desk.book, MAPPER), BookAt()
    in_between = {"packet.claimed", "purse.sent", "group.closed"}
    for positioned in history.events():
        book.apply(positioned)
        for money in book.money():
            assert money.sum_minor == 0
            if positioned.event.TOPIC not in in_between:
                assert book.groups.outstanding_minor == money.group_minor
    assert (book.groups.sent, book.groups.open, book.groups.shares_taken) == (2, 0, 2)
    steps = [step.event.TOPIC for step in group_life(history, group, history.head())]
    assert steps == ["group.funded", "group.share_taken", "group.closed"]
    assert group_life(history, purse, history.head()) == []


def test_money_moves_as_the_page_says(desk: GroupDesk) -> None:
    """The table of docs/money.md is what the events of groups post, and no other of them does."""
    purse = desk.purse(5_000)
    group = desk.sent(purse, 4, 1_000)
    desk.take(group, person(1))
    desk.give_back(group)
    desk.empty(purse)
    rows = page("docs/money.md").table("event of groups", "credit", "debit", "amount")
    told = {re.findall(r"`(.+?)`", row[0])[0]: (row[1], row[2]) for row in rows}
    moved = {
        event.TOPIC: (credit.split(":")[0], debit.split(":")[0])
        for event in desk.events()
        if not event.TOPIC.startswith("campaign.")
        for debit, credit, _, _ in postings_of(event)
    }
    assert moved == told


def test_unknown_things_are_not_found(desk: GroupDesk) -> None:
    """Nothing is known of a purse or a group that nobody made."""
    nothing = UUID(int=1)
    amount = Money(1, "CNY")
    commands: list[c.Command] = [
        g.ProposeFilling(desk.book, nothing, SENDER, amount),
        g.ApproveFilling(desk.book, nothing, amount, key),
        g.EmptyPurse(desk.book, nothing, "why"),
        g.SweepPurse(desk.book, nothing),
        desk.sending(nothing, 1, 1, "x"),
        desk.taking(nothing, person(1)),
        g.ReturnGroup(desk.book, nothing, key),
    ]
    for command in commands:
        assert desk.send(command, ALICE).code == "not_found"
