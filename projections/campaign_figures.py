"""Campaign figures: what each campaign is, and how its coupons and its money stand.

At every position, per campaign (the tables check it):
- coupons: claimed = held + redeemed + expired + voided + reclaimed;
- packets: claimed = held + expired + closed with their wallets;
- a public draw: registered = in the list + withdrawn + found void, and no more seats are given
  than winners and those who moved up;
- money: funded = pot + purses + held + spent + reclaimed + rolled over, where funded is all that
  the sponsor or the round before ever put in (less what an approved cut took out again), purses
  holds what is sent to groups as well, held is with holders, spent with merchants, reclaimed back
  with the sponsor, and rolled over in the next round. The budget is funded less the last two.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, Final, NamedTuple
from uuid import UUID

import msgspec

from campaigns.event_types import EVENT_TYPES
from projections.projection import Batch, Projection, View, read_statements
from projections.rows import change_rows

NAME: Final = "campaign_figures"
STATES: Final = ("draft", "funded", "open", "paused", "closed")

_SQL: Final = read_statements(NAME)

# What is read of the events


class Actor(msgspec.Struct, gc=False):
    id: str


class Drafted(View):
    at: str
    name: str
    sponsor: str
    terms: dict[str, Any]


class FundingProposed(View):
    by: Actor
    quota: int
    budget_minor: int
    from_quota: int
    from_budget_minor: int


class Funded(View):
    quota: int
    budget_change_minor: int


class Opened(View):
    seed_commitment: str | None = None
    split_commitment: str | None = None


class IntakeClosed(View):
    places: int


class Drawn(View):
    seed: str
    entrants: int
    entrants_sha256: str
    winners: int
    threshold: str | None


class Paused(View):
    pass


class Resumed(View):
    pass


class Closed(View):
    pass


class BudgetReclaimed(View):
    amount_minor: int


class RolledOver(View):
    amount_minor: int


class RolledIn(View):
    amount_minor: int


class SplitShown(View):
    seed: str


class Entered(View):
    campaign: str


class Claimed(View):
    campaign: str
    face_minor: int
    drawn: bool = False


class Redeemed(View):
    campaign: str
    discount_minor: int


class Refunded(View):
    campaign: str
    amount_minor: int


class Returned(View):
    campaign: str
    amount_minor: int
    to: str


class Reclaimed(Returned):
    pass


class Expired(Returned):
    pass


class Voided(Returned):
    pass


class PacketClaimed(View):
    campaign: str
    amount_minor: int
    group: str | None = None


class PacketPaid(View):
    campaign: str
    amount_minor: int


class PacketRefunded(View):
    campaign: str
    to_packet_minor: int
    reclaimed_minor: int
    to: str | None


class PacketExpired(Returned):
    pass


class PacketWalletClosed(Returned):
    pass


class PurseFilled(View):
    campaign: str
    amount_minor: int


class PurseEmptied(Returned):
    pass


class Registered(View):
    campaign: str


class Withdrawn(View):
    campaign: str


class FoundVoid(View):
    campaign: str
    reason: str


class PubliclyDrawn(View):
    campaign: str
    winners: int


class MovedUp(View):
    campaign: str
    seats: list[int]


class Won(View):
    campaign: str


_OWN: Final[dict[str, type[View] | None]] = {
    "campaign.drafted": Drafted,
    "campaign.funding_proposed": FundingProposed,
    "campaign.funded": Funded,
    "campaign.opened": Opened,
    "campaign.paused": Paused,
    "campaign.resumed": Resumed,
    "campaign.intake_closed": IntakeClosed,
    "campaign.drawn": Drawn,
    "campaign.closed": Closed,
    "campaign.budget_reclaimed": BudgetReclaimed,
    "campaign.rolled_over": RolledOver,
    "campaign.rolled_in": RolledIn,
    "campaign.split_shown": SplitShown,
    "coupon.entered": Entered,
    "coupon.claimed": Claimed,
    "coupon.redeemed": Redeemed,
    "coupon.refunded": Refunded,
    "coupon.reclaimed": Reclaimed,
    "coupon.expired": Expired,
    "coupon.voided": Voided,
    "packet.claimed": PacketClaimed,
    "packet.paid": PacketPaid,
    "packet.refunded": PacketRefunded,
    "packet.expired": PacketExpired,
    "packet.wallet_closed": PacketWalletClosed,
    "purse.filled": PurseFilled,
    "purse.emptied": PurseEmptied,
    "draw.entered": Registered,
    "draw.withdrawn": Withdrawn,
    "draw.entry_voided": FoundVoid,
    "draw.drawn": PubliclyDrawn,
    "draw.moved_up": MovedUp,
    "draw.won": Won,
}

READS: Final[dict[str, type[View] | None]] = {**dict.fromkeys(EVENT_TYPES.topics), **_OWN}
"""Whatever else this program knows moves nothing into a campaign or out of it."""

# Rows, and how a batch becomes rows


class DraftRow(msgspec.Struct, gc=False):
    campaign: str
    name: str
    sponsor: str
    terms: dict[str, Any]
    currency: str
    drafted_at: str
    position: int


class Change(msgspec.Struct, gc=False):
    """What a batch does to a campaign: what is None stays, the figures are added."""

    campaign: str
    state: str | None = None
    got_funded: bool = False
    version: int | None = None
    quota: int | None = None
    proposes: bool = False
    proposed_quota: int | None = None
    proposed_budget_minor: int | None = None
    proposed_from_quota: int | None = None
    proposed_from_budget_minor: int | None = None
    proposed_by: str | None = None
    claimed: int = 0
    held: int = 0
    redeemed: int = 0
    refunded: int = 0
    expired: int = 0
    voided: int = 0
    reclaimed: int = 0
    entered: int = 0
    drawn: int = 0
    paid: int = 0
    wallets_closed: int = 0
    draw: dict[str, Any] | None = None
    split: dict[str, Any] | None = None
    registered: int = 0
    withdrawn: int = 0
    found_void: int = 0
    winners: int = 0
    moved_up: int = 0
    seats: int = 0
    void_reasons: dict[str, int] | None = None
    claimed_minor: int = 0
    refunded_minor: int = 0
    expired_minor: int = 0
    voided_minor: int = 0
    funded_minor: int = 0
    paid_minor: int = 0
    rolled_in_minor: int = 0
    pot_minor: int = 0
    purses_minor: int = 0
    held_minor: int = 0
    spent_minor: int = 0
    reclaimed_minor: int = 0
    rolled_minor: int = 0
    position: int = 0


def fold(batch: Batch) -> tuple[list[DraftRow], list[Change]]:
    """Return the campaigns that a batch drafts, and what it changes, one change per campaign."""
    drafts: list[DraftRow] = []
    changes: dict[str, Change] = {}
    for event in batch:
        kind = type(event)
        if kind in _IN_CAMPAIGN:
            campaign = event.campaign  # type: ignore[attr-defined]
            change = changes.get(campaign) or changes.setdefault(campaign, Change(campaign))
            _IN_CAMPAIGN[kind](change, event)
        else:
            campaign = event.stream
            change = changes.get(campaign) or changes.setdefault(campaign, Change(campaign))
            change.version = event.version
            if isinstance(event, Drafted):
                drafts.append(_draft(event))
            else:
                _OF_CAMPAIGN[kind](change, event)
        change.position = event.position
    return drafts, list(changes.values())


def apply(curs: Any, book: str, batch: Batch) -> None:
    """Write a batch."""
    drafts, changes = fold(batch)
    change_rows(curs, _SQL["draft"], book, drafts)
    change_rows(curs, _SQL["change"], book, changes)


class CampaignLoader:
    """Campaigns are few: a rebuild writes their rows as they are."""

    def load(self, curs: Any, book: str, batch: Batch) -> None:
        """Write a batch."""
        apply(curs, book, batch)

    def settle(self, curs: Any) -> None:
        """Nothing waits."""


def _draft(event: Drafted) -> DraftRow:
    return DraftRow(
        event.stream,
        event.name,
        event.sponsor,
        event.terms,
        event.terms["currency"],
        event.at,
        event.position,
    )


def _proposed(change: Change, event: FundingProposed) -> None:
    change.proposes = True
    change.proposed_quota = event.quota
    change.proposed_budget_minor = event.budget_minor
    change.proposed_from_quota = event.from_quota
    change.proposed_from_budget_minor = event.from_budget_minor
    change.proposed_by = event.by.id


def _clear_proposal(change: Change) -> None:
    change.proposes = True
    change.proposed_quota = None
    change.proposed_budget_minor = None
    change.proposed_from_quota = None
    change.proposed_from_budget_minor = None
    change.proposed_by = None


def _funded(change: Change, event: Funded) -> None:
    change.got_funded = True
    change.quota = event.quota
    change.funded_minor += event.budget_change_minor
    change.pot_minor += event.budget_change_minor
    _clear_proposal(change)


def _opened(change: Change, event: Opened) -> None:
    change.state = "open"
    if event.seed_commitment is not None:
        change.draw = {"seed_commitment": event.seed_commitment}
    if event.split_commitment is not None:
        change.split = {"seed_commitment": event.split_commitment}


def _split_shown(change: Change, event: SplitShown) -> None:
    change.split = {**(change.split or {}), "seed": event.seed}


def _resumed(change: Change, _event: Resumed) -> None:
    change.state = "open"


def _intake_closed(change: Change, event: IntakeClosed) -> None:
    change.draw = {**(change.draw or {}), "places": event.places}


def _drawn(change: Change, event: Drawn) -> None:
    change.draw = {
        **(change.draw or {}),
        "seed": event.seed,
        "entrants": event.entrants,
        "entrants_sha256": event.entrants_sha256,
        "winners": event.winners,
        "threshold": event.threshold,
    }


def _paused(change: Change, _event: Paused) -> None:
    change.state = "paused"


def _closed(change: Change, _event: Closed) -> None:
    change.state = "closed"
    _clear_proposal(change)


def _budget_reclaimed(change: Change, event: BudgetReclaimed) -> None:
    change.pot_minor -= event.amount_minor
    change.reclaimed_minor += event.amount_minor


def _rolled_over(change: Change, event: RolledOver) -> None:
    change.pot_minor -= event.amount_minor
    change.rolled_minor += event.amount_minor


def _rolled_in(change: Change, event: RolledIn) -> None:
    """Money of the round before funds this one; a proposal that was made without it is void."""
    change.funded_minor += event.amount_minor
    change.rolled_in_minor += event.amount_minor
    change.pot_minor += event.amount_minor
    _clear_proposal(change)


def _entered(change: Change, _event: Entered) -> None:
    change.entered += 1


def _claimed(change: Change, event: Claimed) -> None:
    face_minor = event.face_minor
    change.claimed += 1
    change.drawn += event.drawn
    change.held += 1
    change.claimed_minor += face_minor
    change.pot_minor -= face_minor
    change.held_minor += face_minor


def _redeemed(change: Change, event: Redeemed) -> None:
    change.held -= 1
    change.redeemed += 1
    change.held_minor -= event.discount_minor
    change.spent_minor += event.discount_minor


def _refunded(change: Change, event: Refunded) -> None:
    change.held += 1
    change.redeemed -= 1
    change.refunded += 1
    change.refunded_minor += event.amount_minor
    change.held_minor += event.amount_minor
    change.spent_minor -= event.amount_minor


def _returned(change: Change, event: Returned) -> None:
    change.held -= 1
    change.held_minor -= event.amount_minor
    _give_back(change, event.amount_minor, event.to)


def _give_back(change: Change, amount_minor: int, to: str | None) -> None:
    if to == "sponsor":
        change.reclaimed_minor += amount_minor
    else:
        change.pot_minor += amount_minor


def _reclaimed(change: Change, event: Reclaimed) -> None:
    change.reclaimed += 1
    _returned(change, event)


def _expired(change: Change, event: Expired) -> None:
    change.expired += 1
    change.expired_minor += event.amount_minor
    _returned(change, event)


def _voided(change: Change, event: Voided) -> None:
    change.voided += 1
    change.voided_minor += event.amount_minor
    _returned(change, event)


def _packet_claimed(change: Change, event: PacketClaimed) -> None:
    """A share of a group comes out of what was filled into purses, any other out of the pot."""
    change.claimed += 1
    change.held += 1
    change.claimed_minor += event.amount_minor
    change.held_minor += event.amount_minor
    if event.group is None:
        change.pot_minor -= event.amount_minor
    else:
        change.purses_minor -= event.amount_minor


def _packet_paid(change: Change, event: PacketPaid) -> None:
    change.paid += 1
    change.paid_minor += event.amount_minor
    change.held_minor -= event.amount_minor
    change.spent_minor += event.amount_minor


def _packet_refunded(change: Change, event: PacketRefunded) -> None:
    change.refunded += 1
    change.refunded_minor += event.to_packet_minor + event.reclaimed_minor
    change.spent_minor -= event.to_packet_minor + event.reclaimed_minor
    change.held_minor += event.to_packet_minor
    _give_back(change, event.reclaimed_minor, event.to)


def _packet_expired(change: Change, event: PacketExpired) -> None:
    change.expired += 1
    change.expired_minor += event.amount_minor
    _returned(change, event)


def _wallet_closed(change: Change, event: PacketWalletClosed) -> None:
    change.wallets_closed += 1
    _returned(change, event)


def _purse_filled(change: Change, event: PurseFilled) -> None:
    change.pot_minor -= event.amount_minor
    change.purses_minor += event.amount_minor


def _purse_emptied(change: Change, event: PurseEmptied) -> None:
    change.purses_minor -= event.amount_minor
    _give_back(change, event.amount_minor, event.to)


def _registered(change: Change, _event: Registered) -> None:
    change.registered += 1


def _withdrawn(change: Change, _event: Withdrawn) -> None:
    change.withdrawn += 1


def _found_void(change: Change, event: FoundVoid) -> None:
    change.found_void += 1
    reasons = change.void_reasons = change.void_reasons or {}
    reasons[event.reason] = reasons.get(event.reason, 0) + 1


def _publicly_drawn(change: Change, event: PubliclyDrawn) -> None:
    change.winners += event.winners


def _moved_up(change: Change, event: MovedUp) -> None:
    change.moved_up += sum(event.seats)


def _won(change: Change, _event: Won) -> None:
    change.seats += 1


_Rule = Callable[[Change, Any], None]

_OF_CAMPAIGN: Final[dict[type[View], _Rule]] = {
    FundingProposed: _proposed,
    Funded: _funded,
    Opened: _opened,
    Paused: _paused,
    Resumed: _resumed,
    IntakeClosed: _intake_closed,
    Drawn: _drawn,
    Closed: _closed,
    BudgetReclaimed: _budget_reclaimed,
    RolledOver: _rolled_over,
    RolledIn: _rolled_in,
    SplitShown: _split_shown,
}

_IN_CAMPAIGN: Final[dict[type[View], _Rule]] = {
    Entered: _entered,
    Claimed: _claimed,
    Redeemed: _redeemed,
    Refunded: _refunded,
    Reclaimed: _reclaimed,
    Expired: _expired,
    Voided: _voided,
    PacketClaimed: _packet_claimed,
    PacketPaid: _packet_paid,
    PacketRefunded: _packet_refunded,
    PacketExpired: _packet_expired,
    PacketWalletClosed: _wallet_closed,
    PurseFilled: _purse_filled,
    PurseEmptied: _purse_emptied,
    Registered: _registered,
    Withdrawn: _withdrawn,
    FoundVoid: _found_void,
    PubliclyDrawn: _publicly_drawn,
    MovedUp: _moved_up,
    Won: _won,
}

CAMPAIGN_FIGURES: Final = Projection(NAME, READS, _SQL, apply, CampaignLoader)

# Queries


class CampaignFigures(NamedTuple):
    """A campaign with its figures; the fields are those of the table."""

    book: str
    campaign: UUID
    name: str
    sponsor: str
    state: str
    version: int
    terms: dict[str, Any]
    currency: str
    drafted_at: datetime
    quota: int
    budget_minor: int
    proposed_quota: int | None
    proposed_budget_minor: int | None
    proposed_from_quota: int | None
    proposed_from_budget_minor: int | None
    proposed_by: str | None
    claimed: int
    held: int
    redeemed: int
    refunded: int
    expired: int
    voided: int
    reclaimed: int
    entered: int
    drawn: int
    paid: int
    wallets_closed: int
    draw: dict[str, Any] | None
    split: dict[str, Any] | None
    registered: int
    withdrawn: int
    found_void: int
    winners: int
    moved_up: int
    seats: int
    void_reasons: dict[str, int] | None
    claimed_minor: int
    refunded_minor: int
    expired_minor: int
    voided_minor: int
    paid_minor: int
    funded_minor: int
    rolled_in_minor: int
    pot_minor: int
    purses_minor: int
    held_minor: int
    spent_minor: int
    reclaimed_minor: int
    rolled_minor: int
    position: int


class CampaignCursor(NamedTuple):
    """The place after a campaign in the list, newest first. None of it ever changes."""

    drafted_at: datetime
    book: str
    campaign: UUID


_FIELDS: Final = ", ".join(CampaignFigures._fields)

_CAMPAIGN: Final = f"""
SELECT {_FIELDS} FROM rm_campaign_figures.campaign WHERE book = %s AND campaign = %s
"""  # noqa: S608 - names of columns

# One index range per state, each in order, then merged: never more than a page of rows per state.
_CAMPAIGNS: Final = f"""
SELECT {_FIELDS} FROM unnest(%(states)s::text[]) AS wanted (wanted_state)
CROSS JOIN LATERAL (
    SELECT {_FIELDS} FROM rm_campaign_figures.campaign
    WHERE state = wanted_state
        AND (drafted_at, book, campaign) < (%(at)s, %(book)s, %(campaign)s)
    ORDER BY drafted_at DESC, book DESC, campaign DESC
    LIMIT %(limit)s
) AS of_state
ORDER BY drafted_at DESC, book DESC, campaign DESC
LIMIT %(limit)s
"""  # noqa: S608 - names of columns

_WITH_DRAW: Final = f"""
SELECT {_FIELDS} FROM rm_campaign_figures.campaign
WHERE terms ? 'public_draw' AND state IN ('open', 'paused', 'closed')
    AND (drafted_at, book, campaign) < (%s, %s, %s)
ORDER BY drafted_at DESC, book DESC, campaign DESC
LIMIT %s
"""  # noqa: S608 - names of columns

_BEGINNING: Final = """
SELECT book, campaign FROM rm_campaign_figures.campaign
WHERE state = 'open'
    AND abs(extract(epoch FROM (terms->>'claim_from')::timestamptz - now())) <= %s
ORDER BY (terms->>'claim_from')::timestamptz, book, campaign
LIMIT %s
"""


def campaign(curs: Any, book: str, campaign_uuid: UUID) -> CampaignFigures | None:
    """Return one campaign, or None."""
    curs.execute(_CAMPAIGN, (book, campaign_uuid))
    row = curs.fetchone()
    return CampaignFigures._make(row) if row else None


def campaigns(
    curs: Any,
    *,
    states: Sequence[str] | None = None,
    after: CampaignCursor | None = None,
    limit: int,
) -> list[CampaignFigures]:
    """Return campaigns in the given states (all without), newest first, after a cursor."""
    at, book, last = after or ("infinity", "", UUID(int=0))
    curs.execute(
        _CAMPAIGNS,
        {
            "states": list(STATES if states is None else states),
            "at": at,
            "book": book,
            "campaign": last,
            "limit": limit,
        },
    )
    return [CampaignFigures._make(row) for row in curs.fetchall()]


def with_public_draw(
    curs: Any, *, after: CampaignCursor | None = None, limit: int
) -> list[CampaignFigures]:
    """Return campaigns whose public draw was opened, newest first, after a cursor."""
    at, book, last = after or ("infinity", "", UUID(int=0))
    curs.execute(_WITH_DRAW, (at, book, last, limit))
    return [CampaignFigures._make(row) for row in curs.fetchall()]


def beginning(curs: Any, around_s: float, limit: int) -> list[tuple[str, UUID]]:
    """Return the open campaigns whose claims begin about now, with their books."""
    curs.execute(_BEGINNING, (around_s, limit))
    return [(book, found) for book, found in curs.fetchall()]


def cursor_of(figures: CampaignFigures) -> CampaignCursor:
    """Return the cursor for what comes after a campaign in the list."""
    return CampaignCursor(figures.drafted_at, figures.book, figures.campaign)
