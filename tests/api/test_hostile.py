"""Hostile and mistaken calls: each gets its answer, and none leaves an event."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi.routing import APIRoute

from api.app import ROUTERS
from api.exchange import SECURITY_HEADERS
from api.routes import development
from tests.api.conftest import MakeApp
from tests.api.harness import App, draft_body, yuan

SOME = {
    "campaign": "cmp_main_" + "0" * 32,
    "coupon": "cpn_main_" + "0" * 32,
    "packet": "pkt_main_" + "0" * 32,
    "purse": "prs_main_" + "0" * 32,
    "group": "grp_main_" + "0" * 32,
    "book": "main",
}
OPEN_TO_ALL = {"/healthz", "/problems", "/problems/{code}"}
HASHES = {
    "/log/{book}",
    "/log/{book}/checkpoint",
    "/log/{book}/tile/{level}/{number:path}",
    "/log/{book}/daily-proofs/{campaign}",
    "/log/{book}/daily-proofs/{campaign}/{day}",
}
"""For everybody as well; of a book whose log has not begun there are none."""
ADMIN_ONLY = {
    route.path
    for router in (ROUTERS[-1], development.router)
    for route in router.routes
    if isinstance(route, APIRoute)
}


def addresses() -> list[tuple[str, str]]:
    """Every method and address template of the service."""
    return sorted(
        (method, route.path)
        for router in (*ROUTERS, development.router)
        for route in router.routes
        if isinstance(route, APIRoute)
        for method in route.methods or ()
    )


def filled(template: str) -> str:
    """An address with ids of things that are not there."""
    for name, value in {
        **SOME,
        "code": "sold_out",
        "name": "docs.js",
        "level": "0",
        "position": "1",
        "number": "1",
        "day": "2026-05-01",
    }.items():
        template = template.replace("{" + name + "}", value)
    return template.replace("{number:path}", "000.p/1")


def test_nothing_is_answered_without_a_token(app: App) -> None:
    """S01: every address but the open ones is 401 with a challenge, or not there at all."""
    for method, template in addresses():
        reply = app.call(method, filled(template))
        if template in OPEN_TO_ALL:
            assert reply.status_code == 200
        elif template in ADMIN_ONLY | HASHES:
            assert reply.status_code == 404
        else:
            assert (reply.status_code, reply.json()["code"]) == (401, "unauthenticated"), template
            assert reply.headers["www-authenticate"] == 'Bearer realm="tidebook"'


ALLOWED = {
    "POST /v1/sessions": {"tourist", "merchant", "operator", "auditor"},
    "DELETE /v1/sessions/current": {"tourist", "merchant", "operator", "auditor"},
    "POST /v1/campaigns": {"operator"},
    "POST /v1/campaigns/{campaign}/funding": {"operator"},
    "POST /v1/campaigns/{campaign}/funding/approval": {"operator"},
    "POST /v1/campaigns/{campaign}/open": {"operator"},
    "POST /v1/campaigns/{campaign}/pause": {"operator"},
    "POST /v1/campaigns/{campaign}/resume": {"operator"},
    "POST /v1/campaigns/{campaign}/close": {"operator"},
    "POST /v1/campaigns/{campaign}/claims": {"tourist"},
    "PUT /v1/campaigns/{campaign}/place": {"tourist"},
    "GET /v1/campaigns/{campaign}/place": {"tourist"},
    "GET /v1/campaigns/{campaign}/place/events": {"tourist"},
    "GET /v1/campaigns/{campaign}/fairness": {"operator", "auditor"},
    "POST /v1/campaigns/{campaign}/draw/entries": {"tourist"},
    "POST /v1/campaigns/{campaign}/draw/withdrawals": {"tourist"},
    "POST /v1/campaigns/{campaign}/draw/voids": {"operator"},
    "POST /v1/campaigns/{campaign}/draw/wins": {"tourist"},
    "GET /v1/campaigns/{campaign}/draw": {"tourist", "merchant", "operator", "auditor"},
    "GET /v1/campaigns/{campaign}/draw/announcement": {
        *("tourist", "merchant", "operator", "auditor")
    },
    "GET /v1/campaigns/{campaign}/draw/entry": {"tourist"},
    "GET /v1/campaigns/{campaign}/draw/proof": {"tourist"},
    "GET /v1/campaigns": {"tourist", "merchant", "operator", "auditor"},
    "GET /v1/campaigns/{campaign}": {"tourist", "merchant", "operator", "auditor"},
    "GET /v1/campaigns/{campaign}/figures": {"operator", "auditor"},
    "GET /v1/wallet": {"tourist"},
    "GET /v1/coupons/{coupon}": {"tourist", "merchant", "operator", "auditor"},
    "POST /v1/coupons/{coupon}/redemptions": {"merchant"},
    "POST /v1/coupons/{coupon}/refunds": {"merchant"},
    "POST /v1/coupons/{coupon}/void": {"operator"},
    "POST /v1/coupons/{coupon}/correction": {"operator"},
    "POST /v1/coupons/{coupon}/correction/approval": {"operator"},
    "GET /v1/coupons/{coupon}/correction": {"merchant", "operator", "auditor"},
    "GET /v1/packets": {"tourist"},
    "GET /v1/packets/{packet}": {"tourist", "merchant", "operator", "auditor"},
    "GET /v1/packets/{packet}/statement": {"tourist", "merchant", "operator", "auditor"},
    "POST /v1/packets/{packet}/payments": {"merchant"},
    "POST /v1/packets/{packet}/refunds": {"merchant"},
    "POST /v1/packets/{packet}/wallet-closure": {"operator"},
    "POST /v1/packets/{packet}/correction": {"operator"},
    "POST /v1/packets/{packet}/correction/approval": {"operator"},
    "GET /v1/packets/{packet}/correction": {"merchant", "operator", "auditor"},
    "GET /v1/merchant/payments": {"merchant"},
    "GET /v1/person": {"tourist"},
    "POST /v1/campaigns/{campaign}/purses": {"operator"},
    "POST /v1/purses/{purse}/approval": {"operator"},
    "POST /v1/purses/{purse}/empty": {"operator"},
    "POST /v1/purses/{purse}/groups": {"tourist"},
    "GET /v1/purses": {"tourist"},
    "GET /v1/purses/{purse}": {"tourist", "merchant", "operator", "auditor"},
    "POST /v1/groups/{group}/shares": {"tourist"},
    "GET /v1/groups": {"tourist"},
    "GET /v1/groups/{group}": {"tourist", "merchant", "operator", "auditor"},
    "GET /v1/groups/{group}/code": {"tourist"},
    "GET /v1/campaigns/{campaign}/groups/figures": {"operator", "auditor"},
    "GET /v1/merchant/balance": {"merchant"},
    "GET /v1/merchant/redemptions": {"merchant"},
    "GET /v1/books/{book}/events": {"auditor"},
    "GET /v1/books/{book}/head": {"auditor"},
    "GET /log/{book}/tile/entries/{number:path}": {"auditor"},
    "GET /v1/books/{book}/events/{position}/receipt": {
        *("tourist", "merchant", "operator", "auditor")
    },
    "GET /v1/receipts": {"tourist", "merchant", "operator", "auditor"},
    "GET /v1/coupons/{coupon}/receipts/{number}": {"tourist", "merchant", "operator", "auditor"},
    "GET /v1/packets/{packet}/receipts/{number}": {"tourist", "merchant", "operator", "auditor"},
    "GET /v1/groups/{group}/receipts/{number}": {"tourist", "merchant", "operator", "auditor"},
    "GET /v1/campaigns/{campaign}/draw/entry/receipts/{number}": {"tourist"},
    "GET /v1/draw-entries": {"tourist"},
    "GET /v1/books/{book}/trial-balance": {"operator", "auditor"},
    "GET /v1/books/{book}/accounts": {"operator", "auditor"},
    "GET /v1/books/{book}/accounts/{account}/statement": {"operator", "auditor"},
    "GET /v1/merchant/statement": {"merchant"},
    "POST /v1/groups/{group}/giving-up": {"operator"},
    "POST /v1/groups/{group}/giving-up/approval": {"operator"},
    "GET /v1/me/particulars": {"tourist"},
    "POST /v1/me/particulars": {"tourist"},
    "POST /v1/me/erasure": {"tourist"},
    "GET /v1/persons/{person}/particulars": {"operator", "auditor"},
    "POST /v1/persons/{person}/inspections": {"operator"},
    "POST /v1/persons/{person}/erasure": {"operator"},
    "POST /v1/persons/{person}/erasure/approval": {"operator"},
}


def test_every_address_has_its_roles(app: App) -> None:
    """S08, S09: another role is 403 before anything is looked at; an auditor writes nothing."""
    inner = {
        f"{m} {path}" for m, path in addresses() if path not in OPEN_TO_ALL | HASHES | ADMIN_ONLY
    }
    assert inner == set(ALLOWED)
    for call, roles in ALLOWED.items():
        method, template = call.split()
        for role in ("tourist", "merchant", "operator", "auditor"):
            reply = app.call(method, filled(template), token=app.token(role))
            refused = reply.status_code == 403 and reply.json()["code"] == "role_forbidden"
            assert refused == (role not in roles), (call, role, reply.text)
    assert app.events() == 0


def test_checks_come_in_their_order(app: App) -> None:
    """Who, then the key, then the role, then the address, then the body: the first wrong one."""
    address = "/v1/campaigns/nowhere/pause"
    expected: list[tuple[dict[str, Any], str]] = [
        ({"token": None, "key": ""}, "unauthenticated"),
        ({"token": app.token("tourist"), "key": ""}, "idempotency_key_missing"),
        ({"token": app.token("tourist"), "key": "k" * 200}, "idempotency_key_invalid"),
        ({"token": app.token("tourist")}, "role_forbidden"),
        ({"token": app.token("operator")}, "not_found"),
    ]
    for how, code in expected:
        reply = app.post(address, content=b"{", **how)
        assert reply.json()["code"] == code
    body_first = app.post(
        f"/v1/campaigns/{SOME['campaign']}/pause", {}, token=app.token("operator")
    )
    assert body_first.json()["code"] == "invalid_body"


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "HEAD", "OPTIONS", "TRACE", "BREW"])
def test_swapped_verbs_are_refused(app: App, method: str) -> None:
    """S10: 405 with the methods that there are; override headers have no effect."""
    for template in sorted({path for _, path in addresses()}):
        offered = {m for m, path in addresses() if path == template}
        if method in offered:
            continue
        override = [("X-HTTP-Method-Override", "POST"), ("X-Method-Override", "DELETE")]
        reply = app.call(method, filled(template), headers=override, token=app.token("operator"))
        assert reply.status_code == 405, template
        assert set(reply.headers["allow"].split(", ")) == offered
        assert reply.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize(
    "extra",
    [{"owner_id": "x"}, {"status": "open"}, {"amount": 1}, {"role": "operator"}, {"person": "x"}],
)
def test_fields_that_are_not_asked_for_are_refused(app: App, extra: dict[str, Any]) -> None:
    """S11: nobody sets an owner, a state or an amount by adding a field."""
    (name,) = extra
    redemption = {"order": "1", "order_total": yuan(80)}
    calls = [
        ("tourist", f"/v1/campaigns/{SOME['campaign']}/claims", {}),
        ("operator", "/v1/campaigns", draft_body()),
        ("merchant", f"/v1/coupons/{SOME['coupon']}/redemptions", redemption),
    ]
    for role, address, body in calls:
        reply = app.post(address, {**body, **extra}, token=app.token(role))
        assert reply.status_code == 422
        assert {
            "field": name,
            "rule": "extra_field",
            "message": "This field is not known here.",
        } in (reply.json()["errors"])
    assert app.events() == 0


def test_a_missing_key_is_explained(app: App) -> None:
    """S13: 400 with a link to what the header is for."""
    reply = app.claim(SOME["campaign"], key="")
    assert (reply.status_code, reply.json()["code"]) == (400, "idempotency_key_missing")
    assert reply.headers["link"] == '</problems/idempotency_key_missing>; rel="describedby"'
    assert app.get("/problems/idempotency_key_missing").status_code == 200


def test_operations_do_not_exist_outside_the_admin_networks(app: App) -> None:
    """S46: neither docs nor metrics nor development, and nothing old or hidden."""
    for address in (
        "/docs", "/docs/assets/docs.js", "/openapi.json", "/metrics", "/readyz", "/dev/jwks.json",
        "/.well-known/openid-configuration", "/admin", "/v0", "/v0/campaigns", "/redoc", "/debug",
        "/.git/config", "/.env", "/v1", "/",
    ):  # fmt: skip
        reply = app.get(address)
        assert (reply.status_code, reply.json()["code"]) == (404, "not_found"), address
    token = {"role": "operator", "identity": "me"}
    assert app.post("/dev/token", token).status_code == 404
    assert app.post("/dev/token", token, admin=True).status_code == 200


def test_a_forwarded_address_is_believed_only_from_own_proxies(make_app: MakeApp) -> None:
    """S46: a header cannot make a caller an admin, or hide it behind a proxy that is not ours."""
    claim_to_be_local = [("X-Forwarded-For", "127.0.0.1")]
    assert make_app().get("/metrics", headers=claim_to_be_local).status_code == 404
    behind = make_app(trusted_proxies=1)
    assert behind.get("/metrics", headers=claim_to_be_local).status_code == 200
    outside = [("X-Forwarded-For", "127.0.0.1, 198.51.100.9")]
    assert behind.get("/metrics", headers=outside, admin=True).status_code == 404


def test_there_is_no_development_issuer_unless_it_is_switched_on(make_app: MakeApp) -> None:
    """S46: in real use nobody gets a token here."""
    app = make_app(
        dev_issuer=False, oidc_issuer="https://id.example", oidc_jwks_url="http://127.0.0.1:9/jwks"
    )
    for address in ("/dev/jwks.json", "/.well-known/openid-configuration"):
        assert app.get(address, admin=True).status_code == 404
    token = {"role": "operator", "identity": "me"}
    assert app.post("/dev/token", token, admin=True).status_code == 404


def test_every_answer_has_the_security_headers(app: App) -> None:
    """S47: whatever the status; no CORS, no caching, nobody frames or sniffs."""
    replies = [
        app.claim(app.open_campaign()),
        app.get("/v1/wallet", token=app.token("tourist")),
        app.get("/v1/wallet"),
        app.get("/nowhere"),
        app.call("PUT", "/v1/campaigns"),
        app.get("/healthz"),
        app.get("/readyz", admin=True),
        app.get("/wallet", headers=[("Origin", "https://evil.example")]),
        app.call("OPTIONS", "/v1/wallet", headers=[("Origin", "https://evil.example")]),
    ]
    for reply in replies:
        for name, value in SECURITY_HEADERS:
            assert reply.headers[name.decode()] == value.decode()
        assert reply.headers["cache-control"] == "no-store"
        assert reply.headers["x-request-id"]
        assert not any(name.startswith("access-control-") for name in reply.headers)


def test_pages_keep_a_policy_of_their_own(app: App) -> None:
    """S47, S48: pages run no inline script and load nothing from elsewhere."""
    docs = app.get("/docs", admin=True)
    assert "script-src 'self';" in docs.headers["content-security-policy"]
    assert "http" not in docs.text.replace("<!doctype html>", "").replace("HTTP interface", "")
    for asset in ("swagger-ui.css", "swagger-ui-bundle.js", "favicon.png", "docs.js"):
        assert app.get(f"/docs/assets/{asset}", admin=True).status_code == 200
    for outside in ("..%2fdocs.html", "nothing.js", "__init__.py"):
        assert app.get(f"/docs/assets/{outside}", admin=True).status_code == 404


def test_markup_in_a_name_stays_text(app: App) -> None:
    """S48: it is stored and served as JSON, never as a page."""
    campaign = app.open_campaign(name="<script>alert(1)</script>")
    app.project()
    reply = app.get(f"/v1/campaigns/{campaign}", token=app.token("operator"))
    assert reply.headers["content-type"] == "application/json"
    assert reply.headers["x-content-type-options"] == "nosniff"
    assert reply.json()["name"] == "<script>alert(1)</script>"


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        ("checkout-7f3a9c21", True),
        ("0" * 65, False),
        ("short", False),
        ("with space in it", False),
        ('"}{"evil":"log-line', False),
        ("13800138000", False),
        ("a" * 8, True),
    ],
)
def test_a_sane_request_id_is_kept(app: App, sent: str, kept: bool) -> None:
    """Another one is replaced, so that nobody writes into the log through it."""
    reply = app.get("/healthz", headers=[("X-Request-Id", sent)])
    assert (reply.headers["x-request-id"] == sent) == kept
    assert sent not in app.get("/nowhere", headers=[("X-Request-Id", sent)]).text


def test_a_fault_of_ours_is_an_honest_500(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is a problem with a request id and without any inside."""
    from api.routes.campaigns import CLAIM

    def broken(*_: Any) -> Any:
        raise ZeroDivisionError("secret inside")

    monkeypatch.setattr(app.service.tokens, "known", broken)
    fast = app.claim(SOME["campaign"])
    ordinary = app.get("/v1/wallet", token=app.token("tourist"))
    for reply in (fast, ordinary):
        assert (reply.status_code, reply.json()["code"]) == (500, "internal_error")
        assert "secret" not in reply.text
        assert reply.headers["x-request-id"]
    assert CLAIM.route in app.get("/metrics", admin=True).text
