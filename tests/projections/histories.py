"""Valid histories of a book for the tests of read models, and what they add up to.

The events are made by a small model of campaigns and coupons. What they add up to is folded by
the aggregates and the postings, one event at a time, so that no code of a read model judges
itself.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid5

from hypothesis import strategies as st

from campaigns.accounting import (
    campaign_account,
    holder_account,
    merchant_account,
    postings_of,
)
from campaigns.campaign import (
    CAMPAIGN_FOLD,
    BudgetReclaimed,
    Campaign,
    CampaignClosed,
    CampaignDrafted,
    CampaignFunded,
    CampaignOpened,
    CampaignPaused,
    CampaignResumed,
    FundingProposed,
    Terms,
)
from campaigns.coupon import (
    COUPON_FOLD,
    Coupon,
    CouponClaimed,
    CouponExpired,
    CouponReclaimed,
    CouponRedeemed,
    CouponRefunded,
    CouponVoided,
    coupon_id,
)
from campaigns.event_types import MAPPER
from ledger.datastore import Datastore
from ledger.events import Actor, Event, Why
from ledger.persistence import BookApplicationRecorder
from ledger.postings import TrialBalance

NOON = datetime(2026, 5, 1, 12, 0, tzinfo=UTC)
NAMESPACE = UUID("6f1f2d0e-4f9b-4d63-9b57-0b6c4a8f2f11")
FACE_MINOR = 500
ODD_ORDERS = ("A-1", 'say "5"', "back\\slash", "comma, semicolon;", "null", "\\N", "tab\there")


class History:
    """Makes the events of one book. Steps that the state does not allow make none."""

    def __init__(self, book: str = "main", seed: int = 0) -> None:
        self.book = book
        self.events: list[Event] = []
        self.campaigns: dict[UUID, Campaign] = {}
        self.coupons: dict[UUID, Coupon] = {}
        self.ledger = TrialBalance()
        self._seed = seed
        self._ordinals: Counter[tuple[UUID, str]] = Counter()

    # Campaigns

    def draft(self, restock: bool = False) -> UUID:
        """Draft a campaign; return its id."""
        campaign = uuid5(NAMESPACE, f"{self.book}:{self._seed}:{len(self.campaigns)}")
        terms = Terms(
            kind="fixed",
            face_minor=FACE_MINOR,
            threshold_minor=FACE_MINOR,
            currency="CNY",
            per_person_limit=20,
            claim_from=NOON,
            claim_until=NOON + timedelta(days=1),
            valid_from=NOON,
            valid_until=NOON + timedelta(days=len(self.campaigns) + 1),
            zone="Asia/Shanghai",
            restock=restock,
        )
        self._add(
            CampaignDrafted,
            campaign,
            name=f"Spring «{len(self.campaigns)}» 满减",
            sponsor=f"city-{len(self.campaigns) % 2}",
            terms=terms,
        )
        return campaign

    def propose(self, campaign: UUID, quota: int) -> None:
        """Propose a quota and the budget for it."""
        now = self.campaigns[campaign]
        self._add(
            FundingProposed,
            campaign,
            quota=quota,
            budget_minor=quota * FACE_MINOR,
            from_quota=now.quota,
            from_budget_minor=now.budget_minor,
        )

    def approve(self, campaign: UUID) -> None:
        """Approve what is proposed, if the pot covers it."""
        now = self.campaigns[campaign]
        proposal = now.proposal
        if proposal is None or proposal.from_budget_minor != now.budget_minor:
            return
        change_minor = proposal.budget_minor - now.budget_minor
        if self.pot_minor(campaign) + change_minor < 0:
            return
        self._add(
            CampaignFunded,
            campaign,
            quota=proposal.quota,
            budget_minor=proposal.budget_minor,
            quota_change=proposal.quota - now.quota,
            budget_change_minor=change_minor,
            currency="CNY",
            sponsor=now.sponsor,
            proposed_by=proposal.by,
        )

    def move(self, campaign: UUID) -> None:
        """Open a funded campaign, pause an open one, resume a paused one."""
        step: dict[str, type[Event]] = {"funded": CampaignOpened, "paused": CampaignResumed}
        state = self.campaigns[campaign].state
        if state == "open":
            self._add(CampaignPaused, campaign, reason="rain")
        elif state in step:
            self._add(step[state], campaign)

    def close(self, campaign: UUID) -> None:
        """Close a campaign and give the rest of its pot back."""
        now = self.campaigns[campaign]
        if now.state == "closed":
            return
        left_minor = self.pot_minor(campaign)
        self._add(CampaignClosed, campaign, reason="over")
        if left_minor:
            self._add(
                BudgetReclaimed,
                campaign,
                amount_minor=left_minor,
                currency="CNY",
                sponsor=now.sponsor,
            )

    def opened(self, quota: int = 1000) -> UUID:
        """Draft, fund and open a campaign; return its id."""
        campaign = self.draft()
        self.propose(campaign, quota)
        self.approve(campaign)
        self.move(campaign)
        return campaign

    # Coupons

    def claim(self, campaign: UUID, person: str) -> UUID | None:
        """Claim a coupon, if the campaign is open and its pot holds another one."""
        now = self.campaigns[campaign]
        if now.state != "open" or self.pot_minor(campaign) < FACE_MINOR:
            return None
        self._ordinals[campaign, person] += 1
        n = self._ordinals[campaign, person]
        coupon = coupon_id(campaign, person, n)
        self._add(
            CouponClaimed,
            coupon,
            campaign=campaign,
            campaign_version=now.version,
            person=person,
            n=n,
            face_minor=now.terms.face_minor,
            threshold_minor=now.terms.threshold_minor,
            currency="CNY",
            valid_from=now.terms.valid_from,
            valid_until=now.terms.valid_until,
        )
        return coupon

    def redeem(self, coupon: UUID, merchant: str = "tea-house", order: str = "A-1") -> None:
        """Redeem a held coupon."""
        now = self.coupons[coupon]
        if now.state == "held":
            self._add(
                CouponRedeemed,
                coupon,
                campaign=now.campaign,
                person=now.person,
                merchant=merchant,
                shop="front" if len(order) % 2 else None,
                order=order,
                order_total_minor=900,
                discount_minor=now.face_minor,
                currency="CNY",
            )

    def refund(self, coupon: UUID, *, late: bool = False) -> None:
        """Refund a redeemed coupon; a late refund reclaims it."""
        now = self.coupons[coupon]
        if now.state != "redeemed":
            return
        self._add(
            CouponRefunded,
            coupon,
            campaign=now.campaign,
            person=now.person,
            merchant=now.merchant,
            order=now.order,
            amount_minor=now.face_minor,
            currency="CNY",
            reason="returned",
        )
        if late:
            self._end(CouponReclaimed, coupon)

    def expire(self, coupon: UUID) -> None:
        """Expire a held coupon."""
        self._end(CouponExpired, coupon, valid_until=self.coupons[coupon].valid_until)

    def void(self, coupon: UUID) -> None:
        """Void a held coupon."""
        self._end(CouponVoided, coupon, reason="fraud")

    def _end(self, kind: type[Event], coupon: UUID, **fields: Any) -> None:
        now = self.coupons[coupon]
        campaign = self.campaigns[now.campaign]
        if now.state == "held":
            self._add(
                kind,
                coupon,
                campaign=now.campaign,
                person=now.person,
                amount_minor=now.face_minor,
                currency="CNY",
                to=campaign.returns_to,
                sponsor=campaign.sponsor,
                **fields,
            )

    # What it adds up to

    def pot_minor(self, campaign: UUID) -> int:
        """What is left in a campaign's pot."""
        return self.ledger.balance(campaign_account(campaign), "CNY")

    def wallet_rows(self) -> set[tuple[Any, ...]]:
        """What `rm_wallets.coupon` must say, without times and positions."""
        return {
            (
                self.book,
                coupon.id,
                coupon.campaign,
                coupon.person,
                coupon.n,
                coupon.state,
                coupon.face_minor,
                coupon.claimed_at,
                coupon.valid_until,
                coupon.merchant if coupon.state == "redeemed" else None,
                coupon.order if coupon.state == "redeemed" else None,
            )
            for coupon in self.coupons.values()
        }

    def held_minor(self, person: str) -> int:
        """What a person's held coupons are worth."""
        return self.ledger.balance(holder_account(person), "CNY")

    def merchant_minor(self, merchant: str) -> int:
        """What a merchant earned."""
        return self.ledger.balance(merchant_account(merchant), "CNY")

    def states_of(self, campaign: UUID) -> Counter[str]:
        """How many of a campaign's coupons are in each state."""
        return Counter(c.state for c in self.coupons.values() if c.campaign == campaign)

    def money_of(self, campaign: UUID) -> dict[str, int]:
        """A campaign's money by where it is, from the postings of its events alone."""
        money: defaultdict[str, int] = defaultdict(int)
        for event in self.events:
            if campaign not in {event.originator_id, getattr(event, "campaign", None)}:
                continue
            for debit, credit, amount_minor, _ in postings_of(event):
                money[debit.split(":")[0]] += amount_minor
                money[credit.split(":")[0]] -= amount_minor
                if credit.startswith("sponsor:"):
                    money["funded"] += amount_minor
        return money

    def _add(self, kind: type[Event], stream: UUID, **fields: Any) -> None:
        known = self.campaigns.get(stream) or self.coupons.get(stream)
        event = kind(
            originator_id=stream,
            originator_version=known.version + 1 if known else 1,
            at=NOON + timedelta(seconds=len(self.events)),
            by=Actor("operator", f"{len(self.events) % 2:032x}"),
            why=Why(request=f"request-{len(self.events)}"),
            **fields,
        )
        self.events.append(event)
        self.ledger.post(postings_of(event))
        if kind.TOPIC.startswith("campaign."):
            self.campaigns[stream] = CAMPAIGN_FOLD.evolve(self.campaigns.get(stream), event)
        else:
            self.coupons[stream] = COUPON_FOLD.evolve(self.coupons.get(stream), event)


def store(datastore: Datastore, history: History, since: int = 0) -> None:
    """Append a history's events after the first `since` to its book."""
    events = [MAPPER.to_stored_event(event) for event in history.events[since:]]
    BookApplicationRecorder(datastore, history.book).insert_events(events)


def person(n: int) -> str:
    """The n-th person's pseudonym."""
    return f"{n:032x}"


def small_history(book: str = "main", coupons: int = 12) -> History:
    """A history with coupons in every state, in two campaigns, one of them closed."""
    history = History(book)
    first, second = history.opened(), history.opened()
    claimed = [history.claim(first if n % 2 else second, person(n % 5)) for n in range(coupons)]
    for n, coupon in enumerate(claimed):
        assert coupon is not None
        if n % 4:
            history.redeem(coupon, f"shop-{n % 3}", ODD_ORDERS[n % len(ODD_ORDERS)])
        if n % 4 == 2:
            history.refund(coupon)
    history.close(second)
    for n, coupon in enumerate(claimed):
        assert coupon is not None
        if n % 4 == 3:
            history.refund(coupon, late=True)
        elif n % 8 == 0:
            history.expire(coupon)
        elif n % 8 == 4:
            history.void(coupon)
    return history


Step = Callable[[History], None]


def _campaign_step(name: str, which: int, number: int) -> Step:
    def step(history: History) -> None:
        ids = list(history.campaigns)
        if not ids or name == "draft":
            history.draft(restock=bool(number % 2))
            return
        campaign = ids[which % len(ids)]
        if name == "fund" and history.campaigns[campaign].state != "closed":
            history.propose(campaign, number)
            if number % 5:
                history.approve(campaign)
        elif name == "approve" and history.campaigns[campaign].state != "closed":
            history.approve(campaign)
        elif name == "move":
            history.move(campaign)
        elif name == "close":
            history.close(campaign)
        elif name == "claim":
            history.claim(campaign, person(number))

    return step


def _coupon_step(name: str, which: int, number: int) -> Step:
    def step(history: History) -> None:
        ids = list(history.coupons)
        if not ids:
            return
        coupon = ids[which % len(ids)]
        if name == "redeem":
            history.redeem(coupon, f"shop-{number % 3}", ODD_ORDERS[number % len(ODD_ORDERS)])
        elif name == "refund":
            history.refund(coupon, late=number % 3 == 0)
        elif name == "expire":
            history.expire(coupon)
        else:
            history.void(coupon)

    return step


_CAMPAIGN_STEPS = ["draft", "fund", "fund", "approve", "move", "move", "claim", "claim", "claim"]
_COUPON_STEPS = ["redeem", "redeem", "redeem", "refund", "refund", "expire", "void"]

_steps = st.one_of(
    st.builds(
        _campaign_step,
        st.sampled_from([*_CAMPAIGN_STEPS, *_CAMPAIGN_STEPS, "close"]),
        st.integers(0, 3),
        st.integers(1, 12),
    ),
    st.builds(_coupon_step, st.sampled_from(_COUPON_STEPS), st.integers(0, 30), st.integers(0, 9)),
)


@st.composite
def histories(draw: st.DrawFn, book: str = "main") -> History:
    """Histories that start with an open campaign, so that most steps do something."""
    history = History(book)
    history.opened(quota=8)
    # Long enough that coupons are redeemed, refunded and ended, not only claimed.
    steps: Sequence[Step] = draw(
        st.lists(_steps, min_size=draw(st.sampled_from((0, 40))), max_size=80)
    )
    for step in steps:
        step(history)
    return history
