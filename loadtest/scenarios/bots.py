"""Bots: one visitor in five is a machine that sends twenty requests, among honest people.

A bot is one identity on four devices. Each device is signed in by itself, comes within the first
half second and sends five claims without waiting to be asked to; the devices share some of their
keys. However it presses, its identity is one person and gets one coupon.
"""

from __future__ import annotations

import random
from functools import partial
from typing import TYPE_CHECKING, Final

from loadtest.scenarios.crowd import Person
from loadtest.scenarios.curves import Mixture, Release, arrivals
from loadtest.scenarios.plan import Plan, Size
from loadtest.scenarios.rush import STOCK, press
from loadtest.visits import Arrival, Script, Who, claim_call, new_key

if TYPE_CHECKING:
    from collections.abc import Sequence

    from loadtest.scenarios.crowd import Crowd
    from loadtest.scenarios.curves import Curve

SHARE: Final = 0.2
"""Of the identities, how many are bots."""
DEVICES: Final = 4
PRESSES: Final = 5
"""Requests of each device: twenty for each bot."""
KEYS: Final = 8
"""Keys of a bot, from which its devices choose."""
FRONT_S: Final = 0.5


class Bots:
    """Machines among people."""

    name = "bots"
    summary = "one in five is a bot: one identity, four devices, twenty requests at once"

    def curve(self, seconds: float) -> Curve:
        """The bots' devices in the first half second, everybody else as in a rush."""
        people, devices = 1 - SHARE, SHARE * DEVICES
        front = min(FRONT_S, seconds)
        share = devices / (people + devices)
        parts = ((1 - share, 0.0, Release(seconds)), (share, 0.0, Release(front, scale_s=0.1)))
        return Mixture(seconds, parts)

    def plan(self, crowd: Crowd, size: Size) -> Plan:
        """One campaign; people who come once, and bots who come with all their devices."""
        quota = size.quota or max(1, int(size.users * STOCK))
        campaign = crowd.staff.open_campaign("Bots", quota)
        bots = max(1, int(size.users * SHARE))
        people = crowd.people(size.users - bots)
        machines = crowd.sign_in(
            [
                Person(f"bot {crowd.run} {n}", "bot", device=f"device {n} {device}")
                for n in range(bots)
                for device in range(DEVICES)
            ]
        )
        human = arrivals(Release(size.seconds), len(people), size.rng("people"))
        front = Release(min(FRONT_S, size.seconds), scale_s=0.1)
        early = arrivals(front, len(machines), size.rng("bots"))
        coming = [
            Arrival(due_s, partial(press, who, campaign, size.seed_of("press", n)))
            for n, (due_s, who) in enumerate(zip(human, people, strict=True))
        ]
        keys = [
            [new_key(machines[n * DEVICES], size.rng("keys", n, k)) for k in range(KEYS)]
            for n in range(bots)
        ]
        coming += [
            Arrival(
                due_s,
                partial(hammer, who, campaign, keys[n // DEVICES], size.seed_of("hammer", n)),
            )
            for n, (due_s, who) in enumerate(zip(early, machines, strict=True))
        ]
        return Plan.of(self.curve(size.seconds), coming, [campaign])


def hammer(who: Who, campaign: str, keys: Sequence[str], seed: str) -> Script:
    """One device of a bot: five claims, whatever is answered."""
    for key in random.Random(seed).sample(keys, PRESSES):
        yield claim_call(who, campaign, key, "claim by a bot")
