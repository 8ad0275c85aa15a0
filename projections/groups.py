"""Group packets: purses, groups and shares, and where the money is that went into purses.

At every position (the tables check it): what a group was sent is taken, returned or outstanding;
what a campaign's purses ever got is in them, emptied, taken or outstanding. Nothing here decides,
and the code of a group is nowhere here.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Final, NamedTuple
from uuid import UUID

import msgspec

from campaigns.event_types import EVENT_TYPES
from projections.projection import Batch, Projection, View, read_statements
from projections.rows import change_rows, copy_structs

NAME: Final = "groups"

_SQL: Final = read_statements(NAME)

# What is read of the events


class Actor(msgspec.Struct, gc=False):
    id: str


class Drafted(View):
    terms: dict[str, Any]


class Closed(View):
    at: str


class FillingProposed(View):
    at: str
    by: Actor
    campaign: str
    person: str
    amount_minor: int
    currency: str


class Filled(View):
    campaign: str
    amount_minor: int
    seed_commitment: str


class Sent(View):
    campaign: str
    amount_minor: int
    seed_commitment: str


class Returned(View):
    campaign: str
    amount_minor: int


class Emptied(View):
    campaign: str
    amount_minor: int


class Funded(View):
    at: str
    campaign: str
    purse: str
    person: str
    kind: str
    shares: int
    total_minor: int
    currency: str
    salt: str
    seed_commitment: str
    committed_by: int
    until: str
    sender_may_take: bool = False
    members: list[str] | None = None


class ShareTaken(View):
    at: str
    campaign: str
    person: str
    share: str
    index: int
    amount_minor: int


class GroupClosed(View):
    at: str
    seed: str
    returned: int
    returned_minor: int


class GroupGivenUp(View):
    at: str
    returned: int
    returned_minor: int


_OWN: Final[dict[str, type[View] | None]] = {
    "campaign.drafted": Drafted,
    "campaign.closed": Closed,
    "purse.filling_proposed": FillingProposed,
    "purse.filled": Filled,
    "purse.sent": Sent,
    "purse.returned": Returned,
    "purse.emptied": Emptied,
    "group.funded": Funded,
    "group.share_taken": ShareTaken,
    "group.closed": GroupClosed,
    "group.given_up": GroupGivenUp,
}

READS: Final[dict[str, type[View] | None]] = {**dict.fromkeys(EVENT_TYPES.topics), **_OWN}
"""Whatever else this program knows is no matter of purses and groups."""

# Rows, and how a batch becomes rows


class CampaignRow(msgspec.Struct, gc=False):
    campaign: str
    currency: str
    sends_until: str
    position: int


class CloseRow(msgspec.Struct, gc=False):
    campaign: str
    at: str


class CampaignChange(msgspec.Struct, gc=False):
    campaign: str
    groups: int = 0
    filled_minor: int = 0
    emptied_minor: int = 0
    purses_minor: int = 0
    sent_minor: int = 0
    returned_minor: int = 0
    taken_minor: int = 0
    outstanding_minor: int = 0
    position: int = 0


class PurseRow(msgspec.Struct, gc=False):
    purse: str
    campaign: str
    person: str
    currency: str
    begun_at: str
    position: int


class PurseChange(msgspec.Struct, gc=False):
    purse: str
    version: int = 0
    balance_minor: int = 0
    filled_minor: int = 0
    emptied_minor: int = 0
    sent_minor: int = 0
    returned_minor: int = 0
    proposes: bool = False
    filling_minor: int | None = None
    filling_by: str | None = None
    seed_commitment: str | None = None
    position: int = 0


class GroupRow(msgspec.Struct, gc=False):
    group_id: str
    campaign: str
    purse: str
    person: str
    kind: str
    shares: int
    total_minor: int
    currency: str
    salt: str
    seed_commitment: str
    committed_by: int
    sender_may_take: bool
    members: list[str] | None
    funded_at: str
    until: str
    position: int


class GroupChange(msgspec.Struct, gc=False):
    group_id: str
    state: str | None = None
    taken: int = 0
    taken_minor: int = 0
    returned: int = 0
    returned_minor: int = 0
    seed: str | None = None
    closed_at: str | None = None
    position: int = 0


class ShareRow(msgspec.Struct, gc=False):
    book: str
    group_id: str
    nth: int
    number: int
    share: str
    person: str
    amount_minor: int
    taken_at: str
    position: int


class Folded:
    """What a batch adds: new rows, and one change for each campaign, purse and group."""

    def __init__(self, book: str, batch: Batch) -> None:
        self.campaigns: list[CampaignRow] = []
        self.closes: list[CloseRow] = []
        self.purses: list[PurseRow] = []
        self.groups: list[GroupRow] = []
        self.shares: list[ShareRow] = []
        self.campaign_changes: dict[str, CampaignChange] = {}
        self.purse_changes: dict[str, PurseChange] = {}
        self.group_changes: dict[str, GroupChange] = {}
        self._book = book
        for event in batch:
            _RULES[type(event)](self, event)

    def drafted(self, event: Drafted) -> None:
        """Coupons have no purses."""
        terms = event.terms
        if terms["kind"] == "packet":
            row = CampaignRow(event.stream, terms["currency"], terms["claim_until"], event.position)
            self.campaigns.append(row)

    def closed(self, event: Closed) -> None:
        self.closes.append(CloseRow(event.stream, event.at))

    def filling_proposed(self, event: FillingProposed) -> None:
        if event.version == 1:
            self.purses.append(
                PurseRow(
                    event.stream,
                    event.campaign,
                    event.person,
                    event.currency,
                    event.at,
                    event.position,
                )
            )
        change = self._purse(event)
        change.proposes = True
        change.filling_minor, change.filling_by = event.amount_minor, event.by.id

    def filled(self, event: Filled) -> None:
        change, campaign = self._purse(event), self._campaign(event.campaign, event)
        change.proposes, change.filling_minor, change.filling_by = True, None, None
        change.seed_commitment = event.seed_commitment
        change.balance_minor += event.amount_minor
        change.filled_minor += event.amount_minor
        campaign.filled_minor += event.amount_minor
        campaign.purses_minor += event.amount_minor

    def sent(self, event: Sent) -> None:
        change, campaign = self._purse(event), self._campaign(event.campaign, event)
        change.seed_commitment = event.seed_commitment
        change.balance_minor -= event.amount_minor
        change.sent_minor += event.amount_minor
        campaign.groups += 1
        campaign.sent_minor += event.amount_minor
        campaign.purses_minor -= event.amount_minor
        campaign.outstanding_minor += event.amount_minor

    def returned(self, event: Returned) -> None:
        change, campaign = self._purse(event), self._campaign(event.campaign, event)
        change.balance_minor += event.amount_minor
        change.returned_minor += event.amount_minor
        campaign.returned_minor += event.amount_minor
        campaign.purses_minor += event.amount_minor
        campaign.outstanding_minor -= event.amount_minor

    def emptied(self, event: Emptied) -> None:
        change, campaign = self._purse(event), self._campaign(event.campaign, event)
        change.balance_minor -= event.amount_minor
        change.emptied_minor += event.amount_minor
        campaign.emptied_minor += event.amount_minor
        campaign.purses_minor -= event.amount_minor

    def funded(self, event: Funded) -> None:
        self.groups.append(
            GroupRow(
                event.stream,
                event.campaign,
                event.purse,
                event.person,
                event.kind,
                event.shares,
                event.total_minor,
                event.currency,
                event.salt,
                event.seed_commitment,
                event.committed_by,
                event.sender_may_take,
                event.members,
                event.at,
                event.until,
                event.position,
            )
        )

    def share_taken(self, event: ShareTaken) -> None:
        """A group's first event funds it, so that its next one is the first taking."""
        self.shares.append(
            ShareRow(
                self._book,
                event.stream,
                event.version - 1,
                event.index,
                event.share,
                event.person,
                event.amount_minor,
                event.at,
                event.position,
            )
        )
        change, campaign = self._group(event), self._campaign(event.campaign, event)
        change.taken += 1
        change.taken_minor += event.amount_minor
        campaign.taken_minor += event.amount_minor
        campaign.outstanding_minor -= event.amount_minor

    def group_closed(self, event: GroupClosed) -> None:
        """What comes back is counted for the campaign when it is in the purse again."""
        change = self._group(event)
        change.state, change.seed, change.closed_at = "closed", event.seed, event.at
        change.returned += event.returned
        change.returned_minor += event.returned_minor

    def given_up(self, event: GroupGivenUp) -> None:
        """As by a close, but nobody knows the seed."""
        change = self._group(event)
        change.state, change.closed_at = "given_up", event.at
        change.returned += event.returned
        change.returned_minor += event.returned_minor

    def _campaign(self, campaign: str, event: View) -> CampaignChange:
        change = self.campaign_changes.setdefault(campaign, CampaignChange(campaign))
        change.position = event.position
        return change

    def _purse(self, event: View) -> PurseChange:
        change = self.purse_changes.setdefault(event.stream, PurseChange(event.stream))
        change.version, change.position = event.version, event.position
        return change

    def _group(self, event: View) -> GroupChange:
        change = self.group_changes.setdefault(event.stream, GroupChange(event.stream))
        change.position = event.position
        return change


_RULES: Final[dict[type[View], Any]] = {
    Drafted: Folded.drafted,
    Closed: Folded.closed,
    FillingProposed: Folded.filling_proposed,
    Filled: Folded.filled,
    Sent: Folded.sent,
    Returned: Folded.returned,
    Emptied: Folded.emptied,
    Funded: Folded.funded,
    ShareTaken: Folded.share_taken,
    GroupClosed: Folded.group_closed,
    GroupGivenUp: Folded.given_up,
}


def apply(curs: Any, book: str, batch: Batch) -> None:
    """Write a batch."""
    folded = Folded(book, batch)
    change_rows(curs, _SQL["begin_campaigns"], book, folded.campaigns)
    change_rows(curs, _SQL["close_campaigns"], book, folded.closes, every=False)
    change_rows(curs, _SQL["change_campaigns"], book, list(folded.campaign_changes.values()))
    change_rows(curs, _SQL["begin_purses"], book, folded.purses)
    change_rows(curs, _SQL["change_purses"], book, list(folded.purse_changes.values()))
    change_rows(curs, _SQL["begin_groups"], book, folded.groups)
    change_rows(curs, _SQL["change_groups"], book, list(folded.group_changes.values()))
    copy_structs(curs, "share", folded.shares)


class GroupLoader:
    """Groups are few beside coupons: a rebuild writes their rows as they are."""

    def load(self, curs: Any, book: str, batch: Batch) -> None:
        """Write a batch."""
        apply(curs, book, batch)

    def settle(self, curs: Any) -> None:
        """Nothing waits."""


GROUPS: Final = Projection(NAME, READS, _SQL, apply, GroupLoader)

# Queries


class PurseAt(NamedTuple):
    """A purse; the fields are those of the table."""

    book: str
    purse: UUID
    campaign: UUID
    person: str
    currency: str
    version: int
    begun_at: datetime
    balance_minor: int
    filled_minor: int
    emptied_minor: int
    sent_minor: int
    returned_minor: int
    filling_minor: int | None
    filling_by: str | None
    seed_commitment: str | None
    position: int


class GroupAt(NamedTuple):
    """A group packet; the fields are those of the table."""

    book: str
    group_id: UUID
    campaign: UUID
    purse: UUID
    person: str
    state: str
    kind: str
    shares: int
    total_minor: int
    currency: str
    salt: str
    seed_commitment: str
    committed_by: int
    sender_may_take: bool
    members: list[str] | None
    funded_at: datetime
    until: datetime
    taken: int
    taken_minor: int
    returned: int
    returned_minor: int
    outstanding_minor: int
    seed: str | None
    closed_at: datetime | None
    position: int


class ShareAt(NamedTuple):
    """A share that somebody took; the fields are those of the table."""

    book: str
    group_id: UUID
    nth: int
    number: int
    share: UUID
    person: str
    amount_minor: int
    taken_at: datetime
    position: int


class GroupFigures(NamedTuple):
    """Where the money is that a campaign's purses ever got; the fields are those of the table."""

    book: str
    campaign: UUID
    currency: str
    sends_until: datetime
    groups: int
    filled_minor: int
    emptied_minor: int
    purses_minor: int
    sent_minor: int
    returned_minor: int
    taken_minor: int
    outstanding_minor: int
    position: int


class PurseCursor(NamedTuple):
    """The place after a purse in a person's list, newest first."""

    begun_at: datetime
    book: str
    purse: UUID


class GroupCursor(NamedTuple):
    """The place after a group in its sender's list, newest first."""

    funded_at: datetime
    book: str
    group_id: UUID


_PURSE_FIELDS: Final = ", ".join(PurseAt._fields)
_GROUP_FIELDS: Final = ", ".join(GroupAt._fields)

_PURSE: Final = f"SELECT {_PURSE_FIELDS} FROM rm_groups.purse WHERE book = %s AND purse = %s"  # noqa: S608 - names of columns

_PURSES_OF: Final = f"""
SELECT {_PURSE_FIELDS} FROM rm_groups.purse
WHERE person = %s AND (begun_at, book, purse) < (%s, %s, %s)
ORDER BY begun_at DESC, book DESC, purse DESC
LIMIT %s
"""  # noqa: S608 - names of columns

_GROUP: Final = (
    f"SELECT {_GROUP_FIELDS} FROM rm_groups.group_packet WHERE book = %s AND group_id = %s"  # noqa: S608 - names of columns
)

_GROUPS_OF: Final = f"""
SELECT {_GROUP_FIELDS} FROM rm_groups.group_packet
WHERE person = %s AND (funded_at, book, group_id) < (%s, %s, %s)
ORDER BY funded_at DESC, book DESC, group_id DESC
LIMIT %s
"""  # noqa: S608 - names of columns

_SHARES: Final = f"""
SELECT {", ".join(ShareAt._fields)} FROM rm_groups.share
WHERE book = %s AND group_id = %s ORDER BY nth
"""  # noqa: S608 - names of columns

_FIGURES: Final = f"""
SELECT {", ".join(GroupFigures._fields)} FROM rm_groups.campaign WHERE book = %s AND campaign = %s
"""  # noqa: S608 - names of columns

_DUE_GROUPS: Final = """
SELECT group_id FROM rm_groups.group_packet
WHERE book = %s AND state = 'open' AND until <= %s ORDER BY until LIMIT %s
"""

_DUE_PURSES: Final = """
SELECT purse FROM rm_groups.purse AS p JOIN rm_groups.campaign AS c USING (book, campaign)
WHERE book = %s AND p.balance_minor > 0 AND c.sends_until <= %s ORDER BY sends_until LIMIT %s
"""


def purse(curs: Any, book: str, purse_uuid: UUID) -> PurseAt | None:
    """Return one purse, or None."""
    curs.execute(_PURSE, (book, purse_uuid))
    row = curs.fetchone()
    return PurseAt._make(row) if row else None


def purses_of(
    curs: Any, person: str, *, after: PurseCursor | None = None, limit: int
) -> list[PurseAt]:
    """Return a person's purses, newest first, after a cursor."""
    place = after or ("infinity", "", UUID(int=0))
    curs.execute(_PURSES_OF, (person, *place, limit))
    return [PurseAt._make(row) for row in curs.fetchall()]


def group(curs: Any, book: str, group_uuid: UUID) -> GroupAt | None:
    """Return one group, or None."""
    curs.execute(_GROUP, (book, group_uuid))
    row = curs.fetchone()
    return GroupAt._make(row) if row else None


def groups_of(
    curs: Any, person: str, *, after: GroupCursor | None = None, limit: int
) -> list[GroupAt]:
    """Return the groups that a person sent, newest first, after a cursor."""
    place = after or ("infinity", "", UUID(int=0))
    curs.execute(_GROUPS_OF, (person, *place, limit))
    return [GroupAt._make(row) for row in curs.fetchall()]


def shares(curs: Any, book: str, group_uuid: UUID) -> list[ShareAt]:
    """Return the shares of a group that somebody took, in order of taking."""
    curs.execute(_SHARES, (book, group_uuid))
    return [ShareAt._make(row) for row in curs.fetchall()]


def figures(curs: Any, book: str, campaign_uuid: UUID) -> GroupFigures | None:
    """Return a campaign's figures, or None when it is no campaign of packets."""
    curs.execute(_FIGURES, (book, campaign_uuid))
    row = curs.fetchone()
    return GroupFigures._make(row) if row else None


def due_groups(curs: Any, book: str, now: datetime, limit: int) -> list[UUID]:
    """Return open groups whose time is over, the oldest first."""
    curs.execute(_DUE_GROUPS, (book, now.astimezone(UTC), limit))
    return [due for (due,) in curs.fetchall()]


def due_purses(curs: Any, book: str, now: datetime, limit: int) -> list[UUID]:
    """Return purses with money from which nobody can send any more."""
    curs.execute(_DUE_PURSES, (book, now.astimezone(UTC), limit))
    return [due for (due,) in curs.fetchall()]


def purse_cursor_of(row: PurseAt) -> PurseCursor:
    """Return the cursor for what comes after a purse in its person's list."""
    return PurseCursor(row.begun_at, row.book, row.purse)


def group_cursor_of(row: GroupAt) -> GroupCursor:
    """Return the cursor for what comes after a group in its sender's list."""
    return GroupCursor(row.funded_at, row.book, row.group_id)
