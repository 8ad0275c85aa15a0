"""What a campaign says of its packets: how much they hold, and where their money goes back to.

Nothing here knows of people or events.
"""

from __future__ import annotations

from typing import Final, Literal
from uuid import UUID

import msgspec

RefundOrder = Literal["own_first", "packet_first"]
"""Of a payment that is given back in part: the payer's own money first, or the packet's."""

Leftover = Literal["sponsor", "next_round"]
"""Where money goes that a packet gives back: to the sponsor, or into another campaign's pot."""

TIERS_MAX: Final = 20
"""Most tiers of a campaign; each has a capacity of its own, which a claim may have to read."""


class Tier(msgspec.Struct, frozen=True):
    """So many packets of one amount."""

    amount_minor: int
    count: int


class Split(msgspec.Struct, frozen=True):
    """A sum that is split into so many packets of random amounts, by the double-mean rule."""

    total_minor: int
    count: int


class PacketTerms(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What packets of a campaign are, beside what the campaign says of all that it gives.

    Without tiers and without a split each packet holds the campaign's face value. `next_round` is
    the campaign that leftovers go to.
    """

    tiers: tuple[Tier, ...] = ()
    split: Split | None = None
    refund_order: RefundOrder = "own_first"
    leftover: Leftover = "sponsor"
    next_round: UUID | None = None

    @property
    def is_seeded(self) -> bool:
        """Whether what a packet holds follows from a seed and the order of the claims."""
        return bool(self.tiers) or self.split is not None

    @property
    def promised(self) -> tuple[int, int]:
        """How many packets tiers or a split are for, and their money."""
        if self.split is not None:
            return self.split.count, self.split.total_minor
        count = sum(tier.count for tier in self.tiers)
        return count, sum(tier.amount_minor * tier.count for tier in self.tiers)

    @property
    def least_minor(self) -> int:
        """The least that a packet of tiers or a split can hold."""
        return min((tier.amount_minor for tier in self.tiers), default=1)
