"""`tidebook run`: the whole system from one command, and nothing of it left when it ends.

Goal: what the first minutes of a newcomer need, and what an operator relies on at a restart.
Method: the installed command in a process and home of its own, by HTTP and signals only.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.cli.test_help_and_errors import program
from tests.conftest import wait_until

UP_WITHIN_S = 120.0


class Running:
    """A running `tidebook run` and what it printed."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.guide = _read_guide(process)
        self.base = re.findall(r"http://127\.0\.0\.1:\d+", self.guide)[0]
        self.campaigns = re.findall(r"^  (cmp_main_[0-9a-f]{32})", self.guide, re.MULTILINE)

    def descendants(self) -> list[psutil.Process]:
        """Every process that it started, servers of servers included."""
        return psutil.Process(self.process.pid).children(recursive=True)


def _read_guide(process: subprocess.Popen[str]) -> str:
    """Read what is printed up to the empty line at its end."""
    assert process.stdout is not None
    deadline = time.monotonic() + UP_WITHIN_S
    lines: list[str] = []
    while not (lines and "/wallet" in lines[-1]):
        line = process.stdout.readline()
        assert line, "".join(lines)
        assert time.monotonic() < deadline
        lines.append(line)
    return "".join(lines)


@contextmanager
def tidebook_run(home: Path, ending: signal.Signals = signal.SIGINT) -> Iterator[Running]:
    """Bring the system up; end it with a signal, after which no process may be left."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("TIDEBOOK_")}
    environment["TIDEBOOK_HOME"] = str(home)
    process = subprocess.Popen(
        [*program(), "run", "--port", "0", "--workers", "1"],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        running = Running(process)
        yield running
        started = running.descendants()
        process.send_signal(ending)
        assert process.wait(60) == 0
        _, alive = psutil.wait_procs(started, timeout=5)
        assert alive == []
    finally:
        process.kill()
        process.communicate()


def call(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Call a command on a home, beside whatever runs there."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("TIDEBOOK_")}
    environment["TIDEBOOK_HOME"] = str(home)
    return subprocess.run(
        [*program(), *arguments],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def claim(running: Running, token: str, key: str) -> httpx.Response:
    """Claim of the first example campaign."""
    return httpx.post(
        f"{running.base}/v1/campaigns/{running.campaigns[0]}/claims",
        headers={"Authorization": f"Bearer {token}", "Idempotency-Key": key},
        timeout=30,
    )


def wallet(running: Running, token: str, position: str) -> Any:
    """Read the bearer's wallet, with what is at the position in it."""
    headers = {"Authorization": f"Bearer {token}", "Tidebook-Min-Position": position}
    return httpx.get(f"{running.base}/v1/wallet", headers=headers, timeout=30).json()


def group_packet(running: Running, home: Path, token: str) -> int:
    """Let the bearer send a group packet from the example purse, and Bo take a share of it."""

    def call_with(bearer: str, path: str, body: Any = None) -> Any:
        reply = httpx.request(
            "GET" if body is None else "POST",
            running.base + path,
            json=body,
            headers={"Authorization": f"Bearer {bearer}", "Idempotency-Key": path[-64:]},
            timeout=30,
        )
        reply.raise_for_status()
        return reply.json()

    wait_until(lambda: bool(call_with(token, "/v1/purses")["items"]))
    [purse] = call_with(token, "/v1/purses")["items"]
    body = {"shares": 8, "total": {"amount_minor": 20_000, "currency": "CNY"}}
    group = call_with(token, f"/v1/purses/{purse['purse']}/groups", body)["group"]
    wait_until(lambda: bool(call_with(token, "/v1/groups")["items"]))
    shown = {"code": call_with(token, f"/v1/groups/{group}/code")["code"]}
    bo = call(home, "token", "--role", "tourist", "--identity", "bo").stdout.strip()
    share: int = call_with(bo, f"/v1/groups/{group}/shares", shown)["amount"]["amount_minor"]
    return share


def cosigned_size(running: Running) -> int:
    """How many events are under the head that is served; it has two signatures."""
    checkpoint = httpx.get(f"{running.base}/log/main/checkpoint", timeout=30).text
    text, _, signatures = checkpoint.partition("\n\n")
    assert len(signatures.splitlines()) == 2
    return int(text.split("\n")[1])


def credited(home: Path) -> tuple[int, int]:
    """What `reconcile` says of a running system, and what the sandbox operator was told to add."""
    said = call(home, "reconcile", "--json")
    return said.returncode, json.loads(said.stdout)["sums"]["operator"]["credited_minor"]


@pytest.mark.slow
def test_up_claim_verify_down_and_up_again(tmp_path: Path) -> None:
    """The newcomer's path, then a second start: same campaigns, same coupon, no new event."""
    home = tmp_path / "home"
    with tidebook_run(home) as first:
        assert len(first.campaigns) == 4
        assert httpx.get(f"{first.base}/docs").status_code == 200
        token = call(home, "token", "--role", "tourist", "--identity", "alice").stdout.strip()
        httpx.post(
            f"{first.base}/v1/campaigns/{first.campaigns[3]}/claims",
            headers={"Authorization": f"Bearer {token}", "Idempotency-Key": "packet"},
            timeout=30,
        ).raise_for_status()
        share_minor = group_packet(first, home, token)
        claimed = claim(first, token, "first-claim")
        assert claimed.status_code == 201
        [held] = wallet(first, token, claimed.headers["Tidebook-Position"])["items"]
        assert held["coupon"] == claimed.json()["coupon"]
        claimed_at = int(claimed.headers["Tidebook-Position"].partition(":")[2])
        wait_until(lambda: cosigned_size(first) >= claimed_at)
        wait_until(lambda: credited(home) == (0, 20_000 + share_minor))
        beside = call(home, "verify")
        assert (beside.returncode, beside.stderr) == (0, "")
        second = call(home, "run", "--port", "0")
        assert second.returncode == 2
        assert "another Tidebook" in second.stderr
    replayed_counts = call(home, "replay", "--json").stdout
    assert replayed_counts.count('"claimed": 1,') == 2
    assert replayed_counts.count('"claimed": 2,') == 2
    alone = call(home, "verify", "--json")
    assert alone.returncode == 0
    position = claimed.headers["Tidebook-Position"]
    with tidebook_run(home, signal.SIGTERM) as again:
        assert again.campaigns == first.campaigns
        replayed = claim(again, token, "first-claim")
        assert replayed.content == claimed.content
        assert replayed.headers["Idempotency-Replayed"] == "true"
        assert replayed.headers["Tidebook-Position"] == position
        head = call(home, "replay", "--identity", "alice", "--json").stdout
        assert f'"position": {position.partition(":")[2]},' in head


@pytest.mark.slow
@pytest.mark.fault
def test_killed_processes_are_started_again(tmp_path: Path) -> None:
    """With PostgreSQL and every child killed at once, the system is back by itself."""
    home = tmp_path / "home"
    with tidebook_run(home) as running:
        token = call(home, "token", "--role", "tourist", "--identity", "bo").stdout.strip()
        for child in running.descendants():
            child.kill()
        deadline = time.monotonic() + 60
        while True:
            try:
                claimed = claim(running, token, "after")
                if claimed.status_code == 201:
                    break
            except httpx.TransportError:
                pass
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert call(home, "verify").returncode == 0


def test_a_port_in_use_is_said_before_anything_starts(tmp_path: Path) -> None:
    """Nothing is started when nobody could reach it."""
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        said = call(tmp_path / "home", "run", "--port", port)
    assert said.returncode == 2
    assert f"--port: another program listens on 127.0.0.1:{port}" in said.stderr
    assert not (tmp_path / "home").exists()
