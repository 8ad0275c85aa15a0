"""The service and its database are killed in the middle of a rush over HTTP (F01, F28, F29).

Goal: whatever was answered with 2xx is in the store, and whatever was not answered resolves by
its idempotency key, byte for byte (I1, I4, I12). Method: real processes, real sockets; people
repeat a call under its key until they get a status below 500, while the server's processes and
PostgreSQL's get SIGKILL in turn.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import httpx
import pytest

from api.cli.migrating import migrate_all
from api.embedded import EmbeddedPostgres
from api.issuers import DevelopmentIssuer
from api.supervisor import Command, Keeper
from ledger.datastore import Datastore
from tests.api.harness import draft_body, settings_for, yuan
from tests.conftest import free_port, wait_until
from tests.faults.test_store_kills import KILLS, kill_postmaster

PEOPLE_AT_ONCE = 12
DICE_SEED = 20260502


class Shop:
    """A running service that is started again whenever it is killed, and who calls it."""

    def __init__(self, server: EmbeddedPostgres, home: Path) -> None:
        self.server = server
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self.settings = settings_for(server.url, None, home, port=port, workers=1)
        self.issuer = DevelopmentIssuer(
            self.settings.issuer_secret(), self.settings.oidc_audience, time.time
        )
        self.keeper = Keeper(
            name="serve",
            command=Command(
                [sys.executable, "-m", "api.serve"],
                env={**os.environ, **self.settings.as_environment()},
                output=home / "serve.log",
            ),
            ready=self._is_ready,
        )

    def _is_ready(self) -> bool:
        with suppress(httpx.HTTPError):
            return httpx.get(f"{self.url}/healthz", timeout=1).status_code == 200
        return False

    def call(self, path: str, body: object, role: str, who: str, key: str) -> httpx.Response:
        """POST once; raise what the network raises."""
        token = self.issuer.token(role, who, None)  # type: ignore[arg-type]
        headers = {"Authorization": f"Bearer {token}", "Idempotency-Key": key}
        return httpx.post(f"{self.url}{path}", json=body, headers=headers, timeout=10)

    def until_answered(
        self, path: str, body: object, role: str, who: str, key: str
    ) -> httpx.Response:
        """Repeat a call under its key until the service says that it is or is not done."""
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            with suppress(httpx.HTTPError):
                reply = self.call(path, body, role, who, key)
                if reply.status_code < 500 and reply.status_code != 409:
                    return reply
            time.sleep(0.02)
        pytest.fail(f"{key} was never answered")

    def opened(self, quota: int) -> str:
        """Draft, fund and open a campaign; return its id."""
        draft = self.until_answered("/v1/campaigns", draft_body(), "operator", "one", "d")
        campaign: str = draft.json()["campaign"]
        funds = {"quota": quota, "budget": yuan(50 * quota)}
        for step, body, who in (
            ("funding", funds, "one"),
            ("funding/approval", funds, "two"),
            ("open", None, "one"),
        ):
            path = f"/v1/campaigns/{campaign}/{step}"
            assert self.until_answered(path, body, "operator", who, step).is_success
        return campaign

    def kill_service(self) -> None:
        """Kill the server with all its workers at once."""
        pid = self.keeper.pid
        if pid is not None:
            with suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    """A service of this test's own over a PostgreSQL of its own."""
    with EmbeddedPostgres(tmp_path) as server:
        migrate_all(server.url)
        shop = Shop(server, tmp_path)
        shop.keeper.start()
        yield shop
        shop.keeper.stop()


@pytest.mark.fault
@pytest.mark.slow
def test_nothing_answered_is_lost_when_everything_is_killed(shop: Shop) -> None:
    """Each person has the coupon that they were told of, once, whoever was killed meanwhile."""
    dice = random.Random(DICE_SEED)
    campaign = shop.opened(quota=1_000_000)
    path = f"/v1/campaigns/{campaign}/claims"
    replies: dict[int, httpx.Response] = {}
    over = threading.Event()

    def press(worker: int) -> None:
        n = worker
        while not over.is_set():
            replies[n] = shop.until_answered(path, None, "tourist", f"t{n}", f"claim-{n}")
            n += PEOPLE_AT_ONCE

    def served(more: int) -> None:
        enough = len(replies) + more
        wait_until(lambda: len(replies) > enough)

    with ThreadPoolExecutor(PEOPLE_AT_ONCE) as people:
        workers = [people.submit(press, worker) for worker in range(PEOPLE_AT_ONCE)]
        try:
            for turn in range(KILLS):
                served(20)
                time.sleep(dice.random() * 0.05)
                if turn % 2:
                    kill_postmaster(shop.server, dice)
                else:
                    shop.kill_service()
            served(20)
        finally:
            over.set()
        for worker in workers:
            worker.result(90)

    assert Counter(reply.status_code for reply in replies.values()) == {201: len(replies)}
    told = Counter(reply.json()["coupon"] for reply in replies.values())
    with Datastore(shop.server.url).transaction() as cursor:
        cursor.execute("SELECT originator_id FROM event WHERE topic = 'coupon.claimed'")
        stored = Counter(f"cpn_main_{row[0].hex}" for row in cursor.fetchall())
        cursor.execute("SELECT issued FROM capacity")
        (issued,) = cursor.fetchone()
    assert told == stored, "every answer is in the store, and nothing else is"
    assert issued == len(replies)
    for n in dice.sample(sorted(replies), 20):
        again = shop.until_answered(path, None, "tourist", f"t{n}", f"claim-{n}")
        assert again.content == replies[n].content
        assert again.headers["Idempotency-Replayed"] == "true"
