"""What the next packet of a campaign holds: its face value, a tier's amount, or a share of a sum.

Tiers and shares are given in the order of the claims, from a seed that the campaign committed to
when it opened. What is left of them is in pools beside the campaign's own, so that no claim looks
at the claims before it. Nobody is told of a share before it is given.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple
from uuid import UUID

from campaigns.campaign import SPLIT_POOL, TIER_POOL, Campaign, SplitSeed, Terms
from campaigns.packets.granting import Share
from campaigns.packets.terms import PacketTerms, Split, Tier
from campaigns.seeds import DrawKey, commitment_of
from campaigns.splitting import share, split_seed, tier
from ledger.appending import Capacity, PoolKey
from ledger.commit import View

Taken = tuple[PoolKey, Capacity]
"""A pool and how it changes."""


class WrongSplitKey(Exception):
    """The draw key of this machine is not the one with which a campaign committed to its split."""


class Next(NamedTuple):
    """The next packet, and what giving it takes from the pools beside the campaign's own."""

    share: Share
    taken: Sequence[Taken] = ()


def seeded_pools(campaign: UUID, packet: PacketTerms) -> Iterator[Taken]:
    """Yield the pools that a campaign's tiers or its split sum fill when it opens."""
    if packet.split is not None:
        sum_of_all = packet.split
        yield (
            (campaign, SPLIT_POOL),
            Capacity(quota=sum_of_all.count, budget_minor=sum_of_all.total_minor),
        )
    for number, one in enumerate(packet.tiers, 1):
        filled = Capacity(quota=one.count, budget_minor=one.count * one.amount_minor)
        yield (campaign, f"{TIER_POOL}{number}"), filled


def is_seeded(terms: Terms) -> bool:
    """Whether what a packet holds follows from a seed and the order of the claims."""
    return terms.packet is not None and terms.packet.is_seeded


def next_packet(view: View, campaign: Campaign, draw_key: DrawKey | None) -> Next:
    """Return what the next packet of a campaign holds; there is one left."""
    packet, split = campaign.terms.packet, campaign.split
    assert packet is not None, "these are the terms of packets"
    if split is None:
        return Next(Share(campaign.terms.face_minor))
    assert draw_key is not None, "a seed is made with the ledger's draw key"
    seed = seed_of_split(draw_key(), campaign.id, split)
    if packet.split is not None:
        return _next_share(view, campaign.id, seed, packet.split)
    return _next_of_tiers(view, campaign.id, seed, packet.tiers)


def _next_share(view: View, campaign: UUID, seed: bytes, of: Split) -> Next:
    pool = (campaign, SPLIT_POOL)
    capacity = view.capacity(pool)
    assert capacity.quota == of.count, "the pool was filled when the campaign opened"
    award = capacity.issued + 1
    left_minor = capacity.budget_minor - capacity.granted_minor
    amount = share(seed, award, left_minor, capacity.quota - capacity.issued)
    return Next(Share(amount, award), [(pool, Capacity(issued=1, granted_minor=amount))])


def _next_of_tiers(view: View, campaign: UUID, seed: bytes, tiers: Sequence[Tier]) -> Next:
    pools = [(campaign, f"{TIER_POOL}{number}") for number in range(1, len(tiers) + 1)]
    capacities = [view.capacity(pool) for pool in pools]
    award = sum(capacity.issued for capacity in capacities) + 1
    which = tier(seed, award, [capacity.quota - capacity.issued for capacity in capacities])
    amount = tiers[which].amount_minor
    taken = (pools[which], Capacity(issued=1, granted_minor=amount))
    return Next(Share(amount, award), [taken])


@lru_cache(maxsize=256)
def seed_of_split(draw_key: bytes, campaign: UUID, split: SplitSeed) -> bytes:
    """Return the seed that a campaign committed to; raise `WrongSplitKey`."""
    seed = split_seed(draw_key, campaign, split.opening)
    if commitment_of(seed) != split.commitment:
        raise WrongSplitKey(campaign)
    return seed
