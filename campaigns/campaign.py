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

from campaigns.draws.terms import PublicDrawTerms
from campaigns.packets.terms import PacketTerms
from ledger.events import Event

CouponKind = Literal["fixed", "threshold"]
Kind = Literal[CouponKind, "packet"]
State = Literal["draft", "funded", "open", "paused", "closed"]

PER_PERSON_MAX = 20
"""Most coupons of one campaign that a person may hold over its life; each one is a key to read."""

POOL = "all"
"""A campaign has one pool of stock; release slots will bring more."""

DRAW_POOL = "draw"
"""Beside it, what a lottery has drawn: as many coupons to give, once each, as there are winners."""

SPLIT_POOL = "split"
"""Beside it, the sum that is split among packets, and what was given of it."""

TIER_POOL = "tier"
"""Beside it, followed by a number from 1: a tier's packets, and how many of them were given."""


IntakeKind = Literal["first_come", "waiting_room", "lottery"]


class Intake(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How claims are taken in: `seconds` is a lottery's time, `rate_per_s` a waiting room's."""

    kind: IntakeKind = "first_come"
    seconds: int = 0
    rate_per_s: int = 0


def _any_merchant() -> list[str] | None:
    return None


class Terms(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a coupon or packet of a campaign is and who may have it.

    Instants in UTC, windows half-open. Of packets, `face_minor` is the least that one can hold.

    The bytes of drafted campaigns are final: a later field with a plain default is left out where
    it says nothing, while the older ones (those with a factory) are always written.
    """

    kind: Kind
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
    packet: PacketTerms | None = None
    public_draw: PublicDrawTerms | None = None


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
    """Coupons can be claimed while the claim window is open.

    A lottery commits to its seed, and so do packets of tiers or of a split sum.
    """

    TOPIC: ClassVar[str] = "campaign.opened"
    seed_commitment: str | UnsetType = UNSET
    split_commitment: str | UnsetType = UNSET


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


class CampaignRolledOver(Event, frozen=True, kw_only=True):
    """What packets left in the pot of a closed campaign went into the next round's pot."""

    TOPIC: ClassVar[str] = "campaign.rolled_over"
    amount_minor: int
    currency: str
    into: UUID


class CampaignRolledIn(Event, frozen=True, kw_only=True):
    """Money of the round before is in the pot; the other campaign's event has moved it.

    A proposal of funds that waited is void: it was made on other values.
    """

    TOPIC: ClassVar[str] = "campaign.rolled_in"
    amount_minor: int
    currency: str
    from_campaign: UUID


class CampaignSplitShown(Event, frozen=True, kw_only=True):
    """Nobody can claim a packet any more, and the seed is shown that says what each one holds."""

    TOPIC: ClassVar[str] = "campaign.split_shown"
    seed: str


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
    CampaignRolledOver,
    CampaignRolledIn,
    CampaignSplitShown,
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


class SplitSeed(msgspec.Struct, frozen=True, kw_only=True):
    """What decides what each packet holds: committed to at the opening, shown at the end."""

    commitment: str
    opening: int
    seed: str | None = None


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
    split: SplitSeed | None = None

    @property
    def returns_to(self) -> Literal["campaign", "sponsor"]:
        """Where money goes that comes back: a coupon's to the pot, while there is one.

        A packet's goes to the sponsor at once, or waits in the pot for the next round.
        """
        packet = self.terms.packet
        if packet is not None:
            return "campaign" if packet.leftover == "next_round" else "sponsor"
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
                draw, split = _draw_after(state.draw, event), _split_after(state.split, event)
                return replace(state, version=version, state="open", draw=draw, split=split)
            case CampaignIntakeClosed() | CampaignDrawn() | CampaignSplitShown():
                draw, split = _draw_after(state.draw, event), _split_after(state.split, event)
                return replace(state, version=version, draw=draw, split=split)
            case CampaignPaused():
                return replace(state, version=version, state="paused")
            case CampaignClosed():
                return replace(state, version=version, state="closed", proposal=None)
            case BudgetReclaimed() | CampaignRolledOver() | CampaignRolledIn():
                return _with_money(state, event)
            case _:
                raise AssertionError(f"{event.TOPIC} is no event of a campaign")


def why_closed(campaign: Campaign, now: datetime) -> dict[str, str | datetime] | None:
    """Return the facts with which claims are refused now; None while they are taken."""
    if campaign.state != "open":
        return {"state": campaign.state}
    if now < campaign.terms.claim_from:
        return {"state": "open", "opens_at": campaign.terms.claim_from}
    if now >= campaign.terms.claim_until:
        return {"state": "open", "ended_at": campaign.terms.claim_until}
    return None


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


def _with_money(state: Campaign, event: Any) -> Campaign:
    """A proposal that was made on another budget is void."""
    moved = event.amount_minor if isinstance(event, CampaignRolledIn) else -event.amount_minor
    proposal = None if isinstance(event, CampaignRolledIn) else state.proposal
    budget_minor = state.budget_minor + moved
    version = event.originator_version
    return replace(state, version=version, budget_minor=budget_minor, proposal=proposal)


def _split_after(split: SplitSeed | None, event: Event) -> SplitSeed | None:
    match event:
        case CampaignOpened(split_commitment=str(commitment)):
            return SplitSeed(commitment=commitment, opening=event.originator_version)
        case CampaignSplitShown() if split is not None:
            return replace(split, seed=event.seed)
        case _:
            return split


CAMPAIGN_FOLD = CampaignFold()
