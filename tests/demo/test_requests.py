"""From steps to HTTP calls, and from the ledger's replies to figures."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from api.demo.ledger_side import StrangeLedger, figures_of, offer_named, store_figures_of
from api.demo.plan import Kind, Moment, Offer, Order, Step
from api.demo.reconciliation import Figures, StoreFigures
from api.demo.requests import AUDITS, OPERATOR_1, OPERATOR_2, caller_of, people, step_request
from tests.demo.small_year import MAKER_A

OPENS, ENDS = datetime(2017, 3, 10, 5, tzinfo=UTC), datetime(2017, 4, 1, 4, tzinfo=UTC)
OFFER = Offer(1, MAKER_A, "Type B", 100, 2, OPENS, ENDS)
CLAIM = Step("claim", OFFER, 100)
REDEEM = Step("redeem", OFFER, 100, Order(5, 7, 901, 1000))
IDS = {Step("draft", OFFER).key: "cmp_main_1", CLAIM.key: "cpn_main_2"}


def usd(cents: int) -> dict[str, Any]:
    """An amount as the API writes it."""
    return {"amount_minor": cents, "currency": "USD"}


FIGURES = {
    "campaign": "cmp_main_1",
    "coupons": {
        "claimed": 4, "held": 0, "redeemed": 2, "refunded": 0, "expired": 2, "voided": 0,
        "reclaimed": 0,
    },
    "money": {
        "funded": usd(400), "pot": usd(1), "held": usd(2), "spent": usd(200), "reclaimed": usd(197),
    },
}  # fmt: skip


@pytest.mark.parametrize(
    ("step", "path", "body"),
    [
        (
            Step("propose", OFFER),
            "/v1/campaigns/cmp_main_1/funding",
            {"quota": 2, "budget": usd(200)},
        ),
        (
            Step("approve", OFFER),
            "/v1/campaigns/cmp_main_1/funding/approval",
            {"quota": 2, "budget": usd(200)},
        ),
        (Step("open", OFFER), "/v1/campaigns/cmp_main_1/open", None),
        (CLAIM, "/v1/campaigns/cmp_main_1/claims", None),
        (
            REDEEM,
            "/v1/coupons/cpn_main_2/redemptions",
            {"order": "901", "order_total": usd(1000)},
        ),
        (
            Step("close", OFFER),
            "/v1/campaigns/cmp_main_1/close",
            {"reason": "mailing 1 has ended"},
        ),
    ],
    ids=lambda value: value.kind if isinstance(value, Step) else "",
)  # fmt: skip
def test_a_step_becomes_a_call(step: Step, path: str, body: Any) -> None:
    """With its address and its body."""
    request = step_request(step, OPENS, "token", IDS)
    assert (request.method, request.path) == ("POST", path)
    assert (json.loads(request.body) if request.body else None) == body


def test_a_call_carries_its_caller_its_key_and_its_instant() -> None:
    """The instant has its offset; the key comes from the data."""
    assert step_request(CLAIM, OPENS, "abc", IDS).headers == (
        ("Authorization", "Bearer abc"),
        ("Idempotency-Key", f"claim:1:{MAKER_A}:100"),
        ("Tidebook-Time", "2017-03-10T05:00:00+00:00"),
    )


def test_a_draft_spells_the_windows_out() -> None:
    """Claims and validity share the mailing's window."""
    body = json.loads(step_request(Step("draft", OFFER), OPENS, "", {}).body)
    window = {"from": "2017-03-10T05:00:00+00:00", "until": "2017-04-01T04:00:00+00:00"}
    assert body["claim_window"] == body["validity_window"] == window
    assert body["zone"] == "America/New_York"
    assert offer_named(body["name"]) == (1, MAKER_A)


@pytest.mark.parametrize("kind", ["draft", "propose", "open", "close"])
def test_whoever_proposes_does_not_approve(kind: Kind) -> None:
    """Two operators are needed for money."""
    assert caller_of(Step(kind, OFFER)) == OPERATOR_1
    assert caller_of(Step("approve", OFFER)) == OPERATOR_2


def test_households_claim_and_stores_redeem() -> None:
    """Each in its own role; the store is a merchant."""
    assert caller_of(CLAIM).role == "tourist"
    assert (caller_of(REDEEM).role, caller_of(REDEEM).merchant) == ("merchant", "store-7")


def test_everybody_who_calls_signs_in_once() -> None:
    """And the auditor, who reads at the end."""
    moments = [Moment(OPENS, "claim", (CLAIM, CLAIM)), Moment(ENDS, "redeem", (REDEEM,))]
    callers = [OPERATOR_1, OPERATOR_2, AUDITS, caller_of(CLAIM), caller_of(REDEEM)]
    assert people(moments) == callers


def test_a_campaigns_figures_are_read_from_its_reply() -> None:
    """What is in the pot or with holders is left."""
    assert figures_of(FIGURES, {"already_redeemed": 1}) == Figures(
        issued=4,
        redeemed=2,
        expired=2,
        held=0,
        funded_cents=400,
        redeemed_cents=200,
        returned_cents=197,
        left_cents=3,
        refused={"already_redeemed": 1},
    )


def test_figures_in_another_currency_are_not_compared() -> None:
    """A cent is not a fen."""
    money = {**FIGURES["money"], "spent": {"amount_minor": 200, "currency": "CNY"}}  # type: ignore[dict-item]
    with pytest.raises(StrangeLedger, match="CNY"):
        figures_of({**FIGURES, "money": money}, {})


def test_a_voided_coupon_is_no_business_of_the_demo() -> None:
    """Somebody else has been at work in its home."""
    coupons = {**FIGURES["coupons"], "voided": 1}  # type: ignore[dict-item]
    with pytest.raises(StrangeLedger, match="voided"):
        figures_of({**FIGURES, "coupons": coupons}, {})


def test_a_campaign_of_another_name_is_found() -> None:
    """The plan never asked for it."""
    with pytest.raises(StrangeLedger, match="spring"):
        offer_named("spring")


def test_a_stores_balance_is_redeemed_less_refunded() -> None:
    """Over all its currencies, which are one."""
    one = {"redemptions": 3, "refunds": 1, "balance": usd(250)}
    assert store_figures_of([one]) == StoreFigures(redeemed=2, redeemed_cents=250)
