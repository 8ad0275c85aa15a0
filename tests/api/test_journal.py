"""The journal over HTTP: who sees which accounts, at which position, in what pages."""

from __future__ import annotations

import pytest

from tests.api.harness import App, yuan

ORDER = {"order": "2026-0501-17", "order_total": yuan(80), "shop": "haitang-3f"}
TRIAL = "/v1/books/main/trial-balance"
ACCOUNTS = "/v1/books/main/accounts"
STATEMENT = f"{ACCOUNTS}/merchant:shop-1/statement"


@pytest.fixture
def position(app: App) -> int:
    """Where the book is after three redemptions at `shop-1`, with the read models up to date."""
    shop = app.token("merchant", "till", "shop-1")
    for n in range(3):
        coupon = app.claimed(app.open_campaign(name=f"campaign {n}"))
        order = {**ORDER, "order": f"order-{n}"}
        assert app.post(f"/v1/coupons/{coupon}/redemptions", order, token=shop).is_success
    app.project()
    head = app.get("/v1/books/main/head", token=app.token("auditor")).json()
    return int(head["position"])


@pytest.mark.parametrize("role", ["operator", "auditor"])
def test_balances_sum_to_zero(app: App, position: int, role: str) -> None:
    """At the head and in the past; the instant of an event leads to its position."""
    token = app.token(role)
    now = app.get(TRIAL, token=token).json()
    assert now["position"] == position
    for at in range(position + 1):
        items = app.get(f"{TRIAL}?at={at}", token=token).json()["items"]
        assert sum(one["balance"]["amount_minor"] for one in items) == 0
    assert app.get(f"{TRIAL}?at=2100-01-01T00:00:00Z", token=token).json() == now
    assert app.get(f"{TRIAL}?at=2000-01-01T00:00:00Z", token=token).json()["items"] == []


def test_pages_of_a_statement_are_of_one_position(app: App, position: int) -> None:
    """A merchant's own pages and an auditor's are the same lines, whatever happens in between.

    Only whose the coupons were is not told to the merchant.
    """
    shop, auditor = app.token("merchant", "till", "shop-1"), app.token("auditor")
    whole = app.get(STATEMENT, token=auditor).json()
    page = app.get("/v1/merchant/statement?limit=1", token=shop).json()
    lines = page["items"]
    app.claimed(app.open_campaign(name="later"))
    app.project()
    while page["next"]:
        page = app.get(f"/v1/merchant/statement?limit=1&after={page['next']}", token=shop).json()
        assert page["position"] == position
        lines += page["items"]
    assert all(one["other"].startswith("holder:") for one in whole["items"])
    assert lines == [{**one, "other": "holder"} for one in whole["items"]]
    assert len(lines) == 3
    balances = app.get(f"{ACCOUNTS}?kind=merchant&at={position}", token=auditor).json()["items"]
    assert [one["balance"] for one in balances] == [lines[-1]["balance"]]


def test_pages_of_accounts_show_everything_once(app: App, position: int) -> None:
    """Accounts come in the order in which they were opened."""
    token = app.token("operator")
    whole = app.get(ACCOUNTS, token=token).json()["items"]
    page = app.get(f"{ACCOUNTS}?limit=2", token=token).json()
    seen = page["items"]
    while page["next"]:
        page = app.get(f"{ACCOUNTS}?limit=2&after={page['next']}", token=token).json()
        seen += page["items"]
    assert seen == whole
    assert [one["opened"] for one in seen] == sorted(one["opened"] for one in seen)


def test_others_accounts_are_nobodys(app: App, position: int) -> None:
    """Merchants and tourists see no account of the book; another merchant's own is empty."""
    for role in ("merchant", "tourist"):
        for address in (TRIAL, ACCOUNTS, STATEMENT):
            assert app.get(address, token=app.token(role)).status_code == 403
    assert app.get("/v1/merchant/statement", token=app.token("auditor")).status_code == 403
    other = app.token("merchant", "till", "shop-2")
    assert app.get("/v1/merchant/statement", token=other).json()["items"] == []


@pytest.mark.parametrize("query", ["at=-1", "at=yesterday", "at=2026-13-01T00:00:00Z", "kind=x"])
def test_bad_queries_name_the_field(app: App, query: str) -> None:
    """A value that is not understood is refused with the field's name."""
    problem = app.get(f"{ACCOUNTS}?{query}", token=app.token("auditor"))
    assert problem.status_code == 422
    assert problem.json()["errors"][0]["field"] == query.split("=", maxsplit=1)[0]


def test_what_is_not_there_yet_is_not_made_up(app: App, position: int) -> None:
    """A position past the journal's is told to come later; there is no other book."""
    token = app.token("auditor")
    assert app.get(f"{TRIAL}?at={position + 1}", token=token).json()["code"] == "behind"
    assert app.get("/v1/books/other/trial-balance", token=token).status_code == 404
