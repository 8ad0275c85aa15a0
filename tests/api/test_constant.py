"""The ceiling of the benchmark is our own server, and answers whatever it is asked."""

from __future__ import annotations

import subprocess
import sys
import time

import httpx

from api.constant import BODY
from tests.conftest import free_port


def test_the_constant_is_answered_by_the_lane_and_by_the_application() -> None:
    """A plain claim and anything else get the same bytes, from processes that end when told."""
    port = free_port()
    argv = [sys.executable, "-m", "api.constant", "--port", str(port), "--workers", "1"]
    with subprocess.Popen(argv) as server:
        try:
            replies = [ask(port, "POST"), ask(port, "GET")]
        finally:
            server.terminate()
    assert server.returncode == 0
    for reply in replies:
        assert (reply.status_code, reply.content) == (201, BODY)
    assert [reply.headers["x-request-id"] for reply in replies] == ["0" * 32] * 2


def ask(port: int, method: str) -> httpx.Response:
    """One request, once the server listens."""
    deadline = time.monotonic() + 60
    while True:
        try:
            return httpx.request(method, f"http://127.0.0.1:{port}/v1/campaigns/x/claims")
        except httpx.TransportError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
