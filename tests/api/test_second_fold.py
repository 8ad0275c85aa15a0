"""What the service shows of packets and groups, held against a second fold of its events feed.

Goal: the check after every load run knows these events as the feed gives them, and the figures of
campaigns and the balances of merchants are those that it comes to. The fold is `loadtest/books.py`.
"""

from __future__ import annotations

from typing import Any

from loadtest.books import Books, fold
from tests.api.harness import App
from tests.api.test_groups import app, campaign_of_packets, code, filled, sent
from tests.api.test_packets import claimed, order, till

__all__ = ["app"]


def folded(app: App) -> Books:
    """The whole book, read over HTTP and folded."""
    items: list[Any] = []
    auditor = app.token("auditor")
    after: int | None = 0
    while after is not None:
        page = app.get(f"/v1/books/main/events?after={after}&limit=50", token=auditor).json()
        items += page["items"]
        after = page["next"]
    return fold(items)


def test_figures_and_balances_are_those_of_a_second_fold(app: App) -> None:
    """Packets that are paid with and refunded; a group that is sent and taken in part."""
    campaign = campaign_of_packets(app)
    group = sent(app, filled(app, campaign, 5_000))["group"]
    body = {"code": code(app, group)}
    for who in ("wang", "zhao"):
        taken = app.post(f"/v1/groups/{group}/shares", body, token=app.token("tourist", who))
        assert taken.status_code == 201, taken.text
    packet = claimed(app, campaign)
    paid = app.post(f"/v1/packets/{packet}/payments", order("a", 1), token=till(app, "tea-house"))
    assert paid.status_code == 200, paid.text
    refund = {"order": "a", "amount": {"amount_minor": 40, "currency": "CNY"}}
    back = app.post(f"/v1/packets/{packet}/refunds", refund, token=till(app, "tea-house"))
    assert back.status_code == 200, back.text
    app.project()
    books = folded(app)
    operator = app.token("operator", "operator one")
    figures = app.get(f"/v1/campaigns/{campaign}/figures", token=operator).json()
    books.check_figures(campaign, figures)
    balance = app.get("/v1/merchant/balance", token=till(app, "tea-house")).json()
    books.check_merchant("tea-house", balance["items"])
    assert books.findings == []
    assert books.merchants() == ["tea-house"]
    figures["money"]["purses"]["amount_minor"] += 1
    figures["packets"]["payments"] += 1
    books.check_figures(campaign, figures)
    assert [finding.rule for finding in books.findings] == ["figures equal the fold"] * 2
