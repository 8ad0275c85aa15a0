"""What a campaign says of its public draw: who may register when, which beacon, what is won.

It is drafted with the campaign, funded by two people and never changed, so that the round of the
beacon is known before anybody registers. Nothing here knows of entries or events.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Final

import msgspec

from campaigns.packets.terms import Tier

DRAWN_MAX: Final = 5_000_000
"""Most winners and runners-up together: what a draw holds in memory."""

LEAD: Final = timedelta(minutes=1)
"""Least time between the end of registration and the beacon: the list is published in it."""

CLAIM_S_MAX: Final = 366 * 24 * 3600

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_SECOND: Final = timedelta(seconds=1)
_CHAIN: Final = re.compile(r"[0-9a-f]{64}")


class Chain(msgspec.Struct, frozen=True, kw_only=True):
    """A public beacon as drand runs it: a value each `period_s` seconds from `genesis` on.

    `hash` names the chain; `genesis` is the time of round 1, in seconds since 1970.
    """

    hash: str
    genesis: int
    period_s: int

    def round_at(self, instant: datetime) -> int:
        """Return the first round that is not emitted before an instant."""
        since = instant - (_EPOCH + timedelta(seconds=self.genesis))
        return max(1, -(-since // timedelta(seconds=self.period_s)) + 1)

    def time_of(self, number: int) -> datetime:
        """Return when a round is emitted."""
        return _EPOCH + timedelta(seconds=self.genesis + (number - 1) * self.period_s)


QUICKNET: Final = Chain(
    hash="52db9ba70e0cc0f6eaf7803dd07447a1f5477735fd3f661792ba94600c84e971",
    genesis=1_692_803_367,
    period_s=3,
)
"""The League of Entropy's chain with a value every three seconds."""


class PublicDrawTerms(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A public draw as it is announced. Windows are half-open, instants in UTC.

    `tiers` are from the first rank on; `claim_s` is how long a winner may claim, from the draw or
    from moving up. `regions` and `operators` say who is eligible; None is anybody.
    """

    register_from: datetime
    register_until: datetime
    draw_at: datetime
    chain: Chain
    tiers: tuple[Tier, ...]
    claim_s: int
    runners_up: int = 0
    regions: tuple[str, ...] | None = None
    operators: tuple[str, ...] | None = None

    @property
    def round(self) -> int:
        """The beacon's round that decides."""
        return self.chain.round_at(self.draw_at)

    @property
    def round_time(self) -> datetime:
        """When that round is emitted: before it the list must be frozen."""
        return self.chain.time_of(self.round)

    @property
    def winners(self) -> int:
        """How many win, when enough people registered."""
        return sum(tier.count for tier in self.tiers)

    @property
    def worth_minor(self) -> int:
        """What all winners together are given."""
        return sum(tier.count * tier.amount_minor for tier in self.tiers)


def problems_of(
    terms: PublicDrawTerms, claim_from: datetime, claim_until: datetime
) -> Iterator[tuple[str, str]]:
    """Yield what nobody could keep: the field, and the rule in words."""
    chain = terms.chain
    if not (_CHAIN.fullmatch(chain.hash) and chain.genesis >= 0 and chain.period_s >= 1):
        yield "chain", "A chain has a hash of 64 hex digits, a genesis and a period."
        return
    if not terms.register_from < terms.register_until:
        yield "register_until", "Registration ends after it begins."
    if terms.round_time < terms.register_until + LEAD:
        yield "draw_at", "The beacon speaks a minute or more after the registration has ended."
    if not claim_from <= terms.round_time < claim_until:
        yield "draw_at", "The draw lies in the claim window, so that winners can claim after it."
    if not terms.tiers or any(t.count < 1 or t.amount_minor < 1 for t in terms.tiers):
        yield "tiers", "Each tier has winners and an amount."
    if not (terms.runners_up >= 0 and terms.winners + terms.runners_up <= DRAWN_MAX):
        yield "runners_up", f"At most {DRAWN_MAX} are drawn, with those who may move up."
    if not 1 <= terms.claim_s <= CLAIM_S_MAX:
        yield "claim_s", "A winner has a second to a year to claim."
