"""What a scenario is: a curve, what must be there before the release, and the visits that come."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Final, Protocol

from loadtest.scenarios.curves import Curve
from loadtest.visits import Arrival

if TYPE_CHECKING:
    from loadtest.scenarios.crowd import Crowd

SOLD: Final = ("sold_out", "budget_exhausted")
"""Codes that are a proper answer to a first claim."""


@dataclass(frozen=True)
class Size:
    """How large a run is; what is left open the scenario chooses."""

    users: int = 500
    seconds: float = 10.0
    seed: int = 1
    quota: int | None = None
    campaigns: int = 200

    def seed_of(self, *parts: object) -> str:
        """The seed of one part of the run."""
        return ":".join(map(str, (self.seed, *parts)))

    def rng(self, *parts: object) -> random.Random:
        """Randomness for one part of the run, the same in every run of the seed."""
        return random.Random(self.seed_of(*parts))


@dataclass
class Plan:
    """A run that can begin: everybody who comes, in order, and the campaigns that it is about."""

    curve: Curve
    arrivals: Sequence[Arrival]
    campaigns: list[str] = field(default_factory=list)
    released: datetime | None = None
    """The instant of the release, where a campaign's windows were laid around it."""

    @classmethod
    def of(
        cls,
        curve: Curve,
        arrivals: Sequence[Arrival],
        campaigns: list[str],
        released: datetime | None = None,
    ) -> Plan:
        """A plan with its arrivals put in order."""
        return cls(curve, sorted(arrivals, key=lambda one: one.due_s), campaigns, released)

    def lead_s(self, least_s: float, now: datetime) -> float:
        """Seconds from now until the release: at once where its instant has passed already."""
        if self.released is None:
            return least_s
        return max(0.0, (self.released - now).total_seconds())


class Scenario(Protocol):
    """One kind of rush."""

    name: str
    summary: str

    def curve(self, seconds: float) -> Curve:
        """When people come."""
        ...

    def plan(self, crowd: Crowd, size: Size) -> Plan:
        """Prepare everything and say who comes when."""
        ...
