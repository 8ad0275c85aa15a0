"""Claiming what was won: the seat in one's own entry's stream, once, and until its deadline.

Whether somebody may claim is read from that stream, by its primary key. What is claimed is a coupon
or a packet like any other, in the stream that a first claim of it would have.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar
from uuid import UUID

from campaigns.campaign import POOL, Campaign
from campaigns.commands import Decision, Header, campaign_read
from campaigns.coupon import COUPON_FOLD, CouponClaimed, coupon_id
from campaigns.draws.draw import claims_pool
from campaigns.draws.entry import Won, entry_id
from campaigns.draws.opening import draw_read
from campaigns.draws.registering import DrawCommand, entry_read
from campaigns.granting import told_again
from campaigns.holding import holding_read
from campaigns.intake import taken_from
from campaigns.packets.granting import Share, plain_packet_claim
from campaigns.packets.packet import PACKET_FOLD, PacketClaimed
from campaigns.packets.replies import packet_reply
from campaigns.refusals import Refusal
from campaigns.replies import coupon_reply, holding_name
from ledger.appending import Capacity
from ledger.commit import Further, Read, View
from ledger.events import Event


@dataclass(frozen=True, slots=True)
class ClaimWin(DrawCommand):
    """Claim what the draw gave to a person."""

    name: ClassVar[str] = "claim_win"

    person: str

    def reads(self) -> tuple[Read[Any], ...]:
        """The campaign, its draw, the person's entry, and what the person holds."""
        return (
            campaign_read(self.campaign),
            draw_read(self.campaign),
            entry_read(entry_id(self.campaign, self.person)),
            holding_read(self._holding),
        )

    def pools(self) -> tuple[tuple[UUID, str], ...]:
        """The campaign's stock and budget."""
        return ((self.campaign, POOL),)

    def further(self, view: View) -> Further:
        """What of the entry's tier may still be claimed."""
        entry = view.state(entry_read(entry_id(self.campaign, self.person)))
        if entry is None or entry.won is None:
            return Further()
        return Further((), ((self.campaign, claims_pool(entry.won.tier)),))

    def decide(self, view: View, header: Header) -> Decision:
        """A winner has one coupon or packet, of the amount of the seat's tier."""
        campaign, terms, draw = self.known(view)
        if draw is None or campaign.state != "open":
            raise Refusal("not_open", state=campaign.state)
        if draw.held is None:
            raise Refusal("draw_pending", draws_at=terms.draw_at)
        if view.version(self._holding):
            kind, name = holding_name(self.book, campaign.terms, self._holding)
            raise Refusal("already_claimed", **{kind: name})
        entry = view.state(entry_read(entry_id(self.campaign, self.person)))
        if entry is None or entry.won is None:
            raise Refusal("not_drawn")
        won = entry.won
        if view.now >= won.claim_until:
            raise Refusal("claim_deadline_passed", claim_until=won.claim_until)
        self._require_funds(view, won)
        event, reply = self._holding_of(campaign, won, header)
        taken = [
            ((self.campaign, POOL), Capacity(issued=1, granted_minor=won.amount_minor)),
            ((self.campaign, claims_pool(won.tier)), Capacity(issued=1)),
        ]
        return Decision("claimed", reply, [event], taken, own_record=True)

    def retell(self, event: CouponClaimed | PacketClaimed) -> tuple[str, bytes]:
        """Tell a claim again from its event."""
        return told_again(self.book, event)

    @property
    def _holding(self) -> UUID:
        return coupon_id(self.campaign, self.person, 1)

    def _require_funds(self, view: View, won: Won) -> None:
        pot = view.capacity((self.campaign, POOL))
        if pot.issued >= pot.quota:
            raise Refusal("sold_out", quota=pot.quota)
        if pot.granted_minor + won.amount_minor > pot.budget_minor:
            raise Refusal("budget_exhausted", budget_minor=pot.budget_minor)

    def _holding_of(self, campaign: Campaign, won: Won, header: Header) -> tuple[Event, Any]:
        if campaign.terms.packet is not None:
            share = Share(won.amount_minor)
            packet = plain_packet_claim(campaign, self._holding, 1, self.person, share, *header)
            return packet, packet_reply(self.book, PACKET_FOLD.evolve(None, packet))
        coupon = CouponClaimed(
            **header.of(self._holding, 1), **taken_from(campaign, self.person), drawn=True
        )
        return coupon, coupon_reply(self.book, COUPON_FOLD.evolve(None, coupon))
