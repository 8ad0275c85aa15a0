"""The waiting room: people take places before the opening, follow them and claim at their turn.

Seven in ten are there before claims begin, some of them long before; their order is drawn by lot.
The others come behind them. A third follows the stream of events, the rest looks again when the
service says so. Some press for a place again and again, some claim before it is their turn, and
some try with a pass that is another's: none of that may help.
"""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Final

from loadtest.scenarios.curves import Mixture, Plateau, Release, arrivals
from loadtest.scenarios.plan import SOLD, Plan, Size
from loadtest.scenarios.rush import STOCK
from loadtest.visits import (
    Amiss,
    Answer,
    Arrival,
    Part,
    Pause,
    Script,
    Step,
    Who,
    claim_call,
    insist,
    must,
    new_key,
    place_call,
    watch_call,
)

if TYPE_CHECKING:
    from collections.abc import Generator

    from loadtest.scenarios.crowd import Crowd
    from loadtest.scenarios.curves import Curve

EARLY: Final = 0.7
"""Of the people, how many come before the opening."""
OPENS: Final = 0.3
"""When claims begin, as a share of the run."""
SERVED_FOR: Final = 1.5
"""The room would let everybody in within so many times the length of the run."""
WATCHERS: Final = 1 / 3
WATCHERS_MAX: Final = 400
"""Each keeps a connection; the driver has about a thousand, a server process some more."""
PRESSERS: Final = 0.2
IMPATIENT: Final = 0.2
THIEVES: Final = 0.05
SETTING_UP_S: Final = 2.0
"""Between the drafting of the campaign and the release: it is opened and known to the gate."""
BEFORE: Final = ("not_open",)


class Waiting:
    """A queue in front of one campaign."""

    name = "waiting"
    summary = "a waiting room: places by lot before the opening, passes at one's turn"

    def curve(self, seconds: float) -> Curve:
        """Most come in the time before the opening, the rest as in a rush after it."""
        opens = OPENS * seconds
        early, late = Plateau(opens, ramp=0.2), Release(seconds - opens)
        return Mixture(seconds, ((EARLY, 0.0, early), (1 - EARLY, opens, late)))

    def plan(self, crowd: Crowd, size: Size) -> Plan:
        """One campaign that opens in the middle of the run, and people who come once each."""
        quota = size.quota or max(1, int(size.users * STOCK))
        people = crowd.people(size.users)
        crowd.rng.shuffle(people)
        thieves = crowd.people(max(1, int(size.users * THIEVES)), "thief")
        moments = arrivals(self.curve(size.seconds), size.users, size.rng("waiting"))
        released = datetime.now(UTC) + timedelta(seconds=SETTING_UP_S)
        campaign = crowd.staff.open_campaign(
            "Waiting room",
            quota,
            intake={"kind": "waiting_room", "rate_per_s": rate_per_s(size)},
            begins=released + timedelta(seconds=OPENS * size.seconds),
        )
        crowd.try_out(wait_until_known(people[0], campaign))
        passes: list[str] = []
        watchers = min(WATCHERS_MAX, int(size.users * WATCHERS))
        coming = [
            Arrival(
                due_s,
                partial(
                    queue_up,
                    who,
                    campaign,
                    passes,
                    size.seed_of("queue", n),
                    watches=n * watchers // size.users != (n + 1) * watchers // size.users,
                ),
            )
            for n, (due_s, who) in enumerate(zip(moments, people, strict=True))
        ]
        late = (
            size.seconds * (OPENS + (1 - OPENS) * size.rng("thief", n).random())
            for n in range(len(thieves))
        )
        coming += [
            Arrival(due_s, partial(steal, who, campaign, passes, size.seed_of("steal", n)))
            for n, (due_s, who) in enumerate(zip(late, thieves, strict=True))
        ]
        return Plan.of(self.curve(size.seconds), coming, [campaign], released)


def rate_per_s(size: Size) -> int:
    """How many a second the room lets in: slowly enough for a queue."""
    return max(1, int(size.users / (SERVED_FOR * size.seconds)))


def wait_until_known(who: Who, campaign: str) -> Script:
    """Look for a place that nobody took: 503 until the gate has heard of the campaign."""
    yield from insist(place_call(who, campaign, "look for a place"))


def queue_up(who: Who, campaign: str, passes: list[str], seed: str, *, watches: bool) -> Script:
    """Take a place, wait, and claim when it is one's turn."""
    rng = random.Random(seed)
    place = yield from insist(place_call(who, campaign, "take a place", method="PUT"))
    yield from must(place)
    if place.is_success and rng.random() < PRESSERS:
        again = yield from insist(place_call(who, campaign, "take it again", method="PUT"))
        yield from must(again)
    if rng.random() < IMPATIENT:
        yield from claim_unduly(who, campaign, new_key(who, rng), "claim too early")
    following = watch(who, campaign) if watches else look_again(who, campaign, place)
    place = yield from following
    if not place.is_success or place.json()["state"] != "turn":
        return
    own: str = place.json()["pass"]
    passes.append(own)
    call = claim_call(who, campaign, new_key(who, rng), "claim at one's turn", own)
    claim = yield from insist(call)
    yield from must(claim, *SOLD)
    if claim.code == "waiting_room":
        yield Amiss("a pass was not taken")


def look_again(who: Who, campaign: str, place: Answer) -> Part:
    """Look at one's place whenever the service says so, until the wait is over."""
    while place.is_success and place.json()["state"] in ("early", "waiting"):
        yield Pause(place.retry_after_s)
        place = yield from insist(place_call(who, campaign, "look at it"))
        yield from must(place)
    return place


def watch(who: Who, campaign: str) -> Part:
    """Follow the stream of one's place until the wait is over, and open another when it ends."""
    while True:
        place = yield from insist(watch_call(who, campaign, "watch it"))
        yield from must(place)
        if not place.is_success or place.json()["state"] in ("turn", "sold_out"):
            return place


def steal(who: Who, campaign: str, passes: list[str], seed: str) -> Script:
    """Claim with the pass of somebody else, without having taken a place."""
    rng = random.Random(seed)
    if passes:
        other, name = rng.choice(passes), "claim with another's pass"
        yield from claim_unduly(who, campaign, new_key(who, rng), name, other)


def claim_unduly(
    who: Who, campaign: str, key: str, name: str, shown: str = ""
) -> Generator[Step, Answer, None]:
    """A claim that must be refused, whatever the reason that is told first; it is sent once."""
    answer = yield claim_call(who, campaign, key, name, shown)
    if answer.is_success:
        yield Amiss("a coupon for somebody whose turn had not come")
    elif answer.status == 429 and answer.code != "waiting_room":
        yield Amiss(f"sent away as {answer.code}")
    else:
        yield from must(answer, *SOLD, *BEFORE, "waiting_room")
