"""A campaign's life: drafted, funded by two people, open, paused and open again, closed.

Everything that costs money needs a second person. No claim is ever positioned after a pause or
a close, because the claim is decided against the campaign's state under the same lock.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, ClassVar, Literal
from uuid import UUID

import msgspec
from msgspec import UNSET, UnsetType
from msgspec.structs import replace

from ledger.events import Event

CouponKind = Literal["fixed", "threshold"]
State = Literal["draft", "funded", "open", "paused", "closed"]

PER_PERSON_MAX = 20
"""Most coupons of one campaign that a person may hold over its life; each one is a key to read."""

POOL = "all"
"""A campaign has one pool of stock; release slots will bring more."""

DRAW_POOL = "draw"
"""Beside it, what a lottery has drawn: as many coupons to give, once each, as there are winners."""


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
    """Coupons can be claimed while the claim window is open. A lottery commits to its seed."""

    TOPIC: ClassVar[str] = "campaign.opened"
    seed_commitment: str | UnsetType = UNSET


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


class CampaignIntakeClosed(Event, frozen=True, kw_only=True):
    """A lottery takes no more entries; so many coupons are drawn among those that it has."""

    TOPIC: ClassVar[str] = "campaign.intake_closed"
    places: int


class CampaignDrawn(Event, frozen=True, kw_only=True):
    """A lottery was drawn: its seed is shown, and every entrant's rank is decided by it."""

    TOPIC: ClassVar[str] = "campaign.drawn"
    seed: str
    entrants: int
    entrants_sha256: str
    winners: int
    threshold: str | None


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
    CampaignIntakeClosed,
    CampaignDrawn,
)


class Proposal(msgspec.Struct, frozen=True):
    """A quota and budget that wait for a second person."""

    quota: int
    budget_minor: int
    from_quota: int
    from_budget_minor: int
    by: str


class Draw(msgspec.Struct, frozen=True, kw_only=True):
    """A lottery: what it committed to at its opening, then its places, then its outcome."""

    commitment: str
    opening: int
    places: int | None = None
    seed: str | None = None
    entrants: int = 0
    entrants_sha256: str = ""
    winners: int = 0
    threshold: str | None = None


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
    draw: Draw | None = None

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
                draw = _draw_after(state.draw, event)
                return replace(state, version=version, state="open", draw=draw)
            case CampaignIntakeClosed() | CampaignDrawn():
                return replace(state, version=version, draw=_draw_after(state.draw, event))
            case CampaignPaused():
                return replace(state, version=version, state="paused")
            case CampaignClosed():
                return replace(state, version=version, state="closed", proposal=None)
            case BudgetReclaimed():
                left = state.budget_minor - event.amount_minor
                return replace(state, version=version, budget_minor=left)
            case _:
                raise AssertionError(f"{event.TOPIC} is no event of a campaign")


def _draw_after(draw: Draw | None, event: Event) -> Draw | None:
    match event:
        case CampaignOpened(seed_commitment=str(commitment)):
            return Draw(commitment=commitment, opening=event.originator_version)
        case CampaignIntakeClosed() if draw is not None:
            return replace(draw, places=event.places)
        case CampaignDrawn() if draw is not None:
            return replace(
                draw,
                seed=event.seed,
                entrants=event.entrants,
                entrants_sha256=event.entrants_sha256,
                winners=event.winners,
                threshold=event.threshold,
            )
        case _:
            return draw


CAMPAIGN_FOLD = CampaignFold()
