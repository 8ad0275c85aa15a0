"""Decisions on campaigns and coupons: given what happened, when asked, then this follows."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from itertools import combinations
from typing import Any
from uuid import UUID

import msgspec
import pytest
from msgspec import UNSET

from campaigns import commands as c
from campaigns.accounting import postings_of
from campaigns.campaign import DRAW_POOL, POOL, CampaignIntakeClosed, Intake, Terms
from campaigns.commands import Command, Decision, header_of
from campaigns.coupon import coupon_id
from campaigns.drawing import CloseIntake, GiveDrawn, RecordDraw
from campaigns.event_types import MAPPER
from campaigns.intake import Drawing, hold, seed_of
from campaigns.packets.terms import PacketTerms, Tier
from campaigns.refusals import PRECEDENCE, Refusal
from campaigns.replies import EntryReply
from ledger.appending import Capacity, PoolKey
from ledger.books import Book
from ledger.commit import Read
from ledger.events import Actor, Event
from ledger.money import Money
from ledger.moulds import EncodedEvent
from ledger.postings import TrialBalance
from tests.support.desk import ALICE, BOB, NOON, SPONSOR, person, terms_of, tourist

BOOK = Book("main")
CAMPAIGN = c.campaign_id(BOOK, ALICE, "k")
WHO = person(1)
COUPON = coupon_id(CAMPAIGN, WHO, 1)
SHOP = Actor("merchant", "mall")
LATE = NOON + timedelta(days=3)


class Story:
    """A book in memory: what happened so far, as decisions see it."""

    def __init__(self, terms: Terms | None = None) -> None:
        self.now = NOON
        self.streams: dict[UUID, list[Event]] = {}
        self.pools: dict[PoolKey, Capacity] = {}
        self.trial = TrialBalance()
        self.terms = terms or terms_of()

    def state(self, read: Read[Any]) -> Any:
        state = None
        for event in self.streams.get(read.stream, ()):
            state = read.fold.evolve(state, event)
        return state

    def version(self, stream: UUID) -> int:
        return len(self.streams.get(stream, ()))

    def capacity(self, pool: PoolKey) -> Capacity:
        return self.pools.get(pool, Capacity())

    def when(self, command: Command, by: Actor = ALICE, at: datetime = NOON) -> Decision:
        """Decide, and let what follows happen."""
        self.now = max(self.now, at)
        call = c.Call(by, "request", lambda _: b"", "key", b"f")
        decision = command.decide(self, header_of(self, call))
        for event in map(_plain, decision.events):
            stream = self.streams.setdefault(event.originator_id, [])
            stream.append(event)
            assert event.originator_version == len(stream)
            self.trial.post(postings_of(event))
        for pool, change in decision.capacity:
            self.pools[pool] = self.capacity(pool).plus(change)
            assert self.pools[pool].within_bounds
        assert self.trial.is_zero
        assert not self.trial.overdrawn()
        return decision

    def refused(self, command: Command, by: Actor = ALICE, at: datetime = NOON) -> Refusal:
        """Decide, expecting a refusal that changes nothing."""
        self.now = max(self.now, at)
        call = c.Call(by, "request", lambda _: b"", "key", b"f")
        with pytest.raises(Refusal) as caught:
            command.decide(self, header_of(self, call))
        return caught.value

    def drafted(self) -> Story:
        self.when(c.DraftCampaign(BOOK, CAMPAIGN, "Spring", SPONSOR, self.terms))
        return self

    def funded(self, quota: int = 3, budget: int = 1500) -> Story:
        self.drafted()
        self.when(c.ProposeFunding(BOOK, CAMPAIGN, quota, Money(budget, "CNY"), 0, 0))
        self.when(c.ApproveFunding(BOOK, CAMPAIGN, quota, Money(budget, "CNY")), BOB)
        return self

    def opened(self, quota: int = 3, budget: int = 1500) -> Story:
        self.funded(quota, budget)
        self.when(c.OpenCampaign(BOOK, CAMPAIGN))
        return self

    def claimed(self, n: int = 1) -> Story:
        if CAMPAIGN not in self.streams:
            self.opened()
        self.when(claim(n), tourist(person(n)))
        return self

    def redeemed(self) -> Story:
        self.claimed()
        self.when(redeem(), SHOP)
        return self

    def holder(self, n: int = 1) -> int:
        return self.trial.balance(f"holder:{person(n)}", "CNY")

    def pot(self) -> int:
        return self.trial.balance(f"campaign:{CAMPAIGN.hex}", "CNY")

    def merchant(self) -> int:
        return self.trial.balance("merchant:mall", "CNY")

    def put_in(self) -> int:
        return -self.trial.balance(f"sponsor:{SPONSOR}", "CNY")


def _plain(event: Event | EncodedEvent) -> Event:
    """Return an event that was encoded already as what it says."""
    if isinstance(event, Event):
        return event
    return MAPPER.decode(event.TOPIC, event.state, event.originator_id, event.originator_version)


def claim(n: int = 1) -> c.ClaimCoupon:
    """Claim for the n-th person."""
    return c.ClaimCoupon(BOOK, CAMPAIGN, person(n))


def redeem(**changes: Any) -> c.RedeemCoupon:
    """Redeem the first person's coupon at the mall."""
    ordinary: dict[str, Any] = {
        "merchant": "mall",
        "shop": None,
        "order": "o-1",
        "order_total": Money(2000, "CNY"),
    }
    return c.RedeemCoupon(BOOK, COUPON, **{**ordinary, **changes})


def refund(**changes: Any) -> c.RefundCoupon:
    """Refund that redemption."""
    ordinary = {"merchant": "mall", "order": "o-1", "reason": "returned"}
    return c.RefundCoupon(BOOK, COUPON, **{**ordinary, **changes})


VOID = c.VoidCoupon(BOOK, COUPON, "fraud")
EXPIRE = c.ExpireCoupon(BOOK, COUPON)
OPEN = c.OpenCampaign(BOOK, CAMPAIGN)
PAUSE = c.PauseCampaign(BOOK, CAMPAIGN, "rain")
RESUME = c.ResumeCampaign(BOOK, CAMPAIGN)
CLOSE = c.CloseCampaign(BOOK, CAMPAIGN, "over")


def topics(decision: Decision) -> list[str]:
    """The topics of what followed."""
    return [event.TOPIC for event in decision.events]


KEY = b"k" * 32
DRAWER = Actor("draw", "system")
LOTTERY = terms_of(claim_from=NOON, intake=Intake(kind="lottery", seconds=30))
DRAWS_AT = NOON + timedelta(seconds=30)
SEED = seed_of(KEY, CAMPAIGN, 4)
CLOSE_INTAKE = CloseIntake(BOOK, CAMPAIGN)
TIERED = terms_of(kind="packet", packet=PacketTerms(tiers=(Tier(500, 2), Tier(800, 1))))


class Lottery(Story):
    """A book in memory with one campaign, whose first claims are drawn."""

    def __init__(self) -> None:
        super().__init__(LOTTERY)

    def opened(self, quota: int = 3, budget: int = 1500) -> Lottery:
        self.now = NOON - timedelta(hours=1)
        self.funded(quota, budget)
        self.when(c.OpenCampaign(BOOK, CAMPAIGN, lambda: KEY), at=self.now)
        return self

    def entered(self, *people: int) -> Lottery:
        if CAMPAIGN not in self.streams:
            self.opened()
        for n in people:
            assert self.when(claim(n), tourist(person(n))).code == "entered"
        return self

    def intake_closed(self) -> Lottery:
        self.when(CLOSE_INTAKE, DRAWER, DRAWS_AT)
        return self

    def drawing(self) -> Drawing:
        """What any runner of this draw computes."""
        entered = [e for events in self.streams.values() for e in events if e.TOPIC == ENTERED]
        places = next(e for e in self.streams[CAMPAIGN] if isinstance(e, CampaignIntakeClosed))
        return hold(SEED, [event.originator_id.bytes for event in entered], places.places)

    def drawn(self) -> Lottery:
        self.intake_closed()
        self.when(RecordDraw(BOOK, CAMPAIGN, SEED, self.drawing()), DRAWER)
        return self

    def given(self) -> Lottery:
        self.drawn()
        for winner in self.drawing().winners:
            self.when(GiveDrawn(BOOK, winner), DRAWER)
        return self

    def loser(self) -> int:
        """Somebody who has entered and is not drawn."""
        winners = self.drawing().winners
        return next(n for n in range(1, 9) if coupon_id(CAMPAIGN, person(n), 1) not in winners)


ENTERED = "coupon.entered"


class TestLottery:
    """The first claims are entries; the lowest ranks win; the rest is first come."""

    def test_an_entry_takes_nothing(self) -> None:
        """No stock, no money: both are for those who are drawn."""
        story = Lottery().entered(1, 2)
        assert story.capacity((CAMPAIGN, POOL)) == Capacity(0, 3, 0, 1500)
        assert (story.pot(), story.holder()) == (1500, 0)

    def test_an_entry_says_when_it_is_drawn(self) -> None:
        """The reply names the coupon that it may become, and the instant of the draw."""
        reply = Lottery().opened().when(claim(), tourist(WHO)).reply
        assert reply == EntryReply(
            f"cpn_main_{COUPON.hex}", f"cmp_main_{CAMPAIGN.hex}", "entered", NOON, DRAWS_AT
        )

    def test_the_intake_is_half_open(self) -> None:
        """The last microsecond is in, the next one waits for the draw."""
        story = Lottery().opened()
        last = DRAWS_AT - timedelta(microseconds=1)
        assert story.when(claim(), tourist(WHO), last).code == "entered"
        assert story.refused(claim(2), tourist(person(2)), DRAWS_AT).code == "draw_pending"

    def test_winners_have_coupons_like_any_other(self) -> None:
        """Stock and money are taken when the coupon is given; it can be used, and ends as any."""
        story = Lottery().entered(1).given()
        assert story.capacity((CAMPAIGN, POOL)) == Capacity(1, 3, 500, 1500)
        assert story.capacity((CAMPAIGN, DRAW_POOL)) == Capacity(1, 1)
        assert story.holder() == 500
        assert story.when(redeem(), SHOP).code == "redeemed"
        assert story.when(refund(), SHOP).reply.state == "held"
        assert story.when(VOID).code == "voided"

    def test_as_many_win_as_there_is_stock_and_money_for(self) -> None:
        """Money for two of three pieces: two places."""
        story = Lottery().opened(quota=3, budget=1499).entered(1, 2, 3, 4).given()
        assert story.capacity((CAMPAIGN, POOL)) == Capacity(2, 3, 1000, 1499)
        assert story.refused(claim(9), tourist(person(9))).code == "budget_exhausted"

    def test_what_is_left_is_first_come(self) -> None:
        """With fewer entrants than coupons everybody wins, and others may claim the rest."""
        story = Lottery().entered(1).given()
        assert story.when(claim(2), tourist(person(2))).code == "claimed"

    def test_who_was_not_drawn_may_claim_what_comes_back(self) -> None:
        """Losing the draw does not use up the person's coupon; their stream goes on."""
        story = Lottery().opened(quota=1, budget=500).entered(1, 2).given()
        loser = story.loser()
        assert story.refused(claim(loser), tourist(person(loser))).code == "sold_out"
        budget = Money(1000, "CNY")
        story.when(c.ProposeFunding(BOOK, CAMPAIGN, 2, budget, 1, 500))
        story.when(c.ApproveFunding(BOOK, CAMPAIGN, 2, budget), BOB)
        decision = story.when(claim(loser), tourist(person(loser)))
        assert decision.code == "claimed"
        assert decision.events[0].originator_version == 2
        assert story.refused(claim(loser), tourist(person(loser))).code == "already_claimed"

    def test_a_pause_holds_the_draw(self) -> None:
        """Nothing is closed, drawn or given while the campaign is paused; then it goes on."""
        story = Lottery().entered(1).drawn()
        story.when(PAUSE)
        give = GiveDrawn(BOOK, story.drawing().winners[0])
        assert story.refused(give, DRAWER).code == "wrong_state"
        story.when(RESUME)
        assert story.when(give, DRAWER).code == "claimed"

    def test_a_close_before_the_draw_ends_it(self) -> None:
        """No seed was shown, nobody has won: the sponsor gets everything back."""
        story = Lottery().entered(1).intake_closed()
        story.when(CLOSE)
        record = RecordDraw(BOOK, CAMPAIGN, SEED, story.drawing())
        assert story.refused(record, DRAWER).code == "wrong_state"
        assert (story.put_in(), story.pot()) == (0, 0)

    def test_a_draw_goes_on_after_the_claim_window(self) -> None:
        """Who has won gets the coupon however late the draw is done."""
        story = Lottery().entered(1)
        story.when(CLOSE_INTAKE, DRAWER, NOON + timedelta(hours=13))
        story.when(RecordDraw(BOOK, CAMPAIGN, SEED, story.drawing()), DRAWER)
        assert story.when(GiveDrawn(BOOK, COUPON), DRAWER).code == "claimed"

    def test_a_draw_without_entrants_is_over_at_once(self) -> None:
        """Nobody came: there is no threshold, and the stock is first come."""
        story = Lottery().opened().drawn()
        assert story.streams[CAMPAIGN][-1].threshold is None  # type: ignore[attr-defined]
        assert story.when(claim(), tourist(WHO)).code == "claimed"

    def test_another_campaign_commits_to_nothing(self) -> None:
        """An ordinary opening has the bytes that it always had."""
        story = Story().opened()
        assert story.streams[CAMPAIGN][-1].seed_commitment is UNSET  # type: ignore[attr-defined]


class TestMoney:
    """Money moves from sponsor to pot to holder to merchant, and back."""

    def test_funding_fills_the_pot(self) -> None:
        """The sponsor's money is in the pot once a second operator approved."""
        story = Story().funded(budget=1500)
        assert (story.put_in(), story.pot()) == (1500, 1500)

    def test_claiming_reserves_the_face_value(self) -> None:
        """A claim moves the face value from the pot to the holder."""
        story = Story().claimed()
        assert (story.pot(), story.holder()) == (1000, 500)

    def test_redeeming_pays_the_merchant(self) -> None:
        """A redemption moves the discount from the holder to the merchant."""
        story = Story().redeemed()
        assert (story.holder(), story.merchant()) == (0, 500)

    def test_a_refund_inside_validity_reserves_it_again(self) -> None:
        """The merchant gives back; the coupon is held again."""
        story = Story().redeemed()
        assert topics(story.when(refund(), SHOP)) == ["coupon.refunded"]
        assert (story.holder(), story.merchant(), story.pot()) == (500, 0, 1000)

    def test_a_refund_after_validity_goes_back_to_the_pot(self) -> None:
        """The coupon is reclaimed at once; its money can be granted again."""
        story = Story().redeemed()
        after = story.when(refund(), SHOP, LATE)
        assert topics(after) == ["coupon.refunded", "coupon.reclaimed"]
        assert after.reply.state == "reclaimed"
        assert (story.holder(), story.merchant(), story.pot()) == (0, 0, 1500)
        assert story.capacity((CAMPAIGN, POOL)).granted_minor == 0

    def test_closing_gives_the_rest_of_the_pot_back(self) -> None:
        """Reserved money stays with the holders; the rest goes to the sponsor."""
        story = Story().claimed()
        assert topics(story.when(CLOSE)) == ["campaign.closed", "campaign.budget_reclaimed"]
        assert (story.put_in(), story.pot(), story.holder()) == (500, 0, 500)

    def test_after_the_close_money_goes_straight_to_the_sponsor(self) -> None:
        """There is no pot any more: an expiry after the close pays the sponsor back."""
        story = Story().claimed()
        story.when(CLOSE)
        story.when(EXPIRE, at=LATE)
        assert (story.put_in(), story.pot(), story.holder()) == (0, 0, 0)
        assert story.capacity((CAMPAIGN, POOL)) == Capacity(1, 3, 0, 0)

    def test_lowering_the_budget_gives_money_back(self) -> None:
        """A lower target moves the difference out of the pot."""
        story = Story().claimed()
        story.when(c.ProposeFunding(BOOK, CAMPAIGN, 2, Money(600, "CNY"), 3, 1500))
        story.when(c.ApproveFunding(BOOK, CAMPAIGN, 2, Money(600, "CNY")), BOB)
        assert (story.put_in(), story.pot(), story.holder()) == (600, 100, 500)

    def test_closing_a_draft_moves_nothing(self) -> None:
        """A draft that is given up has no money to give back."""
        story = Story().drafted()
        assert topics(story.when(CLOSE)) == ["campaign.closed"]


class TestStock:
    """A coupon that ends frees its money, and its piece when the terms say so."""

    @pytest.mark.parametrize("restock", [True, False])
    @pytest.mark.parametrize("ending", [VOID, EXPIRE], ids=["void", "expire"])
    def test_endings_return_to_stock(self, ending: Command, restock: bool) -> None:
        """Voided and expired coupons free money always, the piece only with `restock`."""
        story = Story(terms_of(restock=restock)).claimed()
        story.when(ending, at=LATE if ending is EXPIRE else NOON)
        assert story.capacity((CAMPAIGN, POOL)) == Capacity(0 if restock else 1, 3, 0, 1500)
        assert story.pot() == 1500

    def test_freed_stock_can_be_claimed(self) -> None:
        """With `restock` the piece that a void freed goes to the next person."""
        story = Story(terms_of(restock=True)).opened(quota=1, budget=500)
        story.claimed()
        assert story.refused(claim(2), tourist(person(2))).code == "sold_out"
        story.when(VOID)
        story.claimed(2)

    def test_a_limit_counts_for_life(self) -> None:
        """A person whose coupon was voided has had it: no second one within the limit."""
        story = Story(terms_of(restock=True)).claimed()
        story.when(VOID)
        assert story.refused(claim(), tourist(WHO)).code == "already_claimed"

    def test_several_coupons_a_person(self) -> None:
        """Up to the limit each claim is the next ordinal; then the limit is reached."""
        story = Story(terms_of(per_person_limit=2)).opened()
        replies = [story.when(claim(), tourist(WHO)).reply for _ in range(2)]
        ordinals = [msgspec.json.decode(reply)["n"] for reply in replies]
        assert ordinals == [1, 2]
        refusal = story.refused(claim(), tourist(WHO))
        assert (refusal.code, refusal.facts) == ("limit_reached", {"per_person_limit": 2})


class TestLife:
    """Which state allows what."""

    def test_a_redeemed_and_refunded_coupon_is_usable_again(self) -> None:
        """Refunding inside validity gives the coupon back; it can be redeemed for another order."""
        story = Story().redeemed()
        story.when(refund(), SHOP)
        assert story.when(redeem(order="o-2"), SHOP).code == "redeemed"
        assert story.when(refund(order="o-2"), SHOP).reply.state == "held"

    def test_pausing_stops_claims_and_nothing_else(self) -> None:
        """Held coupons stay usable while the campaign is paused."""
        story = Story().claimed()
        story.when(PAUSE)
        assert story.refused(claim(2), tourist(person(2))).facts == {"state": "paused"}
        assert story.when(redeem(), SHOP).code == "redeemed"
        story.when(RESUME)
        story.claimed(2)

    def test_a_closed_campaign_never_opens_again(self) -> None:
        """Every command on a closed campaign is refused."""
        story = Story().opened()
        story.when(CLOSE)
        for command in (PAUSE, RESUME, OPEN, CLOSE):
            assert story.refused(command).code == "wrong_state"

    def test_the_claim_window_is_half_open(self) -> None:
        """The first instant is in, the last is out."""
        terms = terms_of(claim_from=NOON, claim_until=NOON + timedelta(seconds=1))
        early = Story(terms)
        early.now = NOON - timedelta(days=1)
        early.opened()
        early.now = NOON - timedelta(microseconds=1)
        assert early.refused(claim(), at=early.now).code == "not_open"
        assert early.when(claim(), at=NOON).code == "claimed"
        over = early.refused(claim(2), at=NOON + timedelta(seconds=1))
        assert (over.code, over.facts["ended_at"]) == ("not_open", terms.claim_until)

    def test_the_validity_window_is_half_open(self) -> None:
        """A coupon is good until just before its end, and can be expired from its end on."""
        end = NOON + timedelta(hours=1)
        story = Story(terms_of(valid_until=end)).claimed()
        assert story.refused(EXPIRE, at=end - timedelta(microseconds=1)).code == "still_valid"
        assert story.refused(redeem(), at=end).code == "coupon_expired"
        assert story.when(EXPIRE, at=end).code == "expired"

    def test_a_threshold_is_met_by_the_exact_amount(self) -> None:
        """满 20 减 5: an order of exactly 20 gets the discount, one fen less does not."""
        story = Story(terms_of(kind="threshold", threshold_minor=2000)).claimed()
        short = story.refused(redeem(order_total=Money(1999, "CNY")))
        assert (short.code, short.facts) == ("below_threshold", {"threshold_minor": 2000})
        assert story.when(redeem(), SHOP).reply.payable == Money(1500, "CNY")


Case = tuple[Story, Command, Actor, datetime]
DOLLARS = Money(1500, "USD")


def voided() -> Story:
    """A story whose coupon was voided."""
    story = Story().claimed()
    story.when(VOID)
    return story


def reclaimed() -> Story:
    """A story whose coupon was refunded too late."""
    story = Story().redeemed()
    story.when(refund(), SHOP, LATE)
    return story


def closed() -> Story:
    """A story whose campaign is over."""
    story = Story().claimed()
    story.when(CLOSE)
    return story


def between() -> Lottery:
    """A lottery that was drawn, with its only winner still to get the coupon."""
    return Lottery().entered(1).drawn()


def wrong_redemptions() -> dict[str, Case]:
    """A redemption for each of its refusals."""
    only_airport = terms_of(merchants=["airport"])
    early = terms_of(valid_from=NOON + timedelta(hours=1))
    short = redeem(order_total=Money(499, "CNY"))
    return {
        "not_found": (Story(), redeem(), SHOP, NOON),
        "not_drawn": (Lottery().entered(1), redeem(), SHOP, NOON),
        "coupon_voided": (voided(), redeem(), SHOP, NOON),
        "coupon_reclaimed": (reclaimed(), redeem(), SHOP, LATE),
        "already_redeemed": (Story().redeemed(), redeem(), SHOP, NOON),
        "coupon_expired": (Story().claimed(), redeem(), SHOP, LATE),
        "not_yet_valid": (Story(early).claimed(), redeem(), SHOP, NOON),
        "merchant_not_designated": (Story(only_airport).claimed(), redeem(), SHOP, NOON),
        "unit_mismatch": (Story().claimed(), redeem(order_total=DOLLARS), SHOP, NOON),
        "below_threshold": (Story().claimed(), short, SHOP, NOON),
    }


def wrong_claims() -> dict[str, Case]:
    """A claim for each of its refusals."""
    from tests.draws.stories import DrawStory

    limited = Story(terms_of(per_person_limit=2)).claimed().claimed()
    return {
        "not_found": (Story().drafted(), claim(), tourist(WHO), NOON),
        "not_open": (Story().funded(), claim(), tourist(WHO), NOON),
        "draw_only": (DrawStory().opened(), claim(), tourist(WHO), NOON),
        "already_claimed": (Story().claimed(), claim(), tourist(WHO), NOON),
        "limit_reached": (limited, claim(), tourist(WHO), NOON),
        "draw_pending": (between(), claim(2), tourist(person(2)), NOON),
        "already_entered": (Lottery().entered(1), claim(), tourist(WHO), NOON),
        "sold_out": (Story().opened(quota=0), claim(), tourist(WHO), NOON),
        "budget_exhausted": (Story().opened(budget=499), claim(), tourist(WHO), NOON),
    }


def propose(quota: int, budget: Money, *seen: int) -> c.ProposeFunding:
    """Ask for a quota and a budget, having seen these."""
    return c.ProposeFunding(BOOK, CAMPAIGN, quota, budget, *seen)


def wrong_proposals() -> dict[str, Case]:
    """A proposal for each of its refusals."""
    budget, short = Money(1500, "CNY"), Money(499, "CNY")
    return {
        "not_found": (Story(), propose(1, budget, 0, 0), ALICE, NOON),
        "wrong_state": (closed(), propose(3, budget, 3, 1500), ALICE, NOON),
        "unit_mismatch": (Story().drafted(), propose(3, DOLLARS, 0, 0), ALICE, NOON),
        "not_as_promised": (Story(TIERED).drafted(), propose(3, budget, 0, 0), ALICE, NOON),
        "funding_stale": (Story().funded(), propose(4, budget, 0, 0), ALICE, NOON),
        "below_issued": (Story().claimed(), propose(0, budget, 3, 1500), ALICE, NOON),
        "below_granted": (Story().claimed(), propose(3, short, 3, 1500), ALICE, NOON),
    }


def approve(quota: int, budget: Money) -> c.ApproveFunding:
    """Approve a quota and a budget."""
    return c.ApproveFunding(BOOK, CAMPAIGN, quota, budget)


def proposed(quota: int, budget_minor: int) -> Story:
    """A story with one coupon held and a proposal pending."""
    story = Story().claimed()
    story.when(propose(quota, Money(budget_minor, "CNY"), 3, 1500))
    return story


def wrong_approvals() -> dict[str, Case]:
    """An approval for each of its refusals."""
    budget, less, more = Money(1500, "CNY"), Money(500, "CNY"), Money(2000, "CNY")
    return {
        "not_found": (Story(), approve(3, budget), BOB, NOON),
        "wrong_state": (closed(), approve(3, budget), BOB, NOON),
        "draw_pending": (between(), approve(3, budget), BOB, NOON),
        "no_funding_proposed": (Story().drafted(), approve(3, budget), BOB, NOON),
        "self_approval": (proposed(4, 2000), approve(4, more), ALICE, NOON),
        "unit_mismatch": (proposed(4, 1500), approve(4, DOLLARS), BOB, NOON),
        "proposal_changed": (proposed(4, 2000), approve(5, budget), BOB, NOON),
        "below_promised": (less_for_a_draw(), approve(1, less), BOB, NOON),
        "below_issued": (proposed(1, 1500).claimed(2), approve(1, budget), BOB, NOON),
        "below_granted": (proposed(3, 500).claimed(2), approve(3, less), BOB, NOON),
    }


def wrong_refunds() -> dict[str, Case]:
    """A refund for each of its refusals."""
    return {
        "not_found": (Story().redeemed(), refund(merchant="other"), SHOP, NOON),
        "not_redeemed": (Story().claimed(), refund(), SHOP, NOON),
        "order_mismatch": (Story().redeemed(), refund(order="o-2"), SHOP, NOON),
    }


def wrong_voids() -> dict[str, Case]:
    """A void for each of its refusals."""
    return {
        "not_found": (Story(), VOID, ALICE, NOON),
        "not_drawn": (Lottery().entered(1), VOID, ALICE, NOON),
        "already_redeemed": (Story().redeemed(), VOID, ALICE, NOON),
        "coupon_voided": (voided(), VOID, ALICE, NOON),
        "coupon_expired": (Story().claimed(), VOID, ALICE, LATE),
        "coupon_reclaimed": (reclaimed(), VOID, ALICE, LATE),
    }


def wrong_expiries() -> dict[str, Case]:
    """An expiry for each of its refusals."""
    ended = Story().claimed()
    ended.when(EXPIRE, at=LATE)
    return {
        "not_found": (Story(), EXPIRE, ALICE, LATE),
        "not_held": (ended, EXPIRE, ALICE, LATE),
        "still_valid": (Story().claimed(), EXPIRE, ALICE, NOON),
    }


def wrong_steps(step: Command) -> dict[str, Case]:
    """A step in a campaign's life for each of its refusals."""
    return {"not_found": (Story(), step, ALICE, NOON), "wrong_state": (closed(), step, ALICE, NOON)}


def wrong_openings() -> dict[str, Case]:
    """An opening for each of its refusals."""
    from tests.draws.stories import CLOSES, DrawStory

    return {
        "not_found": (Story(), OPEN, ALICE, NOON),
        "unfunded": (Story().drafted(), OPEN, ALICE, NOON),
        "wrong_state": (closed(), OPEN, ALICE, NOON),
        "below_promised": (DrawStory().funded(1, 500), OPEN, ALICE, NOON),
        "registration_over": (DrawStory().funded(2, 1000), OPEN, ALICE, CLOSES),
    }


def less_for_a_draw() -> Story:
    """A public draw that was opened, and a proposal that would take some of its funds away."""
    from tests.draws.stories import DrawStory

    story = DrawStory().opened()
    story.when(propose(1, Money(500, "CNY"), 2, 1000))
    return story


def wrong_closes() -> dict[str, Case]:
    """A close for each of its refusals."""
    from tests.draws.stories import DrawStory

    return {
        **wrong_steps(CLOSE),
        "draw_pending": (between(), CLOSE, ALICE, NOON),
        "winners_may_claim": (DrawStory().given(), CLOSE, ALICE, NOON),
    }


def wrong_ends_of_intakes() -> dict[str, Case]:
    """An end of an intake for each of its refusals."""
    return {
        "not_found": (Story(), CLOSE_INTAKE, DRAWER, NOON),
        "wrong_state": (Lottery().opened().intake_closed(), CLOSE_INTAKE, DRAWER, DRAWS_AT),
        "still_entering": (Lottery().opened(), CLOSE_INTAKE, DRAWER, NOON),
    }


def wrong_draws() -> dict[str, Case]:
    """A draw for each of its refusals."""
    nobody = hold(SEED, [], 3)
    right, wrong = (RecordDraw(BOOK, CAMPAIGN, seed, nobody) for seed in (SEED, b"s" * 32))
    return {
        "not_found": (Story(), right, DRAWER, DRAWS_AT),
        "wrong_state": (Lottery().opened(), right, DRAWER, NOON),
        "other_seed": (Lottery().opened().intake_closed(), wrong, DRAWER, DRAWS_AT),
    }


def wrong_gifts() -> dict[str, Case]:
    """A coupon given by the draw, for each of the refusals."""
    contested = Lottery().opened(quota=1, budget=500).entered(1, 2).drawn()
    loser = coupon_id(CAMPAIGN, person(contested.loser()), 1)
    give = GiveDrawn(BOOK, COUPON)
    return {
        "not_found": (Story(), give, DRAWER, DRAWS_AT),
        "wrong_state": (Story().claimed(), give, DRAWER, DRAWS_AT),
        "already_claimed": (Lottery().entered(1).given(), give, DRAWER, DRAWS_AT),
        "not_drawn": (contested, GiveDrawn(BOOK, loser), DRAWER, DRAWS_AT),
    }


WRONG: dict[str, Callable[[], dict[str, Case]]] = {
    "propose_funding": wrong_proposals,
    "approve_funding": wrong_approvals,
    "open": wrong_openings,
    "pause": lambda: wrong_steps(PAUSE),
    "resume": lambda: wrong_steps(RESUME),
    "close": wrong_closes,
    "claim": wrong_claims,
    "redeem": wrong_redemptions,
    "refund": wrong_refunds,
    "void": wrong_voids,
    "expire": wrong_expiries,
    "close_intake": wrong_ends_of_intakes,
    "draw": wrong_draws,
    "give_drawn": wrong_gifts,
}


ELSEWHERE = {
    "draft": "test_packets",
    "pay": "test_packets",
    "refund_payment": "test_packets",
    "close_wallet": "test_packets",
    "expire_packet": "test_packets",
    "roll_over": "test_packets",
    "show_split": "test_packets",
    "propose_filling": "test_groups",
    "approve_filling": "test_groups",
    "empty_purse": "test_groups",
    "sweep_purse": "test_groups",
    "send_group": "test_groups",
    "take_share": "test_groups",
    "return_group": "test_groups",
    "enter_draw": "draws/test_decisions",
    "withdraw_entry": "draws/test_decisions",
    "void_entry": "draws/test_decisions",
    "freeze_list": "draws/test_decisions",
    "record_draw": "draws/test_decisions",
    "give_seat": "draws/test_decisions",
    "move_up": "draws/test_decisions",
    "claim_win": "draws/test_decisions",
    "enter_many": "draws/test_enrolling",
    "propose_giving_up": "test_giving_up",
    "give_up_group": "test_giving_up",
    "keep_particulars": "test_persons",
    "inspect_particulars": "test_persons",
    "request_erasure": "test_persons",
    "propose_erasure": "test_persons",
    "approve_erasure": "test_persons",
    "record_erasure": "test_persons",
    "propose_correction": "test_corrections",
    "approve_correction": "test_corrections",
    "propose_payment_correction": "test_corrections",
    "approve_payment_correction": "test_corrections",
}
"""Command → the module that shows its refusals."""

COMMANDS = [name for name, codes in PRECEDENCE.items() if codes and name not in ELSEWHERE]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_refusal_can_be_earned(command: str) -> None:
    """Each code of the table is answered to a call that breaks exactly its rule."""
    cases = WRONG[command]()
    assert tuple(cases) == PRECEDENCE[command]
    for code, (story, asked, by, at) in cases.items():
        assert story.refused(asked, by, at).code == code


def doubly_wrong() -> Iterable[tuple[str, str, Story, Command, Actor, datetime]]:
    """Calls that break two rules of one command at once, with the code that must be answered."""
    dollars = Money(100, "USD")
    elsewhere = terms_of(merchants=["airport"])
    late_elsewhere = Story(elsewhere).claimed()
    voided_elsewhere = Story(elsewhere).claimed()
    voided_elsewhere.when(VOID)
    paused = Story().claimed()
    paused.when(PAUSE)
    exhausted = Story().opened(quota=1, budget=500).claimed()
    both = Story().opened(quota=1, budget=500).claimed()
    yield "redeem", "coupon_voided", voided_elsewhere, redeem(order_total=dollars), SHOP, LATE
    yield "redeem", "already_redeemed", Story().redeemed(), redeem(order="x"), SHOP, LATE
    yield "redeem", "coupon_expired", late_elsewhere, redeem(order_total=dollars), SHOP, LATE
    yield (
        "redeem",
        "not_yet_valid",
        Story(terms_of(valid_from=NOON + timedelta(hours=1), merchants=["airport"])).claimed(),
        redeem(),
        SHOP,
        NOON,
    )
    yield (
        "redeem",
        "merchant_not_designated",
        Story(elsewhere).claimed(),
        redeem(order_total=dollars),
        SHOP,
        NOON,
    )
    yield "redeem", "unit_mismatch", Story().claimed(), redeem(order_total=dollars), SHOP, NOON
    entered = Lottery().opened(quota=0, budget=0).entered(1)
    yield "claim", "already_entered", entered, claim(), tourist(WHO), NOON
    pending = Lottery().opened(quota=0, budget=0).entered(1).intake_closed()
    yield "claim", "draw_pending", pending, claim(), tourist(WHO), NOON
    yield "redeem", "not_drawn", Lottery().entered(1), redeem(), SHOP, LATE
    yield "claim", "not_open", paused, claim(), tourist(WHO), NOON
    yield "claim", "already_claimed", exhausted, claim(), tourist(WHO), NOON
    yield "claim", "sold_out", both, claim(2), tourist(person(2)), NOON
    yield (
        "propose_funding",
        "unit_mismatch",
        Story().funded(),
        c.ProposeFunding(BOOK, CAMPAIGN, 0, dollars, 0, 0),
        ALICE,
        NOON,
    )
    yield (
        "propose_funding",
        "funding_stale",
        Story().claimed(),
        c.ProposeFunding(BOOK, CAMPAIGN, 0, Money(0, "CNY"), 0, 0),
        ALICE,
        NOON,
    )
    yield (
        "propose_funding",
        "below_issued",
        Story().claimed(),
        c.ProposeFunding(BOOK, CAMPAIGN, 0, Money(0, "CNY"), 3, 1500),
        ALICE,
        NOON,
    )
    yield "refund", "not_found", Story().redeemed(), refund(merchant="x", order="x"), SHOP, NOON
    yield "void", "already_redeemed", Story().redeemed(), VOID, ALICE, LATE


@pytest.mark.parametrize(
    ("command", "code", "story", "asked", "by", "at"),
    [pytest.param(*case, id=f"{case[0]}-{case[1]}") for case in doubly_wrong()],
)
def test_the_first_broken_rule_is_answered(
    command: str, code: str, story: Story, asked: Command, by: Actor, at: datetime
) -> None:
    """A call that breaks several rules gets the code that stands first in the table."""
    assert code in PRECEDENCE[command]
    assert story.refused(asked, by, at).code == code


def test_precedence_names_each_code_once() -> None:
    """No code stands twice in a row of the table."""
    for codes in PRECEDENCE.values():
        assert all(one != other for one, other in combinations(codes, 2))
