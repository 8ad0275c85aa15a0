"""A campaign's life: drafted, funded by two people, open, paused and open again, closed.

Everything that costs money needs a second person. No claim is ever positioned after a pause or
a close, because the claim is decided against the campaign's state under the same lock.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, ClassVar, Literal
from uuid import UUID

import msgspec
from msgspec.structs import replace

from ledger.events import Event

CouponKind = Literal["fixed", "threshold"]
State = Literal["draft", "funded", "open", "paused", "closed"]

PER_PERSON_MAX = 20
"""Most coupons of one campaign that a person may hold over its life; each one is a key to read."""

POOL = "all"
"""A campaign has one pool of stock; release slots will bring more."""


IntakeKind = Literal["first_come", "waiting_room", "lottery"]


class Intake(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How claims are taken in: `seconds` is a lottery's time, `rate_per_s` a waiting room's."""

    kind: IntakeKind = "first_come"
    seconds: int = 0
    rate_per_s: int = 0


def _any_merchant() -> list[str] | None:
    return None


class Terms(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a coupon of a campaign is and who may have it. Instants in UTC, windows half-open.

    The bytes of drafted campaigns are final: a later field with a plain default is left out where
    it says nothing, while the older ones (those with a factory) are always written.
    """

    kind: CouponKind
    face_minor: int
    threshold_minor: int
    currency: str
    per_person_limit: int
    claim_from: datetime
    claim_until: datetime
    valid_from: datetime
    valid_until: datetime
    zone: str
    merchants: list[str] | None = msgspec.field(default_factory=_any_merchant)
    restock: bool = msgspec.field(default_factory=bool)
    intake: Intake | None = None


class CampaignDrafted(Event, frozen=True, kw_only=True):
    """An operator wrote down a campaign; nobody can claim yet."""

    TOPIC: ClassVar[str] = "campaign.drafted"
    name: str
    sponsor: str
    terms: Terms


class FundingProposed(Event, frozen=True, kw_only=True):
    """An operator proposed a quota and a budget; a second one must approve them."""

    TOPIC: ClassVar[str] = "campaign.funding_proposed"
    quota: int
    budget_minor: int
    from_quota: int
    from_budget_minor: int


class CampaignFunded(Event, frozen=True, kw_only=True):
    """A second operator approved; the sponsor's money is in the pot, or out of it again."""

    TOPIC: ClassVar[str] = "campaign.funded"
    quota: int
    budget_minor: int
    quota_change: int
    budget_change_minor: int
    currency: str
    sponsor: str
    proposed_by: str


class CampaignOpened(Event, frozen=True, kw_only=True):
    """Coupons can be claimed while the claim window is open."""

    TOPIC: ClassVar[str] = "campaign.opened"


class CampaignPaused(Event, frozen=True, kw_only=True):
    """Claims are refused until the campaign is resumed; held coupons stay usable."""

    TOPIC: ClassVar[str] = "campaign.paused"
    reason: str


class CampaignResumed(Event, frozen=True, kw_only=True):
    """A paused campaign takes claims again."""

    TOPIC: ClassVar[str] = "campaign.resumed"


class CampaignClosed(Event, frozen=True, kw_only=True):
    """No more claims, for ever; held coupons stay usable until their validity ends."""

    TOPIC: ClassVar[str] = "campaign.closed"
    reason: str


class BudgetReclaimed(Event, frozen=True, kw_only=True):
    """What was left in the pot at the close went back to the sponsor."""

    TOPIC: ClassVar[str] = "campaign.budget_reclaimed"
    amount_minor: int
    currency: str
    sponsor: str


CAMPAIGN_EVENTS: tuple[type[Event], ...] = (
    CampaignDrafted,
    FundingProposed,
    CampaignFunded,
    CampaignOpened,
    CampaignPaused,
    CampaignResumed,
    CampaignClosed,
    BudgetReclaimed,
)


class Proposal(msgspec.Struct, frozen=True):
    """A quota and budget that wait for a second person."""

    quota: int
    budget_minor: int
    from_quota: int
    from_budget_minor: int
    by: str


class Campaign(msgspec.Struct, frozen=True, kw_only=True):
    """A campaign as its events made it."""

    id: UUID
    version: int
    name: str
    sponsor: str
    terms: Terms
    state: State = "draft"
    quota: int = 0
    budget_minor: int = 0
    proposal: Proposal | None = None

    @property
    def returns_to(self) -> Literal["campaign", "sponsor"]:
        """Where the money of a coupon that comes back goes: to the pot while there is one."""
        return "sponsor" if self.state == "closed" else "campaign"


class CampaignFold:
    """Folds a campaign's events into a `Campaign`."""

    def evolve(self, state: Campaign | None, event: Any) -> Campaign:  # noqa: PLR0911 - one table
        """Return the campaign after `event`."""
        version = event.originator_version
        match event:
            case CampaignDrafted():
                return Campaign(
                    id=event.originator_id,
                    version=version,
                    name=event.name,
                    sponsor=event.sponsor,
                    terms=event.terms,
                )
            case _ if state is None:
                raise AssertionError(f"{event.TOPIC} is no campaign's first event")
            case FundingProposed():
                proposal = Proposal(
                    event.quota,
                    event.budget_minor,
                    event.from_quota,
                    event.from_budget_minor,
                    event.by.id,
                )
                return replace(state, version=version, proposal=proposal)
            case CampaignFunded():
                return replace(
                    state,
                    version=version,
                    state="funded" if state.state == "draft" else state.state,
                    quota=event.quota,
                    budget_minor=event.budget_minor,
                    proposal=None,
                )
            case CampaignOpened() | CampaignResumed():
                return replace(state, version=version, state="open")
            case CampaignPaused():
                return replace(state, version=version, state="paused")
            case CampaignClosed():
                return replace(state, version=version, state="closed", proposal=None)
            case BudgetReclaimed():
                left = state.budget_minor - event.amount_minor
                return replace(state, version=version, budget_minor=left)
            case _:
                raise AssertionError(f"{event.TOPIC} is no event of a campaign")


CAMPAIGN_FOLD = CampaignFold()
