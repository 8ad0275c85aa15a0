"""Reading: who sees what, in what order, how fresh."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from tests.api.harness import App, yuan

ORDER = {"order": "2026-0501-17", "order_total": yuan(80), "shop": "haitang-3f"}


@pytest.fixture
def redeemed(app: App) -> str:
    """A redeemed coupon of `a tourist` at `shop-1`, with the read models up to date."""
    coupon = app.claimed(app.open_campaign())
    shop = app.token("merchant", "till", "shop-1")
    assert app.post(f"/v1/coupons/{coupon}/redemptions", ORDER, token=shop).is_success
    app.project()
    return coupon


def test_a_wallet_holds_ones_own_coupons(app: App) -> None:
    """What was claimed is there with its worth; another's wallet is empty."""
    coupons = [app.claimed(app.open_campaign(name=f"campaign {n}")) for n in range(3)]
    app.project()
    wallet = app.get("/v1/wallet", token=app.token("tourist")).json()
    assert [item["coupon"] for item in wallet["items"]] == coupons[::-1]
    assert wallet["worth"] == [{"count": 3, "amount_minor": 15_000, "currency": "CNY"}]
    assert wallet["next"] is None
    other = app.get("/v1/wallet", token=app.token("tourist", "somebody else")).json()
    assert other == {"items": [], "worth": [], "next": None}


def test_a_claims_reply_and_the_wallet_agree(app: App) -> None:
    """A coupon in the wallet is the coupon that the claim returned."""
    reply = app.claim(app.open_campaign())
    app.project()
    wallet = app.get("/v1/wallet", token=app.token("tourist")).json()
    assert wallet["items"] == [reply.json()]


def test_pages_show_everything_once(app: App) -> None:
    """Cursors lead through the list without gaps or repeats, and do not fit another list."""
    coupons = [app.claimed(app.open_campaign(name=f"campaign {n}")) for n in range(5)]
    app.project()
    token = app.token("tourist")
    page = app.get("/v1/wallet?limit=2", token=token).json()
    seen = page["items"]
    while page["next"]:
        page = app.get(f"/v1/wallet?limit=2&after={page['next']}", token=token).json()
        seen += page["items"]
    assert [item["coupon"] for item in seen] == coupons[::-1]
    cursor = app.get("/v1/wallet?limit=2", token=token).json()["next"]
    shop = app.token("merchant")
    assert app.get(f"/v1/merchant/redemptions?after={cursor}", token=shop).status_code == 422


def test_a_wallet_can_be_asked_for_one_state(app: App, redeemed: str) -> None:
    """`state` narrows the list."""
    token = app.token("tourist")
    assert app.get("/v1/wallet?state=held", token=token).json()["items"] == []
    assert len(app.get("/v1/wallet?state=redeemed", token=token).json()["items"]) == 1


@pytest.mark.parametrize(
    ("role", "who", "merchant", "sees"),
    [
        ("tourist", "a tourist", None, "all"),
        ("tourist", "somebody else", None, "nothing"),
        ("merchant", "till", "shop-1", "all"),
        ("merchant", "till", "shop-2", "no redemption"),
        ("operator", "", None, "all"),
        ("auditor", "", None, "all"),
    ],
)
def test_a_coupon_shows_itself_by_role(
    app: App, redeemed: str, role: str, who: str, merchant: str | None, sees: str
) -> None:
    """Its holder, its merchant and staff see all, other merchants no order, others nothing."""
    reply = app.get(f"/v1/coupons/{redeemed}", token=app.token(role, who, merchant))
    if sees == "nothing":
        absent = app.get(f"/v1/coupons/cpn_main_{'0' * 32}", token=app.token(role, who))
        assert (reply.status_code, reply.content) == (404, absent.content)
        return
    coupon = reply.json()
    assert coupon["state"] == "redeemed"
    assert ("order" in coupon) == ("merchant" in coupon) == (sees == "all")
    assert "person" not in coupon


def test_drafts_do_not_exist_for_tourists(app: App) -> None:
    """A draft is absent for tourists and merchants, with the body of an absent one."""
    draft, campaign = app.draft(), app.open_campaign(name="an open one")
    app.project()
    for role in ("tourist", "merchant"):
        token = app.token(role)
        hidden = app.get(f"/v1/campaigns/{draft}", token=token)
        absent = app.get(f"/v1/campaigns/cmp_main_{'0' * 32}", token=token)
        assert (hidden.status_code, hidden.content) == (404, absent.content)
        listed = app.get("/v1/campaigns", token=token).json()["items"]
        assert [item["campaign"] for item in listed] == [campaign]
        assert app.get("/v1/campaigns?state=draft", token=token).json()["items"] == []
        shown = app.get(f"/v1/campaigns/{campaign}", token=token).json()
        assert not {"proposal", "budget", "quota", "version"} & set(shown)
    operator = app.token("operator")
    assert app.get(f"/v1/campaigns/{draft}", token=operator).json()["state"] == "draft"
    assert len(app.get("/v1/campaigns", token=operator).json()["items"]) == 2


def test_a_campaign_reads_as_it_was_answered(app: App) -> None:
    """What an operator reads equals the reply to the last command."""
    campaign = app.open_campaign()
    operator = app.token("operator")
    paused = app.post(f"/v1/campaigns/{campaign}/pause", {"reason": "x"}, token=operator).json()
    app.project()
    assert app.get(f"/v1/campaigns/{campaign}", token=operator).json() == paused


def test_figures_add_up(app: App, redeemed: str) -> None:
    """Coupons and money of a campaign, for operators and auditors."""
    campaign = app.get(f"/v1/coupons/{redeemed}", token=app.token("auditor")).json()["campaign"]
    figures = app.get(f"/v1/campaigns/{campaign}/figures", token=app.token("auditor")).json()
    assert (figures["coupons"]["claimed"], figures["coupons"]["redeemed"]) == (1, 1)
    money = {name: amount["amount_minor"] for name, amount in figures["money"].items()}
    assert money == {"funded": 50_000, "pot": 45_000, "held": 0, "spent": 5_000, "reclaimed": 0}


def test_a_merchant_sees_its_own_balance_and_redemptions(app: App, redeemed: str) -> None:
    """Another merchant sees nothing of it."""
    shop, other = (app.token("merchant", "till", name) for name in ("shop-1", "shop-2"))
    balance = app.get("/v1/merchant/balance", token=shop).json()
    assert balance["items"][0]["balance"] == yuan(50)
    listed = app.get("/v1/merchant/redemptions", token=shop).json()["items"]
    assert [(item["coupon"], item["order"]) for item in listed] == [(redeemed, ORDER["order"])]
    assert app.get("/v1/merchant/balance", token=other).json()["items"] == []
    assert app.get("/v1/merchant/redemptions", token=other).json()["items"] == []


def test_auditors_read_the_events_as_stored(app: App, redeemed: str) -> None:
    """In order, page by page, to the head."""
    token, events, after = app.token("auditor"), [], 0
    while True:
        page = app.get(f"/v1/books/main/events?limit=4&after={after}", token=token).json()
        events += page["items"]
        if page["next"] is None:
            break
        after = page["next"]
    head = app.get("/v1/books/main/head", token=token).json()
    assert [event["position"] for event in events] == list(range(1, head["position"] + 1))
    assert events[-1]["topic"] == "coupon.redeemed"
    assert events[-1]["state"]["at"] == head["at"]
    assert app.get("/v1/books/north/head", token=token).status_code == 404


def test_a_read_waits_for_ones_own_write(app: App) -> None:
    """With the position of a write, the read answers when the read model has it."""
    campaign = app.open_campaign()
    position = app.claim(campaign).headers["tidebook-position"]
    later = threading.Timer(0.3, app.project)
    later.start()
    wallet = app.get(
        "/v1/wallet", token=app.token("tourist"), headers=[("Tidebook-Min-Position", position)]
    )
    later.join()
    assert [item["campaign"] for item in wallet.json()["items"]] == [campaign]


def test_readiness_and_metrics_tell_how_far_projections_are_behind(app: App) -> None:
    """In events and in seconds, whether or not anybody keeps the projections up; 0 when shown."""
    app.claim(app.open_campaign())

    def told() -> tuple[int, float, float]:
        [book] = app.get("/readyz", admin=True).json()["books"]
        scraped = app.get("/metrics", admin=True).text
        gauge = 'tidebook_projection_lag_seconds{book="main",projection="wallets"} '
        seconds = scraped.partition(gauge)[2].partition("\n")[0]
        return book["behind"]["wallets"], book["lag_s"]["wallets"], float(seconds)

    behind, lag_s, gauge_s = told()
    assert behind == 5
    assert 0 < lag_s < gauge_s + 0.001  # rounded
    app.project()
    assert told() == (0, 0.0, 0.0)


def test_a_read_that_waits_in_vain_says_so(make_app: Any) -> None:
    """503 with Retry-After when the read model does not come that far in time."""
    app = make_app(read_wait_s=0.1)
    headers = [("Tidebook-Min-Position", "main:999")]
    reply = app.get("/v1/wallet", token=app.token("tourist"), headers=headers)
    assert (reply.status_code, reply.json()["code"]) == (503, "behind")
    assert reply.headers["retry-after"] == "1"


@pytest.mark.parametrize("position", ["main", "main:-1", "main:1.5", "other:1", "main:１", ":1"])
def test_a_bad_position_is_refused(app: App, position: str) -> None:
    """400, whatever it is."""
    headers = [("Tidebook-Min-Position", position.encode())]
    reply = app.call("GET", "/v1/wallet", token=app.token("tourist"), headers=headers)
    assert (reply.status_code, reply.json()["code"]) == (400, "invalid_header")
