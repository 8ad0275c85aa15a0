"""A book in which everything happens once: what replay, verification and the commands look at."""

from __future__ import annotations

from datetime import timedelta
from typing import NamedTuple
from uuid import UUID

from campaigns import commands as c
from campaigns.coupon import coupon_id
from ledger.events import Actor
from ledger.money import Money
from tests.support.desk import ALICE, BOB, NOON, Desk, person, terms_of

CAFE = Actor("merchant", "cafe")
BAR = Actor("merchant", "bar")
SWEEPER = Actor("sweeper", "system")
AFTER_VALIDITY = NOON + timedelta(days=3)


class Story(NamedTuple):
    """The things of the story, by what became of them."""

    spring: UUID
    autumn: UUID
    used: UUID
    held: UUID
    reclaimed: UUID
    voided: UUID
    expired: UUID
    last_held: UUID
    autumn_used: UUID
    autumn_expired: UUID


def tell(desk: Desk) -> Story:
    """Let everything happen: two campaigns, six outcomes of a coupon, refusals in between."""
    spring = desk.opened(
        quota=8,
        budget_minor=4_000,
        terms=terms_of(per_person_limit=2, restock=True, merchants=["cafe", "bar"]),
        key="spring",
    )
    autumn = desk.opened(
        quota=3,
        budget_minor=3_000,
        terms=terms_of(kind="threshold", face_minor=1_000, threshold_minor=3_000),
        key="autumn",
    )
    used, held = (_claimed(desk, spring, 1, n) for n in (1, 2))
    reclaimed, voided, expired, last_held = (_claimed(desk, spring, p, 1) for p in (2, 3, 4, 5))
    autumn_used, autumn_expired = (_claimed(desk, autumn, p, 1) for p in (1, 2))
    assert desk.claim(spring, person(1)).code == "limit_reached"
    _redeem(desk, used, CAFE, "o-1")
    _send(desk, c.RefundCoupon(desk.book, used, "cafe", "o-1", "cold"), CAFE, "refunded")
    _redeem(desk, used, BAR, "o-2")
    _redeem(desk, reclaimed, CAFE, "o-3")
    _redeem(desk, autumn_used, CAFE, "o-4")
    again = c.RedeemCoupon(desk.book, autumn_used, "cafe", None, "o-5", Money(9_000, "CNY"))
    _send(desk, again, CAFE, "already_redeemed")
    _send(desk, c.VoidCoupon(desk.book, voided, "lost"), ALICE, "voided")
    _send(desk, c.PauseCampaign(desk.book, spring, "rain"), ALICE, "paused")
    assert desk.claim(spring, person(6)).code == "not_open"
    _send(desk, c.ResumeCampaign(desk.book, spring), BOB, "resumed")
    desk.fund(spring, 12, 6_000, (8, 4_000))
    _send(desk, c.CloseCampaign(desk.book, autumn, "over"), BOB, "closed")
    late = c.RefundCoupon(desk.book, reclaimed, "cafe", "o-3", "late")
    assert desk.send(late, CAFE, at=AFTER_VALIDITY).code == "refunded"
    for coupon in (expired, autumn_expired):
        call = c.Call(SWEEPER, "sweep", lambda _: b"", at=AFTER_VALIDITY)
        request = c.ExpireCoupon(desk.book, coupon).request(call)
        assert desk.writer.submit(request).result(20).code == "expired"
    return Story(
        spring,
        autumn,
        used,
        held,
        reclaimed,
        voided,
        expired,
        last_held,
        autumn_used,
        autumn_expired,
    )


def _claimed(desk: Desk, campaign: UUID, who: int, n: int) -> UUID:
    assert desk.claim(campaign, person(who)).code == "claimed"
    return coupon_id(campaign, person(who), n)


def _redeem(desk: Desk, coupon: UUID, merchant: Actor, order: str) -> None:
    total = Money(9_000, "CNY")
    command = c.RedeemCoupon(desk.book, coupon, merchant.id, "front", order, total)
    _send(desk, command, merchant, "redeemed")


def _send(desk: Desk, command: c.Command, by: Actor, code: str) -> None:
    assert desk.send(command, by).code == code
