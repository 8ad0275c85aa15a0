"""What a campaign's own commands ask of its public draw: the seed at the opening, what is promised.

It knows events and rules of draws and no commands, so that the campaign's commands can use it.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable
from typing import Any, Final
from uuid import UUID

from campaigns.campaign import Campaign
from campaigns.draws.draw import DRAW_FOLD, SEATS_POOL, DrawOpened, PublicDraw, draw_id
from campaigns.refusals import Refusal
from campaigns.seeds import DrawKey, commitment_of
from ledger.commit import Read, View

_SEED_LABEL: Final = b"tidebook public draw seed 1\0"


def seed_of(draw_key: bytes, draw: UUID) -> bytes:
    """Return the seed of a public draw: whoever has the ledger's draw key finds it again."""
    return hmac.digest(draw_key, _SEED_LABEL + draw.bytes, "sha256")


def draw_read(campaign: UUID) -> Read[PublicDraw]:
    """Return how a campaign's public draw is read."""
    return Read(draw_id(campaign), DRAW_FOLD, True)


def open_draw(
    campaign: Campaign,
    draw_key: DrawKey | None,
    view: View,
    header: Callable[[UUID, int], dict[str, Any]],
) -> list[DrawOpened]:
    """Return the event that opens a campaign's public draw; none for a campaign without one.

    Whoever wins must find the money, so that it is funded for every seat beforehand.
    """
    terms = campaign.terms.public_draw
    if terms is None:
        return []
    if campaign.quota < terms.winners or campaign.budget_minor < terms.worth_minor:
        raise Refusal("below_promised", quota=terms.winners, budget_minor=terms.worth_minor)
    if view.now >= terms.register_until:
        raise Refusal("registration_over", ended_at=terms.register_until)
    assert draw_key is not None, "a public draw opens with the ledger's draw key"
    stream = draw_id(campaign.id)
    assert view.version(stream) == 0, "a campaign is opened once"
    commitment = commitment_of(seed_of(draw_key(), stream))
    opened = DrawOpened(
        **header(stream, 1), campaign=campaign.id, commitment=commitment, round=terms.round
    )
    return [opened]


def require_kept(view: View, campaign: Campaign) -> None:
    """Refuse a close while winners of a public draw can still claim."""
    if campaign.terms.public_draw is None:
        return
    draw = view.state(draw_read(campaign.id))
    if draw is None or draw.held is None:
        return
    claim_until = draw.claim_until
    assert claim_until is not None, "a draw that was held has a turn"
    seats = view.capacity((campaign.id, SEATS_POOL))
    if seats.issued < seats.quota or view.now < claim_until:
        raise Refusal("winners_may_claim", claim_until=claim_until)


def require_funds(campaign: Campaign, quota: int, budget_minor: int) -> None:
    """Refuse to take away, from a campaign that was opened, what its public draw promises."""
    terms = campaign.terms.public_draw
    if terms is None or campaign.state not in {"open", "paused"}:
        return
    if quota < terms.winners or budget_minor < terms.worth_minor:
        raise Refusal("below_promised", quota=terms.winners, budget_minor=terms.worth_minor)
