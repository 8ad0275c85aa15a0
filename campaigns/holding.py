"""What a person holds of a campaign: a coupon or a packet, in a stream whose id is the same.

Which of the two a stream is, its first event says, and nothing else may: the prefix of a public id
is what a caller wrote. A stream that is neither is nobody's holding.
"""

from __future__ import annotations

from typing import Any, Final
from uuid import UUID

from campaigns.coupon import COUPON_FOLD, Coupon, CouponClaimed, CouponEntered
from campaigns.packets.packet import PACKET_FOLD, Packet, PacketClaimed
from ledger.commit import Read

Holding = Coupon | Packet


class HoldingFold:
    """Folds the events of a coupon or a packet; of anything else nothing comes."""

    def evolve(self, state: Holding | None, event: Any) -> Holding | None:
        """Return what is held after `event`."""
        if isinstance(state, Packet) or (state is None and isinstance(event, PacketClaimed)):
            return PACKET_FOLD.evolve(state, event)
        if isinstance(state, Coupon) or isinstance(event, CouponClaimed | CouponEntered):
            return COUPON_FOLD.evolve(state, event)
        return None


HOLDING_FOLD: Final = HoldingFold()


def holding_read(stream: UUID) -> Read[Holding | None]:
    """Return the read of a coupon's or packet's stream."""
    return Read(stream, HOLDING_FOLD)
