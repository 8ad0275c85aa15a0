"""Replies about purses and group packets: what a caller gets, and a replay gives again."""

from __future__ import annotations

from datetime import datetime
from typing import Final

import msgspec
from msgspec import UNSET, UnsetType

from campaigns.groups.group import Group, Taken
from campaigns.groups.purse import Purse
from campaigns.packets.packet import Packet
from campaigns.replies import CAMPAIGN_PREFIX, PACKET_PREFIX
from ledger.books import Book, PublicId
from ledger.money import Money

PURSE_PREFIX: Final = "prs"
GROUP_PREFIX: Final = "grp"
SHARE_PREFIX: Final = PACKET_PREFIX
"""A share is a packet."""


class FillingReply(msgspec.Struct, frozen=True):
    """An amount for a purse that waits for a second operator."""

    amount: Money
    proposed_by: str


class PurseReply(msgspec.Struct, frozen=True):
    """A purse: what is in it, and the commitment to the seed of the next group sent from it."""

    purse: str
    campaign: str
    person: str
    version: int
    balance: Money
    next_seed_commitment: str | None
    filling: FillingReply | None


class GroupReply(msgspec.Struct, frozen=True):
    """A group packet as its sender gets it; the code is asked for by itself."""

    group: str
    purse: str
    campaign: str
    state: str
    kind: str
    shares: int
    total: Money
    left: Money
    """What is left in the purse."""
    salt: str
    seed_commitment: str
    next_seed_commitment: str
    funded_at: datetime
    until: datetime


class GivingUpReply(msgspec.Struct, frozen=True):
    """That a group be given up, which waits for a second operator."""

    group: str
    campaign: str
    reason: str
    proposed_by: str
    left: Money
    """What would go back to the sender's purse."""


class ShareReply(msgspec.Struct, frozen=True):
    """A share as its taker gets it: opened, with its amount, and with all that checks it later."""

    share: str
    group: str
    campaign: str
    index: int
    nth: int
    """The how many-th share it is that somebody took."""
    amount: Money
    valid_from: datetime
    valid_until: datetime
    taken_at: datetime
    kind: str
    shares: int
    total: Money
    salt: str
    seed_commitment: str
    seed: str | UnsetType = UNSET
    """There with the last share."""


def purse_reply(book: Book, purse: Purse) -> PurseReply:
    """Return a purse's reply from its state."""
    filling = purse.filling
    return PurseReply(
        purse=str(PublicId(PURSE_PREFIX, book, purse.id)),
        campaign=str(PublicId(CAMPAIGN_PREFIX, book, purse.campaign)),
        person=purse.person,
        version=purse.version,
        balance=Money(purse.balance_minor, purse.currency),
        next_seed_commitment=None if purse.commitment is None else purse.commitment.sha256,
        filling=None
        if filling is None
        else FillingReply(Money(filling.amount_minor, purse.currency), filling.by),
    )


def group_reply(book: Book, group: Group, purse: Purse) -> GroupReply:
    """Return the reply for a group that was just sent, from it and the purse after it."""
    assert purse.commitment is not None, "a sending commits to the next seed"
    return GroupReply(
        group=str(PublicId(GROUP_PREFIX, book, group.id)),
        purse=str(PublicId(PURSE_PREFIX, book, purse.id)),
        campaign=str(PublicId(CAMPAIGN_PREFIX, book, group.campaign)),
        state=group.state,
        kind=group.kind,
        shares=group.shares,
        total=Money(group.total_minor, group.currency),
        left=Money(purse.balance_minor, purse.currency),
        salt=group.salt,
        seed_commitment=group.seed_commitment,
        next_seed_commitment=purse.commitment.sha256,
        funded_at=group.funded_at,
        until=group.until,
    )


def giving_up_reply(book: Book, group: Group) -> GivingUpReply:
    """Return the reply for a group of which one operator asks that it be given up."""
    assert group.giving_up is not None, "it was asked for"
    return GivingUpReply(
        group=str(PublicId(GROUP_PREFIX, book, group.id)),
        campaign=str(PublicId(CAMPAIGN_PREFIX, book, group.campaign)),
        reason=group.giving_up.reason,
        proposed_by=group.giving_up.by,
        left=Money(group.left_minor, group.currency),
    )


def share_reply(book: Book, group: Group, taken: Taken, packet: Packet) -> ShareReply:
    """Return the reply for the share that was just taken, from the group after it."""
    return ShareReply(
        share=str(PublicId(SHARE_PREFIX, book, taken.share)),
        group=str(PublicId(GROUP_PREFIX, book, group.id)),
        campaign=str(PublicId(CAMPAIGN_PREFIX, book, group.campaign)),
        index=taken.index,
        nth=len(group.taken),
        amount=Money(taken.amount_minor, group.currency),
        valid_from=packet.valid_from,
        valid_until=packet.valid_until,
        taken_at=packet.claimed_at,
        kind=group.kind,
        shares=group.shares,
        total=Money(group.total_minor, group.currency),
        salt=group.salt,
        seed_commitment=group.seed_commitment,
        seed=group.seed or UNSET,
    )
