"""The life of a campaign and its coupons over HTTP, role by role."""

from __future__ import annotations

from typing import Any

from tests.api.harness import App, draft_body, yuan

ORDER = {"order": "2026-0501-17", "order_total": yuan(80)}


def codes(*replies: Any) -> list[tuple[int, str]]:
    """Status and code of problems."""
    return [(reply.status_code, reply.json()["code"]) for reply in replies]


def test_a_campaign_is_funded_by_two_people(app: App) -> None:
    """Whoever proposed cannot approve, from whatever account; another operator can."""
    campaign = app.draft()
    funds = {"quota": 10, "budget": yuan(500)}
    one, two = app.token("operator", "one"), app.token("operator", "two")
    proposed = app.post(f"/v1/campaigns/{campaign}/funding", funds, token=one)
    assert proposed.status_code == 202
    assert proposed.json()["proposal"]["quota"] == 10
    again = app.post(f"/v1/campaigns/{campaign}/funding/approval", funds, token=one)
    other = {**funds, "quota": 11}
    changed = app.post(f"/v1/campaigns/{campaign}/funding/approval", other, token=two)
    assert codes(again, changed) == [(403, "self_approval"), (409, "proposal_changed")]
    approved = app.post(f"/v1/campaigns/{campaign}/funding/approval", funds, token=two)
    assert (approved.status_code, approved.json()["state"]) == (200, "funded")


def test_an_unfunded_campaign_does_not_open(app: App) -> None:
    """Money first."""
    reply = app.post(f"/v1/campaigns/{app.draft()}/open", token=app.token("operator"))
    assert codes(reply) == [(409, "unfunded")]


def test_a_paused_campaign_takes_no_claims_until_it_is_resumed(app: App) -> None:
    """Pause and resume need reasons and states."""
    campaign = app.open_campaign()
    operator = app.token("operator")
    assert codes(app.post(f"/v1/campaigns/{campaign}/pause", {}, token=operator)) == [
        (422, "invalid_body")
    ]
    reason = {"reason": "a mistake in the terms"}
    assert app.post(f"/v1/campaigns/{campaign}/pause", reason, token=operator).is_success
    assert codes(app.claim(campaign)) == [(409, "not_open")]
    assert app.post(f"/v1/campaigns/{campaign}/resume", token=operator).is_success
    assert app.claim(campaign).status_code == 201
    closed = app.post(f"/v1/campaigns/{campaign}/close", reason, token=operator)
    assert closed.json()["state"] == "closed"
    assert codes(app.claim(campaign, "late")) == [(409, "not_open")]


def test_a_coupon_is_redeemed_refunded_and_redeemed_again(app: App) -> None:
    """The discount comes off once at a time."""
    coupon = app.claimed(app.open_campaign())
    shop = app.token("merchant", "till", "shop-1")
    redeemed = app.post(f"/v1/coupons/{coupon}/redemptions", ORDER, token=shop)
    assert redeemed.status_code == 200, redeemed.text
    assert (redeemed.json()["discount"], redeemed.json()["payable"]) == (yuan(50), yuan(30))
    other_order = {**ORDER, "order": "another"}
    assert codes(
        app.post(f"/v1/coupons/{coupon}/redemptions", other_order, token=shop),
        app.post(f"/v1/coupons/{coupon}/refunds", {"order": "another"}, token=shop),
        app.post(f"/v1/coupons/{coupon}/void", {"reason": "x"}, token=app.token("operator")),
    ) == [(409, "already_redeemed"), (409, "order_mismatch"), (409, "already_redeemed")]
    refunded = app.post(f"/v1/coupons/{coupon}/refunds", {"order": ORDER["order"]}, token=shop)
    assert (refunded.status_code, refunded.json()["state"]) == (200, "held")
    again = app.post(f"/v1/coupons/{coupon}/redemptions", other_order, token=shop)
    assert again.status_code == 200


def test_an_order_in_another_currency_is_refused(app: App) -> None:
    """Units are never guessed."""
    coupon = app.claimed(app.open_campaign())
    total = {"amount_minor": 8_000, "currency": "USD"}
    reply = app.post(
        f"/v1/coupons/{coupon}/redemptions",
        {**ORDER, "order_total": total},
        token=app.token("merchant"),
    )
    assert codes(reply) == [(422, "unit_mismatch")]
    assert reply.json()["currency"] == "CNY"


def test_a_coupon_is_for_designated_merchants(app: App) -> None:
    """Another merchant is refused without an event."""
    coupon = app.claimed(app.open_campaign(merchants=["shop-1"]))
    events = app.events()
    other = app.token("merchant", "till", "shop-2")
    reply = app.post(f"/v1/coupons/{coupon}/redemptions", ORDER, token=other)
    assert codes(reply) == [(409, "merchant_not_designated")]
    assert app.events() == events


def test_only_the_merchant_that_redeemed_can_refund(app: App) -> None:
    """For another merchant the redemption does not exist."""
    coupon = app.claimed(app.open_campaign())
    assert app.post(
        f"/v1/coupons/{coupon}/redemptions", ORDER, token=app.token("merchant")
    ).is_success
    other = app.token("merchant", "till", "shop-2")
    refused = app.post(f"/v1/coupons/{coupon}/refunds", {"order": ORDER["order"]}, token=other)
    absent = app.post(
        f"/v1/coupons/cpn_main_{'0' * 32}/refunds", {"order": ORDER["order"]}, token=other
    )
    assert refused.status_code == 404
    assert refused.content == absent.content


def test_a_voided_coupon_is_gone(app: App) -> None:
    """An operator ends a coupon for a reason."""
    coupon = app.claimed(app.open_campaign())
    reply = app.post(f"/v1/coupons/{coupon}/void", {"reason": "fraud"}, token=app.token("operator"))
    assert (reply.status_code, reply.json()["state"]) == (200, "voided")
    redeem = app.post(f"/v1/coupons/{coupon}/redemptions", ORDER, token=app.token("merchant"))
    assert codes(redeem) == [(409, "coupon_voided")]


def test_a_threshold_is_kept(app: App) -> None:
    """满减: below the threshold there is no discount."""
    terms = {"kind": "threshold", "face": yuan(50), "threshold": yuan(100)}
    coupon = app.claimed(app.open_campaign(coupon=terms))
    reply = app.post(f"/v1/coupons/{coupon}/redemptions", ORDER, token=app.token("merchant"))
    assert codes(reply) == [(409, "below_threshold")]
    assert reply.json()["threshold_minor"] == 10_000


def test_a_campaign_of_another_book(app: App) -> None:
    """A book that this server does not write is named in the draft, and 404 in an address."""
    reply = app.post("/v1/campaigns", draft_body(book="north"), token=app.token("operator"))
    assert reply.json()["errors"][0]["rule"] == "unknown_book"
    assert app.claim("cmp_north_" + "0" * 32).status_code == 404
