"""The server as a process of its own, on a free port."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from api.settings import Settings
from tests.api.harness import draft_body, yuan

START_S = 60.0


class Server:
    """A running server process."""

    def __init__(self, settings: Settings, log: Path) -> None:
        self.log = log
        environment = {k: v for k, v in os.environ.items() if not k.startswith("TIDEBOOK_")}
        with log.open("wb") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "api.serve"],
                env={**environment, **settings.as_environment()},
                stdout=out,
                stderr=subprocess.STDOUT,
            )
        self.url = ""

    def wait_until_it_answers(self) -> None:
        """Wait for the port in its first line, and for an answer there."""
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            assert self.process.poll() is None, self.log.read_text()
            found = re.search(r"http://127\.0\.0\.1:\d+", self.log.read_text())
            if found:
                self.url = found[0]
                try:
                    if httpx.get(f"{self.url}/healthz").status_code == 200:
                        return
                except httpx.TransportError:
                    pass
            time.sleep(0.1)
        pytest.fail("the server does not answer")

    def descendants(self) -> list[psutil.Process]:
        """Its processes."""
        main = psutil.Process(self.process.pid)
        return [main, *main.children(recursive=True)]

    def token(self, role: str, identity: str) -> str:
        """A token from the development issuer."""
        reply = httpx.post(f"{self.url}/dev/token", json={"role": role, "identity": identity})
        token: str = reply.json()["access_token"]
        return token

    def open_campaign(self, quota: int) -> str:
        """Draft, fund and open a campaign; return its id."""
        one, two = self.token("operator", "one"), self.token("operator", "two")
        campaign = self.post("/v1/campaigns", one, "draft", draft_body()).json()["campaign"]
        funds = {"quota": quota, "budget": yuan(50 * quota)}
        address = f"/v1/campaigns/{campaign}"
        assert self.post(f"{address}/funding", one, "propose", funds).is_success
        assert self.post(f"{address}/funding/approval", two, "approve", funds).is_success
        assert self.post(f"{address}/open", one, "open").is_success
        return str(campaign)

    def post(self, address: str, token: str, key: str, body: Any = None) -> httpx.Response:
        """POST once."""
        headers = {"Authorization": f"Bearer {token}", "Idempotency-Key": key}
        return httpx.post(self.url + address, json=body, headers=headers, timeout=30)

    def end(self) -> None:
        """Make sure that nothing is left."""
        if self.process.poll() is None:
            for process in self.descendants():
                process.kill()
        self.process.wait(30)

    def workers(self) -> list[psutil.Process]:
        """Its workers, of whatever generation."""
        return [child for child in psutil.Process(self.process.pid).children() if lives(child)]

    def events(self, name: str) -> int:
        """How often it has logged an event."""
        return self.log.read_text().count(f'"event":"{name}"')


def lives(process: psutil.Process) -> bool:
    """Whether a process runs."""
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
