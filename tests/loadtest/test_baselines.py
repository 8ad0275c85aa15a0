"""The baselines do what they are compared for: they are honest, or a ratio means nothing."""

from __future__ import annotations

import contextlib
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import psutil
import pytest

from api.embedded.postgres import SETTINGS as EMBEDDED_SETTINGS
from loadtest.servers import (
    POSTGRES_SETTINGS,
    Child,
    PeakMemory,
    Postgres,
    StartFailed,
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
def stock(home: Path, postgres: Postgres) -> Iterator[httpx.Client]:
    """The stock baseline, served."""
    url = f"http://127.0.0.1:{(port := free_port())}"
    argv = [sys.executable, "-m", "loadtest.baselines.stock", "--port", str(port)]
    argv += ["--database-url", postgres.url, "--workers", "1"]
    log = home / "stock.log"
    with (
        Child("stock", argv, log=log, ready=lambda: answers(f"{url}/healthz")) as child,
        httpx.Client(base_url=url, timeout=30) as client,
    ):
        assert child.pid
        yield client


def campaign(stock: httpx.Client, quota: int) -> str:
    """A new campaign."""
    reply = stock.post("/v1/campaigns", json={"name": "rush", "quota": quota})
    assert reply.status_code == 201
    return str(reply.json()["campaign"])


def claim(stock: httpx.Client, campaign: str, person: str, key: str) -> httpx.Response:
    """A claim of a person."""
    return stock.post(
        f"/v1/campaigns/{campaign}/claims",
        json={"person": person},
        headers={"Idempotency-Key": key},
    )


def test_the_database_has_the_settings_of_the_embedded_default() -> None:
    """The baseline's database makes the same promises with the same memory."""
    differing = {
        name: (value, EMBEDDED_SETTINGS.get(name))
        for name, value in POSTGRES_SETTINGS.items()
        if EMBEDDED_SETTINGS.get(name) != value
    }
    assert differing == {}


def test_a_claim_is_answered_once_and_replayed_from_the_event(stock: httpx.Client) -> None:
    """The same key gives the same body; another key is told that the person has one."""
    here = campaign(stock, 10)
    first, again = claim(stock, here, "ann", "k1"), claim(stock, here, "ann", "k1")
    assert (first.status_code, again.status_code) == (201, 201)
    assert first.content == again.content
    assert "idempotency-replayed" not in first.headers
    assert again.headers["idempotency-replayed"] == "true"
    other = claim(stock, here, "ann", "k2")
    assert (other.status_code, other.json()["code"]) == (409, "already_claimed")
    assert stock.get(f"/v1/campaigns/{here}/figures").json() == {
        "issued": 1,
        "quota": 10,
        "claims": 1,
    }


def test_the_baseline_never_issues_more_than_its_stock(stock: httpx.Client) -> None:
    """Sixteen people at once for the last five coupons: five get one, the rest are refused."""
    here = campaign(stock, 5)
    with ThreadPoolExecutor(16) as people:
        replies = list(people.map(lambda i: claim(stock, here, f"p{i}", f"k{i}"), range(16)))
    assert sorted(reply.status_code for reply in replies) == [201] * 5 + [409] * 11
    assert {r.json()["code"] for r in replies if r.status_code == 409} == {"sold_out"}
    assert stock.get(f"/v1/campaigns/{here}/figures").json()["claims"] == 5


def test_a_malformed_claim_is_refused(stock: httpx.Client) -> None:
    """No key, an unknown field and an unknown campaign are 4xx, as a good service has it."""
    here = campaign(stock, 1)
    address = f"/v1/campaigns/{here}/claims"
    key = {"Idempotency-Key": "k"}
    assert stock.post(address, json={"person": "a"}).status_code == 422
    assert stock.post(address, json={"person": "a", "x": 1}, headers=key).status_code == 422
    assert claim(stock, "00000000-0000-4000-8000-000000000000", "a", "k").status_code == 404


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
