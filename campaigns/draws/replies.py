"""Replies about a public draw: to an entry, to a withdrawal, and to the steps of the draw."""

from __future__ import annotations

from datetime import datetime
from typing import Final

import msgspec

from campaigns.campaign import Campaign
from campaigns.draws.draw import PublicDraw
from campaigns.draws.entry import DrawEntry
from campaigns.replies import CAMPAIGN_PREFIX
from ledger.books import Book, PublicId

ENTRY_PREFIX: Final = "ent"


class RegistrationReply(msgspec.Struct, frozen=True):
    """An entry in a public draw.

    `leaf` is what stands in the frozen list, at `index`, by which its holder finds it there.
    """

    entry: str
    campaign: str
    state: str
    index: int
    leaf: str
    entered_at: datetime
    draw_at: datetime
    round: int


class VoidEntryReply(msgspec.Struct, frozen=True):
    """Somebody in a batch who is void, and why: the statement is signed."""

    person: str
    reason: str
    statement: str
    signature: str


class EnrolmentReply(msgspec.Struct, frozen=True):
    """A batch of registrations: so many places from `first_index` on, and who is void."""

    campaign: str
    registered: int
    first_index: int
    void: tuple[VoidEntryReply, ...]


class DrawStepReply(msgspec.Struct, frozen=True):
    """Where a public draw stands after one of its steps."""

    campaign: str
    state: str
    turns: int
    seats: int


def registration_reply(
    book: Book, campaign: Campaign, draw: PublicDraw, entry: DrawEntry
) -> RegistrationReply:
    """Return what is told of an entry."""
    terms = campaign.terms.public_draw
    assert terms is not None, "the campaign has a public draw"
    return RegistrationReply(
        entry=str(PublicId(ENTRY_PREFIX, book, entry.id)),
        campaign=str(PublicId(CAMPAIGN_PREFIX, book, campaign.id)),
        state=entry.state,
        index=entry.index,
        leaf=entry.leaf.hex(),
        entered_at=entry.entered_at,
        draw_at=terms.draw_at,
        round=draw.round,
    )


def step_reply(book: Book, draw: PublicDraw) -> DrawStepReply:
    """Return what is told of a step of a draw."""
    return DrawStepReply(
        campaign=str(PublicId(CAMPAIGN_PREFIX, book, draw.campaign)),
        state=draw.state,
        turns=len(draw.turns),
        seats=draw.seats_given,
    )
