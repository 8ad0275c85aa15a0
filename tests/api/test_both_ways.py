"""The lane and the ordinary route answer alike: status, headers, bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest

from api.embedded import EmbeddedValkey
from tests.api.harness import App, draft_body, settings_for
from tests.conftest import Databases

NOON = datetime(2026, 5, 1, 12, 0, tzinfo=UTC)


@pytest.fixture(scope="module")
def both(
    databases: Databases, valkey_server: EmbeddedValkey, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[App, App]]:
    """Two services in simulated time with the same keys, one with a lane, one without.

    They see the same calls in the same order, so that all that they answer must be equal.
    """
    home = tmp_path_factory.mktemp("home")
    with databases.fresh() as one, databases.fresh() as two:
        apps = tuple(
            App(settings_for(url, valkey_server.url, home, clock="request"), fast=fast)
            for url, fast in ((one, True), (two, False))
        )
        for app in apps:
            app.time = NOON.isoformat()
        yield apps[0], apps[1]
        for app in apps:
            app.close()


def seen(reply: httpx.Response) -> tuple[int, dict[str, str], bytes]:
    """Everything that a caller can see of a reply."""
    return reply.status_code, dict(reply.headers), reply.content


def same(both: tuple[App, App], call: Callable[[App], httpx.Response]) -> httpx.Response:
    """Make a call both ways; fail unless the answers are equal; return one of them."""
    fast, ordinary = (call(app) for app in both)
    assert seen(fast) == seen(ordinary)
    return fast


def session(app: App, role: str, who: str = "") -> str:
    """A session token, which both services take; the lane takes calls with it at once."""
    reply = app.post("/v1/sessions", token=app.token(role, who), key="")
    token: str = reply.json()["session_token"]
    return token


def claim(campaign: str, who: str = "a tourist", role: str = "tourist", **how: Any) -> Any:
    """A claim whose token and request id are the same both ways."""
    tokens: list[str] = []

    def call(app: App) -> httpx.Response:
        if not tokens:
            tokens.append(session(app, role, who))
        headers = [("X-Request-Id", "request-0001"), *how.get("headers", [])]
        rest = {name: value for name, value in how.items() if name != "headers"}
        rest.setdefault("token", tokens[0])
        return app.post(f"/v1/campaigns/{campaign}/claims", headers=headers, **rest)

    return call


def opened(both: tuple[App, App], quota: int = 5, **changes: Any) -> str:
    """The same open campaign both ways."""
    (campaign,) = {app.open_campaign(quota, **draft_body(NOON, **changes)) for app in both}
    return campaign


def test_a_claim_and_its_replay(both: tuple[App, App]) -> None:
    """A coupon, and the same coupon again for the same key."""
    campaign = opened(both)
    first = same(both, claim(campaign, key="replayed"))
    assert first.status_code == 201
    again = same(both, claim(campaign, key="replayed"))
    assert again.content == first.content
    assert again.headers["idempotency-replayed"] == "true"
    assert again.headers["tidebook-position"] == first.headers["tidebook-position"]


def test_refusals_by_the_rules(both: tuple[App, App]) -> None:
    """Claimed already, limit reached, sold out, absent, not open, key reused."""
    campaign = opened(both, quota=1)
    same(both, claim(campaign, key="reused"))
    codes = [
        same(both, claim(campaign)).json()["code"],
        same(both, claim(campaign, "another")).json()["code"],
        same(both, claim("cmp_main_" + "0" * 32)).json()["code"],
        same(both, claim(opened(both, name="other"), key="reused")).json()["code"],
    ]
    assert codes == ["already_claimed", "sold_out", "not_found", "idempotency_key_reused"]


@pytest.mark.parametrize(
    ("how", "code"),
    [
        ({"token": ""}, "unauthenticated"),
        ({"token": "x.y.z"}, "unauthenticated"),
        ({"headers": [("Authorization", "Bearer a"), ("Authorization", "Bearer b")]}, None),
        ({"role": "operator"}, "role_forbidden"),
        ({"role": "merchant"}, "role_forbidden"),
        ({"key": ""}, "idempotency_key_missing"),
        ({"key": "k" * 129}, "idempotency_key_invalid"),
        ({"key": "   "}, "idempotency_key_invalid"),
        ({"headers": [("Idempotency-Key", "second")]}, "idempotency_key_invalid"),
        ({"content": b"{"}, "unsupported_media_type"),
        ({"json": []}, "malformed_json"),
        ({"json": {"person": "me"}}, "invalid_body"),
        ({"json": {"n": 2}}, "invalid_body"),
        ({"json": "x" * 70_000}, "body_too_large"),
        ({"headers": [("Tidebook-Time", "noon")]}, "invalid_header"),
    ],
)
def test_refusals_of_the_call(both: tuple[App, App], how: dict[str, Any], code: str | None) -> None:
    """Whatever is wrong with the call itself."""
    campaign = opened(both)
    reply = same(both, claim(campaign, **how))
    if code is not None:
        assert reply.json()["code"] == code, reply.text


@pytest.mark.parametrize(
    "campaign",
    [
        "cmp_main_" + "0" * 31,
        "cmp_other_" + "0" * 32,
        "cpn_main_" + "0" * 32,
        "CMP_main_" + "0" * 32,
        "%00",
        "..",
        "",
        "a%20b",
    ],
)
def test_addresses_that_name_nothing(both: tuple[App, App], campaign: str) -> None:
    """Malformed, absent and foreign ids are one answer, byte for byte."""
    reply = same(both, claim(campaign))
    assert reply.status_code == 404
    assert reply.content == same(both, claim("cmp_main_" + "1" * 32)).content


@pytest.mark.parametrize("method", ["GET", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "TRACE"])
def test_other_methods(both: tuple[App, App], method: str) -> None:
    """Only POST is offered, and no header changes the method."""
    headers = [("X-Request-Id", "request-0001"), ("X-HTTP-Method-Override", "POST")]
    address = "/v1/campaigns/cmp_main_" + "0" * 32 + "/claims"
    reply = same(both, lambda app: app.call(method, address, headers=headers))
    assert reply.status_code == 405
    assert reply.headers["allow"] == "POST"
