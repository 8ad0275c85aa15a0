"""The baselines do what they are compared for: they are honest, or a ratio means nothing."""

from __future__ import annotations

import contextlib
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import psutil
import psycopg
import pytest
from psycopg import sql

from api.embedded.postgres import memory_bytes, settings_for
from loadtest.servers import (
    POSTGRES_SETTINGS,
    Child,
    PeakMemory,
    Postgres,
    StartFailed,
    Valkey,
    answers,
    free_port,
)

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def home() -> Iterator[Path]:
    """A directory that the server's account can reach, with a path short enough for a socket."""
    with tempfile.TemporaryDirectory(prefix="tidebook-test-") as directory:
        Path(directory).chmod(0o711)
        yield Path(directory)


@pytest.fixture(scope="module")
def postgres(home: Path) -> Iterator[Postgres]:
    """The database of the baseline."""
    with Postgres(home / "postgres") as server:
        yield server


@pytest.fixture(scope="module")
def valkey(home: Path) -> Iterator[Valkey]:
    """The memory of the unsafe baseline."""
    with Valkey(home) as server:
        yield server


BASELINES = ("stock", "rows for-update", "rows conditional", "memory")
UNKNOWN_CAMPAIGN = "00000000-0000-4000-8000-000000000000"


@pytest.fixture(scope="module", params=BASELINES)
def baseline(
    request: pytest.FixtureRequest, home: Path, postgres: Postgres, valkey: Valkey
) -> Iterator[httpx.Client]:
    """A baseline, served by one process."""
    name, _, way = request.param.partition(" ")
    store = ["--redis-url", valkey.url]
    if name != "memory":
        store = ["--database-url", database(postgres, f"{name}_{way}".replace("-", "_"))]
    url = f"http://127.0.0.1:{(port := free_port())}"
    argv = [sys.executable, "-m", f"loadtest.baselines.{name}", "--port", str(port), *store]
    argv += ["--workers", "1", *(["--way", way] if way else [])]
    log = home / f"{name}{way}.log"
    with (
        Child(request.param, argv, log=log, ready=lambda: answers(f"{url}/healthz")) as child,
        httpx.Client(base_url=url, timeout=30) as client,
    ):
        assert child.pid
        client.event_hooks["response"] = [lambda reply: tell_failure(reply, log)]
        yield client


def tell_failure(reply: httpx.Response, log: Path) -> None:
    """A baseline that fails says why in its log; the test says it too."""
    if reply.is_server_error:
        time.sleep(1)  # the server answers first and writes then
        pytest.fail(log.read_text(errors="replace")[-6000:])


def database(postgres: Postgres, name: str) -> str:
    """A new database of that name."""
    with psycopg.connect(postgres.url, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    return postgres.url.replace("/postgres?", f"/{name}?")


def campaign(baseline: httpx.Client, quota: int) -> str:
    """A new campaign."""
    reply = baseline.post("/v1/campaigns", json={"name": "rush", "quota": quota})
    assert reply.status_code == 201
    return str(reply.json()["campaign"])


def claim(baseline: httpx.Client, campaign: str, person: str, key: str) -> httpx.Response:
    """A claim of a person."""
    return baseline.post(
        f"/v1/campaigns/{campaign}/claims",
        json={"person": person},
        headers={"Idempotency-Key": key},
    )


def figures(baseline: httpx.Client, campaign: str) -> tuple[int, int, int]:
    """What the baseline says it issued, of how many, and how many claims it holds."""
    said = baseline.get(f"/v1/campaigns/{campaign}/figures").json()
    return said["issued"], said["quota"], said["claims"]


def test_the_database_has_the_settings_of_the_embedded_default() -> None:
    """The baseline's database makes the same promises with the same memory."""
    embedded = settings_for(memory_bytes())
    differing = {
        name: (value, embedded.get(name))
        for name, value in POSTGRES_SETTINGS.items()
        if embedded.get(name) != value
    }
    assert differing == {}


def test_a_claim_is_answered_once_and_replayed(baseline: httpx.Client) -> None:
    """The same key gives the same body; another key is told that the person has one."""
    here = campaign(baseline, 10)
    first, again = claim(baseline, here, "ann", "k 1"), claim(baseline, here, "ann", "k 1")
    assert (first.status_code, again.status_code) == (201, 201)
    assert first.content == again.content
    assert "idempotency-replayed" not in first.headers
    assert again.headers["idempotency-replayed"] == "true"
    other = claim(baseline, here, "ann", "k 2")
    assert (other.status_code, other.json()["code"]) == (409, "already_claimed")
    assert figures(baseline, here) == (1, 10, 1)


def test_a_baseline_never_issues_more_than_its_stock(baseline: httpx.Client) -> None:
    """Sixteen people at once for the last five coupons: five get one, the rest are refused."""
    here = campaign(baseline, 5)
    with ThreadPoolExecutor(16) as people:
        replies = list(people.map(lambda i: claim(baseline, here, f"p{i}", f"k{i}"), range(16)))
    assert sorted(reply.status_code for reply in replies) == [201] * 5 + [409] * 11
    assert {r.json()["code"] for r in replies if r.status_code == 409} == {"sold_out"}
    assert figures(baseline, here) == (5, 5, 5)


def test_refusals_at_many_doors_leave_the_baseline_whole(baseline: httpx.Client) -> None:
    """Sixteen late people, three times over: all hear that it is sold out, none an error."""
    with ThreadPoolExecutor(16) as people:
        for _ in range(3):
            here = campaign(baseline, 1)
            asked = [(here, f"p{i}", f"k{i}") for i in range(16)]
            codes = [r.status_code for r in people.map(lambda a: claim(baseline, *a), asked)]
            assert sorted(codes) == [201] + [409] * 15


def test_one_person_at_many_doors_gets_one_coupon(baseline: httpx.Client) -> None:
    """Sixteen requests of one person at once: one coupon, and the stock is short of one."""
    here = campaign(baseline, 50)
    with ThreadPoolExecutor(16) as doors:
        replies = list(doors.map(lambda i: claim(baseline, here, "ann", f"k{i % 4}"), range(16)))
    codes = {r.json()["code"] for r in replies if r.status_code != 201}
    assert codes == {"already_claimed"}
    assert len({r.content for r in replies if r.status_code == 201}) == 1
    assert figures(baseline, here) == (1, 50, 1)


def test_a_retry_after_the_last_coupon_is_still_answered(baseline: httpx.Client) -> None:
    """Sold out is for those who have none: the key of the last claim gets its first answer."""
    here = campaign(baseline, 1)
    first = claim(baseline, here, "ann", "k")
    assert claim(baseline, here, "bob", "k").json()["code"] == "sold_out"
    assert claim(baseline, here, "ann", "k").content == first.content
    assert claim(baseline, here, "ann", "other").json()["code"] == "already_claimed"


def test_a_malformed_claim_is_refused(baseline: httpx.Client) -> None:
    """No key, an unknown field and an unknown campaign are 4xx, as a good service has it."""
    here = campaign(baseline, 1)
    address = f"/v1/campaigns/{here}/claims"
    key = {"Idempotency-Key": "k"}
    assert baseline.post(address, json={"person": "a"}).status_code == 422
    assert baseline.post(address, json={"person": "a", "x": 1}, headers=key).status_code == 422
    assert claim(baseline, UNKNOWN_CAMPAIGN, "a", "k").status_code == 404


def test_a_server_that_ends_at_once_says_why(home: Path) -> None:
    """The last words of a child that did not start are in the error."""
    argv = [sys.executable, "-c", "raise SystemExit('no disk')"]
    child = Child("broken", argv, log=home / "broken.log", ready=lambda: False)
    with pytest.raises(StartFailed, match="no disk"), child:
        pass


def test_nothing_of_a_child_is_left_behind(home: Path) -> None:
    """A child's own children end with it, whatever they do about signals."""
    script = (
        "import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', "
        "'import signal, time; signal.signal(15, 1); time.sleep(60)']); time.sleep(60)"
    )
    child = Child("parent", [sys.executable, "-c", script], log=home / "p.log", ready=lambda: True)
    with child:
        parent = psutil.Process(child.pid)
        while not parent.children():
            pass
        grandchild = parent.children()[0]
        with PeakMemory(lambda: {"tree": parent.pid}) as memory:
            pass
        assert memory.peak_bytes["tree"] > 2**20
    with contextlib.suppress(psutil.NoSuchProcess):
        grandchild.wait(5)
    assert not grandchild.is_running()
