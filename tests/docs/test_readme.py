"""The first steps of the README, taken as a newcomer takes them: pasted into a shell."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import pytest

from ledger.datastore import Datastore
from projections.registry import PROJECTIONS
from projections.runner import Runner
from tests.conftest import wait_until
from tests.docs.pages import REPOSITORY, Snippet, page

README = page("README.md")
SHOWN_ADDRESS = "http://127.0.0.1:8080"
MARK = "--- output of the next block ---"


@contextmanager
def served(environment: dict[str, str]) -> Iterator[str]:
    """Run a server process as `tidebook serve` does; give its address."""
    process = subprocess.Popen(
        [sys.executable, "-m", "api.serve"],
        cwd=REPOSITORY,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        listening = re.match(r"tidebook listens on (\S+)", process.stdout.readline())
        assert listening, "the server did not start"
        wait_until(lambda: answers(listening[1]))
        yield listening[1]
    finally:
        process.terminate()
        process.communicate(timeout=60)


def answers(address: str) -> bool:
    """Whether somebody listens there already."""
    with suppress(httpx.TransportError):
        return httpx.get(f"{address}/healthz").status_code == httpx.codes.OK
    return False


@contextmanager
def projected(datastore: Datastore) -> Iterator[None]:
    """Keep every read model up to date meanwhile."""
    stop = threading.Event()
    runners = [Runner(datastore, each, "main", "a runner") for each in PROJECTIONS]
    threads = [threading.Thread(target=runner.run, args=(stop,)) for runner in runners]
    for thread in threads:
        thread.start()
    yield
    stop.set()
    for thread in threads:
        thread.join(30)


@pytest.fixture
def address(
    database_url: str, redis_url: str, datastore: Datastore, tmp_path: Path
) -> Iterator[str]:
    """A running service with tokens for anybody, as `make run` starts it."""
    settings = {
        "HOME": str(tmp_path),
        "DATABASE_URL": database_url,
        "REDIS_URL": redis_url,
        "PORT": "0",
        "WORKERS": "1",
        "DEV_ISSUER": "1",
        "LOG_LEVEL": "warning",
    }
    environment = {f"TIDEBOOK_{name}": value for name, value in settings.items()}
    with projected(datastore), served(environment) as url:
        yield url


def run(blocks: list[Snippet], address: str) -> list[str]:
    """Paste the blocks into one shell; return what each printed."""
    script = "".join(f"{block.text}\necho '{MARK}'\n" for block in blocks)
    finished = subprocess.run(
        ["bash", "-eu"],
        input=script.replace(SHOWN_ADDRESS, address),
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert finished.stderr == ""
    return finished.stdout.split(f"{MARK}\n")[:-1]


def masked(output: str) -> str:
    """Output without what each installation has of its own: instants and ids."""
    output = re.sub(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z", "<instant>", output)
    return re.sub(r"(cmp|cpn)_main_[0-9a-f]{32}", r"\1_main_<id>", output)


def test_the_first_steps_print_what_is_shown(address: str) -> None:
    """Every marked block runs, and prints what the page says that it prints."""
    blocks = [each for each in README.snippets if each.mark == "run"]
    printed = run(blocks, address)
    shown = ["" for _ in blocks]
    for before, snippet in zip(README.snippets, README.snippets[1:], strict=False):
        if snippet.mark == "output":
            shown[blocks.index(before)] = snippet.text
    assert [masked(text) for text in printed] == [masked(text) for text in shown]
    writes = [at for at, block in enumerate(blocks) if "/v1/wallet" not in block.text]
    again = run(blocks, address)
    assert [again[at] for at in writes] == [printed[at] for at in writes], "all are replays"
