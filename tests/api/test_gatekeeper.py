"""The gate in the service: refusals without the writer, true ones, and nothing else changed."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
import redis

from api.ratelimit import LOCAL_BUCKETS_MAX
from campaigns.campaign import POOL
from campaigns.gate import tag_of
from ledger.books import PublicId
from tests.api.conftest import MakeApp
from tests.api.harness import App, draft_body


@pytest.fixture
def client(redis_url: str) -> Iterator[Any]:
    """A client of the gate's Valkey."""
    with redis.Redis.from_url(redis_url) as found:
        yield found


def tag(campaign: str) -> str:
    """What the keys of a campaign begin with."""
    return tag_of((PublicId.parse(campaign, "cmp").uuid, POOL))


def knows(app: App, client: Any, campaign: str) -> None:
    """Have the gate know a campaign, which takes a coupon, and wait until it does."""
    app.claim(campaign, "whoever is first")
    app.wait_until(lambda: client.exists(f"{tag(campaign)}h"))


def knock_until_known(app: App, client: Any, campaign: str) -> httpx.Response:
    """Have the gate know a campaign that takes no claims now; return what the store says."""
    told = app.claim(campaign, "whoever is first")
    app.wait_until(lambda: client.exists(f"{tag(campaign)}h"))
    return told


def decided(app: App) -> int:
    """How many requests the writers have decided."""
    return sum(writer.committed_requests for writer in app.service.writers.values())


def is_said(app: App, client: Any, campaign: str, who: str) -> None:
    """Press until the gate says «sold out»."""
    app.claim(campaign, who)
    app.wait_until(lambda: client.exists(f"{tag(campaign)}s"))


def test_a_refusal_by_the_gate_is_the_stores_without_the_writer(app: App, client: Any) -> None:
    """Who comes when all is gone hears the same bytes, and costs the writer nothing."""
    campaign = app.open_campaign(quota=2)
    knows(app, client, campaign)
    assert app.claim(campaign, "two").status_code == 201
    by_the_store = app.claim(campaign, "three")
    is_said(app, client, campaign, "four")
    before = decided(app), app.events()
    for n in range(20):
        by_the_gate = app.claim(campaign, f"late {n}")
        assert by_the_gate.status_code == 409
        assert by_the_gate.content == by_the_store.content
    assert (decided(app), app.events()) == before


def test_a_person_who_has_a_coupon_is_refused_without_the_writer(app: App, client: Any) -> None:
    """With the same bytes as the store's."""
    campaign = app.open_campaign(quota=20)
    knows(app, client, campaign)
    assert app.claim(campaign, "ann", key="first").status_code == 201
    told = [app.claim(campaign, "ann", key=f"again {n}") for n in range(5)]
    assert {reply.json()["code"] for reply in told} == {"already_claimed"}
    assert len({reply.content for reply in told}) == 1
    before = decided(app)
    assert app.claim(campaign, "ann").content == told[0].content
    assert decided(app) == before
    assert app.service.gatekeeper is not None
    app.service.gatekeeper.gate.doors.clear()
    client.flushall()
    by_the_store = app.claim(campaign, "ann")
    assert by_the_store.content == told[0].content


def test_a_repeat_of_a_claim_is_never_refused(app: App, client: Any) -> None:
    """Also when the gate has forgotten the person and all is gone."""
    campaign = app.open_campaign(quota=2)
    knows(app, client, campaign)
    first = app.claim(campaign, "ann", key="k")
    assert first.status_code == 201
    client.delete(f"{tag(campaign)}p0", f"{tag(campaign)}p1")
    app.claim(campaign, "bob")
    is_said(app, client, campaign, "cy")
    for _ in range(3):
        again = app.claim(campaign, "ann", key="k")
        assert (again.status_code, again.content) == (201, first.content)
        assert again.headers["idempotency-replayed"] == "true"


def test_a_kept_refusal_stays_the_first_one(app: App, client: Any) -> None:
    """A key that the store has answered is answered by the store."""
    campaign = app.open_campaign(quota=1)
    knows(app, client, campaign)
    kept: list[httpx.Response] = []

    def is_kept() -> bool:
        before = decided(app)
        client.delete(f"{tag(campaign)}s")
        kept.append(app.claim(campaign, f"ann {len(kept)}", key="k"))
        return decided(app) > before

    app.wait_until(is_kept)
    first = kept[-1]
    assert first.json()["code"] == "sold_out"
    is_said(app, client, campaign, "bob")
    again = app.claim(campaign, f"ann {len(kept) - 1}", key="k")
    assert again.content == first.content
    assert again.headers["idempotency-replayed"] == "true"


def test_a_lie_of_the_gate_refuses_nobody(app: App, client: Any) -> None:
    """«Sold out» for ever, no tokens and a mark on everybody: the store knows better (F19)."""
    campaign = app.open_campaign(quota=20)
    knows(app, client, campaign)
    lie = b'\x93\xce\x3b\x9a\xca\x00\xa8sold_out\xad[["quota",2]]'
    for n in range(5):
        client.set(f"{tag(campaign)}s", lie)
        client.hset(f"{tag(campaign)}h", "t", 0)
        assert app.claim(campaign, f"person {n}").status_code == 201
    app.wait_until(lambda: not client.exists(f"{tag(campaign)}s"))


def test_what_comes_before_sold_out_is_said_first(app: App, client: Any) -> None:
    """A paused campaign that is sold out is not open, and who has a coupon has one."""
    campaign = app.open_campaign(quota=1)
    knows(app, client, campaign)
    is_said(app, client, campaign, "bob")
    client.delete(f"{tag(campaign)}p0", f"{tag(campaign)}p1")
    assert app.claim(campaign, "whoever is first").json()["code"] == "already_claimed"
    pause = f"/v1/campaigns/{campaign}/pause"
    assert app.post(pause, {"reason": "a test"}, token=app.token("operator")).is_success
    assert app.claim(campaign, "cy").json()["code"] == "not_open"
    assert app.claim(campaign, "whoever is first").json()["code"] == "not_open"


def test_who_is_early_hears_the_store_without_the_writer(app: App, client: Any) -> None:
    """With the store's bytes, and nobody who is early takes a token; so do those who are late."""
    soon = datetime.now(UTC) + timedelta(hours=1)
    window = draft_body(soon + timedelta(minutes=1))["claim_window"]
    campaign = app.open_campaign(quota=5, claim_window=window)
    early = knock_until_known(app, client, campaign)
    assert early.json()["code"] == "not_open"
    assert datetime.fromisoformat(early.json()["opens_at"]) == soon
    before = decided(app), app.events()
    for n in range(10):
        assert app.claim(campaign, f"person {n}").content == early.content
    pause = f"/v1/campaigns/{campaign}/pause"
    assert app.post(pause, {"reason": "a test"}, token=app.token("operator")).is_success
    assert app.claim(campaign, "cy").json()["state"] == "paused"
    assert (decided(app), app.events()) == (before[0] + 2, before[1] + 1)


def test_who_is_early_by_valkeys_clock_only_gets_a_coupon(app: App, client: Any) -> None:
    """The instant is the store's; nobody is refused because another clock is slow."""
    campaign = app.open_campaign(quota=9)
    knows(app, client, campaign)
    for n in range(5):
        client.hset(f"{tag(campaign)}h", "b", f"{time.time_ns() // 1_000 + 3_600_000_000}")
        assert app.claim(campaign, f"person {n}").status_code == 201


def test_a_freed_coupon_can_be_claimed_at_once(app: App, client: Any) -> None:
    """The writer tells the gate before it commits."""
    campaign = app.open_campaign(quota=2, restock=True)
    knows(app, client, campaign)
    coupon = app.claimed(campaign, "ann")
    for n in range(10):
        is_said(app, client, campaign, f"late {n}")
        path = f"/v1/coupons/{coupon}/void"
        assert app.post(path, {"reason": "a test"}, token=app.token("operator")).is_success
        coupon = app.claimed(campaign, f"lucky {n}")


def test_a_raised_quota_can_be_claimed_at_once(app: App, client: Any) -> None:
    """More stock is freed stock."""
    campaign = app.open_campaign(quota=1)
    knows(app, client, campaign)
    is_said(app, client, campaign, "bob")
    funds = {"quota": 2, "budget": {"amount_minor": 10_000, "currency": "CNY"}}
    seen = {"current_quota": 1, "current_budget_minor": 5_000}
    for step, body, who in (
        ("funding", {**funds, **seen}, "operator one"),
        ("funding/approval", funds, "operator two"),
    ):
        path = f"/v1/campaigns/{campaign}/{step}"
        reply = app.post(path, body, token=app.token("operator", who))
        assert reply.is_success, reply.text
    assert app.claim(campaign, "cy").status_code == 201


def test_two_servers_share_the_gate(make_app: MakeApp, client: Any) -> None:
    """What one knows, the other one says."""
    one, two = make_app(), make_app()
    campaign = one.open_campaign(quota=3)
    knows(one, client, campaign)
    assert one.claim(campaign, "ann").status_code == 201
    two.claim(campaign, "bob")
    is_said(one, client, campaign, "cy")

    def is_refused_without_the_writer() -> bool:
        before = decided(two)
        assert two.claim(campaign, "eve").json()["code"] == "sold_out"
        return decided(two) == before

    two.wait_until(is_refused_without_the_writer)


def test_a_person_in_haste_is_slowed_at_the_gate(make_app: MakeApp, client: Any) -> None:
    """And on this server when the gate is away."""
    app = make_app(rate_tourist_per_s=0.1, rate_tourist_burst=3)
    campaign = app.open_campaign()
    knows(app, client, campaign)
    statuses = [app.claim(campaign, "hasty", key="same").status_code for _ in range(5)]
    assert statuses == [201, 201, 201, 429, 429]
    assert app.claim(campaign, "patient").status_code == 201
    assert LOCAL_BUCKETS_MAX > 0


def test_in_simulated_time_there_is_no_gate(make_app: MakeApp) -> None:
    """What a claim is told depends on an instant that the gate cannot know."""
    app = make_app(clock="request")
    assert app.service.gatekeeper is None
    app.time = datetime.now(UTC).isoformat()
    campaign = app.open_campaign(quota=1)
    assert app.claim(campaign, "ann").status_code == 201


def test_the_metrics_tell_of_the_gate(app: App, client: Any) -> None:
    """By verdict, and whether it is there."""
    campaign = app.open_campaign(quota=2)
    knows(app, client, campaign)
    app.claim(campaign, "ann")

    def told() -> bool:
        text = app.get("/metrics", admin=True).text
        return 'tidebook_gate_words{verdict="admitted"}' in text and (
            "tidebook_gate_epochs" in text
        )

    app.wait_until(told)
    assert "tidebook_gate_away 0.0" in app.get("/metrics", admin=True).text


def test_no_person_is_readable_at_the_gate(app: App, client: Any) -> None:
    """Pseudonyms and marks only: no identity, no address."""
    campaign = app.open_campaign(quota=5)
    knows(app, client, campaign)
    app.claim(campaign, "identity-in-the-clear")
    time.sleep(0.05)
    kept = b""
    for key in client.scan_iter():
        kept += key + client.dump(key)
    assert b"identity-in-the-clear" not in kept
    assert b"203.0.113.7" not in kept
