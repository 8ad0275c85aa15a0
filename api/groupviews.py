"""Views of purses and group packets: what senders, takers and staff get.

While a group is open nobody is shown what others took: whoever knew what is left could tell when
it is good to come. From its close on its takers and its sender see all that checks it.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Final
from uuid import UUID

import msgspec
from msgspec import UNSET, UnsetType

from api.callers import Caller
from api.views import STAFF
from campaigns.groups.replies import GROUP_PREFIX, PURSE_PREFIX, SHARE_PREFIX, FillingReply
from campaigns.replies import CAMPAIGN_PREFIX
from ledger.books import Book, PublicId
from ledger.money import Money
from projections.groups import GroupAt, GroupFigures, PurseAt, ShareAt


class PersonView(msgspec.Struct, frozen=True):
    """Oneself, as others name one who is a member of a group."""

    person: str


class PurseView(msgspec.Struct, frozen=True):
    """A purse: filled + returned = balance + sent + emptied."""

    purse: str
    campaign: str
    person: str
    balance: Money
    filled: Money
    returned: Money
    sent: Money
    emptied: Money
    next_seed_commitment: str | None
    filling: FillingReply | None
    version: int


class PursePage(msgspec.Struct, frozen=True):
    """A person's purses, the newest first."""

    items: list[PurseView]
    next: str | None


class TakingView(msgspec.Struct, frozen=True):
    """A share that somebody took; its person is there for operators and auditors."""

    nth: int
    share: str
    index: int
    amount: Money
    taken_at: datetime
    person: str | UnsetType = UNSET


class GroupView(msgspec.Struct, frozen=True):
    """A group packet. From its close on, it has all that docs/group-packets.md checks it with.

    One that was given up has no seed: it cannot be checked.
    """

    group: str
    purse: str
    campaign: str
    state: str
    kind: str
    shares: int
    total: Money
    taken: int
    salt: str
    seed_commitment: str
    sender_may_take: bool
    funded_at: datetime
    until: datetime
    mine: TakingView | UnsetType = UNSET
    """One's own share."""
    members: list[str] | UnsetType = UNSET
    """For the sender, operators and auditors."""
    returned: int | UnsetType = UNSET
    returned_amount: Money | UnsetType = UNSET
    seed: str | UnsetType = UNSET
    closed_at: datetime | UnsetType = UNSET
    takings: list[TakingView] | UnsetType = UNSET


class GroupPage(msgspec.Struct, frozen=True):
    """The groups that a person sent, the newest first."""

    items: list[GroupView]
    next: str | None


class GroupCodeView(msgspec.Struct, frozen=True):
    """What whoever should take a share has to know."""

    group: str
    code: str


class GroupFiguresView(msgspec.Struct, frozen=True):
    """A campaign's group packets: sent = taken + returned + outstanding.

    Of the purses: filled = in_purses + outstanding + taken + emptied.
    """

    campaign: str
    groups: int
    filled: Money
    in_purses: Money
    emptied: Money
    sent: Money
    taken: Money
    returned: Money
    outstanding: Money
    position: int


GROUP_VIEWS: Final[tuple[type[msgspec.Struct], ...]] = (
    PersonView,
    PurseView,
    PursePage,
    GroupView,
    GroupPage,
    GroupCodeView,
    GroupFiguresView,
)


def purse_view(row: PurseAt) -> PurseView:
    """Return a purse."""
    waits = row.filling_minor is not None and row.filling_by is not None
    return PurseView(
        purse=_id(PURSE_PREFIX, row.book, row.purse),
        campaign=_id(CAMPAIGN_PREFIX, row.book, row.campaign),
        person=row.person,
        balance=Money(row.balance_minor, row.currency),
        filled=Money(row.filled_minor, row.currency),
        returned=Money(row.returned_minor, row.currency),
        sent=Money(row.sent_minor, row.currency),
        emptied=Money(row.emptied_minor, row.currency),
        next_seed_commitment=row.seed_commitment,
        filling=FillingReply(Money(row.filling_minor or 0, row.currency), row.filling_by or "")
        if waits
        else None,
        version=row.version,
    )


def may_see(row: GroupAt, shares: Sequence[ShareAt], caller: Caller) -> bool:
    """Whether a group exists for somebody: staff, its sender, its members and its takers."""
    if caller.role in STAFF:
        return True
    who = caller.person
    if caller.role != "tourist":
        return False
    return who == row.person or who in (row.members or ()) or any(s.person == who for s in shares)


def group_view(row: GroupAt, shares: Sequence[ShareAt] | None, caller: Caller) -> GroupView:
    """Return a group as somebody may see it; without its shares when they are None."""
    with_people = caller.role != "tourist"
    view = GroupView(
        group=_id(GROUP_PREFIX, row.book, row.group_id),
        purse=_id(PURSE_PREFIX, row.book, row.purse),
        campaign=_id(CAMPAIGN_PREFIX, row.book, row.campaign),
        state=row.state,
        kind=row.kind,
        shares=row.shares,
        total=Money(row.total_minor, row.currency),
        taken=row.taken,
        salt=row.salt,
        seed_commitment=row.seed_commitment,
        sender_may_take=row.sender_may_take,
        funded_at=row.funded_at,
        until=row.until,
        mine=_mine(row, shares or (), caller),
        members=row.members or UNSET if with_people or caller.person == row.person else UNSET,
    )
    if row.closed_at is None:
        return view
    return msgspec.structs.replace(
        view,
        returned=row.returned,
        returned_amount=Money(row.returned_minor, row.currency),
        seed=UNSET if row.seed is None else row.seed,
        closed_at=row.closed_at,
        takings=UNSET if shares is None else [_taking(row, share, with_people) for share in shares],
    )


def figures_view(row: GroupFigures) -> GroupFiguresView:
    """Return the figures of a campaign's group packets."""

    def money(amount_minor: int) -> Money:
        return Money(amount_minor, row.currency)

    return GroupFiguresView(
        campaign=_id(CAMPAIGN_PREFIX, row.book, row.campaign),
        groups=row.groups,
        filled=money(row.filled_minor),
        in_purses=money(row.purses_minor),
        emptied=money(row.emptied_minor),
        sent=money(row.sent_minor),
        taken=money(row.taken_minor),
        returned=money(row.returned_minor),
        outstanding=money(row.outstanding_minor),
        position=row.position,
    )


def _mine(row: GroupAt, shares: Sequence[ShareAt], caller: Caller) -> TakingView | UnsetType:
    if caller.role != "tourist":
        return UNSET
    own = [share for share in shares if share.person == caller.person]
    return _taking(row, own[0], with_person=False) if own else UNSET


def _taking(row: GroupAt, share: ShareAt, with_person: bool) -> TakingView:
    return TakingView(
        nth=share.nth,
        share=_id(SHARE_PREFIX, row.book, share.share),
        index=share.number,
        amount=Money(share.amount_minor, row.currency),
        taken_at=share.taken_at,
        person=share.person if with_person else UNSET,
    )


def _id(prefix: str, book: str, uuid: UUID) -> str:
    return str(PublicId(prefix, Book(book), uuid))
