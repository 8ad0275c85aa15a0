"""The commands of a lottery's draw, one for each of its steps; the pure rules are in `intake`.

First the intake is closed, then the draw is recorded, then each winner gets the coupon. Whoever
sends these commands is only believed what can be checked under the book's lock, so that two may
run the same draw at once, and each step may be repeated after a crash.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import ClassVar
from uuid import UUID

from campaigns.campaign import (
    CAMPAIGN_FOLD,
    DRAW_POOL,
    POOL,
    Campaign,
    CampaignDrawn,
    CampaignIntakeClosed,
    Draw,
)
from campaigns.commands import (
    CampaignCommand,
    Changes,
    CouponCommand,
    Decision,
    Header,
)
from campaigns.coupon import COUPON_FOLD, CouponClaimed, CouponEntered
from campaigns.intake import (
    Drawing,
    draws_at,
    is_winner,
    places_in,
    taken_from,
)
from campaigns.refusals import Refusal
from campaigns.replies import COUPON_PREFIX, campaign_reply, coupon_reply
from campaigns.seeds import commitment_of
from ledger.appending import Capacity
from ledger.books import Book, PublicId
from ledger.commit import Read, View
from ledger.events import Event
from ledger.history import Entry


@dataclass(frozen=True, slots=True)
class CloseIntake(CampaignCommand):
    """End the entries: what is entered now is what is drawn from."""

    name: ClassVar[str] = "close_intake"

    def decide(self, view: View, header: Header) -> Decision:
        """The coupons to be drawn are as many as there are stock and money for at this moment."""
        campaign, draw = _lottery(view, self.campaign)
        if draw.places is not None:
            raise Refusal("wrong_state", state="intake_closed", allowed=["open"])
        at = draws_at(campaign.terms)
        if view.now < at:
            raise Refusal("still_entering", draws_at=at)
        places = places_in(view.capacity((self.campaign, POOL)), campaign.terms.face_minor)
        event = CampaignIntakeClosed(**header.of(campaign.id, campaign.version + 1), places=places)
        return _decision(self.book, "intake_closed", campaign, event)


@dataclass(frozen=True, slots=True)
class RecordDraw(CampaignCommand):
    """Show the seed, and record what was drawn with it among the entrants."""

    name: ClassVar[str] = "draw"

    seed: bytes
    drawing: Drawing

    def decide(self, view: View, header: Header) -> Decision:
        """The seed must be the one that the campaign committed to when it opened."""
        campaign, draw = _lottery(view, self.campaign)
        if draw.places is None or draw.seed is not None:
            state = "open" if draw.places is None else "drawn"
            raise Refusal("wrong_state", state=state, allowed=["intake_closed"])
        if commitment_of(self.seed) != draw.commitment:
            raise Refusal("other_seed", seed_commitment=draw.commitment)
        winners = len(self.drawing.winners)
        assert winners == min(draw.places, self.drawing.entrants), "every place is drawn"
        event = CampaignDrawn(
            **header.of(campaign.id, campaign.version + 1),
            seed=self.seed.hex(),
            entrants=self.drawing.entrants,
            entrants_sha256=self.drawing.entrants_sha256,
            winners=winners,
            threshold=self.drawing.threshold,
        )
        to_give = ((campaign.id, DRAW_POOL), Capacity(quota=winners))
        return _decision(self.book, "drawn", campaign, event, [to_give] if winners else ())


@dataclass(frozen=True, slots=True)
class GiveDrawn(CouponCommand):
    """Give a winner the coupon."""

    name: ClassVar[str] = "give_drawn"

    def decide(self, view: View, header: Header) -> Decision:
        """Whether somebody won is judged here, by the seed and the threshold that are recorded."""
        coupon, campaign = self._known(view)
        _lottery(view, campaign.id)
        if coupon.state != "entered":
            held = PublicId(COUPON_PREFIX, self.book, coupon.id)
            raise Refusal("already_claimed", coupon=str(held))
        if campaign.draw is None or not is_winner(campaign.draw, coupon.id):
            raise Refusal("not_drawn")
        event = CouponClaimed(
            **header.of(coupon.id, coupon.version + 1),
            **taken_from(campaign, coupon.person),
            drawn=True,
        )
        face_minor = event.face_minor
        taken = [
            ((campaign.id, POOL), Capacity(issued=1, granted_minor=face_minor)),
            ((campaign.id, DRAW_POOL), Capacity(issued=1)),
        ]
        reply = coupon_reply(self.book, COUPON_FOLD.evolve(coupon, event))
        return Decision("claimed", reply, [event], taken)


def entrants(entries: Iterable[Entry], campaign: UUID) -> Iterator[bytes]:
    """Yield the coupon ids, as 16 bytes, of those among stored events who entered for a campaign.

    A quotation mark inside a stored text is escaped, so that these bytes are nothing else.
    """
    named = f'"campaign":"{campaign}"'.encode()
    for _, stream, _, topic, state, _ in entries:
        if topic == CouponEntered.TOPIC and named in state:
            yield stream.bytes


def _lottery(view: View, campaign_uuid: UUID) -> tuple[Campaign, Draw]:
    """Return an open campaign and its draw; while it is paused, its draw waits as well."""
    campaign = view.state(Read(campaign_uuid, CAMPAIGN_FOLD, keep=True))
    if campaign is None:
        raise Refusal("not_found")
    if campaign.state != "open" or campaign.draw is None:
        raise Refusal("wrong_state", state=campaign.state, allowed=["open"])
    return campaign, campaign.draw


def _decision(
    book: Book, code: str, campaign: Campaign, event: Event, capacity: Changes = ()
) -> Decision:
    after = CAMPAIGN_FOLD.evolve(campaign, event)
    return Decision(code, campaign_reply(book, after), [event], capacity)
