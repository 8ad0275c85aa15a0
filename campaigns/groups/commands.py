"""The commands on purses and group packets, and the pure decision on each.

Sending moves money from the purse to the group; taking a share gives it to the taker as a packet,
in one decision with the opening of it, so that nobody is told of a share and finds it empty; the
last taker's decision, or the return of what is left, shows the seed.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, ClassVar, Final
from uuid import UUID, uuid5

from msgspec import UNSET

from campaigns.campaign import POOL, Campaign, Terms
from campaigns.commands import (
    Changes,
    Command,
    Decision,
    Header,
    campaign_read,
    known_campaign,
    require_open,
    require_state,
    require_unit,
)
from campaigns.groups.group import (
    GROUP_FOLD,
    RETURN_AFTER,
    Group,
    GroupClosed,
    GroupFunded,
    GroupKind,
    GroupShareTaken,
)
from campaigns.groups.purse import (
    PURSE_FOLD,
    Purse,
    PurseEmptied,
    PurseFilled,
    PurseFillingProposed,
    PurseReturned,
    PurseSent,
    purse_id,
)
from campaigns.groups.replies import (
    GROUP_PREFIX,
    SHARE_PREFIX,
    group_reply,
    purse_reply,
    share_reply,
)
from campaigns.groups.sharing import code_hash, code_of, next_share, share_id
from campaigns.packets.packet import PACKET_FOLD, Packet, PacketClaimed
from campaigns.refusals import Refusal
from campaigns.seeds import DrawKey, commitment_of
from campaigns.splitting import split_seed
from ledger.appending import Capacity
from ledger.books import Book, PublicId
from ledger.commit import Further, Read, View
from ledger.events import Actor, Event
from ledger.money import Money

GROUP_NAMESPACE: Final = UUID("0f6c2d8e-51c8-5c0a-9d57-6a3f4be1d702")


def group_id(book: Book, by: Actor, key: str) -> UUID:
    """Return the id of the group that a caller sends with an idempotency key."""
    return uuid5(GROUP_NAMESPACE, f"{book}:{by.role}:{by.id}:{key}")


# Purses


@dataclass(frozen=True, slots=True)
class ProposeFilling(Command):
    """Ask for money for a person's purse; it replaces what was asked for before."""

    name: ClassVar[str] = "propose_filling"

    book: Book
    campaign: UUID
    person: str
    amount: Money

    def reads(self) -> tuple[Read[Any], ...]:
        """The campaign, and the purse, which this may be the first of."""
        return (campaign_read(self.campaign), purse_read(purse_id(self.campaign, self.person)))

    def decide(self, view: View, header: Header) -> Decision:
        """Nobody proposes money for themselves, and none that a draw or tiers have promised."""
        campaign = known_campaign(view, self.campaign)
        _require_alive(campaign)
        if not has_purses(campaign.terms):
            raise Refusal("no_purses")
        _require_not_own(self.person, header)
        require_unit(campaign, self.amount)
        stream = purse_id(self.campaign, self.person)
        purse = view.state(purse_read(stream))
        event = PurseFillingProposed(
            **header.of(stream, view.version(stream) + 1),
            campaign=self.campaign,
            person=self.person,
            amount_minor=self.amount.amount_minor,
            currency=self.amount.currency,
        )
        return _purse_decision(self.book, "filling_proposed", purse, event)


@dataclass(frozen=True, slots=True)
class PurseCommand(Command):
    """A command on an existing purse."""

    book: Book
    purse: UUID

    def reads(self) -> tuple[Read[Any], ...]:
        """The purse."""
        return (purse_read(self.purse),)

    def further(self, view: View) -> Further:
        """Its campaign, with stock and money."""
        purse = view.state(purse_read(self.purse))
        if purse is None:
            return Further()
        return Further((campaign_read(purse.campaign),), ((purse.campaign, POOL),))

    def _known(self, view: View) -> tuple[Purse, Campaign]:
        purse = view.state(purse_read(self.purse))
        if purse is None:
            raise Refusal("not_found")
        return purse, known_campaign(view, purse.campaign)


@dataclass(frozen=True, slots=True)
class ApproveFilling(PurseCommand):
    """Approve what is proposed for a purse, named by its amount; only somebody else may."""

    name: ClassVar[str] = "approve_filling"

    amount: Money
    draw_key: DrawKey = field(repr=False)

    def decide(self, view: View, header: Header) -> Decision:
        """The money leaves the pot, and the purse commits to the seed of its next group."""
        purse, campaign = self._known(view)
        _require_alive(campaign)
        filling = purse.filling
        if filling is None:
            raise Refusal("no_filling_proposed")
        if filling.by == header.by.id:
            raise Refusal("self_approval")
        _require_not_own(purse.person, header)
        require_unit(campaign, self.amount)
        if filling.amount_minor != self.amount.amount_minor:
            raise Refusal("filling_changed", amount_minor=filling.amount_minor)
        capacity = view.capacity((campaign.id, POOL))
        if capacity.granted_minor + filling.amount_minor > capacity.budget_minor:
            raise Refusal("budget_exhausted", budget_minor=capacity.budget_minor)
        version = purse.version + 1
        event = PurseFilled(
            **header.of(purse.id, version),
            campaign=campaign.id,
            person=purse.person,
            amount_minor=filling.amount_minor,
            currency=purse.currency,
            proposed_by=filling.by,
            seed_commitment=commitment_of(split_seed(self.draw_key(), purse.id, version)),
        )
        change = Capacity(granted_minor=filling.amount_minor)
        return _purse_decision(
            self.book, "purse_filled", purse, event, [((campaign.id, POOL), change)]
        )


@dataclass(frozen=True, slots=True)
class EmptyPurse(PurseCommand):
    """Give back what is in a purse, for a reason."""

    name: ClassVar[str] = "empty_purse"

    reason: str

    def decide(self, view: View, header: Header) -> Decision:
        """It goes back to the pot, or where a closed campaign's money goes."""
        purse, campaign = self._known(view)
        return _emptied(self.book, header, purse, campaign, self.reason)


@dataclass(frozen=True, slots=True)
class SweepPurse(PurseCommand):
    """Give back what is in a purse from which nobody can send any more (the sweeper's command)."""

    name: ClassVar[str] = "sweep_purse"

    def decide(self, view: View, header: Header) -> Decision:
        """Judged again here: the sweeper's list is a hint."""
        purse, campaign = self._known(view)
        until = campaign.terms.claim_until
        if campaign.state != "closed" and view.now < until:
            raise Refusal("still_sending", ends_at=until)
        return _emptied(self.book, header, purse, campaign, None)


# Sending


@dataclass(frozen=True, slots=True)
class SendGroup(PurseCommand):
    """Send money from one's purse to a group. `group` comes from `group_id`.

    `members` may take shares; when it is None, whoever has the group's code may.
    """

    name: ClassVar[str] = "send_group"

    group: UUID
    sender: str
    kind: GroupKind
    shares: int
    total: Money
    salt: str
    members: tuple[str, ...] | None
    sender_may_take: bool
    draw_key: DrawKey = field(repr=False)

    def reads(self) -> tuple[Read[Any], ...]:
        """The purse, and the new group's stream, which must be empty."""
        return (purse_read(self.purse), group_read(self.group))

    def decide(self, view: View, header: Header) -> Decision:
        """The seed is the one that the purse committed to before; the shares leave the stock."""
        purse, campaign = self._known(view)
        if purse.person != self.sender:
            raise Refusal("not_found")
        require_open(campaign, view.now)
        require_unit(campaign, self.total)
        total_minor = self.total.amount_minor
        assert total_minor >= self.shares >= 1, "each share can have a minor unit"
        if purse.commitment is None or purse.balance_minor < total_minor:
            raise Refusal("purse_short", balance_minor=purse.balance_minor)
        capacity = view.capacity((campaign.id, POOL))
        if capacity.issued + self.shares > capacity.quota:
            raise Refusal("sold_out", quota=capacity.quota)
        key = self.draw_key()
        _seed_of(key, purse.id, purse.commitment.version, purse.commitment.sha256)
        version = purse.version + 1
        sent = PurseSent(
            **header.of(purse.id, version),
            campaign=campaign.id,
            person=purse.person,
            group=self.group,
            amount_minor=total_minor,
            currency=purse.currency,
            seed_commitment=commitment_of(split_seed(key, purse.id, version)),
        )
        funded = GroupFunded(
            **header.of(self.group, view.version(self.group) + 1),
            campaign=campaign.id,
            purse=purse.id,
            person=purse.person,
            kind=self.kind,
            shares=self.shares,
            total_minor=total_minor,
            currency=purse.currency,
            salt=self.salt,
            seed_commitment=purse.commitment.sha256,
            committed_by=purse.commitment.version,
            until=min(header.at + RETURN_AFTER, campaign.terms.claim_until),
            sender_may_take=self.sender_may_take or UNSET,
            members=UNSET if self.members is None else list(self.members),
            code_sha256=code_hash(code_of(key, self.group)) if self.members is None else UNSET,
        )
        group, after = GROUP_FOLD.evolve(None, funded), PURSE_FOLD.evolve(purse, sent)
        return Decision(
            "group_funded",
            group_reply(self.book, group, after),
            [sent, funded],
            [((campaign.id, POOL), Capacity(issued=self.shares))],
        )


# Taking


@dataclass(frozen=True, slots=True)
class TakeShare(Command):
    """Take a share of a group, and open it."""

    name: ClassVar[str] = "take_share"

    book: Book
    group: UUID
    person: str
    code: str | None
    draw_key: DrawKey = field(repr=False)

    def reads(self) -> tuple[Read[Any], ...]:
        """The group, which a rush is about, and the person's share, which must be empty."""
        return (group_read(self.group), _share_read(share_id(self.group, self.person)))

    def further(self, view: View) -> Further:
        """The group's campaign, as the group says."""
        group = view.state(group_read(self.group))
        return Further(() if group is None else (campaign_read(group.campaign),))

    def decide(self, view: View, header: Header) -> Decision:
        """One share a person, while there are some; the last one shows the seed."""
        group = view.state(group_read(self.group))
        if group is None:
            raise Refusal("not_found")
        share = share_id(group.id, self.person)
        self._require_invited(group)
        if view.version(share):
            raise Refusal("already_taken", share=str(PublicId(SHARE_PREFIX, self.book, share)))
        _require_left(group, view.now)
        campaign = known_campaign(view, group.campaign)
        require_open(campaign, view.now)
        seed = _seed_of(self.draw_key(), group.purse, group.committed_by, group.seed_commitment)
        index, amount_minor = next_share(group, seed, share)
        claimed = self._claimed(header, campaign, group, share, amount_minor)
        taken = GroupShareTaken(
            **header.of(group.id, group.version + 1),
            campaign=campaign.id,
            person=self.person,
            share=share,
            index=index,
            amount_minor=amount_minor,
            currency=group.currency,
        )
        group = GROUP_FOLD.evolve(group, taken)
        events: list[Event] = [claimed, taken]
        if len(group.taken) == group.shares:
            events.append(_closed(header, group, seed))
            group = GROUP_FOLD.evolve(group, events[-1])
        packet: Packet = PACKET_FOLD.evolve(None, claimed)
        reply = share_reply(self.book, group, group.taken[-1], packet)
        return Decision("share_taken", reply, events)

    def _claimed(
        self, header: Header, campaign: Campaign, group: Group, share: UUID, amount_minor: int
    ) -> PacketClaimed:
        terms = campaign.terms
        return PacketClaimed(
            **header.of(share, 1),
            campaign=campaign.id,
            campaign_version=campaign.version,
            person=self.person,
            n=1,
            amount_minor=amount_minor,
            currency=group.currency,
            valid_from=terms.valid_from,
            valid_until=terms.valid_until,
            group=group.id,
        )

    def _require_invited(self, group: Group) -> None:
        """Without its code a group does not exist; a named group is for its members."""
        if group.code_sha256 is not None:
            shown = code_hash(self.code or "")
            if not hmac.compare_digest(shown, group.code_sha256) and self.person != group.sender:
                raise Refusal("not_found")
        if self.person == group.sender:
            if not group.sender_may_take:
                raise Refusal("own_group")
        elif group.members is not None and self.person not in group.members:
            raise Refusal("not_a_member")


@dataclass(frozen=True, slots=True)
class ReturnGroup(Command):
    """Give the sender back what nobody took in time (the sweeper's command)."""

    name: ClassVar[str] = "return_group"

    book: Book
    group: UUID
    draw_key: DrawKey = field(repr=False)

    def reads(self) -> tuple[Read[Any], ...]:
        """The group."""
        return (group_read(self.group),)

    def further(self, view: View) -> Further:
        """Its purse, and the stock that its shares go back to."""
        group = view.state(group_read(self.group))
        if group is None:
            return Further()
        return Further((purse_read(group.purse),), ((group.campaign, POOL),))

    def decide(self, view: View, header: Header) -> Decision:
        """Once, because closing is the group's last event."""
        group = view.state(group_read(self.group))
        if group is None:
            raise Refusal("not_found")
        if group.state == "closed":
            raise Refusal("group_closed", group=str(PublicId(GROUP_PREFIX, self.book, group.id)))
        if view.now < group.until:
            raise Refusal("still_open", until=group.until)
        purse = view.state(purse_read(group.purse))
        assert purse is not None, "a group was sent from a purse"
        seed = _seed_of(self.draw_key(), group.purse, group.committed_by, group.seed_commitment)
        closed = _closed(header, group, seed)
        returned = PurseReturned(
            **header.of(purse.id, purse.version + 1),
            campaign=group.campaign,
            person=purse.person,
            group=group.id,
            amount_minor=closed.returned_minor,
            currency=group.currency,
        )
        after = PURSE_FOLD.evolve(purse, returned)
        return Decision(
            "group_returned",
            purse_reply(self.book, after),
            [closed, returned],
            [((group.campaign, POOL), Capacity(issued=-closed.returned))],
        )


# What decisions share


def has_purses(terms: Terms) -> bool:
    """Whether money of a campaign's pot may go to purses: where it is promised to nobody else."""
    if terms.kind != "packet" or terms.public_draw is not None:
        return False
    if terms.packet is not None and terms.packet.is_seeded:
        return False
    return terms.intake is None or terms.intake.kind in ("first_come", "waiting_room")


def purse_read(purse: UUID) -> Read[Purse]:
    """Return how a purse is read."""
    return Read(purse, PURSE_FOLD)


def group_read(group: UUID) -> Read[Group]:
    """Return how a group is read."""
    return Read(group, GROUP_FOLD, True)


def _share_read(share: UUID) -> Read[Packet]:
    return Read(share, PACKET_FOLD)


def _require_alive(campaign: Campaign) -> None:
    require_state(campaign, "funded", "open", "paused")


def _require_left(group: Group, now: datetime) -> None:
    if len(group.taken) == group.shares:
        raise Refusal("group_empty", shares=group.shares)
    if group.state == "closed" or now >= group.until:
        raise Refusal("group_over", until=group.until)


def _require_not_own(person: str, header: Header) -> None:
    if person == header.by.id:
        raise Refusal("own_purse")


def _seed_of(key: bytes, purse: UUID, version: int, commitment: str) -> bytes:
    """Return a group's seed; it must be the one that was committed to."""
    seed = split_seed(key, purse, version)
    if commitment_of(seed) != commitment:
        raise Refusal("other_seed", seed_commitment=commitment)
    return seed


def _closed(header: Header, group: Group, seed: bytes) -> GroupClosed:
    return GroupClosed(
        **header.of(group.id, group.version + 1),
        campaign=group.campaign,
        seed=seed.hex(),
        returned=group.shares - len(group.taken),
        returned_minor=group.left_minor,
        currency=group.currency,
    )


def _emptied(
    book: Book, header: Header, purse: Purse, campaign: Campaign, reason: str | None
) -> Decision:
    amount_minor = purse.balance_minor
    if not amount_minor:
        raise Refusal("purse_empty")
    to = campaign.returns_to if campaign.state == "closed" else "campaign"
    event = PurseEmptied(
        **header.of(purse.id, purse.version + 1),
        campaign=campaign.id,
        person=purse.person,
        amount_minor=amount_minor,
        currency=purse.currency,
        to=to,
        sponsor=campaign.sponsor,
        reason=UNSET if reason is None else reason,
    )
    change = Capacity(
        granted_minor=-amount_minor, budget_minor=-amount_minor if to == "sponsor" else 0
    )
    return _purse_decision(book, "purse_emptied", purse, event, [((campaign.id, POOL), change)])


def _purse_decision(
    book: Book, code: str, purse: Purse | None, event: Event, capacity: Changes = ()
) -> Decision:
    return Decision(code, purse_reply(book, PURSE_FOLD.evolve(purse, event)), [event], capacity)
