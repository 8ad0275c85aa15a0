"""Giving a group up whose seed is lost: its rest goes back, and nobody is told that it was checked.

When the draw key is lost, what is left of an open group can neither be taken nor returned, because
both need the seed. So that money is not locked for ever, two operators may give the group up once
its time is over, and only while the key at hand is not the one that it was sent with. The events
say what happened: no seed is shown, and the shares of this group can never be checked.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar
from uuid import UUID

from campaigns.campaign import POOL
from campaigns.commands import Command, Decision, Header
from campaigns.groups.commands import group_read, purse_read
from campaigns.groups.group import GROUP_FOLD, Group, GroupGivenUp, GroupGivingUpProposed
from campaigns.groups.purse import PURSE_FOLD, PurseReturned
from campaigns.groups.replies import GROUP_PREFIX, giving_up_reply, purse_reply
from campaigns.refusals import Refusal
from campaigns.seeds import DrawKey, commitment_of
from campaigns.splitting import split_seed
from ledger.appending import Capacity
from ledger.books import Book, PublicId
from ledger.commit import Further, Read, View


@dataclass(frozen=True, slots=True)
class GivingUpCommand(Command):
    """A command on a group whose seed is lost."""

    book: Book
    group: UUID
    draw_key: DrawKey = field(repr=False)

    def reads(self) -> tuple[Read[Any], ...]:
        """The group."""
        return (group_read(self.group),)

    def lost(self, view: View) -> Group:
        """Return a group that is over and cannot be returned; refuse any other."""
        group = view.state(group_read(self.group))
        if group is None:
            raise Refusal("not_found")
        if group.state == "closed":
            raise Refusal("group_closed", group=str(PublicId(GROUP_PREFIX, self.book, group.id)))
        if view.now < group.until:
            raise Refusal("still_open", until=group.until)
        seed = split_seed(self.draw_key(), group.purse, group.committed_by)
        if commitment_of(seed) == group.seed_commitment:
            raise Refusal("seed_known")
        return group


@dataclass(frozen=True, slots=True)
class ProposeGivingUp(GivingUpCommand):
    """Ask that a group be given up, for a reason; it replaces what was asked for before."""

    name: ClassVar[str] = "propose_giving_up"

    reason: str

    def decide(self, view: View, header: Header) -> Decision:
        """It moves nothing; a second operator must approve it."""
        group = self.lost(view)
        event = GroupGivingUpProposed(
            **header.of(group.id, group.version + 1), campaign=group.campaign, reason=self.reason
        )
        reply = giving_up_reply(self.book, GROUP_FOLD.evolve(group, event))
        return Decision("giving_up_proposed", reply, [event])


@dataclass(frozen=True, slots=True)
class GiveUpGroup(GivingUpCommand):
    """Approve that a group is given up; only somebody else may."""

    name: ClassVar[str] = "give_up_group"

    def further(self, view: View) -> Further:
        """Its purse, and the stock that its shares go back to."""
        group = view.state(group_read(self.group))
        if group is None:
            return Further()
        return Further((purse_read(group.purse),), ((group.campaign, POOL),))

    def decide(self, view: View, header: Header) -> Decision:
        """The rest is the sender's again, as by a return; the seed stays unknown."""
        group = self.lost(view)
        proposed = group.giving_up
        if proposed is None:
            raise Refusal("no_giving_up_proposed")
        if proposed.by == header.by.id:
            raise Refusal("self_approval")
        purse = view.state(purse_read(group.purse))
        assert purse is not None, "a group was sent from a purse"
        given_up = GroupGivenUp(
            **header.of(group.id, group.version + 1),
            campaign=group.campaign,
            reason=proposed.reason,
            proposed_by=proposed.by,
            returned=group.shares - len(group.taken),
            returned_minor=group.left_minor,
            currency=group.currency,
        )
        returned = PurseReturned(
            **header.of(purse.id, purse.version + 1),
            campaign=group.campaign,
            person=purse.person,
            group=group.id,
            amount_minor=given_up.returned_minor,
            currency=group.currency,
        )
        return Decision(
            "group_returned",
            purse_reply(self.book, PURSE_FOLD.evolve(purse, returned)),
            [given_up, returned],
            [((group.campaign, POOL), Capacity(issued=-given_up.returned))],
        )
