"""Skewed: many campaigns at once, most people at a few of them.

Popularity falls by Zipf's law. Each campaign has the same stock, half as much again as if people
were spread evenly: the popular ones sell out, and claims of the others must not suffer for that.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

from loadtest.scenarios.curves import Plateau, arrivals, zipf
from loadtest.scenarios.plan import Plan, Size
from loadtest.scenarios.rush import press
from loadtest.visits import Arrival

if TYPE_CHECKING:
    from loadtest.scenarios.crowd import Crowd
    from loadtest.scenarios.curves import Curve

EXPONENT: Final = 1.1
SLACK: Final = 1.5
"""Stock of a campaign, as a multiple of the people that it would have if all had as many."""


class Skewed:
    """Many campaigns of unequal popularity."""

    name = "skewed"
    summary = "200 campaigns at once, their popularity falling by Zipf's law"

    def curve(self, seconds: float) -> Curve:
        """A day like any other: it rises, stays and falls."""
        return Plateau(seconds, ramp=0.15)

    def plan(self, crowd: Crowd, size: Size) -> Plan:
        """All campaigns, and people who each come to one of them."""
        count = size.campaigns
        quota = size.quota or max(1, int(SLACK * size.users / count))
        campaigns = [crowd.staff.open_campaign(f"Skewed {n + 1}", quota) for n in range(count)]
        people = crowd.people(size.users)
        curve = self.curve(size.seconds)
        rng = size.rng("skewed")
        chosen = rng.choices(campaigns, zipf(count, EXPONENT), k=size.users)
        moments = arrivals(curve, size.users, rng)
        coming = [
            Arrival(
                due_s,
                partial(press, who, campaign, size.seed_of("press", n)),
            )
            for n, (due_s, who, campaign) in enumerate(zip(moments, people, chosen, strict=True))
        ]
        return Plan.of(curve, coming, campaigns)
