"""What is left to do when a campaign of packets is over: leftovers move on, and the seed is shown.

These are steps of the service itself. Whoever sends them is only believed what can be checked under
the book's lock, so that two may send them at once and each may be repeated after a crash.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar
from uuid import UUID

from campaigns.campaign import (
    CAMPAIGN_FOLD,
    DRAW_POOL,
    POOL,
    BudgetReclaimed,
    Campaign,
    CampaignRolledIn,
    CampaignRolledOver,
    CampaignSplitShown,
)
from campaigns.commands import (
    CampaignCommand,
    Changes,
    Decision,
    Header,
    campaign_read,
    known_campaign,
)
from campaigns.intake import draws_at, is_over
from campaigns.refusals import Refusal
from campaigns.replies import campaign_reply
from campaigns.seeds import commitment_of
from ledger.appending import Capacity
from ledger.books import Book
from ledger.commit import Further, View
from ledger.events import Event


@dataclass(frozen=True, slots=True)
class RollOver(CampaignCommand):
    """Move what packets left in the pot of a closed campaign into the next round's."""

    name: ClassVar[str] = "roll_over"

    def further(self, view: View) -> Further:
        """The next round, as the campaign names it, and its pools."""
        campaign = view.state(campaign_read(self.campaign))
        after = _next_round_of(campaign)
        if after is None:
            return Further()
        return Further((campaign_read(after),), ((after, POOL), (after, DRAW_POOL)))

    def decide(self, view: View, header: Header) -> Decision:
        """A next round that is closed itself takes nothing: then the sponsor gets it."""
        campaign, into = self._closed_with_next_round(view)
        pot = view.capacity((campaign.id, POOL))
        left = pot.budget_minor - pot.granted_minor
        if left == 0:
            raise Refusal("nothing_left")
        after = view.state(campaign_read(into))
        money: dict[str, Any] = {"amount_minor": left, "currency": campaign.terms.currency}
        out = ((campaign.id, POOL), Capacity(budget_minor=-left))
        own = header.of(campaign.id, campaign.version + 1)
        if after is None or after.state == "closed":
            back = BudgetReclaimed(**own, **money, sponsor=campaign.sponsor)
            return _decision(self.book, "reclaimed", campaign, [back], [out])
        _require_not_drawing(view, after)
        over = CampaignRolledOver(**own, **money, into=into)
        came = CampaignRolledIn(
            **header.of(into, after.version + 1), **money, from_campaign=campaign.id
        )
        changes = [out, ((into, POOL), Capacity(budget_minor=left))]
        return _decision(self.book, "rolled_over", campaign, [over, came], changes)

    def _closed_with_next_round(self, view: View) -> tuple[Campaign, UUID]:
        campaign = known_campaign(view, self.campaign)
        into = _next_round_of(campaign)
        if campaign.state != "closed" or into is None:
            raise Refusal("wrong_state", state=campaign.state, allowed=["closed"])
        return campaign, into


@dataclass(frozen=True, slots=True)
class ShowSplit(CampaignCommand):
    """Show the seed by which tiers or shares were given, once nobody can claim any more."""

    name: ClassVar[str] = "show_split"

    seed: bytes

    def decide(self, view: View, header: Header) -> Decision:
        """The seed must be the one that the campaign committed to when it opened."""
        campaign = known_campaign(view, self.campaign)
        split = campaign.split
        if split is None or split.seed is not None or not _is_over(view, campaign):
            raise Refusal("wrong_state", state=campaign.state, allowed=["closed"])
        if commitment_of(self.seed) != split.commitment:
            raise Refusal("other_seed", seed_commitment=split.commitment)
        own = header.of(campaign.id, campaign.version + 1)
        event = CampaignSplitShown(**own, seed=self.seed.hex())
        return _decision(self.book, "split_shown", campaign, [event])


def _is_over(view: View, campaign: Campaign) -> bool:
    """Whether nobody can claim any more: instants of a book never decrease."""
    if campaign.state == "closed" or view.now >= campaign.terms.claim_until:
        return True
    pool = view.capacity((campaign.id, POOL))
    return pool.issued >= pool.quota


def _next_round_of(campaign: Campaign | None) -> UUID | None:
    packet = campaign.terms.packet if campaign is not None else None
    return packet.next_round if packet is not None else None


def _require_not_drawing(view: View, after: Campaign) -> None:
    """Between the end of a lottery's intake and its last gift no money comes or goes."""
    draw = after.draw
    if draw is None or draw.places is None:
        return
    if not is_over(draw, view.capacity((after.id, DRAW_POOL))):
        raise Refusal("draw_pending", draws_at=draws_at(after.terms))


def _decision(
    book: Book, code: str, campaign: Campaign, events: Sequence[Event], changes: Changes = ()
) -> Decision:
    """The reply tells of the campaign that the first event is of."""
    after = CAMPAIGN_FOLD.evolve(campaign, events[0])
    return Decision(code, campaign_reply(book, after), events, changes)
