"""A group packet's life: funded, its shares taken one by one, closed.

Its stream is the stock: each share taken is the next version, so that no share is taken twice. A
taker's share is a packet of its own, whose id is made of group and person: nobody takes two.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, ClassVar, Final, Literal
from uuid import UUID

import msgspec
from msgspec import UNSET, UnsetType
from msgspec.structs import replace

from ledger.events import Event

GroupKind = Literal["equal", "random"]
GroupState = Literal["open", "closed"]

SHARES_MAX: Final = 1_000
"""Most shares of a group: its stream is read as a whole, and a chat has fewer people."""

MEMBERS_MAX: Final = 1_000
"""Most members that a group names; they are in one event, and in one request of 64 KiB."""

RETURN_AFTER: Final = timedelta(hours=24)
"""How long shares can be taken; what is left then goes back to the sender."""

SALT_BYTES_MAX: Final = 32


class GroupFunded(Event, frozen=True, kw_only=True):
    """Somebody sent a sum to a group; so many shares of it can be taken `until` then.

    `seed_commitment` is the one of the purse's version `committed_by`: older than what was sent.
    """

    TOPIC: ClassVar[str] = "group.funded"
    campaign: UUID
    purse: UUID
    person: str
    kind: GroupKind
    shares: int
    total_minor: int
    currency: str
    salt: str
    seed_commitment: str
    committed_by: int
    until: datetime
    sender_may_take: bool | UnsetType = UNSET
    members: list[str] | UnsetType = UNSET
    code_sha256: str | UnsetType = UNSET


class GroupShareTaken(Event, frozen=True, kw_only=True):
    """A person took a share, and has it, as the packet `share`."""

    TOPIC: ClassVar[str] = "group.share_taken"
    campaign: UUID
    person: str
    share: UUID
    index: int
    amount_minor: int
    currency: str


class GroupClosed(Event, frozen=True, kw_only=True):
    """All shares are taken, or the time is over; the seed is shown.

    `returned` shares, worth `returned_minor`, nobody took.
    """

    TOPIC: ClassVar[str] = "group.closed"
    campaign: UUID
    seed: str
    returned: int
    returned_minor: int
    currency: str


class GroupGivingUpProposed(Event, frozen=True, kw_only=True):
    """An operator found a group's seed lost and asked that its rest be returned without it."""

    TOPIC: ClassVar[str] = "group.giving_up_proposed"
    campaign: UUID
    reason: str


class GroupGivenUp(Event, frozen=True, kw_only=True):
    """A second operator agreed: the rest goes back, and no seed is shown.

    What was taken of this group can never be checked, and that is what this event says.
    """

    TOPIC: ClassVar[str] = "group.given_up"
    campaign: UUID
    reason: str
    proposed_by: str
    returned: int
    returned_minor: int
    currency: str


GROUP_EVENTS: Final[tuple[type[Event], ...]] = (
    GroupFunded,
    GroupShareTaken,
    GroupClosed,
    GroupGivingUpProposed,
    GroupGivenUp,
)


class GivingUp(msgspec.Struct, frozen=True):
    """That a group be given up, as one operator asked for."""

    by: str
    reason: str


class Taken(msgspec.Struct, frozen=True):
    """A share that somebody has."""

    share: UUID
    index: int
    amount_minor: int


class Group(msgspec.Struct, frozen=True, kw_only=True):
    """A group packet as its events made it."""

    id: UUID
    version: int
    state: GroupState
    campaign: UUID
    purse: UUID
    sender: str
    kind: GroupKind
    shares: int
    total_minor: int
    currency: str
    salt: str
    seed_commitment: str
    committed_by: int
    funded_at: datetime
    until: datetime
    sender_may_take: bool
    members: frozenset[str] | None
    code_sha256: str | None
    taken: tuple[Taken, ...] = ()
    left_minor: int
    seed: str | None = None
    returned_minor: int = 0
    giving_up: GivingUp | None = None

    @property
    def left(self) -> list[int]:
        """The numbers of the shares that nobody has, in order, from 1."""
        gone = {one.index for one in self.taken}
        return [index for index in range(1, self.shares + 1) if index not in gone]


class GroupFold:
    """Folds a group's events into a `Group`."""

    def evolve(self, state: Group | None, event: Any) -> Group:
        """Return the group after `event`."""
        version = event.originator_version
        match event:
            case GroupFunded() if state is None:
                return _funded(event)
            case _ if state is None:
                raise AssertionError(f"{event.TOPIC} is no group's first event")
            case GroupShareTaken():
                taken = Taken(event.share, event.index, event.amount_minor)
                return replace(
                    state,
                    version=version,
                    taken=(*state.taken, taken),
                    left_minor=state.left_minor - event.amount_minor,
                )
            case GroupClosed():
                return replace(
                    state,
                    version=version,
                    state="closed",
                    seed=event.seed,
                    left_minor=state.left_minor - event.returned_minor,
                    returned_minor=event.returned_minor,
                )
            case GroupGivingUpProposed():
                asked = GivingUp(event.by.id, event.reason)
                return replace(state, version=version, giving_up=asked)
            case GroupGivenUp():
                return replace(
                    state,
                    version=version,
                    state="closed",
                    left_minor=state.left_minor - event.returned_minor,
                    returned_minor=event.returned_minor,
                )
            case _:
                raise AssertionError(f"{event.TOPIC} is no event of a group")


def _funded(event: GroupFunded) -> Group:
    return Group(
        id=event.originator_id,
        version=event.originator_version,
        state="open",
        campaign=event.campaign,
        purse=event.purse,
        sender=event.person,
        kind=event.kind,
        shares=event.shares,
        total_minor=event.total_minor,
        currency=event.currency,
        salt=event.salt,
        seed_commitment=event.seed_commitment,
        committed_by=event.committed_by,
        funded_at=event.at,
        until=event.until,
        sender_may_take=event.sender_may_take is True,
        members=frozenset(event.members) if isinstance(event.members, list) else None,
        code_sha256=event.code_sha256 if isinstance(event.code_sha256, str) else None,
        left_minor=event.total_minor,
    )


GROUP_FOLD: Final = GroupFold()
