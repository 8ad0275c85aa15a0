"""Verification of packets: whatever was bent, the amount or step that is wrong is named.

Goal: each rule of packets has a damage that shows it red, and a right book shows none. Method: the
events of a sound book in memory are edited one by one, as the owner of a database could.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from msgspec import UNSET
from msgspec.structs import replace

from campaigns import commands as c
from campaigns.campaign import (
    SPLIT_POOL,
    BudgetReclaimed,
    CampaignDrafted,
    CampaignOpened,
    CampaignRolledIn,
    CampaignRolledOver,
    CampaignSplitShown,
    Intake,
)
from campaigns.coupon import CouponVoided, coupon_id
from campaigns.event_types import MAPPER
from campaigns.packets.commands import CloseWallet
from campaigns.packets.packet import (
    PacketClaimed,
    PacketExpired,
    PacketPaid,
    PacketRefunded,
    PacketWalletClosed,
)
from campaigns.packets.terms import PacketTerms, Split, Tier
from campaigns.verification import verify
from ledger.appending import Capacity
from ledger.events import Event, Why
from ledger.history import Entry, Standing
from tests.campaigns.test_decisions import BOOK, CAMPAIGN
from tests.support.desk import NOON, person
from tests.support.packets import (
    CLOSE,
    CLOSE_WALLET,
    ENDS,
    EXPIRE,
    NEXT,
    PACKET,
    ROLL_OVER,
    SHOW_SPLIT,
    SWEEPER,
    PacketStory,
)

MIXED = PacketTerms(tiers=(Tier(20_000, 2), Tier(50_000, 1)))
SHARED = PacketTerms(split=Split(1_000, 4))
ROLLS = PacketTerms(leftover="next_round", next_round=NEXT)
SECOND = coupon_id(CAMPAIGN, person(2), 1)


def entries(book: list[Event]) -> list[Entry]:
    """Return events as they would be stored, without the requests that they came from."""
    found = []
    for position, event in enumerate(book, 1):
        bare = replace(event, why=Why(event.why.request))
        stored = MAPPER.to_stored_event(bare)
        place = event.originator_id, event.originator_version
        found.append(Entry(position, *place, stored.topic, stored.state))
    return found


def found_in(book: list[Event], pools: Any = None) -> list[str]:
    """Return the codes of what is wrong with a book."""
    standing = None if pools is None else Standing(len(book), book[-1].at, len(book), pools)
    return [one.code for one in verify("main", entries(book), standing)]


def bent(story: PacketStory, kind: type[Event], nth: int = 0, **changes: Any) -> list[str]:
    """Change the n-th event of a type; return what is found."""
    at = [place for place, event in enumerate(story.book) if type(event) is kind][nth]
    book: list[Any] = list(story.book)
    book[at] = replace(book[at], **changes)
    return found_in(book)


def week() -> PacketStory:
    """Two people spend, return, expire, and close a wallet; the campaign is closed."""
    story = PacketStory().claimed(1).claimed(2).paid(12_000).paid(10_000, "o-2")
    story.refunded(5_000, "o-2")
    story.when(CloseWallet(BOOK, SECOND, "closed"))
    story.when(CLOSE)
    story.when(EXPIRE, SWEEPER, ENDS)
    story.refunded(3_000, "o-1", ENDS)
    return story


def handed_out(terms: PacketTerms = SHARED, face_minor: int = 1) -> PacketStory:
    """Everything of a sum or of tiers is given out, and the seed is shown."""
    story = PacketStory(terms, face_minor=face_minor).opened()
    for n in range(1, terms.promised[0] + 1):
        story.claimed(n)
    story.when(SHOW_SPLIT, SWEEPER)
    return story


def rolled() -> PacketStory:
    """Leftovers went into the next round."""
    story = PacketStory(ROLLS).next_round().paid(12_000)
    story.when(CLOSE)
    story.when(ROLL_OVER, SWEEPER)
    return story


def test_a_sound_book_has_no_findings() -> None:
    """Whatever happened, its capacity included."""
    left_to_the_sponsor = PacketStory(ROLLS).next_round().opened()
    left_to_the_sponsor.when(c.CloseCampaign(BOOK, NEXT, "never"))
    left_to_the_sponsor.when(CLOSE)
    left_to_the_sponsor.when(ROLL_OVER, SWEEPER)
    for story in (
        week(),
        handed_out(),
        handed_out(MIXED, 20_000),
        rolled(),
        left_to_the_sponsor,
    ):
        assert found_in(story.book, story.pools) == []


@pytest.mark.parametrize(
    ("kind", "changes", "code"),
    [
        (PacketPaid, {"amount_minor": 11_000, "own_minor": 1_000}, "payment_parts"),
        (PacketPaid, {"own_minor": 1}, "payment_parts"),
        (PacketPaid, {"merchant": "bar"}, "merchant_not_designated"),
        (PacketPaid, {"payment": uuid4()}, "paid_twice"),
        (PacketPaid, {"person": person(9)}, "packet_unknown"),
        (PacketPaid, {"at": NOON - timedelta(hours=2)}, "outside_validity"),
        (PacketRefunded, {"to_packet_minor": 5_000, "to_own_minor": 0}, "refund_parts"),
        (PacketRefunded, {"to_packet_minor": 0, "reclaimed_minor": 3_000}, "refund_parts"),
        (PacketRefunded, {"order": "o-1"}, "other_redemption"),
        (PacketRefunded, {"refund": uuid4()}, "other_redemption"),
        (PacketRefunded, {"sponsor": "somebody"}, "other_destination"),
        (PacketExpired, {"amount_minor": 1}, "other_amount"),
        (PacketExpired, {"to": "campaign"}, "other_destination"),
        (PacketExpired, {"valid_until": NOON}, "outside_validity"),
        (PacketWalletClosed, {"amount_minor": 0}, "other_amount"),
        (PacketClaimed, {"amount_minor": 19_999}, "share_differs"),
        (PacketClaimed, {"award": 1}, "share_differs"),
        (PacketClaimed, {"valid_until": NOON}, "claim_other_terms"),
        (CampaignOpened, {"split_commitment": "00"}, "split_commitment"),
    ],
)
def test_a_bent_event_is_found(kind: type[Event], changes: dict[str, Any], code: str) -> None:
    """One field of one event, and the rule that it breaks."""
    assert code in bent(week(), kind, **changes)


def test_an_order_paid_twice_is_found() -> None:
    """Also when both payments are in order by themselves."""
    story = PacketStory().paid(100).paid(100, "o-2")
    first = next(event for event in story.book if isinstance(event, PacketPaid))
    again = {"order": first.order, "payment": first.payment}
    assert bent(story, PacketPaid, 1, **again) == ["paid_twice"]


def test_spending_more_than_there_is_is_found_at_once() -> None:
    """The packet's own account is overdrawn, whatever else is in other packets."""
    story = PacketStory().claimed(2).paid(12_000)
    found = bent(story, PacketPaid, amount_minor=25_000, own_minor=0, total_minor=25_000)
    assert found[:2] == ["account_overdrawn", "payment_parts"]


def test_nothing_happens_to_a_packet_that_is_not_there() -> None:
    """A payment without a claim, and a coupon's step on a packet."""
    story = PacketStory().paid(100)
    without = [event for event in story.book if not isinstance(event, PacketClaimed)]
    assert "packet_unknown" in found_in(without) or "stream_version" in found_in(without)
    stranger = uuid4()
    paid = replace(story.book[-1], originator_id=stranger, originator_version=1)
    assert "packet_unknown" in found_in([*story.book[:-1], paid])
    voided = CouponVoided(
        originator_id=PACKET,
        originator_version=3,
        at=NOON,
        by=story.book[0].by,
        why=Why("forged"),
        campaign=CAMPAIGN,
        person=person(1),
        amount_minor=100,
        currency="CNY",
        to="campaign",
        sponsor="hainan",
        reason="forged",
    )
    assert "illegal_step" in found_in([*story.book, voided])


def test_nothing_is_paid_from_a_packet_that_has_ended() -> None:
    """Nor does it end again, or early, or late."""
    story = week()
    paid = next(event for event in story.book if isinstance(event, PacketPaid))
    version = len(story.streams[PACKET]) + 1
    late = replace(paid, originator_version=version, at=ENDS, order="o-9")
    assert "after_end" in found_in([*story.book, late])
    ended = PacketStory().claimed()
    ended.when(CLOSE_WALLET)
    again = replace(ended.book[-1], originator_version=3)
    assert "after_end" in found_in([*ended.book, again])
    early = PacketStory().claimed()
    early.when(EXPIRE, SWEEPER, ENDS)
    early.book[-1] = replace(early.book[-1], at=NOON)
    assert found_in(early.book) == ["outside_validity"]
    closed_late = PacketStory().claimed()
    closed_late.when(CLOSE_WALLET)
    closed_late.book[-1] = replace(closed_late.book[-1], at=ENDS)
    assert found_in(closed_late.book) == ["outside_validity"]


def test_shares_are_given_out_again_once_the_seed_is_shown() -> None:
    """Two people whose shares were swapped are found, each at their claim."""
    story = handed_out()
    claims = [event for event in story.book if isinstance(event, PacketClaimed)]
    amounts = [claim.amount_minor for claim in claims]
    one, other = next((i, j) for i in range(4) for j in range(i) if amounts[i] != amounts[j])
    book: list[Any] = list(story.book)
    for mine, theirs in ((one, other), (other, one)):
        place = book.index(claims[mine])
        book[place] = replace(claims[mine], amount_minor=amounts[theirs])
    assert found_in(book) == ["share_differs", "share_differs"]


def test_a_tier_is_not_given_more_often_than_it_is_there() -> None:
    """Also before anybody has seen the seed."""
    story = PacketStory(MIXED).opened()
    for n in (1, 2, 3):
        story.claimed(n)
    small = [
        n
        for n, event in enumerate(e for e in story.book if isinstance(e, PacketClaimed))
        if event.amount_minor == 20_000
    ]
    assert "share_differs" in bent(story, PacketClaimed, small[0], amount_minor=50_000)
    assert "share_differs" in bent(story, PacketClaimed, 1, award=5)
    assert "share_differs" in bent(story, PacketClaimed, 0, amount_minor=30_000)


def test_the_seed_is_the_one_that_was_committed_to_and_is_shown_at_the_end() -> None:
    """Another seed, one too many, one too early, and a commitment that is missing."""
    story = handed_out()
    assert "split_commitment" in bent(story, CampaignSplitShown, seed="00" * 32)
    assert "split_commitment" in bent(story, CampaignSplitShown, seed="no hex")
    assert "split_commitment" in bent(story, CampaignOpened, split_commitment=UNSET)
    shown = story.book[-1]
    again = replace(shown, originator_version=shown.originator_version + 1)
    assert "illegal_step" in found_in([*story.book, again])
    early = PacketStory(SHARED, face_minor=1).opened().claimed()
    too_early = replace(shown, originator_version=len(early.streams[CAMPAIGN]) + 1)
    assert found_in([*early.book, too_early]) == ["split_commitment"]


def test_tiers_are_funded_to_the_fen() -> None:
    """What the terms promise is what two operators approved."""
    story = PacketStory(SHARED, face_minor=1).opened()
    drafted = next(event for event in story.book if isinstance(event, CampaignDrafted))
    terms = replace(drafted.terms, packet=PacketTerms(split=Split(999, 4)))
    assert "split_commitment" in bent(story, CampaignDrafted, terms=terms)


def test_leftovers_go_whole_to_the_round_that_is_named() -> None:
    """Another amount, another round, and an arrival without a departure."""
    story = rolled()
    assert "leftover_differs" in bent(story, CampaignRolledOver, amount_minor=1)
    assert "leftover_differs" in bent(story, CampaignRolledOver, into=CAMPAIGN)
    assert "leftover_differs" in bent(story, CampaignRolledIn, amount_minor=1)
    assert "leftover_differs" in bent(story, CampaignRolledIn, from_campaign=NEXT)
    alone = [event for event in story.book if not isinstance(event, CampaignRolledOver)]
    assert "leftover_differs" in found_in(alone)
    cut = [event for event in story.book if not isinstance(event, CampaignRolledIn)]
    assert "decision_cut_short" in found_in(cut)


def test_the_sponsor_has_leftovers_only_when_the_next_round_is_closed() -> None:
    """A reclaim beside a close is no step of a campaign that rolls over."""
    story = PacketStory(ROLLS).next_round().opened()
    story.when(CLOSE)
    reclaimed = BudgetReclaimed(
        originator_id=CAMPAIGN,
        originator_version=len(story.streams[CAMPAIGN]) + 1,
        at=NOON,
        by=SWEEPER,
        why=Why("forged"),
        amount_minor=60_000,
        currency="CNY",
        sponsor="hainan",
    )
    assert "illegal_step" in found_in([*story.book, reclaimed])


def test_a_capacity_that_differs_is_found() -> None:
    """Of the campaign, and of what was split."""
    story = handed_out()
    pools = {**story.pools, (CAMPAIGN, SPLIT_POOL): Capacity(3, 4, 999, 1_000)}
    assert found_in(story.book, pools) == ["capacity_differs"]
    missing = {key: pool for key, pool in story.pools.items() if key[1] != SPLIT_POOL}
    assert found_in(story.book, missing) == ["capacity_differs"]


@pytest.mark.parametrize(
    "terms",
    [
        {"packet": None},
        {"restock": True},
        {"intake": Intake(kind="lottery", seconds=30)},
        {"packet": PacketTerms(leftover="next_round")},
        {"packet": PacketTerms(next_round=NEXT)},
        {"packet": PacketTerms(tiers=(Tier(1, 1),), split=Split(1, 1))},
        {"packet": PacketTerms(tiers=(Tier(5, 1), Tier(5, 2)))},
        {"packet": PacketTerms(split=Split(3, 4))},
        {"packet": PacketTerms(tiers=(Tier(5, 1),))},
        {"kind": "fixed"},
    ],
)
def test_terms_that_nobody_could_keep_are_found(terms: dict[str, Any]) -> None:
    """A campaign with such terms is not judged any further."""
    story = PacketStory()
    story.drafted()
    drafted: Any = story.book[0]
    story.book[0] = replace(drafted, terms=replace(drafted.terms, **terms))
    assert found_in(story.book) == ["terms_invalid"]


def test_a_packet_of_another_person_or_number_is_found() -> None:
    """The id is made of campaign, person and ordinal, for packets as for coupons."""
    story = PacketStory().claimed()
    assert bent(story, PacketClaimed, person=person(7)) == ["coupon_id"]
    assert bent(story, PacketClaimed, originator_id=UUID(int=5)) == ["coupon_id"]
    twice = replace(story.book[-1], originator_version=2)
    assert "illegal_step" in found_in([*story.book, twice])


def test_a_group_of_findings_is_not_made_of_one_damage() -> None:
    """After an unreadable event of a packet its later ones are left alone."""
    story = PacketStory().paid(100).paid(100, "o-2")
    book = entries(story.book)
    place = next(n for n, entry in enumerate(book) if entry.topic == "packet.paid")
    book[place] = book[place]._replace(state=b"{}")
    codes = [one.code for one in verify("main", book)]
    assert codes == ["unreadable_event"]
