"""PostgreSQL is killed in the middle of a rush, again and again (faults F01 and F02).

Goal: what was answered is in the store, and what was not answered resolves by its key (I1, I4,
I12). Method: people claim through two writers and repeat a request under its key until it is
answered, while processes of the server get SIGKILL; then everything is recomputed.
"""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import UUID

import psutil
import pytest
from eventsourcing import persistence as es

from api.embedded import EmbeddedPostgres
from campaigns.coupon import CouponClaimed, coupon_id
from ledger.commit import Answer, Limits, OutcomeUnknown, StoreUnavailable
from ledger.datastore import Datastore
from ledger.migrations import migrate
from tests.conftest import wait_until
from tests.support.desk import Desk, person

KILLS = int(os.environ.get("TIDEBOOK_TEST_KILLS", "5"))
"""Kill cycles per test; a soak run asks for more."""

PEOPLE_AT_ONCE = 16


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[EmbeddedPostgres]:
    """A PostgreSQL of this test's own, to be killed."""
    with EmbeddedPostgres(tmp_path) as server:
        migrate(server.url)
        yield server


def kill_postmaster(server: EmbeddedPostgres, _: random.Random) -> None:
    """Kill the whole server at once, as soon as there is one."""
    wait_until(lambda: server.pid is not None)
    if (pid := server.pid) is not None:
        os.kill(pid, signal.SIGKILL)


def kill_a_backend(server: EmbeddedPostgres, dice: random.Random) -> None:
    """Kill one of the server's processes that serve a client; all of them restart."""
    wait_until(lambda: bool(backends(server)))
    dice.choice(backends(server)).kill()


def backends(server: EmbeddedPostgres) -> list[psutil.Process]:
    """The processes of the server that serve a client now."""
    with suppress(psutil.Error):
        return [
            child
            for child in psutil.Process(server.pid or 0).children()
            if "[local]" in " ".join(child.cmdline())
        ]
    return []


class Rush:
    """People who claim until each has an answer, while something goes wrong."""

    def __init__(self, desks: list[Desk], campaign: UUID) -> None:
        self.desks = desks
        self.campaign = campaign
        self.answered: dict[int, Answer] = {}
        self.troubles: Counter[str] = Counter()
        self.over = threading.Event()

    def press(self, worker: int) -> None:
        """Claim for one person after the other; repeat with the same key until answered."""
        n = worker
        while not self.over.is_set():
            answer = self.until_answered(n, self.desks[worker % len(self.desks)])
            self.answered[n] = answer
            n += PEOPLE_AT_ONCE

    def until_answered(self, n: int, desk: Desk) -> Answer:
        """Repeat one person's request under its key until the store says something."""
        while True:
            try:
                return desk.claim(self.campaign, person(n), f"claim-{n}")
            except (OutcomeUnknown, StoreUnavailable) as trouble:
                self.troubles[type(trouble).__name__] += 1
                time.sleep(0.01)

    def wait_for(self, more: int) -> None:
        """Wait until so many more people have been answered."""
        enough = len(self.answered) + more
        wait_until(lambda: len(self.answered) > enough)

    def lost(self) -> set[UUID]:
        """The coupons that somebody was told about and that the store does not have."""
        told = {coupon_id(self.campaign, person(n), 1) for n in self.answered}
        stored: set[UUID] = set()

        def read() -> bool:
            with suppress(es.OperationalError, es.InterfaceError):
                stored.update(event.originator_id for event in self.desks[0].events())
                return True
            return False

        wait_until(read)
        return told - stored


@contextmanager
def rush_on(server: EmbeddedPostgres, **session: str) -> Iterator[Rush]:
    """Let people press through two writers of the server; end the rush with the block."""
    impatient = Limits(retry_for_s=0.3)
    desks = [Desk(Datastore(server.url, session=session), limits=impatient) for _ in "ab"]
    rush = Rush(desks, desks[0].opened(quota=1_000_000))
    with ThreadPoolExecutor(PEOPLE_AT_ONCE) as people:
        workers = [people.submit(rush.press, worker) for worker in range(PEOPLE_AT_ONCE)]
        try:
            yield rush
        finally:
            rush.over.set()
        for worker in workers:
            worker.result(60)
    for desk in desks:
        desk.close()


@pytest.mark.fault
@pytest.mark.slow
@pytest.mark.parametrize("kill", [kill_postmaster, kill_a_backend])
def test_nothing_answered_is_lost_when_postgresql_is_killed(
    own_server: EmbeddedPostgres, kill: Callable[[EmbeddedPostgres, random.Random], None]
) -> None:
    """Every answered claim is stored once, and every repeated request gets the same bytes."""
    dice = random.Random(20260501)
    with rush_on(own_server) as rush:
        for _ in range(KILLS):
            rush.wait_for(50)
            time.sleep(dice.random() * 0.05)
            kill(own_server, dice)
        rush.wait_for(50)
    assert rush.lost() == set()
    with rush_on_again(own_server, rush) as desk:
        claims = [event for event in desk.events() if isinstance(event, CouponClaimed)]
        codes = Counter(answer.code for answer in rush.answered.values())
        assert codes == {"claimed": len(claims)}
        assert desk.capacity(rush.campaign)[0] == len(claims)
        for n in dice.sample(sorted(rush.answered), 50):
            again = desk.claim(rush.campaign, person(n), f"claim-{n}")
            assert again == rush.answered[n]._replace(replayed=True)


@contextmanager
def rush_on_again(server: EmbeddedPostgres, rush: Rush) -> Iterator[Desk]:
    """A new writer of the same book, as after a restart of the service."""
    desk = Desk(Datastore(server.url), rush.desks[0].book)
    yield desk
    desk.close()


@pytest.mark.fault
@pytest.mark.slow
def test_without_flushing_an_answer_is_lost(own_server: EmbeddedPostgres) -> None:
    """Control: with `synchronous_commit` off the same rush loses what it was told."""
    dice = random.Random(1)
    with rush_on(own_server, synchronous_commit="off") as rush:
        for _ in range(20):
            rush.wait_for(50)
            kill_postmaster(own_server, dice)
            rush.wait_for(10)
            if rush.lost():
                return
    pytest.fail("twenty kills lost nothing: this harness could not see a loss")
