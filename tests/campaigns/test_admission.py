"""What is refused from a glance is what the writer would refuse then, and nothing else."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

from hypothesis import example, given
from hypothesis import strategies as st
from msgspec.structs import replace

from campaigns.admission import Standing, to_other_holder
from campaigns.campaign import CAMPAIGN_FOLD, POOL, Campaign, CampaignDrafted
from campaigns.commands import ClaimCoupon, Header
from campaigns.coupon import COUPON_FOLD, CouponClaimed, coupon_id
from campaigns.gate import Knock, Word
from campaigns.refusals import Refusal
from ledger.appending import Capacity, request_id
from ledger.books import Book
from ledger.events import Actor, Why
from tests.support.desk import NOON, person, terms_of

BOOK = Book("main")
CAMPAIGN = uuid4()
WHO = person(1)
HEADER = Header(NOON, Actor("tourist", WHO), Why("r", "k", "00"))


class Seen:
    """A book with one campaign, in which a person has so many coupons."""

    def __init__(self, campaign: Campaign, held: int, capacity: Capacity, now: Any) -> None:
        self.now = now
        self._capacity = capacity
        self._states: dict[UUID, Any] = {CAMPAIGN: campaign}
        for n in range(1, held + 1):
            event = claimed(campaign, n)
            self._states[event.originator_id] = COUPON_FOLD.evolve(None, event)

    def state(self, read: Any) -> Any:
        """Return what a stream has come to."""
        return self._states.get(read.stream)

    def version(self, stream: UUID) -> int:
        """Return how far a stream has come."""
        return int(stream in self._states)

    def capacity(self, _: Any) -> Capacity:
        """Return the pool's stock and budget."""
        return self._capacity


def claimed(campaign: Campaign, n: int) -> CouponClaimed:
    """The claim of the person's n-th coupon."""
    terms = campaign.terms
    return CouponClaimed(
        **HEADER.of(coupon_id(CAMPAIGN, WHO, n), 1),
        campaign=CAMPAIGN,
        campaign_version=campaign.version,
        person=WHO,
        n=n,
        face_minor=terms.face_minor,
        threshold_minor=terms.threshold_minor,
        currency=terms.currency,
        valid_from=terms.valid_from,
        valid_until=terms.valid_until,
    )


def campaign_in(state: Any, limit: int) -> Campaign:
    """A campaign in a state."""
    terms = terms_of(per_person_limit=limit)
    drafted = CampaignDrafted(**HEADER.of(CAMPAIGN, 1), name="Spring", sponsor="s", terms=terms)
    return replace(CAMPAIGN_FOLD.evolve(None, drafted), state=state)


def knock_of(who: str) -> Knock:
    """Somebody's knock."""
    return Knock("main", CAMPAIGN, POOL, who, request_id("s", "k"), "s", "k")


def refusal_of(claim: ClaimCoupon, seen: Any) -> Refusal | None:
    """What the writer refuses it with, if it does."""
    try:
        claim.decide(seen, HEADER)
    except Refusal as refusal:
        return refusal
    return None


CAPACITY = st.builds(
    lambda issued, free, granted, pot: Capacity(issued, issued + free, granted, granted + pot),
    st.integers(0, 5),
    st.integers(0, 2),
    st.integers(0, 5_000),
    st.integers(0, 1_200),
)


@given(
    state=st.sampled_from(["draft", "funded", "open", "open", "open", "paused", "closed"]),
    limit=st.integers(1, 3),
    held=st.integers(0, 3),
    capacity=CAPACITY,
    hours=st.sampled_from([-2, -1, 0, 0, 0, 11, 12, 13]),
)
@example(state="open", limit=1, held=1, capacity=Capacity(1, 1, 500, 500), hours=0)
@example(state="open", limit=2, held=1, capacity=Capacity(1, 2, 500, 500), hours=0)
def test_a_refusal_from_a_glance_is_the_writers(
    state: Any, limit: int, held: int, capacity: Capacity, hours: int
) -> None:
    """The same code and facts in the same order of precedence; where none is said, ask the writer.

    And of an open campaign nothing is left unsaid that the gate may know.
    """
    campaign, now = campaign_in(state, limit), NOON + timedelta(hours=hours)
    held = min(held, limit)
    refusal = refusal_of(ClaimCoupon(BOOK, CAMPAIGN, WHO), Seen(campaign, held, capacity, now))
    knock = knock_of(WHO)
    word = Standing(campaign, capacity, 7, now).word(knock, has_all=held == limit)
    if word is not None:
        assert refusal is not None
        assert (word.code, dict(word.facts)) == (refusal.code, refusal.facts)
        assert word.position == 7
        if held == limit:
            other = knock_of(person(2))
            last = coupon_id(CAMPAIGN, other.person, limit).hex
            alone = Standing(campaign, capacity, 7, now).word(other, has_all=True)
            assert to_other_holder(word, last) == alone
    elif refusal is not None:
        assert refusal.code == "not_found"


def test_the_instant_decides_whether_claims_have_begun() -> None:
    """The last microsecond before is too early, and the end is the first one that is too late."""
    campaign = campaign_in("open", 1)
    knock = Knock("main", CAMPAIGN, POOL, WHO, request_id("s", "k"), "s", "k")
    terms, plenty, moment = campaign.terms, Capacity(0, 9, 0, 9_000), timedelta(microseconds=1)

    def word(now: datetime) -> Word | None:
        return Standing(campaign, plenty, 7, now).word(knock, has_all=False)

    early, late = word(terms.claim_from - moment), word(terms.claim_until)
    assert early is not None
    assert late is not None
    assert early.facts == (("state", "open"), ("opens_at", terms.claim_from))
    assert late.facts == (("state", "open"), ("ended_at", terms.claim_until))
    assert word(terms.claim_from) is word(terms.claim_until - moment) is None


def test_what_is_free_is_what_stock_and_money_are_good_for() -> None:
    """The smaller of both, in whole coupons."""
    campaign = campaign_in("open", 1)

    def free(*capacity: int) -> int:
        return Standing(campaign, Capacity(*capacity), 1, NOON).free

    assert free(0, 10, 0, 5_000) == 10
    assert free(4, 10, 2_000, 5_000) == 6
    assert free(0, 10, 0, 1_499) == 2
    assert free(10, 10, 0, 5_000) == 0


def test_what_is_used_up_is_said_as_the_writer_says_it() -> None:
    """First the stock, then the budget."""
    campaign = campaign_in("open", 1)
    both = Standing(campaign, Capacity(2, 2, 1_000, 1_000), 1, NOON)
    money = Standing(campaign, Capacity(2, 3, 1_000, 1_499), 1, NOON)
    assert both.used_up == ("sold_out", (("quota", 2),))
    assert money.used_up == ("budget_exhausted", (("budget_minor", 1_499),))
    assert Standing(campaign, Capacity(0, 1, 0, 500), 1, NOON).used_up is None
