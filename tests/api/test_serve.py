"""The server as a process: it starts, serves, drains and ends, or says why it does not start."""

from __future__ import annotations

import json
import re
import signal
import socket
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
from api.exchange import SECURITY_HEADERS
from ledger.migrations import migrate
from projections import migrations as projections
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


def test_a_database_without_the_servers_own_tables_is_refused(
    start: Callable[..., Server], empty_database_url: str
) -> None:
    """The book alone is not enough: whoever has no table of ended sessions must not serve."""
    migrate(empty_database_url)
    projections.migrate(empty_database_url)
    server = start(answers=False, url=empty_database_url)
    assert server.process.wait(60) == 1
    [line] = server.log.read_text().splitlines()
    assert "the database lacks api 0001_revocation" in line
    assert "run `tidebook migrate`" in line


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


def raw(server: Server, sent: bytes) -> bytes:
    """Everything that is answered to some bytes, until the server hangs up."""
    host, port = server.url.removeprefix("http://").split(":")
    answers = b""
    with socket.create_connection((host, int(port)), timeout=60) as connection:
        connection.sendall(sent)
        while data := connection.recv(1 << 16):
            answers += data
    return answers


def test_bytes_that_no_client_library_sends_are_answered(start: Callable[..., Server]) -> None:
    """S10, S47 over the wire: slow, ambiguous and odd requests, each in the service's own form."""
    server = start(request_timeout_s=0.5)
    address = b" /v1/wallet HTTP/1.1\r\nHost: x\r\n"
    slow = (
        b"POST /v1/campaigns HTTP/1.1\r\nIdempotency-Key: slow\r\nContent-Length: 10\r\n"
        b"Authorization: Bearer %b\r\n\r\n{" % server.token("operator", "one").encode()
    )
    both = b"POST" + address + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    expected = {
        slow: b"408 Request Timeout",
        both: b"400 Bad Request",
        b"GET" + address + b"X: " + b"y" * 40_000: b"431 Request Header Fields Too Large",
        **{
            method + address + b"Connection: close\r\n\r\n": b"405 Method Not Allowed"
            for method in (b"HEAD", b"TRACE", b"PUT", b"OPTIONS", b"BREW", b"PROPFIND")
        },
    }
    for sent, status in expected.items():
        answers = raw(server, sent)
        head = answers.partition(b"\r\n\r\n")[0].lower() + b"\r\n"
        assert answers.startswith(b"HTTP/1.1 " + status), sent[:40]
        assert len(re.findall(rb"HTTP/1\.1 \d", answers)) == 1
        for name, value in ((b"content-type", b"application/problem+json"), *SECURITY_HEADERS):
            assert b"\r\n%b: %b\r\n" % (name, value.lower()) in head
        assert b"\r\nconnection: close\r\n" in head
    assert 'status="408"' in httpx.get(f"{server.url}/metrics").text


def test_one_connection_too_many_is_refused(start: Callable[..., Server]) -> None:
    """503, and those who are connected go on."""
    server = start(connections_max=2)
    with httpx.Client(base_url=server.url) as one, httpx.Client(base_url=server.url) as two:
        for client in (one, two):
            assert client.get("/healthz").status_code == 200
        refused = httpx.get(f"{server.url}/healthz")
        assert (refused.status_code, refused.json()["code"]) == (503, "overloaded")
        assert one.get("/healthz").status_code == 200
    deadline = time.monotonic() + 30
    while httpx.get(f"{server.url}/healthz").status_code != 200:
        assert time.monotonic() < deadline
