"""Red packets over HTTP: drafted, claimed, spent and refunded, and what each role sees of them."""

from __future__ import annotations

from typing import Any

from tests.api.harness import App, draft_body, yuan
from tests.api.test_life import codes

PACKET = {"packet": {"amount": yuan(200)}, "merchants": ["mall", "cafe"]}
NEXT_ID = "cmp_main_" + "0" * 32


def packet_body(**changes: Any) -> dict[str, Any]:
    """A campaign of packets: 200 yuan each, at two merchants."""
    body = draft_body(**{**PACKET, **changes})
    del body["coupon"]
    return body


def opened(app: App, quota: int = 5, budget: int | None = None, **changes: Any) -> str:
    """A campaign of packets that takes claims."""
    drafted = app.post("/v1/campaigns", packet_body(**changes), token=app.token("operator", "one"))
    assert drafted.status_code == 201, drafted.text
    campaign: str = drafted.json()["campaign"]
    funds = {"quota": quota, "budget": yuan(200 * quota if budget is None else budget)}
    for address, who in (("funding", "one"), ("funding/approval", "two")):
        token = app.token("operator", who)
        funded = app.post(f"/v1/campaigns/{campaign}/{address}", funds, token=token)
        assert funded.is_success, funded.text
    reply = app.post(f"/v1/campaigns/{campaign}/open", token=app.token("operator", "one"))
    assert reply.is_success, reply.text
    return campaign


def claimed(app: App, campaign: str, who: str = "li") -> str:
    """A packet that somebody has claimed."""
    reply = app.claim(campaign, who)
    assert reply.status_code == 201, reply.text
    packet: str = reply.json()["packet"]
    return packet


def till(app: App, merchant: str = "mall") -> str:
    """A merchant's token."""
    return app.token("merchant", f"till of {merchant}", merchant)


def order(number: str, amount: int) -> dict[str, Any]:
    """An order of so many yuan."""
    return {"order": number, "total": yuan(amount), "shop": "1f"}


def test_a_packet_is_spent_and_refunded(app: App) -> None:
    """Packet first, then own money; back in the campaign's order; every step committed."""
    campaign = opened(app)
    reply = app.claim(campaign, "li")
    packet = reply.json()["packet"]
    assert (reply.json()["amount"], reply.json()["balance"]) == (yuan(200), yuan(200))
    first = app.post(f"/v1/packets/{packet}/payments", order("a", 120), token=till(app))
    assert (first.status_code, first.json()["payable"]) == (200, yuan(0))
    second = app.post(f"/v1/packets/{packet}/payments", order("b", 130), token=till(app, "cafe"))
    assert (second.json()["from_packet"], second.json()["payable"]) == (yuan(80), yuan(50))
    body = {"order": "b", "amount": yuan(60)}
    refund = app.post(f"/v1/packets/{packet}/refunds", body, token=till(app, "cafe"))
    assert refund.status_code == 200, refund.text
    assert (refund.json()["to_own"], refund.json()["to_packet"]) == (yuan(50), yuan(10))
    app.project()
    shown = app.get(f"/v1/packets/{packet}", token=app.token("tourist", "li")).json()
    assert (shown["state"], shown["balance"], shown["payments"]) == ("held", yuan(10), 2)


def test_a_claim_is_told_again_to_the_same_key(app: App) -> None:
    """Byte for byte, from the event; another key is refused and told of the packet."""
    campaign = opened(app)
    first = app.claim(campaign, "li", key="once")
    again = app.claim(campaign, "li", key="once")
    assert again.content == first.content
    assert again.headers["idempotency-replayed"] == "true"
    other = app.claim(campaign, "li", key="twice")
    assert codes(other) == [(409, "already_claimed")]
    assert other.json()["packet"] == first.json()["packet"]


def test_a_payment_is_told_again_to_the_same_key_and_refused_to_another(app: App) -> None:
    """A till that lost the answer collects nothing twice, whichever key it asks with."""
    packet = claimed(app, opened(app))
    address = f"/v1/packets/{packet}/payments"
    first = app.post(address, order("a", 150), token=till(app), key="k")
    again = app.post(address, order("a", 150), token=till(app), key="k")
    assert (again.content, again.headers["idempotency-replayed"]) == (first.content, "true")
    other = app.post(address, order("a", 150), token=till(app), key="l")
    assert codes(other) == [(409, "already_paid")]
    assert other.json()["payment"] == first.json()["payment"]


def test_payments_are_refused_by_the_failing_rule(app: App) -> None:
    """Designated merchants, the right unit, and something left."""
    packet = claimed(app, opened(app))
    address = f"/v1/packets/{packet}/payments"
    dollars = {"order": "a", "total": {"amount_minor": 1, "currency": "USD"}}
    assert codes(
        app.post(address, order("a", 1), token=till(app, "bar")),
        app.post(address, dollars, token=till(app)),
        app.post(f"/v1/packets/{packet[:-4]}0000/payments", order("a", 1), token=till(app)),
        app.post(f"/v1/packets/{packet}/refunds", {"order": "never"}, token=till(app)),
    ) == [
        (409, "merchant_not_designated"),
        (422, "unit_mismatch"),
        (404, "not_found"),
        (409, "not_paid"),
    ]
    assert app.post(address, order("a", 200), token=till(app)).is_success
    assert codes(app.post(address, order("b", 1), token=till(app))) == [(409, "packet_empty")]


def test_nobody_else_pays_from_a_packet_or_ends_it(app: App) -> None:
    """Not transferable, not cashable: its holder has no way to move its money at all."""
    packet = claimed(app, opened(app))
    for role in ("tourist", "operator", "auditor"):
        token = app.token(role, "li")
        reply = app.post(f"/v1/packets/{packet}/payments", order("a", 1), token=token)
        assert codes(reply) == [(403, "role_forbidden")]
    for token in (app.token("tourist", "li"), till(app), app.token("auditor")):
        reply = app.post(f"/v1/packets/{packet}/wallet-closure", {"reason": "x"}, token=token)
        assert codes(reply) == [(403, "role_forbidden")]


def test_a_packet_is_seen_by_its_holder_and_staff_and_its_money_by_no_till(app: App) -> None:
    """Another tourist finds nothing; a merchant sees no amount and no balance."""
    packet = claimed(app, opened(app))
    app.project()
    own = app.get(f"/v1/packets/{packet}", token=app.token("tourist", "li"))
    assert own.json()["amount"] == yuan(200)
    stranger = app.get(f"/v1/packets/{packet}", token=app.token("tourist", "wang"))
    assert codes(stranger) == [(404, "not_found")]
    seen = app.get(f"/v1/packets/{packet}", token=till(app)).json()
    assert {"amount", "balance", "payments", "n", "claimed_at"}.isdisjoint(seen)
    for role in ("operator", "auditor"):
        assert app.get(f"/v1/packets/{packet}", token=app.token(role)).json() == own.json()


def test_a_statement_has_every_movement_for_the_holder_and_ones_own_for_a_till(app: App) -> None:
    """In order, with what was in the packet after each; pages follow each other."""
    packet = claimed(app, opened(app))
    app.post(f"/v1/packets/{packet}/payments", order("a", 120), token=till(app))
    app.post(f"/v1/packets/{packet}/payments", order("b", 130), token=till(app, "cafe"))
    app.post(f"/v1/packets/{packet}/refunds", {"order": "b"}, token=till(app, "cafe"))
    app.project()
    address = f"/v1/packets/{packet}/statement"
    holder = app.token("tourist", "li")
    items = app.get(address, token=holder).json()["items"]
    assert [(each["kind"], each["balance"]) for each in items] == [
        ("claimed", yuan(200)),
        ("paid", yuan(80)),
        ("paid", yuan(0)),
        ("refunded", yuan(80)),
    ]
    assert [each["own"] for each in items[1:]] == [yuan(0), yuan(50), yuan(50)]
    page = app.get(f"{address}?limit=1", token=holder).json()
    paged = page["items"]
    while page["next"]:
        page = app.get(f"{address}?limit=1&after={page['next']}", token=holder).json()
        paged += page["items"]
    assert paged == items
    seen = app.get(address, token=till(app, "cafe")).json()["items"]
    assert [each["order"] for each in seen] == ["b", "b"]
    assert not any("balance" in each for each in seen)
    stranger = app.get(address, token=app.token("tourist", "wang"))
    assert codes(stranger) == [(404, "not_found")]


def test_a_merchant_lists_its_own_payments_and_is_owed_for_them(app: App) -> None:
    """What packets paid less what was given back; what payers added is not owed by anybody."""
    campaign = opened(app)
    packet = ""
    for who, amount in (("li", 150), ("wang", 250)):
        packet = claimed(app, campaign, who)
        app.post(f"/v1/packets/{packet}/payments", order(who, amount), token=till(app))
    app.post(
        f"/v1/packets/{packet}/refunds", {"order": "wang", "amount": yuan(80)}, token=till(app)
    )
    app.project()
    mall, cafe = till(app), till(app, "cafe")
    [balance] = app.get("/v1/merchant/balance", token=mall).json()["items"]
    assert (balance["payments"], balance["paid"]) == (2, yuan(350))
    assert (balance["payment_refunds"], balance["paid_back"]) == (1, yuan(30))
    assert balance["balance"] == yuan(320)
    listed = app.get("/v1/merchant/payments", token=mall).json()["items"]
    assert [(each["kind"], each["order"]) for each in listed] == [
        ("refunded", "wang"),
        ("paid", "wang"),
        ("paid", "li"),
    ]
    assert app.get("/v1/merchant/payments", token=cafe).json() == {"items": [], "next": None}


def test_a_person_lists_the_packets_of_all_their_accounts(app: App) -> None:
    """With what can be spent of them; by state, and page by page."""
    first = claimed(app, opened(app))
    second = claimed(app, opened(app, packet={"amount": yuan(100)}, budget=500))
    app.post(f"/v1/packets/{first}/payments", order("a", 200), token=till(app))
    app.project()
    token = app.token("tourist", "li")
    page = app.get("/v1/packets", token=token).json()
    assert [each["packet"] for each in page["items"]] == [second, first]
    assert page["worth"] == [{"count": 1, "amount_minor": 10_000, "currency": "CNY"}]
    spent = app.get("/v1/packets?state=spent", token=token).json()["items"]
    assert [each["packet"] for each in spent] == [first]
    one = app.get("/v1/packets?limit=1", token=token).json()
    rest = app.get(f"/v1/packets?limit=1&after={one['next']}", token=token).json()
    assert [one["items"][0]["packet"], rest["items"][0]["packet"]] == [second, first]
    assert rest["next"] is None


def test_figures_sum_to_the_funds(app: App) -> None:
    """Claimed, spent, refunded, returned and outstanding, in money and in counts."""
    campaign = opened(app, quota=3)
    packets = [claimed(app, campaign, who) for who in ("li", "wang")]
    app.post(f"/v1/packets/{packets[0]}/payments", order("a", 250), token=till(app))
    app.post(
        f"/v1/packets/{packets[0]}/refunds", {"order": "a", "amount": yuan(90)}, token=till(app)
    )
    operator = app.token("operator")
    closure = f"/v1/packets/{packets[1]}/wallet-closure"
    closed = app.post(closure, {"reason": "the holder closed it"}, token=operator)
    assert (closed.status_code, closed.json()["returned"]) == (200, yuan(200))
    app.project()
    figures = app.get(f"/v1/campaigns/{campaign}/figures", token=operator).json()
    assert figures["packets"] == {
        "claimed": 2,
        "held": 1,
        "expired": 0,
        "wallets_closed": 1,
        "payments": 1,
        "refunds": 1,
        "paid": yuan(200),
        "refunded": yuan(40),
    }
    money = figures["money"]
    assert money == {
        "funded": yuan(600),
        "pot": yuan(200),
        "held": yuan(40),
        "spent": yuan(160),
        "reclaimed": yuan(200),
        "purses": yuan(0),
        "rolled_over": yuan(0),
    }
    parts = ("pot", "held", "spent", "reclaimed", "purses", "rolled_over")
    assert sum(money[part]["amount_minor"] for part in parts) == 60_000
    assert "coupons" not in figures


def test_tiers_and_split_sums_commit_to_a_seed_that_nobody_sees(app: App) -> None:
    """What is published is the hash; no reply and no view tells what the next packet holds."""
    split = {"split": {"total": yuan(10), "count": 3}}
    campaign = opened(app, quota=3, budget=10, packet=split)
    amounts = [
        app.claim(campaign, who).json()["amount"]["amount_minor"] for who in ("li", "wang", "zhao")
    ]
    assert sum(amounts) == 1_000
    assert min(amounts) >= 1
    assert codes(app.claim(campaign, "late")) == [(409, "sold_out")]
    app.project()
    view = app.get(f"/v1/campaigns/{campaign}", token=app.token("tourist", "li")).json()
    assert view["packet"]["split"] == {"total": yuan(10), "count": 3}
    assert view["split"].keys() == {"seed_commitment"}
    assert "coupon" not in view


def test_the_draw_key_is_read_once_and_not_for_every_packet(app: App) -> None:
    """A claim decides in memory: once the key is known, its file may lie on a slow disk or none."""
    campaign = opened(app, quota=2, budget=10, packet={"split": {"total": yuan(10), "count": 2}})
    key = app.settings.home / "keys" / "draw.key"
    key.unlink()
    amounts = [app.claim(campaign, who).json()["amount"]["amount_minor"] for who in ("li", "wang")]
    assert sum(amounts) == 1_000
    assert not key.exists()


UNKEPT: list[tuple[dict[str, Any], str]] = [
    (
        {"packet": {"amount": yuan(1), "split": {"total": yuan(1), "count": 1}}},
        "one_kind_of_amount",
    ),
    ({"packet": {}}, "one_kind_of_amount"),
    ({"packet": {"tiers": []}}, "too_few"),
    ({"packet": {"split": {"total": yuan(1), "count": 101}}}, "split_too_small"),
    ({"packet": {"amount": yuan(1), "leftover": "next_round"}}, "next_round_mismatch"),
    ({"packet": {"amount": yuan(1), "next_round": NEXT_ID}}, "next_round_mismatch"),
    ({"packet": {"tiers": 2 * [{"amount": yuan(1), "count": 1}]}}, "repeated"),
    ({"merchants": None}, "merchants_missing"),
    ({"restock": True}, "restock_without_use"),
    ({"intake": {"kind": "lottery", "seconds": 30}}, "lottery_of_packets"),
    ({"coupon": {"kind": "fixed", "face": yuan(1)}}, "coupon_or_packet"),
    ({"packet": None}, "coupon_or_packet"),
]


def test_terms_that_nobody_could_keep_are_refused(app: App) -> None:
    """Each with the rule that it breaks."""
    for changes, rule in UNKEPT:
        body = {**packet_body(), **changes}
        reply = app.post("/v1/campaigns", body, token=app.token("operator"))
        assert codes(reply) == [(422, "invalid_body")]
        assert [error["rule"] for error in reply.json()["errors"]] == [rule]


def test_leftovers_go_to_a_campaign_that_is_there(app: App) -> None:
    """The next round is named by its id, of the same book."""
    operator = app.token("operator")
    after = app.post("/v1/campaigns", packet_body(), token=operator).json()["campaign"]
    terms = {"amount": yuan(200), "leftover": "next_round", "next_round": after}
    drafted = app.post("/v1/campaigns", packet_body(packet=terms), token=operator)
    assert drafted.status_code == 201
    assert drafted.json()["packet"]["next_round"] == after
    missing = packet_body(packet={**terms, "next_round": NEXT_ID})
    assert codes(app.post("/v1/campaigns", missing, token=operator)) == [(409, "next_round_unfit")]
    odd = packet_body(packet={**terms, "next_round": "cmp_other_" + "0" * 32})
    assert codes(app.post("/v1/campaigns", odd, token=operator)) == [(422, "invalid_body")]


def test_a_packet_is_no_coupon_over_http_either(app: App) -> None:
    """Under the other prefix there is nothing, and nothing breaks."""
    packet = claimed(app, opened(app))
    coupon = packet.replace("pkt_", "cpn_")
    body = {"order": "a", "order_total": yuan(300)}
    assert (
        codes(
            app.post(f"/v1/coupons/{coupon}/redemptions", body, token=till(app)),
            app.post(f"/v1/coupons/{coupon}/void", {"reason": "x"}, token=app.token("operator")),
            app.get(f"/v1/coupons/{coupon}", token=app.token("auditor")),
        )
        == [(404, "not_found")] * 3
    )
