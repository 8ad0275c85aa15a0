"""The lottery: entries in the first seconds, a draw, and everybody looks what has come of it.

Everybody enters once; some send the same entry again, some try to enter twice. Those who come after
the intake are told to wait for the draw. When it was held, all compute from the seed that was shown
whether they have won, compare that with their wallet, and some who lost try once more.
"""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from functools import partial
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final

from loadtest.feed import plain_id
from loadtest.scenarios.curves import Release, arrivals
from loadtest.scenarios.plan import SOLD, Plan, Size
from loadtest.scenarios.rush import repeat
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
    read_call,
)

if TYPE_CHECKING:
    from collections.abc import Generator

    from loadtest.scenarios.crowd import Crowd
    from loadtest.scenarios.curves import Curve

STOCK: Final = 0.3
"""Coupons per person who comes."""
INTAKE: Final = 0.6
"""Length of the intake, as a share of the run."""
REPEATS: Final = 0.2
GREED: Final = 0.1
LAST_TRY: Final = 0.2
SETTING_UP_S: Final = 2.0
LOOKS_MAX: Final = 60
LOOKS_EVERY_S: Final = (0.5, 1.0)

Json = dict[str, Any]


class Lottery:
    """One campaign whose first claims are drawn by lot."""

    name = "lottery"
    summary = "a lottery: entries in the first seconds, a draw by committed seed, everybody looks"

    def curve(self, seconds: float) -> Curve:
        """As in a rush, though nothing is gained by it."""
        return Release(seconds, scale_s=seconds / 5)

    def plan(self, crowd: Crowd, size: Size) -> Plan:
        """One campaign whose claims begin with the release, and people who come once each."""
        quota = size.quota or max(1, int(size.users * STOCK))
        intake_s = max(1, round(INTAKE * size.seconds))
        people = crowd.people(size.users)
        crowd.rng.shuffle(people)
        moments = arrivals(self.curve(size.seconds), size.users, size.rng("lottery"))
        released = datetime.now(UTC) + timedelta(seconds=SETTING_UP_S)
        campaign = crowd.staff.open_campaign(
            "Lottery",
            quota,
            intake={"kind": "lottery", "seconds": intake_s},
            begins=released,
        )
        coming = [
            Arrival(
                due_s,
                partial(enter, who, campaign, intake_s - due_s, size.seed_of("enter", n)),
            )
            for n, (due_s, who) in enumerate(zip(moments, people, strict=True))
        ]
        return Plan.of(self.curve(size.seconds), coming, [campaign], released)


def enter(who: Who, campaign: str, left_s: float, seed: str) -> Script:
    """Enter, wait for the draw, and see whether it was a good one."""
    rng = random.Random(seed)
    key = new_key(who, rng)
    entry = yield claim_call(who, campaign, key, "enter")
    if not entry.is_decided:
        entry = yield from insist(claim_call(who, campaign, key, "enter"))
    yield from must(entry, "not_open", "draw_pending", "already_claimed", *SOLD)
    if entry.status == 202:
        if rng.random() < REPEATS:
            yield from repeat(who, campaign, key, entry)
        if rng.random() < GREED:
            yield from enter_twice(who, campaign, new_key(who, rng))
    yield Pause(max(0.0, left_s) + rng.uniform(*LOOKS_EVERY_S))
    draw = yield from wait_for_draw(who, campaign, rng)
    if draw is not None and entry.status == 202:
        yield from see(who, campaign, entry, draw, rng)


def enter_twice(who: Who, campaign: str, key: str) -> Generator[Step, Answer, None]:
    """Another entry of the same person: it must be refused."""
    second = yield from insist(claim_call(who, campaign, key, "enter a second time"))
    if second.is_success:
        yield Amiss("a second entry for one person")
    yield from must(second, "already_entered", "draw_pending", "already_claimed", *SOLD)


def wait_for_draw(
    who: Who, campaign: str, rng: random.Random
) -> Generator[Step, Answer, Json | None]:
    """Look at the campaign until its draw is shown; some time nobody waits any longer."""
    for _ in range(LOOKS_MAX):
        look = yield from insist(read_call("campaign", who, f"/v1/campaigns/{campaign}"))
        yield from must(look)
        if look.is_success:
            draw: Json = look.json()["draw"]
            if "seed" in draw:
                return draw
        yield Pause(rng.uniform(*LOOKS_EVERY_S))
    yield Amiss("the draw was not held in time")
    return None


def see(
    who: Who, campaign: str, entry: Answer, draw: Json, rng: random.Random
) -> Generator[Step, Answer, None]:
    """Compute from the seed whether one has won, and ask for a coupon where one has not."""
    coupon = entry.json()["coupon"]
    won = has_won(draw, coupon)
    if won is None:
        yield Amiss("the seed is not the one that was committed to")
        return
    if rng.random() < LAST_TRY:
        name = "claim after winning" if won else "claim after losing"
        late = yield from insist(claim_call(who, campaign, new_key(who, rng), name))
        yield from must(late, "already_claimed", "draw_pending", *SOLD)
        if late.is_success and won:
            yield Amiss("a second coupon for a winner")
    wallet = yield from insist(read_call("wallet", who, "/v1/wallet", entry.position))
    yield from must(wallet)
    if wallet.is_success:
        yield from compare(wallet, coupon, won=won)


def compare(wallet: Answer, coupon: str, *, won: bool) -> Generator[Step, Answer, None]:
    """The wallet says the same, or still what it said before the draw."""
    states = [one["state"] for one in wallet.json()["items"] if one["coupon"] == coupon]
    proper = ("entered", "held") if won else ("entered", "not_drawn", "held")
    if len(states) != 1 or states[0] not in proper:
        yield Amiss(f"the wallet shows {states} to somebody who {'won' if won else 'lost'}")


def has_won(draw: Json, coupon: str) -> bool | None:
    """What the seed says of a coupon's id; None when it is not what was committed to."""
    seed = bytes.fromhex(draw["seed"])
    if sha256(seed).hexdigest() != draw["seed_commitment"]:
        return None
    rank = sha256(seed + bytes.fromhex(plain_id(coupon))).hexdigest()
    threshold = draw.get("threshold")
    return threshold is not None and rank <= threshold
