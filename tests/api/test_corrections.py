"""Corrections over HTTP: two operators, both times shown, and nothing for anybody else."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from tests.api.harness import App, yuan
from tests.api.test_life import ORDER, codes
from tests.api.test_packets import claimed, opened, order, till


def instants(reply: Any) -> tuple[datetime, datetime]:
    """When it was recorded, and what it counts for."""
    told = reply.json()
    return (
        datetime.fromisoformat(told["recorded_at"]),
        datetime.fromisoformat(told["effective_at"]),
    )


def test_a_redemption_is_corrected_by_two_operators(app: App) -> None:
    """Proposed, looked at, approved; the same key gets the same reply."""
    coupon = app.claimed(app.open_campaign())
    claimed_at = datetime.now(UTC)
    shop = app.token("merchant", "till", "shop-1")
    assert app.post(f"/v1/coupons/{coupon}/redemptions", ORDER, token=shop).is_success
    one, two = app.token("operator", "one"), app.token("operator", "two")
    address = f"/v1/coupons/{coupon}/correction"
    recorded, counted = instants(app.get(address, token=one))
    assert recorded == counted
    effective = claimed_at + (recorded - claimed_at) / 2
    body = {"effective_at": effective.isoformat(), "reason": "the till was offline"}
    early = {**body, "effective_at": "2020-01-01T00:00:00+08:00"}
    late = {**body, "effective_at": "2099-01-01T00:00:00+08:00"}
    assert codes(
        app.post(address, early, token=one),
        app.post(address, late, token=one),
        app.post(address, {**body, "effective_at": "yesterday"}, token=one),
        app.post(address, body, token=shop),
        app.post(f"/v1/packets/pkt{coupon[3:]}/correction", {**body, **BILL}, token=one),
    ) == [
        (409, "effective_too_early"),
        (409, "effective_too_late"),
        (422, "invalid_body"),
        (403, "role_forbidden"),
        (404, "not_found"),
    ]
    proposed = app.post(address, body, token=one, key="k")
    assert (proposed.status_code, proposed.json()["proposal"]["reason"]) == (202, body["reason"])
    again = app.post(address, body, token=one, key="k")
    assert again.content == proposed.content
    approval = {"effective_at": body["effective_at"]}
    another = {"effective_at": recorded.isoformat()}
    assert codes(
        app.post(f"{address}/approval", approval, token=one),
        app.post(f"{address}/approval", another, token=two),
    ) == [(403, "self_approval"), (409, "correction_changed")]
    assert "funding" not in app.post(f"{address}/approval", approval, token=one).json()["detail"]
    seen = app.get(address, token=app.token("auditor")).json()
    assert seen == proposed.json()
    assert app.get(address, token=shop).json() == {**seen, "proposal": None}
    other = app.token("merchant", "till", "shop-2")
    assert codes(app.get(address, token=other)) == [(404, "not_found")]
    approved = app.post(f"{address}/approval", approval, token=two)
    assert (approved.status_code, approved.json()["proposal"]) == (200, None)
    assert instants(approved) == instants(app.get(address, token=two)) == (recorded, effective)
    assert instants(app.get(address, token=shop)) == (recorded, effective)


BILL = {"merchant": "mall", "order": "a"}


def test_a_payment_is_corrected_by_its_merchant_and_order(app: App) -> None:
    """A packet has many payments; the others stay as they are."""
    packet = claimed(app, opened(app))
    held_at = datetime.now(UTC)
    for number in ("a", "b"):
        bought = app.post(f"/v1/packets/{packet}/payments", order(number, 20), token=till(app))
        assert bought.json()["from_packet"] == yuan(20)
    one, two = app.token("operator", "one"), app.token("operator", "two")
    address = f"/v1/packets/{packet}/correction"
    at = {"effective_at": held_at.isoformat()}
    proposed = app.post(address, {**at, **BILL, "reason": "offline"}, token=one)
    assert proposed.status_code == 202, proposed.text
    assert app.post(f"{address}/approval", {**at, **BILL}, token=two).status_code == 200
    first, second = (
        instants(app.get(f"{address}?merchant=mall&order={number}", token=two))
        for number in ("a", "b")
    )
    assert first[1] == held_at
    assert second[0] == second[1]
    own = app.get(f"{address}?merchant=mall&order=a", token=till(app))
    assert instants(own) == first
    unknown = app.get(f"{address}?merchant=mall&order=c", token=two)
    unasked = app.get(f"{address}?merchant=mall", token=two)
    assert codes(unknown, unasked) == [(404, "not_found"), (422, "invalid_query")]


def test_what_was_refunded_is_not_corrected(app: App) -> None:
    """The state is told, and nothing can be looked at."""
    coupon = app.claimed(app.open_campaign())
    held_at = datetime.now(UTC).isoformat()
    operator, shop = app.token("operator"), app.token("merchant", "till", "shop-1")
    assert app.post(f"/v1/coupons/{coupon}/redemptions", ORDER, token=shop).is_success
    back = {"order": ORDER["order"]}
    assert app.post(f"/v1/coupons/{coupon}/refunds", back, token=shop).is_success
    address = f"/v1/coupons/{coupon}/correction"
    body = {"effective_at": held_at, "reason": "late"}
    refused, unseen = app.post(address, body, token=operator), app.get(address, token=operator)
    assert codes(refused, unseen) == [(409, "not_redeemed"), (404, "not_found")]
    assert refused.json()["state"] == "held"
