"""The rush: one hot campaign, and everybody presses «claim» as it is released.

Three in five get a coupon. A fifth of those press again with the same request, as an impatient
telephone does; a tenth try for a second coupon; of those who come too late, a third hope and press
once more. All are signed in beforehand.
"""

from __future__ import annotations

import random
from functools import partial
from typing import TYPE_CHECKING, Final

from loadtest.scenarios.curves import Release, arrivals
from loadtest.scenarios.plan import SOLD, Plan, Size
from loadtest.visits import (
    Amiss,
    Answer,
    Arrival,
    Pause,
    Script,
    Step,
    Who,
    claim_call,
    insist,
    must,
    new_key,
)

if TYPE_CHECKING:
    from collections.abc import Generator

    from loadtest.scenarios.crowd import Crowd
    from loadtest.scenarios.curves import Curve

STOCK: Final = 0.6
"""Coupons per person who comes."""
REPEATS: Final = 0.2
GREED: Final = 0.1
HOPE: Final = 1 / 3
HOPES_AFTER_S: Final = (0.5, 3.0)


class Rush:
    """One hot campaign."""

    name = "rush"
    summary = "one hot campaign is released and everybody presses at once"

    def curve(self, seconds: float) -> Curve:
        """A steep front and a long tail."""
        return Release(seconds)

    def plan(self, crowd: Crowd, size: Size) -> Plan:
        """One campaign, and people who come once each."""
        quota = size.quota or max(1, int(size.users * STOCK))
        campaign = crowd.staff.open_campaign("Rush", quota)
        people = crowd.people(size.users)
        curve = self.curve(size.seconds)
        moments = arrivals(curve, size.users, size.rng("rush"))
        crowd.rng.shuffle(people)
        coming = [
            Arrival(due_s, partial(press, who, campaign, size.seed_of("press", n)))
            for n, (due_s, who) in enumerate(zip(moments, people, strict=True))
        ]
        return Plan.of(curve, coming, [campaign])


def press(who: Who, campaign: str, seed: str) -> Script:
    """One person's visit to a campaign."""
    rng = random.Random(seed)
    key = new_key(who, rng)
    first = yield from insist(claim_call(who, campaign, key))
    yield from must(first, *SOLD)
    if first.is_success:
        if rng.random() < REPEATS:
            yield from repeat(who, campaign, key, first)
        if rng.random() < GREED:
            yield from try_for_a_second(who, campaign, new_key(who, rng))
    elif first.code in SOLD and rng.random() < HOPE:
        yield Pause(rng.uniform(*HOPES_AFTER_S))
        late = yield from insist(claim_call(who, campaign, new_key(who, rng), "claim once more"))
        yield from must(late, *SOLD)


def repeat(who: Who, campaign: str, key: str, first: Answer) -> Generator[Step, Answer, None]:
    """The same request again: it must be told the same."""
    again = yield from insist(claim_call(who, campaign, key, "claim, same key again"))
    if again.is_decided and again.body != first.body:
        yield Amiss("a replay is not what was told first")


def try_for_a_second(who: Who, campaign: str, key: str) -> Generator[Step, Answer, None]:
    """Another claim of the same person: it must be refused."""
    second = yield from insist(claim_call(who, campaign, key, "claim a second"))
    if second.is_success:
        yield Amiss("a second coupon for one person")
    yield from must(second, "already_claimed", *SOLD)
