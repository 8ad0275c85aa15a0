"""What readers get of public draws: what is published, and one's own entry.

The seed, the beacon's value and the results are absent until the draw was held.
"""

from __future__ import annotations

from datetime import datetime

import msgspec
from msgspec import UNSET, UnsetType
from msgspec.structs import asdict, replace

from campaigns.campaign import Campaign
from campaigns.draws.draw import PublicDraw
from campaigns.draws.entry import DrawEntry
from campaigns.draws.replies import registration_reply
from campaigns.replies import CAMPAIGN_PREFIX, Window
from ledger.books import Book, PublicId
from ledger.money import Money


class BeaconView(msgspec.Struct, frozen=True):
    """The public beacon, and the round that decides."""

    chain: str
    genesis: int
    period_s: int
    round: int
    emitted_at: datetime


class DrawTierView(msgspec.Struct, frozen=True):
    """So many winners of one amount."""

    winners: int
    amount: Money


class DrawListView(msgspec.Struct, frozen=True):
    """The frozen list: its size and root, what left it, and the hash of the announcement."""

    entries: int
    root: str
    withdrawn: int
    withdrawn_sha256: str
    announcement_sha256: str
    frozen_at: datetime


class DrawResultView(msgspec.Struct, frozen=True):
    """The seed, the beacon's value, and what was drawn with them."""

    seed: str
    signature: str
    randomness: str
    winners: int
    runners_up: int
    root: str


class TurnView(msgspec.Struct, frozen=True):
    """Seats that were given at once, by tier: those of the draw, then those of who moved up."""

    first_rank: int
    seats: tuple[int, ...]
    claim_until: datetime


class PublicDrawView(msgspec.Struct, frozen=True):
    """A public draw. `refusal_key` is the Ed25519 key that void entries are refused under."""

    campaign: str
    state: str
    registration: Window
    draw_at: datetime
    beacon: BeaconView
    tiers: tuple[DrawTierView, ...]
    runners_up: int
    claim_s: int
    regions: tuple[str, ...] | None
    operators: tuple[str, ...] | None
    seed_commitment: str
    refusal_key: str
    list: DrawListView | UnsetType = UNSET
    result: DrawResultView | UnsetType = UNSET
    turns: tuple[TurnView, ...] | UnsetType = UNSET
    void_reason: str | UnsetType = UNSET


class SeatView(msgspec.Struct, frozen=True):
    """What an entry won, and until when it can be claimed."""

    rank: int
    turn: int
    tier: int
    amount: Money
    claim_until: datetime


class DrawEntryView(msgspec.Struct, frozen=True):
    """One's own entry. A void one has its reason in a signed statement."""

    entry: str
    campaign: str
    state: str
    index: int
    leaf: str
    entered_at: datetime
    draw_at: datetime
    round: int
    won: SeatView | UnsetType = UNSET
    reason: str | UnsetType = UNSET
    statement: str | UnsetType = UNSET
    signature: str | UnsetType = UNSET


class DrawEntryPage(msgspec.Struct, frozen=True):
    """A person's entries in public draws, the newest draw first."""

    items: list[DrawEntryView]
    next: str | None


class AnnouncedBeacon(msgspec.Struct, frozen=True):
    """The beacon as it is announced."""

    chain: str
    genesis: int
    period_s: int
    round: int


class AnnouncedTier(msgspec.Struct, frozen=True):
    """A tier as it is announced."""

    amount_minor: int
    winners: int


class AnnouncedList(msgspec.Struct, frozen=True):
    """The list as it is announced."""

    entries: int
    root: str
    withdrawn: int
    withdrawn_sha256: str


class Announcement(msgspec.Struct, frozen=True):
    """What was fixed before the beacon spoke, in the bytes that decide the draw."""

    format: str
    campaign: str
    name: str
    register_from: str
    register_until: str
    draw_at: str
    beacon: AnnouncedBeacon
    seed_commitment: str
    tiers: tuple[AnnouncedTier, ...]
    currency: str
    runners_up: int
    claim_s: int
    list: AnnouncedList


class EntryProof(msgspec.Struct, frozen=True):
    """The proof that an entry was in the frozen list, as `verify_draw.py --proof` reads it."""

    format: str
    index: int
    leaf: str
    path: list[str]
    root: str
    size: int


DRAW_VIEWS: tuple[type[msgspec.Struct], ...] = (
    PublicDrawView,
    DrawEntryView,
    DrawEntryPage,
    Announcement,
    EntryProof,
)


def public_draw_view(book: Book, campaign: Campaign, draw: PublicDraw, key: str) -> PublicDrawView:
    """Return everything that is published of a draw by now."""
    terms, currency = campaign.terms.public_draw, campaign.terms.currency
    assert terms is not None, "the campaign has a public draw"
    chain = terms.chain
    return PublicDrawView(
        campaign=str(PublicId(CAMPAIGN_PREFIX, book, campaign.id)),
        state=draw.state,
        registration=Window(terms.register_from, terms.register_until),
        draw_at=terms.draw_at,
        beacon=BeaconView(
            chain.hash, chain.genesis, chain.period_s, draw.round, chain.time_of(draw.round)
        ),
        tiers=tuple(
            DrawTierView(one.count, Money(one.amount_minor, currency)) for one in terms.tiers
        ),
        runners_up=terms.runners_up,
        claim_s=terms.claim_s,
        regions=terms.regions,
        operators=terms.operators,
        seed_commitment=draw.commitment,
        refusal_key=key,
        list=_list(draw),
        result=_result(draw),
        turns=tuple(TurnView(**asdict(turn)) for turn in draw.turns) if draw.turns else UNSET,
        void_reason=UNSET if draw.voided is None else draw.voided,
    )


def _list(draw: PublicDraw) -> DrawListView | UnsetType:
    frozen = draw.frozen
    if frozen is None:
        return UNSET
    return DrawListView(
        frozen.entries,
        frozen.root,
        frozen.withdrawn,
        frozen.withdrawn_sha256,
        frozen.announcement,
        frozen.at,
    )


def _result(draw: PublicDraw) -> DrawResultView | UnsetType:
    return UNSET if draw.held is None else DrawResultView(**asdict(draw.held))


def entry_view(
    book: Book, campaign: Campaign, draw: PublicDraw, entry: DrawEntry, *, given: bool
) -> DrawEntryView:
    """Return an entry as its person sees it; `given` says that every seat that there is was."""
    reply = registration_reply(book, campaign, draw, entry)
    view = DrawEntryView(**asdict(reply))
    if entry.won is not None:
        won = entry.won
        amount = Money(won.amount_minor, won.currency)
        return replace(view, won=SeatView(won.rank, won.turn, won.tier, amount, won.claim_until))
    if entry.state == "registered" and given:
        return replace(view, state="not_drawn")
    return view
