"""What each event did to stock and budget, from the event alone: the pools of any past position.

Decisions say what they take as they are made; here it is read back from what they recorded, so
that a decision that cannot be made again still leaves the pools as they were. Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final
from uuid import UUID

from msgspec import UNSET

from campaigns.campaign import (
    CAMPAIGN_FOLD,
    DRAW_POOL,
    POOL,
    SPLIT_POOL,
    TIER_POOL,
    BudgetReclaimed,
    Campaign,
    CampaignDrawn,
    CampaignFunded,
    CampaignOpened,
    CampaignRolledIn,
    CampaignRolledOver,
)
from campaigns.coupon import CouponClaimed, CouponExpired, CouponReclaimed, CouponVoided
from campaigns.draws.draw import (
    LIST_POOL,
    SEATS_POOL,
    WITHDRAWN_POOL,
    DrawDrawn,
    DrawMovedUp,
    claims_pool,
)
from campaigns.draws.entry import (
    ENTRY_FOLD,
    DrawEntered,
    DrawEntryVoided,
    DrawWithdrawn,
    DrawWon,
    entry_id,
)
from campaigns.groups.group import GroupClosed, GroupFunded, GroupGivenUp
from campaigns.groups.purse import PurseEmptied, PurseFilled
from campaigns.packets.packet import (
    PacketClaimed,
    PacketExpired,
    PacketRefunded,
    PacketWalletClosed,
)
from campaigns.packets.sharing import seeded_pools
from ledger.appending import Capacity, PoolKey
from ledger.commit import Read, View
from ledger.events import Event

Changes = Iterator[tuple[PoolKey, Capacity]]


def pool_changes(event: Event, view: View) -> Changes:
    """Yield what an event changed, seen in the state right before it."""
    rule = _RULES.get(type(event))
    if rule is not None:
        yield from rule(event, view)


def _campaign(view: View, campaign: UUID) -> Campaign:
    known = view.state(Read(campaign, CAMPAIGN_FOLD, keep=True))
    assert known is not None, "a campaign is drafted before anything else happens to it"
    return known


def _funded(event: CampaignFunded, _: View) -> Changes:
    change = Capacity(quota=event.quota_change, budget_minor=event.budget_change_minor)
    yield (event.originator_id, POOL), change


def _opened(event: CampaignOpened, view: View) -> Changes:
    packet = _campaign(view, event.originator_id).terms.packet
    if packet is not None and packet.is_seeded:
        yield from seeded_pools(event.originator_id, packet)


def _left(event: BudgetReclaimed | CampaignRolledOver, _: View) -> Changes:
    yield (event.originator_id, POOL), Capacity(budget_minor=-event.amount_minor)


def _rolled_in(event: CampaignRolledIn, _: View) -> Changes:
    yield (event.originator_id, POOL), Capacity(budget_minor=event.amount_minor)


def _drawn(event: CampaignDrawn, _: View) -> Changes:
    if event.winners:
        yield (event.originator_id, DRAW_POOL), Capacity(quota=event.winners)


def _claimed(event: CouponClaimed, view: View) -> Changes:
    yield (event.campaign, POOL), Capacity(issued=1, granted_minor=event.face_minor)
    if event.drawn is not True:
        return
    if _campaign(view, event.campaign).terms.public_draw is None:
        yield (event.campaign, DRAW_POOL), Capacity(issued=1)
    else:
        yield from _seat_claimed(event, view)


def _seat_claimed(event: CouponClaimed | PacketClaimed, view: View) -> Changes:
    entry = view.state(Read(entry_id(event.campaign, event.person), ENTRY_FOLD))
    assert entry is not None, "who claims what was won has an entry"
    assert entry.won is not None, "who claims what was won has won"
    yield (event.campaign, claims_pool(entry.won.tier)), Capacity(issued=1)


def _packet_claimed(event: PacketClaimed, view: View) -> Changes:
    if event.group is not UNSET:
        return  # a share left the stock when its group was sent
    yield (event.campaign, POOL), Capacity(issued=1, granted_minor=event.amount_minor)
    terms = _campaign(view, event.campaign).terms
    if terms.public_draw is not None:
        yield from _seat_claimed(event, view)
    if event.award is not UNSET and terms.packet is not None:
        amounts = [tier.amount_minor for tier in terms.packet.tiers]
        pool = f"{TIER_POOL}{amounts.index(event.amount_minor) + 1}" if amounts else SPLIT_POOL
        yield (event.campaign, pool), Capacity(issued=1, granted_minor=event.amount_minor)


def _coupon_ended(event: CouponReclaimed | CouponExpired | CouponVoided, view: View) -> Changes:
    restock = _campaign(view, event.campaign).terms.restock
    change = _came_back(event.amount_minor, event.to)
    yield (event.campaign, POOL), change.plus(Capacity(issued=-1 if restock else 0))


def _packet_ended(event: PacketExpired | PacketWalletClosed, _: View) -> Changes:
    if event.amount_minor:
        yield (event.campaign, POOL), _came_back(event.amount_minor, event.to)


def _packet_refunded(event: PacketRefunded, _: View) -> Changes:
    if event.reclaimed_minor:
        yield (event.campaign, POOL), _came_back(event.reclaimed_minor, event.to)


def _came_back(amount_minor: int, to: str | None) -> Capacity:
    return Capacity(
        granted_minor=-amount_minor, budget_minor=-amount_minor if to == "sponsor" else 0
    )


def _purse_filled(event: PurseFilled, _: View) -> Changes:
    yield (event.campaign, POOL), Capacity(granted_minor=event.amount_minor)


def _purse_emptied(event: PurseEmptied, _: View) -> Changes:
    yield (event.campaign, POOL), _came_back(event.amount_minor, event.to)


def _group_funded(event: GroupFunded, _: View) -> Changes:
    yield (event.campaign, POOL), Capacity(issued=event.shares)


def _group_closed(event: GroupClosed | GroupGivenUp, _: View) -> Changes:
    if event.returned:
        yield (event.campaign, POOL), Capacity(issued=-event.returned)


def _entered(event: DrawEntered, _: View) -> Changes:
    yield (event.campaign, LIST_POOL), Capacity(issued=1, quota=1)


def _emptied(event: DrawWithdrawn | DrawEntryVoided, _: View) -> Changes:
    yield (event.campaign, WITHDRAWN_POOL), Capacity(issued=1, quota=1)


def _draw_drawn(event: DrawDrawn, _: View) -> Changes:
    pools = [(SEATS_POOL, event.winners)]
    pools += [(claims_pool(tier), count) for tier, count in enumerate(event.seats, 1)]
    for pool, count in pools:
        if count:
            yield (event.campaign, pool), Capacity(quota=count)


def _moved_up(event: DrawMovedUp, _: View) -> Changes:
    yield (event.campaign, SEATS_POOL), Capacity(quota=sum(event.seats))


def _won(event: DrawWon, _: View) -> Changes:
    yield (event.campaign, SEATS_POOL), Capacity(issued=1)


_RULES: Final[dict[type[Event], Callable[[Any, View], Changes]]] = {
    CampaignFunded: _funded,
    CampaignOpened: _opened,
    BudgetReclaimed: _left,
    CampaignRolledOver: _left,
    CampaignRolledIn: _rolled_in,
    CampaignDrawn: _drawn,
    CouponClaimed: _claimed,
    CouponReclaimed: _coupon_ended,
    CouponExpired: _coupon_ended,
    CouponVoided: _coupon_ended,
    PacketClaimed: _packet_claimed,
    PacketExpired: _packet_ended,
    PacketWalletClosed: _packet_ended,
    PacketRefunded: _packet_refunded,
    PurseFilled: _purse_filled,
    PurseEmptied: _purse_emptied,
    GroupFunded: _group_funded,
    GroupClosed: _group_closed,
    GroupGivenUp: _group_closed,
    DrawEntered: _entered,
    DrawWithdrawn: _emptied,
    DrawEntryVoided: _emptied,
    DrawDrawn: _draw_drawn,
    DrawMovedUp: _moved_up,
    DrawWon: _won,
}
