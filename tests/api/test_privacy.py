"""S49: no identity leaves its token: not into the store, the logs, the metrics or an error."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import psycopg2
import pytest
import redis
import structlog

from api import logs
from api.app import create_app
from api.service import Service
from tests.api.harness import App, settings_for, yuan

PHONE = "13800138000"
IDENTITY = "46020019990101123X"
PLANTED = (PHONE, IDENTITY)


@pytest.fixture
def written() -> Any:
    """What the process logs, as text on demand."""
    stream = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    log = logs.configure("debug", stream)

    def text() -> str:
        log.flush()
        buffer = stream.buffer
        assert isinstance(buffer, io.BytesIO)
        return buffer.getvalue().decode()

    yield log, text
    structlog.reset_defaults()


def everything_stored(database_url: str) -> str:
    """All rows of all tables as text."""
    connection = psycopg2.connect(database_url)
    rows: list[Any] = []
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT format('%I.%I', schemaname, tablename) FROM pg_tables"
            " WHERE schemaname = 'tidebook' OR schemaname LIKE 'rm%'"
        )
        for (table,) in cursor.fetchall():
            cursor.execute(f"SELECT t::text FROM {table} AS t")
            rows += cursor.fetchall()
            cursor.execute(f"SELECT to_json(t)::text FROM {table} AS t")
            rows += cursor.fetchall()
            if table in ("tidebook.event", "tidebook.idempotency"):
                column = "state" if table.endswith("event") else "body"
                cursor.execute(f"SELECT convert_from({column}, 'UTF8') FROM {table}")
                rows += cursor.fetchall()
    connection.close()
    return "\n".join(map(str, rows))


def test_planted_identities_appear_nowhere(
    database_url: str, redis_url: str, tmp_path: Path, written: Any
) -> None:
    """A whole life, with mistakes, of somebody with a telephone number and an identity number."""
    log, log_text = written
    settings = settings_for(database_url, redis_url, tmp_path, rate_tourist_per_s=100)
    app = App(settings)
    app.service.log = log
    app.asgi = create_app(app.service)
    app.client._transport.app = app.asgi  # type: ignore[attr-defined]
    app.admin._transport.app = app.asgi  # type: ignore[attr-defined]
    replies = []
    try:
        campaign = app.open_campaign()
        me = app.service.dev_issuer.token("tourist", IDENTITY)  # type: ignore[union-attr]
        claims = f"/v1/campaigns/{campaign}/claims"
        claimed = app.post(claims, token=me, headers=[("X-Request-Id", PHONE)])
        coupon = claimed.json()["coupon"]
        shop = app.token("merchant", f"till of {PHONE}")
        order = {"order": "1", "order_total": yuan(80)}
        replies = [
            claimed,
            app.post(claims, token=me),
            app.post(claims, {"phone": PHONE, PHONE: 1}, token=me),
            app.post(claims, {"identity": IDENTITY}, token=me),
            app.post(claims, content=PHONE.encode(), token=me),
            app.post(f"/v1/campaigns/{PHONE}/claims", token=me),
            app.get(f"/v1/coupons/{PHONE}?phone={PHONE}", token=me),
            app.get(f"/v1/wallet?{PHONE}={IDENTITY}", token=me),
            app.get(f"/v1/wallet?after={PHONE}&state={PHONE}", token=me),
            app.get(f"/{PHONE}", token=me),
            app.call(PHONE, "/v1/wallet", token=me),
            app.get("/v1/wallet", token=me[:-3]),
            app.post("/v1/campaigns", {"name": {"phone": PHONE}}, token=app.token("operator")),
            app.post(f"/v1/coupons/{coupon}/redemptions", order, token=shop),
            app.post("/dev/token", {"role": "x", "identity": IDENTITY}, admin=True),
        ]
        app.project()
        replies += [app.get("/v1/wallet", token=me), app.get("/metrics", admin=True)]
        stored = everything_stored(database_url)
        with redis.Redis.from_url(redis_url) as client:
            hinted = str(list(client.scan_iter()))
    finally:
        app.close()
    shown = "\n".join(f"{reply.status_code} {reply.headers} {reply.text}" for reply in replies)
    logged = log_text()
    for name, text in {"replies": shown, "store": stored, "valkey": hinted, "log": logged}.items():
        for planted in PLANTED:
            assert planted not in text, name
    for secret in (me, me.split(".")[1], "203.0.113.7", coupon.rpartition("_")[2], "spring"):
        assert secret not in logged
    assert me not in stored + hinted
    assert {json.loads(line)["event"] for line in logged.splitlines()} == {"request"}
    assert "coupon.redeemed" in stored


def test_a_request_is_one_line(
    database_url: str, redis_url: str, tmp_path: Path, written: Any
) -> None:
    """With its id, route template, status, code, role and time; nothing more."""
    log, log_text = written
    app = App(settings_for(database_url, redis_url, tmp_path))
    app.service.log = log
    app.asgi = create_app(app.service)
    app.client._transport.app = app.asgi  # type: ignore[attr-defined]
    try:
        token = app.token("tourist")
        address = f"/v1/campaigns/cmp_main_{'0' * 32}/claims"
        app.post(address, token=token, headers=[("X-Request-Id", "request-0001")])
    finally:
        app.close()
    (line,) = [json.loads(line) for line in log_text().splitlines()]
    assert line.pop("ms") > 0
    assert line.pop("timestamp").endswith("Z")
    assert line == {
        "level": "info",
        "event": "request",
        "request_id": "request-0001",
        "method": "POST",
        "route": "/v1/campaigns/{campaign}/claims",
        "status": 404,
        "code": "not_found",
        "role": "tourist",
    }


def test_a_fault_is_logged_without_its_message(written: Any) -> None:
    """Its type and its place are; what it says may quote anything."""
    _, log_text = written
    try:
        int(f"a phone: {PHONE}")
    except ValueError as error:
        structlog.get_logger().error("fault", request_id="r", **logs.fault(error))
    line = json.loads(log_text())
    assert PHONE not in json.dumps(line)
    assert line["error"] == "builtins.ValueError"
    assert "test_a_fault_is_logged_without_its_message" in line["where"][-1]


def test_the_pseudonym_key_of_a_ledger_does_not_change(
    database_url: str, redis_url: str, tmp_path: Path
) -> None:
    """Another key would make two persons of one; such a server does not start."""
    first = App(settings_for(database_url, redis_url, tmp_path / "one"))
    first.close()
    other = Service(settings_for(database_url, redis_url, tmp_path / "two"))
    with pytest.raises(Exception, match="begun with another TIDEBOOK_PSEUDONYM_KEY"):
        other.check_database()
    other.datastore.close()
