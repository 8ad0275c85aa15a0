"""What is announced of a draw before the beacon speaks, as the bytes that go into the key.

docs/draw-bundle.md describes them. Whoever has them, the seed and the beacon's value has the draw.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

from campaigns.campaign import Campaign
from campaigns.draws.draw import Frozen, PublicDraw
from campaigns.replies import CAMPAIGN_PREFIX
from ledger.books import Book, PublicId

FORMAT: Final = "tidebook-draw/1"


def canonical_json(value: Any) -> bytes:
    """Return the one form of a JSON value: names sorted, no spaces, ASCII, a line's end."""
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode() + b"\n"


def instant_text(instant: datetime) -> str:
    """Return an instant as it stands in a bundle."""
    return instant.astimezone(UTC).replace(tzinfo=None).isoformat() + "Z"


class ListFacts(NamedTuple):
    """What is published of a frozen list: hashes in hex."""

    entries: int
    root: str
    withdrawn: int
    withdrawn_sha256: str


def facts_of(frozen: Frozen) -> ListFacts:
    """Return what was published of the list that an event froze."""
    return ListFacts(frozen.entries, frozen.root, frozen.withdrawn, frozen.withdrawn_sha256)


def announced(
    book: Book, campaign: Campaign, draw: PublicDraw, listed: ListFacts
) -> dict[str, Any]:
    """Return what is announced of a campaign's draw, with its list."""
    terms = campaign.terms.public_draw
    assert terms is not None, "the campaign has a public draw"
    return {
        "format": FORMAT,
        "campaign": str(PublicId(CAMPAIGN_PREFIX, book, campaign.id)),
        "name": campaign.name,
        "register_from": instant_text(terms.register_from),
        "register_until": instant_text(terms.register_until),
        "draw_at": instant_text(terms.draw_at),
        "beacon": {
            "chain": terms.chain.hash,
            "genesis": terms.chain.genesis,
            "period_s": terms.chain.period_s,
            "round": draw.round,
        },
        "seed_commitment": draw.commitment,
        "tiers": [
            {"amount_minor": tier.amount_minor, "winners": tier.count} for tier in terms.tiers
        ],
        "currency": campaign.terms.currency,
        "runners_up": terms.runners_up,
        "claim_s": terms.claim_s,
        "list": listed._asdict(),
    }


def announcement(book: Book, campaign: Campaign, draw: PublicDraw, listed: ListFacts) -> bytes:
    """Return the bytes of the announcement."""
    return canonical_json(announced(book, campaign, draw, listed))


def announcement_of(book: Book, campaign: Campaign, draw: PublicDraw) -> bytes:
    """Return the bytes of the announcement of a draw whose list is frozen."""
    assert draw.frozen is not None, "the list is frozen"
    return announcement(book, campaign, draw, facts_of(draw.frozen))
