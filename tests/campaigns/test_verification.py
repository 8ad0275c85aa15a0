"""Verification of the rules: every code of `RULE_CODES` is the answer to some damage.

Goal: whatever decision was wrong, it is found as what it is, and a right one never is.
Method: events that no decision would have written are forged or rewritten in a book in which
everything happens; the findings must be exactly those expected.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from hashlib import sha1
from typing import Any, cast
from uuid import UUID, uuid4

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from api.drawer import Drawer
from campaigns.accounting import postings_of
from campaigns.campaign import (
    BudgetReclaimed,
    CampaignClosed,
    CampaignFunded,
    CampaignOpened,
    CampaignPaused,
    FundingProposed,
    Intake,
)
from campaigns.coupon import (
    CouponClaimed,
    CouponExpired,
    CouponReclaimed,
    CouponRedeemed,
    CouponRefunded,
    CouponVoided,
    coupon_id,
)
from campaigns.event_types import MAPPER
from campaigns.judging import Pot
from campaigns.refusals import PRECEDENCE
from campaigns.verification import REFUSALS, RULE_CODES, SUCCESSES, Audit, verify
from ledger.datastore import Datastore
from ledger.events import Actor, Event, Why
from ledger.history import Entry, History
from tests.support.damage import Damage, damaged
from tests.support.desk import (
    ALICE,
    BOB,
    DRAW_KEY,
    NOON,
    SPONSOR,
    Desk,
    person,
    terms_of,
    tourist,
)
from tests.support.story import AFTER_VALIDITY, Story, tell


@pytest.fixture
def story(datastore: Datastore) -> Story:
    """A book in which everything happened."""
    desk = Desk(datastore)
    story = tell(desk)
    desk.close()
    return story


@pytest.fixture
def history(datastore: Datastore, story: Story) -> History:
    """The story's book."""
    return History(datastore, "main", MAPPER)


def findings(history: History) -> list[str]:
    """Return the codes of what is found, in order."""
    standing = history.standing()
    found = list(verify(history.book, history.entries(0, standing.last), standing))
    assert all(one.where.startswith(("main", "cmp_main_")) for one in found), found
    return [one.code for one in found]


class Forger:
    """Writes events that nobody decided, at the end of the story's book."""

    def __init__(self, damage: Damage, story: Story) -> None:
        self.damage = damage
        self.story = story

    def header(self, stream: UUID, by: Actor = ALICE, **changes: Any) -> dict[str, Any]:
        """The header of the next event of a stream, long after everything else."""
        ordinary = {
            "originator_id": stream,
            "originator_version": self.damage.next_version(stream),
            "at": AFTER_VALIDITY,
            "by": by,
            "why": Why("forged"),
        }
        return ordinary | changes

    def campaign(self, kind: type[Event], campaign: UUID, by: Actor = ALICE, **rest: Any) -> None:
        """Forge an event of a campaign."""
        self.damage.forge(kind(**self.header(campaign, by) | rest))

    def coupon(self, kind: type[Event], coupon: UUID, **rest: Any) -> None:
        """Forge an event of a coupon of the spring campaign, with ordinary fields."""
        self.damage.forge(cast("Any", kind)(**self._coupon_fields(kind, coupon) | rest))

    def claim(self, who: int, n: int = 1, **rest: Any) -> None:
        """Forge a claim that somebody could have made at noon, had the book still been there."""
        claim = CouponClaimed(**self._claim_fields(who, n) | rest)
        self.damage.forge(claim)

    def capacity(self, campaign: UUID, **changes: int) -> None:
        """Let the stored capacity follow what was forged."""
        columns = ", ".join(f"{column} = {column} + %s" for column in changes)
        self.damage.run(
            f"UPDATE capacity SET {columns} WHERE book = {{book}} AND campaign = %s",
            *changes.values(),
            campaign,
        )

    def turn_back(self) -> None:
        """Cut the book off before the clock moved past the validity, and let it be noon."""
        first = self.damage.position("coupon.refunded", -1)
        self.damage.run("DELETE FROM event WHERE book = {book} AND position >= %s", first)
        self.damage.run(
            "UPDATE book_head SET position = %s, at = %s WHERE book = {book}", first - 1, NOON
        )
        # The coupons that had ended count again, in both campaigns.
        self.capacity(self.story.spring, issued=2, granted_minor=1_000)
        self.capacity(self.story.autumn, granted_minor=1_000, budget_minor=1_000)

    def _claim_fields(self, who: int, n: int) -> dict[str, Any]:
        spring = self.story.spring
        claimed = self.damage.event(self.damage.position("coupon.claimed"))
        coupon = coupon_id(spring, person(who), n)
        return self.header(coupon, tourist(person(who)), at=NOON) | {
            "campaign": spring,
            "campaign_version": self.damage.next_version(spring) - 1,
            "person": person(who),
            "n": n,
            "face_minor": claimed.face_minor,
            "threshold_minor": claimed.threshold_minor,
            "currency": "CNY",
            "valid_from": claimed.valid_from,
            "valid_until": claimed.valid_until,
        }

    def _coupon_fields(self, kind: type[Event], coupon: UUID) -> dict[str, Any]:
        self.damage.run(
            "SELECT position FROM event WHERE book = {book} AND originator_id = %s"
            " AND topic = 'coupon.claimed'",
            coupon,
        )
        claimed = self.damage.event(self.damage.cursor.fetchone()[0])
        fields = self.header(coupon) | {
            "campaign": claimed.campaign,
            "person": claimed.person,
            "currency": "CNY",
        }
        if kind is CouponRedeemed:
            return fields | {
                "merchant": "cafe",
                "shop": None,
                "order": "forged",
                "order_total_minor": 9_000,
                "discount_minor": claimed.face_minor,
            }
        fields["amount_minor"] = claimed.face_minor
        if kind is CouponRefunded:
            return fields | {"merchant": "cafe", "order": "forged", "reason": "forged"}
        ending = fields | {"to": "campaign", "sponsor": SPONSOR}
        if kind is CouponVoided:
            return ending | {"reason": "forged"}
        if kind is CouponExpired:
            return ending | {"valid_until": claimed.valid_until}
        return ending


def test_a_story_without_damage_is_clean(history: History) -> None:
    """Everything that the writer decided passes every rule."""
    assert findings(history) == []


def test_every_position_of_a_sound_book_is_clean(history: History) -> None:
    """No rule needs the future, except that a decision may be cut between its two events."""
    entries = list(history.entries())
    for end in range(len(entries)):
        codes = [finding.code for finding in verify("main", entries[:end])]
        assert codes in ([], ["decision_cut_short"])


# Claims


def put_another_person_in(forger: Forger) -> None:
    """A coupon whose id is not its person's."""
    forger.turn_back()
    forger.claim(8, person=person(9))
    forger.capacity(forger.story.spring, issued=1, granted_minor=500)


def claim_one_too_many(forger: Forger) -> None:
    """A third coupon where two are allowed."""
    forger.turn_back()
    forger.claim(1, n=3)
    forger.capacity(forger.story.spring, issued=1, granted_minor=500)


def claim_the_second_first(forger: Forger) -> None:
    """Number 2 without number 1."""
    forger.turn_back()
    forger.claim(8, n=2)
    forger.capacity(forger.story.spring, issued=1, granted_minor=500)


def claim_while_paused(forger: Forger) -> None:
    """A claim positioned after the pause."""
    forger.turn_back()
    forger.campaign(CampaignPaused, forger.story.spring, at=NOON, reason="forged")
    forger.claim(8)
    forger.capacity(forger.story.spring, issued=1, granted_minor=500)


def claim_after_the_close(forger: Forger) -> None:
    """A claim positioned after the close; the pot is empty by then as well."""
    forger.turn_back()
    claim: dict[str, Any] = {
        "campaign": forger.story.autumn,
        "campaign_version": forger.damage.next_version(forger.story.autumn) - 1,
        "originator_id": coupon_id(forger.story.autumn, person(8), 1),
        "face_minor": 1_000,
        "threshold_minor": 3_000,
    }
    forger.claim(8, **claim)
    forger.capacity(forger.story.autumn, issued=1, granted_minor=1_000)


def claim_after_the_window(forger: Forger) -> None:
    """A claim three days late."""
    forger.claim(8, at=AFTER_VALIDITY)
    forger.capacity(forger.story.spring, issued=1, granted_minor=500)


def claim_under_another_version(forger: Forger) -> None:
    """A claim decided against a state that the campaign had left."""
    forger.turn_back()
    forger.claim(8, campaign_version=4)
    forger.capacity(forger.story.spring, issued=1, granted_minor=500)


def claim_with_other_terms(forger: Forger) -> None:
    """A coupon that is valid for longer than its campaign says."""
    forger.turn_back()
    forger.claim(8, valid_until=NOON + timedelta(days=400))
    forger.capacity(forger.story.spring, issued=1, granted_minor=500)


def claim_of_nothing(forger: Forger) -> None:
    """A coupon of a campaign that nobody drafted; nobody funded it either."""
    forger.turn_back()
    campaign = uuid4()
    forger.claim(8, campaign=campaign, originator_id=coupon_id(campaign, person(8), 1))


def shrink_the_quota(forger: Forger) -> None:
    """The first funding was for fewer than were claimed; a later one hides it."""
    change_the_first_funding(forger.damage, quota=5)


def shrink_the_budget(forger: Forger) -> None:
    """The first funding was for less money than was granted; a later one hides it."""
    change_the_first_funding(forger.damage, budget_minor=2_500)


def change_the_first_funding(damage: Damage, **changes: int) -> None:
    """Rewrite the spring campaign's first funding, and the second one to make up for it."""
    proposed, funded = (
        damage.position("campaign.funding_proposed"),
        damage.position("campaign.funded"),
    )
    damage.rewrite(proposed, **changes)
    damage.rewrite(funded, **changes, **{_change_of(name): to for name, to in changes.items()})
    again, more = (
        damage.position("campaign.funding_proposed", 3),
        damage.position("campaign.funded", 3),
    )
    for name, to in changes.items():
        damage.rewrite(again, **{f"from_{name}": to})
        damage.rewrite(more, **{_change_of(name): getattr(damage.event(more), name) - to})


def _change_of(name: str) -> str:
    return {"quota": "quota_change", "budget_minor": "budget_change_minor"}[name]


# The lives of coupons


def redeem_a_used_one(forger: Forger) -> None:
    """Used for a second order while the first one stands; another coupon's money pays for it."""
    forger.turn_back()
    forger.coupon(CouponRedeemed, forger.story.used, at=NOON)


def redeem_a_voided_one(forger: Forger) -> None:
    """Used after its end; its money went back, so that the holder is overdrawn as well."""
    forger.turn_back()
    forger.coupon(CouponRedeemed, forger.story.voided, at=NOON)


def refund_a_held_one(forger: Forger) -> None:
    """A refund without a redemption."""
    forger.turn_back()
    forger.coupon(CouponRefunded, forger.story.held, at=NOON)


def void_a_used_one(forger: Forger) -> None:
    """The money of a used coupon goes back; another coupon's money pays for it."""
    forger.turn_back()
    forger.coupon(CouponVoided, forger.story.used, at=NOON)
    forger.capacity(forger.story.spring, issued=-1, granted_minor=-500)


def reclaim_without_a_refund(forger: Forger) -> None:
    """A held coupon cannot be reclaimed, it expires."""
    forger.coupon(CouponReclaimed, forger.story.last_held)
    forger.capacity(forger.story.spring, issued=-1, granted_minor=-500)


def redeem_too_late(forger: Forger) -> None:
    """Used after its validity."""
    forger.coupon(CouponRedeemed, forger.story.last_held)


def redeem_too_early(forger: Forger) -> None:
    """Used in a book whose coupons were not valid yet."""
    later = NOON + timedelta(minutes=1)
    for position in range(1, forger.damage.position("coupon.claimed", -1) + 1):
        event = forger.damage.event(position)
        if isinstance(event, CouponClaimed) and event.campaign == forger.story.autumn:
            forger.damage.rewrite(position, valid_from=later)
        if event.TOPIC == "campaign.drafted" and event.originator_id == forger.story.autumn:
            terms = event.terms
            forger.damage.rewrite(position, terms=_replaced(terms, valid_from=later))


def expire_too_early(forger: Forger) -> None:
    """Expired inside its validity."""
    forger.turn_back()
    forger.coupon(CouponExpired, forger.story.last_held, at=NOON)
    forger.capacity(forger.story.spring, issued=-1, granted_minor=-500)


def void_too_late(forger: Forger) -> None:
    """Voided when it should have expired."""
    forger.coupon(CouponVoided, forger.story.last_held)
    forger.capacity(forger.story.spring, issued=-1, granted_minor=-500)


def redeem_at_a_stranger(forger: Forger) -> None:
    """A merchant that the campaign does not name."""
    forger.turn_back()
    forger.coupon(CouponRedeemed, forger.story.last_held, at=NOON, merchant="casino")


def redeem_below_the_threshold(forger: Forger) -> None:
    """An order that is too small."""
    forger.turn_back()
    forger.coupon(CouponRedeemed, forger.story.last_held, at=NOON, order_total_minor=499)


def redeem_for_less(forger: Forger) -> None:
    """The merchant is paid less than the face value."""
    forger.turn_back()
    forger.coupon(CouponRedeemed, forger.story.last_held, at=NOON, discount_minor=499)


def refund_more(forger: Forger) -> None:
    """More is refunded than was redeemed; the merchant's other takings pay for it."""
    forger.turn_back()
    forger.coupon(
        CouponRefunded, forger.story.autumn_used, at=NOON, amount_minor=1_001, order="o-4"
    )


def refund_another_order(forger: Forger) -> None:
    """A refund of an order that the coupon was not used for."""
    forger.turn_back()
    forger.coupon(CouponRefunded, forger.story.autumn_used, at=NOON, order="o-3")


def refund_late_and_stop(forger: Forger) -> None:
    """A late refund without the reclaim that belongs to it."""
    forger.coupon(CouponRefunded, forger.story.used, merchant="bar", order="o-2")


def pay_the_sponsor_from_an_open_campaign(forger: Forger) -> None:
    """The money of an expired coupon leaves the pot although the campaign is open."""
    forger.coupon(CouponExpired, forger.story.last_held, to="sponsor")
    forger.capacity(forger.story.spring, issued=-1, granted_minor=-500, budget_minor=-500)


def expire_with_another_validity(forger: Forger) -> None:
    """An expiry that tells another end of validity than the terms."""
    forger.coupon(CouponExpired, forger.story.last_held, valid_until=NOON)
    forger.capacity(forger.story.spring, issued=-1, granted_minor=-500)


def redeem_nothing(forger: Forger) -> None:
    """A redemption of a coupon that nobody claimed, paid from another coupon's money."""
    forger.turn_back()
    stranger = coupon_id(forger.story.spring, person(5), 2)
    version = {"originator_id": stranger, "originator_version": 1}
    forger.coupon(CouponRedeemed, forger.story.last_held, at=NOON, **version)


def redeem_for_somebody_else(forger: Forger) -> None:
    """A redemption in the name of another holder, who pays for it."""
    forger.turn_back()
    forger.coupon(CouponRedeemed, forger.story.last_held, at=NOON, person=person(4))


# Campaigns


def open_twice(forger: Forger) -> None:
    """An open campaign is opened."""
    forger.campaign(CampaignOpened, forger.story.spring)


def close_twice(forger: Forger) -> None:
    """A closed campaign is closed."""
    forger.campaign(CampaignClosed, forger.story.autumn, reason="forged")


def draft_twice(forger: Forger) -> None:
    """A campaign's first event comes again."""
    drafted = forger.damage.event(forger.damage.position("campaign.drafted"))
    forger.damage.forge(_replaced(drafted, **forger.header(forger.story.spring)))


def open_nothing(forger: Forger) -> None:
    """A campaign that nobody drafted."""
    forger.campaign(CampaignOpened, uuid4())


def close_without_giving_back(forger: Forger) -> None:
    """A close that keeps the rest of the pot."""
    forger.campaign(CampaignClosed, forger.story.spring, reason="forged")


def give_back_in_between(forger: Forger) -> None:
    """Money leaves the pot of an open campaign."""
    reclaimed: dict[str, Any] = {"amount_minor": 500, "currency": "CNY", "sponsor": SPONSOR}
    forger.campaign(BudgetReclaimed, forger.story.spring, **reclaimed)
    forger.capacity(forger.story.spring, budget_minor=-500)


def give_back_too_little(forger: Forger) -> None:
    """The close of the autumn campaign left one fen behind."""
    position = forger.damage.position("campaign.budget_reclaimed")
    amount_minor = forger.damage.event(position).amount_minor - 1
    forger.damage.rewrite(position, amount_minor=amount_minor)
    forger.capacity(forger.story.autumn, budget_minor=1)


def approve_alone(forger: Forger) -> None:
    """Who proposed also approves."""
    _fund(forger, ALICE)


def fund_more_than_proposed(forger: Forger) -> None:
    """What is funded is not what the first person proposed."""
    _fund(forger, BOB, quota=21, quota_change=9)
    forger.capacity(forger.story.spring, quota=1)


def fund_without_a_proposal(forger: Forger) -> None:
    """Funding out of nothing."""
    forger.campaign(CampaignFunded, forger.story.spring, BOB, **_funded())
    forger.capacity(forger.story.spring, quota=8, budget_minor=1_000)


def propose_on_other_values(forger: Forger) -> None:
    """A proposal by somebody who saw another quota."""
    forger.campaign(FundingProposed, forger.story.spring, **_proposed() | {"from_quota": 11})


def _fund(forger: Forger, approver: Actor, **changes: Any) -> None:
    forger.campaign(FundingProposed, forger.story.spring, **_proposed())
    forger.campaign(CampaignFunded, forger.story.spring, approver, **_funded() | changes)
    forger.capacity(forger.story.spring, quota=8, budget_minor=1_000)


def _proposed() -> dict[str, Any]:
    return {"quota": 20, "budget_minor": 7_000, "from_quota": 12, "from_budget_minor": 6_000}


def _funded() -> dict[str, Any]:
    return {
        "quota": 20,
        "budget_minor": 7_000,
        "quota_change": 8,
        "budget_change_minor": 1_000,
        "currency": "CNY",
        "sponsor": SPONSOR,
        "proposed_by": ALICE.id,
    }


def promise_the_impossible(forger: Forger) -> None:
    """Terms under which a coupon costs more than the order that it is for."""
    drafted = forger.damage.event(forger.damage.position("campaign.drafted"))
    terms = _replaced(drafted.terms, face_minor=501)
    forger.damage.forge(_replaced(drafted, terms=terms, **forger.header(uuid4())))


def _replaced(struct: Any, **changes: Any) -> Any:
    return replace(struct, **changes)


# Capacity


def set_another_capacity(forger: Forger) -> None:
    """The stored stock says one more."""
    forger.capacity(forger.story.spring, issued=1)


def forget_the_capacity(forger: Forger) -> None:
    """The stored stock is gone."""
    forger.damage.run("DELETE FROM capacity WHERE campaign = %s", forger.story.autumn)


def invent_a_capacity(forger: Forger) -> None:
    """Stock of a campaign that nobody drafted."""
    forger.damage.run("INSERT INTO capacity VALUES ({book}, %s, 'all', 0, 1, 0, 1)", uuid4().hex)


@pytest.mark.parametrize(
    ("damage", "codes"),
    [
        (put_another_person_in, ["coupon_id"]),
        (claim_one_too_many, ["person_limit"]),
        (claim_the_second_first, ["ordinal_skipped"]),
        (claim_while_paused, ["claim_not_open"]),
        (claim_after_the_close, ["account_overdrawn", "over_granted", "claim_not_open"]),
        (claim_after_the_window, ["claim_outside_window"]),
        (claim_under_another_version, ["claim_other_version"]),
        (claim_with_other_terms, ["claim_other_terms"]),
        (claim_of_nothing, ["account_overdrawn", "campaign_unknown"]),
        (shrink_the_quota, ["over_issued"]),
        (shrink_the_budget, ["account_overdrawn", "over_granted"]),
        (redeem_a_used_one, ["redeemed_twice"]),
        (redeem_a_voided_one, ["account_overdrawn", "after_end"]),
        (refund_a_held_one, ["illegal_step"]),
        (void_a_used_one, ["illegal_step"]),
        (reclaim_without_a_refund, ["illegal_step"]),
        (redeem_too_late, ["outside_validity"]),
        (redeem_too_early, ["outside_validity"]),
        (expire_too_early, ["outside_validity"]),
        (void_too_late, ["outside_validity"]),
        (redeem_at_a_stranger, ["merchant_not_designated"]),
        (redeem_below_the_threshold, ["below_threshold"]),
        (redeem_for_less, ["other_amount"]),
        (refund_more, ["other_amount"]),
        (refund_another_order, ["other_redemption"]),
        (refund_late_and_stop, ["decision_cut_short"]),
        (pay_the_sponsor_from_an_open_campaign, ["other_destination"]),
        (expire_with_another_validity, ["claim_other_terms"]),
        (redeem_nothing, ["coupon_unknown"]),
        (redeem_for_somebody_else, ["coupon_id"]),
        (open_twice, ["illegal_step"]),
        (close_twice, ["illegal_step"]),
        (draft_twice, ["illegal_step"]),
        (open_nothing, ["campaign_unknown"]),
        (close_without_giving_back, ["decision_cut_short"]),
        (give_back_in_between, ["illegal_step"]),
        (give_back_too_little, ["other_amount"]),
        (approve_alone, ["self_approval"]),
        (fund_more_than_proposed, ["not_as_proposed"]),
        (fund_without_a_proposal, ["not_as_proposed"]),
        (propose_on_other_values, ["not_as_proposed"]),
        (promise_the_impossible, ["terms_invalid"]),
        (set_another_capacity, ["capacity_differs"]),
        (forget_the_capacity, ["capacity_differs"]),
        (invent_a_capacity, ["capacity_differs"]),
    ],
)
def test_a_wrong_decision_is_found(
    history: History,
    story: Story,
    database_url: str,
    damage: Callable[[Forger], None],
    codes: list[str],
) -> None:
    """One damage, its finding. Where two are named, the accounts show the same damage too."""
    with damaged(database_url) as hand:
        damage(Forger(hand, story))
    assert findings(history) == codes


# Lotteries


@pytest.fixture
def lottery(datastore: Datastore) -> list[Entry]:
    """The events of a book with a lottery: six entered for three coupons and it was drawn."""
    desk = Desk(datastore)
    terms = terms_of(claim_from=NOON, intake=Intake(kind="lottery", seconds=30))
    campaign = desk.opened(3, terms)
    for n in range(1, 7):
        desk.claim(campaign, person(n))
    for _ in Drawer(datastore, desk.writer, lambda: DRAW_KEY).steps(NOON + timedelta(hours=1)):
        pass
    desk.close()
    return list(History(datastore, "main", MAPPER).entries())


Edit = Callable[[dict[str, Any]], dict[str, Any]]


def edited(entries: list[Entry], topic: str, edit: Edit, nth: int = -1) -> list[str]:
    """Return what is found when the state of an event, the last of its topic, is another one."""
    at = [place for place, entry in enumerate(entries) if entry.topic == topic][nth]
    state = msgspec.json.encode(edit(msgspec.json.decode(entries[at].state)))
    rest = [*entries[:at], entries[at]._replace(state=state), *entries[at + 1 :]]
    return [finding.code for finding in verify("main", rest)]


def late_entry(entries: list[Entry]) -> list[str]:
    """Somebody is found to have entered after the draw."""
    last = entries[-1]
    entry = next(one for one in entries if one.topic == "coupon.entered")
    state = msgspec.json.decode(entry.state)
    claim = msgspec.json.decode(last.state)
    state |= {"at": claim["at"], "person": person(9), "campaign_version": claim["campaign_version"]}
    stream = coupon_id(UUID(state["campaign"]), person(9), 1)
    late = Entry(last.position + 1, stream, 1, entry.topic, msgspec.json.encode(state))
    return [finding.code for finding in verify("main", [*entries, late])]


def loser_gets_it(entries: list[Entry]) -> list[str]:
    """The last coupon went to somebody who was not drawn."""
    last = entries[-1]
    given = {entry.stream for entry in entries if entry.topic == "coupon.claimed"}
    loser = next(
        entry for entry in entries if entry.topic == "coupon.entered" and entry.stream not in given
    )
    who = msgspec.json.decode(loser.state)["person"]
    state = msgspec.json.encode(msgspec.json.decode(last.state) | {"person": who})
    forged = last._replace(stream=loser.stream, state=state)
    return [finding.code for finding in verify("main", [*entries[:-1], forged])]


def without(name: str) -> Edit:
    """An edit that takes a field away."""
    return lambda state: {key: value for key, value in state.items() if key != name}


def with_(**changes: Any) -> Edit:
    """An edit that changes fields."""
    return lambda state: state | changes


@pytest.mark.parametrize(
    ("damage", "codes"),
    [
        (lambda book: edited(book, "campaign.drawn", with_(entrants=7)), ["draw_differs"]),
        (lambda book: edited(book, "campaign.drawn", with_(threshold="f" * 64)), ["draw_differs"]),
        (
            lambda book: edited(book, "campaign.drawn", with_(entrants_sha256="0" * 64)),
            ["draw_differs"],
        ),
        (
            lambda book: edited(book, "campaign.drawn", with_(seed="00" * 32)),
            ["seed_differs", *3 * ["not_a_winner"]],
        ),
        (
            lambda book: edited(book, "campaign.drawn", with_(seed="no hex")),
            ["seed_differs", *3 * ["not_a_winner"]],
        ),
        (
            lambda book: edited(book, "campaign.intake_closed", with_(places=4)),
            ["draw_differs", "draw_differs"],
        ),
        (
            lambda book: edited(
                book, "campaign.intake_closed", with_(at="2026-05-01T12:00:29.999999Z")
            ),
            ["illegal_step"],
        ),
        (lambda book: edited(book, "coupon.claimed", without("drawn")), ["draw_incomplete"]),
        (late_entry, ["entry_outside_intake"]),
        (loser_gets_it, ["not_a_winner"]),
    ],
)
def test_a_wrong_draw_is_found(
    lottery: list[Entry], damage: Callable[[list[Entry]], list[str]], codes: list[str]
) -> None:
    """Whatever a draw was bent to, its recomputation tells."""
    assert [finding.code for finding in verify("main", lottery)] == []
    assert damage(lottery) == codes


def test_a_commitment_without_a_lottery_is_found(history: History) -> None:
    """And a lottery without one is as well: then everything after it hangs in the air."""
    opening = with_(seed_commitment="00" * 32)
    assert edited(list(history.entries()), "campaign.opened", opening) == ["seed_commitment"]


def test_a_lottery_without_a_commitment_is_found(lottery: list[Entry]) -> None:
    """Nobody could prove that its seed was not chosen at the end."""
    found = edited(lottery, "campaign.opened", without("seed_commitment"))
    assert found[0] == "seed_commitment"


def test_a_lottery_is_sound_at_every_position(lottery: list[Entry]) -> None:
    """A book that ends in the middle of a draw is not a wrong one."""
    for end in range(len(lottery)):
        assert [finding.code for finding in verify("main", lottery[:end])] == []


def test_a_lost_entry_blames_no_draw(lottery: list[Entry]) -> None:
    """With an entry unreadable the draw cannot be recomputed, and nobody is accused."""
    at = next(place for place, entry in enumerate(lottery) if entry.topic == "coupon.entered")
    rest = [*lottery[:at], lottery[at]._replace(topic="x"), *lottery[at + 1 :]]
    assert [finding.code for finding in verify("main", rest)] == ["unknown_event_type"]


def test_accounts_that_forget_a_step_are_found(history: History) -> None:
    """A bug in the accounting, with every decision in order, breaks the conservation of money."""
    audit = Audit(
        "main", lambda event: () if event.TOPIC == "coupon.redeemed" else postings_of(event)
    )
    for entry in history.entries():
        if entry.topic == "coupon.refunded":
            break
        audit.feed(entry)
    audit.finish()
    assert {finding.code for finding in audit.take_findings()} == {"conservation"}


def test_an_unreadable_event_hides_no_other_damage(
    history: History, story: Story, database_url: str
) -> None:
    """The rest of the book is still judged, and nothing that hangs on the lost event is blamed."""
    with damaged(database_url) as damage:
        damage.run(
            "UPDATE event SET topic = 'x' WHERE position = %s", damage.position("coupon.claimed")
        )
        Forger(damage, story).campaign(CampaignOpened, story.spring)
    assert findings(history) == ["unknown_event_type", "illegal_step"]


def test_a_lost_campaign_event_blames_no_claim(history: History, database_url: str) -> None:
    """With its opening unreadable, a campaign's claims are not judged, and not accused."""
    with damaged(database_url) as damage:
        damage.run(
            "UPDATE event SET topic = 'x' WHERE position = %s", damage.position("campaign.opened")
        )
    assert findings(history) == ["unknown_event_type"]


def test_nothing_goes_below_zero(history: History, story: Story, database_url: str) -> None:
    """More coming back than ever went out is out of bounds too."""
    with damaged(database_url) as damage:
        position = damage.position("coupon.voided")
        amount_minor = 9_000
        damage.rewrite(position, amount_minor=amount_minor)
        Forger(damage, story).capacity(story.spring, granted_minor=500 - amount_minor)
    found = findings(history)
    assert found[:3] == ["account_overdrawn", "over_granted", "other_amount"]
    assert set(found) == set(found[:3])


def test_every_rule_is_tested(request: pytest.FixtureRequest) -> None:
    """A check without a damage that shows it red does not count."""
    modules = "".join(one.read_text() for one in request.path.parent.glob("test_*verification.py"))
    assert [code for code in RULE_CODES if f'"{code}"' not in modules] == []


def test_every_outcome_has_a_code(history: History) -> None:
    """No code is both a success and a refusal, and every refusal of the rules is known."""
    assert not REFUSALS & SUCCESSES.keys()
    assert {code for codes in PRECEDENCE.values() for code in codes} == REFUSALS
    assert {reply.code for reply, _ in history.replies()} <= REFUSALS | SUCCESSES.keys()


@given(campaign=st.uuids(), who=st.text(min_size=1, max_size=40), n=st.integers(1, 20))
def test_coupon_ids_are_recomputed_as_they_are_made(campaign: UUID, who: str, n: int) -> None:
    """The verification's own way to a coupon's id ends at the same id as the decision's."""
    pot = Pot(cast("Any", None), judged=True, namespace=sha1(campaign.bytes))
    assert pot.coupon(who, n) == coupon_id(campaign, who, n).int
