"""A store that is slow, full or away: what is known is said, and the same key tells later."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator
from typing import Any

import psycopg2

from tests.api.conftest import MakeApp
from tests.api.harness import App


@contextlib.contextmanager
def held(app: App) -> Iterator[None]:
    """Hold the book's lock as another writer would, so that nobody commits."""
    assert app.settings.database_url is not None
    connection = psycopg2.connect(app.settings.database_url.get_secret_value())
    with connection.cursor() as cursor:
        cursor.execute("SELECT FROM tidebook.book_head WHERE book = 'main' FOR UPDATE")
    try:
        yield
    finally:
        connection.close()


def told(reply: Any) -> tuple[int, str]:
    """Status and code."""
    return reply.status_code, reply.json()["code"]


def test_a_slow_commit_is_unknown_and_its_key_tells_later(make_app: MakeApp) -> None:
    """S14: 503 for the first, 409 for a copy while it runs, and then one effect for the key."""
    app = make_app(commit_timeout_s=0.3)
    campaign = app.open_campaign()
    events = app.events()
    with held(app):
        first = app.claim(campaign, key="k")
        copy = app.claim(campaign, key="k")
        other = app.post(
            f"/v1/campaigns/{campaign}/claims",
            token=app.token("tourist"),
            key="k2",
        )
    assert told(first) == (503, "outcome_unknown")
    assert told(copy) == (409, "idempotency_in_flight")
    assert told(other) == (503, "outcome_unknown")
    assert "retry-after" in first.headers
    app.wait_until(lambda: app.events() > events)
    later = app.claim(campaign, key="k")
    assert later.status_code == 201
    assert later.headers["idempotency-replayed"] == "true"
    assert app.events() == events + 1


def test_another_body_for_a_key_in_flight_is_refused_at_once(make_app: MakeApp) -> None:
    """The key already stands for the first request, even before that is decided."""
    app = make_app(commit_timeout_s=0.5)
    one, two = app.open_campaign(name="one"), app.open_campaign(name="two")
    token = app.token("tourist")
    with held(app):
        first = app.start("POST", f"/v1/campaigns/{one}/claims", token=token, key="k")
        app.wait_until(lambda: app.service.writers["main"]._in_flight)  # type: ignore[index]
        second = app.post(f"/v1/campaigns/{two}/claims", token=token, key="k")
    assert told(second) == (422, "idempotency_key_reused")
    first.result(10)


def test_a_full_queue_says_no_at_once(make_app: MakeApp) -> None:
    """503 with Retry-After and surely no effect, while those that wait are served later."""
    app = make_app(queue_max=5, batch_max=1, commit_timeout_s=20)
    campaign = app.open_campaign(quota=100)
    events = app.events()
    address = f"/v1/campaigns/{campaign}/claims"
    with held(app):
        answers = [
            app.start("POST", address, token=app.token("tourist", f"tourist {n}"))
            for n in range(30)
        ]
        app.wait_until(lambda: sum(answer.done() for answer in answers) >= 24)
        refused = [answer.result() for answer in answers if answer.done()]
        assert {told(reply) for reply in refused} == {(503, "overloaded")}
        assert all(reply.headers["retry-after"] == "1" for reply in refused)
        assert app.get("/healthz").status_code == 200
    statuses = Counter(answer.result(30).status_code for answer in answers)
    assert statuses == {503: len(refused), 201: 30 - len(refused)}
    assert app.events() == events + statuses[201]


def test_a_database_that_is_away_is_told(make_app: MakeApp, database_url: str) -> None:
    """Reads and writes are 503, the process is alive and says that it is not ready."""
    app = make_app(commit_timeout_s=6)
    campaign = app.open_campaign()
    name = database_url.partition("@/")[2].partition("?")[0]
    admin = psycopg2.connect(database_url.replace(name, "postgres", 1))
    admin.autocommit = True
    with admin.cursor() as cursor:
        cursor.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
        cursor.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", (name,)
        )
    try:
        assert told(app.claim(campaign, key="k")) == (503, "store_unavailable")
        wallet = app.get("/v1/wallet", token=app.token("tourist"))
        assert told(wallet) == (503, "store_unavailable")
        assert app.get("/healthz").status_code == 200
        ready = app.get("/readyz", admin=True)
        assert (ready.status_code, ready.json()["status"]) == (503, "unready")
    finally:
        with admin.cursor() as cursor:
            cursor.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
        admin.close()
    assert app.claim(campaign, key="k").status_code == 201
