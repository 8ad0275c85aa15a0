"""A mixed day, compressed: claims, tills, refunds, expiry, wallets and auditors, all at once.

People trickle in, press at the release and crowd the tills at noon. Those who come sign in first,
claim, and look into their wallet, where the coupon must be. An operator voids some coupons, which
frees stock of the morning campaign; what is left of it expires at two thirds of the day. Auditors
page through the book all the time.
"""

from __future__ import annotations

import random
from functools import partial
from typing import TYPE_CHECKING, Final

from loadtest.scenarios.crowd import Person, address, sign_in_steps
from loadtest.scenarios.curves import Mixture, Peak, Plateau, Release, arrivals
from loadtest.scenarios.plan import SOLD, Plan, Size
from loadtest.scenarios.redemptions import scan
from loadtest.visits import (
    BOOK,
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
    void_call,
)

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from loadtest.scenarios.crowd import Crowd
    from loadtest.scenarios.curves import Curve

MORNING: Final = 0.65
"""When the morning campaign's coupons expire, as a share of the day."""
SETTING_S: Final = 2.0
"""From the opening of the morning campaign, the last thing that is prepared, to the release."""
STOCK: Final = 0.3
"""Coupons of each of the two campaigns, per person who comes."""
MISTAKES: Final = 0.05
"""Coupons that an operator voids; those of the morning go back to stock at once."""
SPENDERS: Final = 0.6
LOOKERS: Final = 0.25
"""Visitors who only look, per person who claims."""
AUDITS: Final = 0.05
"""Reads by auditors, per person who claims."""
MERCHANTS: Final = 10
TILLS: Final = 30
SHOPPING_S: Final = (0.2, 4.0)


class Day:
    """A whole day in a minute."""

    name = "day"
    summary = "a compressed day: claims, redemptions, refunds, expiry, wallets, auditors"

    def curve(self, seconds: float) -> Curve:
        """People all day, a release in the morning, a crowd at noon."""
        release = 0.25 * seconds
        parts = (
            (0.45, 0.0, Plateau(seconds, ramp=0.2)),
            (0.35, release, Release(seconds - release, scale_s=0.02 * seconds)),
            (0.20, 0.0, Peak(seconds, middle=0.55, width=0.08, steady=0.0)),
        )
        return Mixture(seconds, parts)

    def plan(self, crowd: Crowd, size: Size) -> Plan:
        """Two campaigns, tills and an auditor; everybody else signs in when he comes."""
        quota = size.quota or max(1, int(size.users * STOCK))
        tills = crowd.tills(min(TILLS, max(2, size.users // 10)), MERCHANTS)
        auditor, operator = crowd.staff_member("auditor"), crowd.staff_member("operator")
        evening = crowd.staff.open_campaign("Evening", quota)
        morning = crowd.staff.open_campaign(
            "Morning", quota, validity_s=MORNING * size.seconds + SETTING_S, restock=True
        )
        campaigns = [morning, evening]
        curve, rng = self.curve(size.seconds), size.rng("day")
        coming = [
            Arrival(
                due_s,
                partial(
                    stroll,
                    crowd,
                    n,
                    campaigns,
                    (rng.choice(tills), operator),
                    size.seed_of("stroll", n),
                ),
            )
            for n, due_s in enumerate(arrivals(curve, size.users, rng))
        ]
        looks = arrivals(curve, int(size.users * LOOKERS), rng)
        coming += [
            Arrival(due_s, partial(look, crowd, n, campaigns)) for n, due_s in enumerate(looks)
        ]
        audits = arrivals(Plateau(size.seconds), max(1, int(size.users * AUDITS)), rng)
        coming += [
            Arrival(due_s, partial(audit, auditor, campaigns, size.seed_of("audit", n)))
            for n, due_s in enumerate(audits)
        ]
        return Plan.of(curve, coming, campaigns)


def stroll(
    crowd: Crowd, number: int, campaigns: Sequence[str], staff: tuple[Who, Who], seed: str
) -> Script:
    """Sign in, claim, look into the wallet, go shopping at a till or have the coupon voided."""
    rng, (till, operator) = random.Random(seed), staff
    who = yield from arrive(crowd, f"stroller {crowd.run} {number}", number)
    if who is None:
        return
    claim = yield from insist(claim_call(who, rng.choice(campaigns), new_key(who, rng)))
    yield from must(claim, *SOLD, "not_open")
    if not claim.is_success:
        return
    coupon = claim.json()["coupon"]
    wallet = yield from insist(read_call("wallet", who, "/v1/wallet", claim.position))
    yield from must(wallet)
    if wallet.is_success and coupon not in [one["coupon"] for one in wallet.json()["items"]]:
        yield Amiss("the wallet lacks a coupon that was claimed before")
    if rng.random() < MISTAKES:
        void = yield from insist(void_call(operator, coupon, new_key(operator, rng)))
        yield from must(void, "coupon_expired")
    elif rng.random() < SPENDERS:
        yield Pause(rng.uniform(*SHOPPING_S))
        yield from scan(till, coupon, f"{seed}:scan")


def look(crowd: Crowd, number: int, campaigns: Sequence[str]) -> Script:
    """Sign in and look around."""
    who = yield from arrive(crowd, f"looker {crowd.run} {number}", number)
    if who is not None:
        path = f"/v1/campaigns/{campaigns[number % len(campaigns)]}"
        yield from must((yield from insist(read_call("campaign", who, path))))
        yield from must((yield from insist(read_call("wallet", who, "/v1/wallet"))))


def audit(auditor: Who, campaigns: Sequence[str], seed: str) -> Script:
    """Read where the book ends, a page of events before that, and the figures of a campaign."""
    rng = random.Random(seed)
    head = yield from insist(read_call("head", auditor, f"/v1/books/{BOOK}/head"))
    yield from must(head)
    if head.is_success:
        start = rng.randrange(max(1, head.json()["position"]))
        page = f"/v1/books/{BOOK}/events?after={start}&limit=100"
        yield from must((yield from insist(read_call("events", auditor, page))))
    figures = f"/v1/campaigns/{rng.choice(campaigns)}/figures"
    yield from must((yield from insist(read_call("figures", auditor, figures))))


def arrive(crowd: Crowd, identity: str, number: int) -> Generator[Step, Answer, Who | None]:
    """Sign in at the door; None for somebody who is turned away."""
    token = yield from sign_in_steps(Person(identity), sessions=crowd.sessions)
    return Who(identity, token, address(crowd.run, number), run=crowd.run) if token else None
