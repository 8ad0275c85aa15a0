"""The server as a process: it starts, serves, drains and ends, or says why it does not start."""

from __future__ import annotations

import json
import re
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import httpx
import psutil
import psycopg2
import pytest

from api.embedded import EmbeddedPostgres
from tests.api.served import Server


def test_a_server_serves_and_ends_without_leaving_anything(
    start: Callable[..., Server],
) -> None:
    """Port 0 is a free port that is printed; SIGTERM ends all processes with status 0."""
    server = start(workers=2)
    campaign = server.open_campaign(5)
    tourist = server.token("tourist", "a tourist")
    first = server.post(f"/v1/campaigns/{campaign}/claims", tourist, "k")
    again = server.post(f"/v1/campaigns/{campaign}/claims", tourist, "k")
    assert (first.status_code, again.status_code) == (201, 201)
    assert first.content == again.content
    processes = server.descendants()
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(40) == 0
    _, alive = psutil.wait_procs(processes, timeout=10)
    assert not alive
    lines = server.log.read_text().splitlines()
    assert lines[0].startswith("tidebook listens on http://127.0.0.1:")
    assert {json.loads(line)["event"] for line in lines[1:]} == {"request"}


def test_metrics_are_those_of_all_workers(start: Callable[..., Server]) -> None:
    """Whichever worker answers, it tells of all requests."""
    server = start(workers=2)
    for _ in range(40):
        httpx.get(f"{server.url}/healthz")
    wanted = re.compile(
        r'tidebook_http_requests_total\{method="GET",route="/healthz",status="200"\} (\d+)'
    )
    deadline = time.monotonic() + 10
    while True:
        found = wanted.search(httpx.get(f"{server.url}/metrics").text)
        if found and int(found[1]) >= 41:
            return
        assert time.monotonic() < deadline, found
        time.sleep(0.2)


@pytest.mark.slow
def test_a_stopped_server_finishes_what_is_queued(
    start: Callable[..., Server], database_url: str
) -> None:
    """SIGTERM in the middle of a rush: what was answered 201 is stored, the rest gets no 201."""
    server = start()
    campaign = server.open_campaign(100_000)
    tokens = [server.token("tourist", f"tourist {n}") for n in range(8)]
    answers: Counter[int] = Counter()
    stop = threading.Event()

    def claim(token: str) -> None:
        with httpx.Client(headers={"Authorization": f"Bearer {token}"}, timeout=30) as client:
            n = 0
            while not stop.is_set():
                n += 1
                headers = {"Idempotency-Key": f"{token[-20:]}-{n}"}
                try:
                    reply = client.post(
                        f"{server.url}/v1/campaigns/{campaign}/claims", headers=headers
                    )
                except httpx.TransportError:
                    answers[0] += 1
                    return
                answers[reply.status_code] += 1

    threads = [threading.Thread(target=claim, args=(token,)) for token in tokens]
    for thread in threads:
        thread.start()
    time.sleep(1.0)
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(40) == 0
    stop.set()
    for thread in threads:
        thread.join(40)
    connection = psycopg2.connect(database_url)
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM tidebook.event WHERE topic = 'coupon.claimed'")
        (stored,) = cursor.fetchone() or (0,)
        cursor.execute("SELECT count(*) FROM tidebook.event WHERE request IS NOT NULL")
        (recorded,) = cursor.fetchone() or (0,)
    connection.close()
    assert stored == recorded == answers[201] == len(tokens)
    assert not {500, 502} & set(answers)


def test_workers_end_when_the_main_process_is_killed(start: Callable[..., Server]) -> None:
    """Kill -9 leaves no worker behind that would go on listening."""
    server = start(workers=2)
    processes = server.descendants()
    server.process.kill()
    _, alive = psutil.wait_procs(processes, timeout=20)
    assert not alive


def test_a_killed_worker_is_replaced(start: Callable[..., Server]) -> None:
    """The server goes on when one of its workers dies."""
    server = start(workers=2)
    workers = [
        process
        for process in server.descendants()[1:]
        if "resource_tracker" not in " ".join(process.cmdline())
    ]
    workers[0].kill()
    deadline = time.monotonic() + 30
    while True:
        try:
            if httpx.get(f"{server.url}/readyz", timeout=5).status_code == 200:
                break
        except httpx.TransportError:
            pass
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert server.process.poll() is None


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"dev_issuer": False}, "nobody could sign in"),
        ({"oidc_issuer": "https://id.example"}, "exclude each other"),
        ({"url": "postgresql://127.0.0.1:1/nowhere"}, "the database cannot be used"),
    ],
)
def test_a_server_that_cannot_work_says_why(
    start: Callable[..., Server], settings: dict[str, Any], reason: str
) -> None:
    """Status 1 and one line, before anybody listens."""
    server = start(answers=False, **settings)
    assert server.process.wait(60) == 1
    lines = server.log.read_text().splitlines()
    assert len(lines) == 1
    assert reason in lines[0]


def test_a_database_that_was_not_migrated_is_named(
    start: Callable[..., Server], empty_database_url: str
) -> None:
    """The message says what to run."""
    server = start(answers=False, url=empty_database_url)
    assert server.process.wait(60) == 1
    assert "tidebook migrate" in server.log.read_text()


def test_an_unsafe_database_is_refused(
    start: Callable[..., Server], postgres_server: EmbeddedPostgres, database_url: str
) -> None:
    """With synchronous_commit off, an answered claim could be lost: no server starts on that."""
    name = database_url.partition("@/")[2].partition("?")[0]
    connection = psycopg2.connect(postgres_server.url_of("postgres"))
    connection.autocommit = True
    with connection.cursor() as cursor:
        cursor.execute(f"ALTER DATABASE {name} SET synchronous_commit = off")
    connection.close()
    server = start(answers=False)
    assert server.process.wait(60) == 1
    assert "synchronous_commit is 'off'" in server.log.read_text()


def test_the_server_is_the_applications_role(
    start: Callable[..., Server], database_url: str
) -> None:
    """S39: its connections cannot change what is written, even though it logs in as the owner."""
    server = start()
    server.open_campaign(1)
    connection = psycopg2.connect(f"{database_url}")
    with connection.cursor() as cursor:
        cursor.execute("SET ROLE tidebook_app")
        for statement in ("UPDATE tidebook.event SET topic = 'x'", "DELETE FROM tidebook.event"):
            with pytest.raises(psycopg2.errors.InsufficientPrivilege):
                cursor.execute(statement)
            connection.rollback()
            cursor.execute("SET ROLE tidebook_app")
    connection.close()
