"""The redemption peak: noon at the tills, scanners of many merchants at once.

Everybody holds a coupon before it begins. One coupon in ten is shown at two tills at the same
moment; one scanner in twenty sends its request again; one order in twenty is taken back, and the
coupon is good again.
"""

from __future__ import annotations

import random
from functools import partial
from typing import TYPE_CHECKING, Final

from loadtest.scenarios.curves import Peak, arrivals
from loadtest.scenarios.plan import Plan, Size
from loadtest.stage import THRESHOLD_MINOR, StageFailed, money
from loadtest.visits import (
    Amiss,
    Arrival,
    Pause,
    Script,
    Who,
    claim_call,
    insist,
    must,
    new_key,
    new_order,
    redemption_call,
    refund_call,
)

if TYPE_CHECKING:
    from loadtest.scenarios.crowd import Crowd
    from loadtest.scenarios.curves import Curve

MERCHANTS: Final = 20
TILLS: Final = 100
DOUBLES: Final = 0.1
REPEATS: Final = 0.05
REFUNDS: Final = 0.05
RETURNS_AFTER_S: Final = (0.2, 2.0)


class Redemptions:
    """Noon at the tills."""

    name = "redemptions"
    summary = "noon at the tills: everybody spends a coupon, some at two tills at once"

    def curve(self, seconds: float) -> Curve:
        """A bell around noon, and a few who come all day."""
        return Peak(seconds)

    def plan(self, crowd: Crowd, size: Size) -> Plan:
        """People who have claimed already, and the tills that they go to."""
        quota = size.quota or size.users
        campaign = crowd.staff.open_campaign("Redemptions", quota)
        tills = crowd.tills(min(TILLS, max(2, size.users // 10)), MERCHANTS)
        held: list[str] = []
        people = crowd.people(min(size.users, quota))
        crowd.prepare(
            claim_beforehand(who, campaign, held, size.rng("before", n))
            for n, who in enumerate(people)
        )
        if len(held) < len(people):
            raise StageFailed(f"{len(people) - len(held)} could not claim beforehand")
        curve = self.curve(size.seconds)
        rng = size.rng("redemptions")
        coming: list[Arrival] = []
        for n, (due_s, coupon) in enumerate(
            zip(arrivals(curve, len(held), rng), held, strict=True)
        ):
            both = rng.sample(tills, 2) if rng.random() < DOUBLES else [rng.choice(tills)]
            coming += [
                Arrival(
                    due_s,
                    partial(
                        scan,
                        till,
                        coupon,
                        size.seed_of("scan", n, till.identity),
                        alone=len(both) == 1,
                    ),
                )
                for till in both
            ]
        return Plan.of(curve, coming, [campaign])


def claim_beforehand(who: Who, campaign: str, held: list[str], rng: random.Random) -> Script:
    """Claim, and remember the coupon."""
    answer = yield from insist(claim_call(who, campaign, new_key(who, rng), "claim beforehand"))
    if answer.is_success:
        held.append(answer.json()["coupon"])


def scan(till: Who, coupon: str, seed: str, *, alone: bool = True) -> Script:
    """A coupon is shown at a till; `alone` when at no other at the same time."""
    rng = random.Random(seed)
    order, key = new_order(rng), new_key(till, rng)
    total = money(rng.randrange(THRESHOLD_MINOR, 5 * THRESHOLD_MINOR))
    refusals = () if alone else ("already_redeemed",)
    first = yield from insist(redemption_call(till, coupon, order, total, key))
    yield from must(first, "coupon_expired", *refusals)
    if not first.is_success:
        return
    if rng.random() < REPEATS:
        name = "redeem, same key again"
        again = yield from insist(redemption_call(till, coupon, order, total, key, name))
        if again.is_decided and again.body != first.body:
            yield Amiss("a replay is not what was told first")
    if rng.random() < REFUNDS:
        yield Pause(rng.uniform(*RETURNS_AFTER_S))
        refund = yield from insist(refund_call(till, coupon, order, new_key(till, rng)))
        yield from must(refund)
