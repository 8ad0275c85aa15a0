"""One run from beginning to end: prepare, release, wait until the book is at rest, check.

The recording is all that the check and the report look at; whoever drives the visits, the open-loop
driver here or Locust, writes the same one.
"""

from __future__ import annotations

import platform
import time
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from time import perf_counter
from typing import TYPE_CHECKING, Final

import psutil

from loadtest.client import sign_in
from loadtest.fairplay import check_fairness
from loadtest.invariants import check
from loadtest.openloop import CONNECTIONS_MAX, OpenLoop
from loadtest.scenarios.crowd import SESSION_RUN_MAX_S, Crowd
from loadtest.scenarios.curves import rate
from loadtest.testimony import check_answers
from loadtest.visits import BOOK
from loadtest.watch import Watcher

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from loadtest.books import Books
    from loadtest.client import Caller
    from loadtest.openloop import Progress
    from loadtest.recording import Recording
    from loadtest.scenarios.plan import Plan, Scenario, Size

LEAD_S: Final = 1.0
"""Between the last preparation and the release: the watcher sees the system at rest."""
REST_S: Final = 0.5
"""A request that was cut off has committed by then, or never will unless the service is ill."""
CHECKS_MAX: Final = 5
"""How often a book is read again because it grew while it was checked."""
CURVE_POINTS: Final = 100


def prepare(
    scenario: Scenario, size: Size, url: str, recording: Recording, *, sessions_last: bool
) -> Plan:
    """Open the campaigns, sign everybody in, and write down what kind of run this is."""
    lasting = sessions_last or size.seconds <= SESSION_RUN_MAX_S
    rng = size.rng("crowd", time.time_ns())
    with Crowd(url, recording, rng, sessions=lasting) as crowd:
        plan = scenario.plan(crowd, size)
    step = size.seconds / CURVE_POINTS
    moments = [(number + 0.5) * step for number in range(CURVE_POINTS)]
    recording.note(
        scenario=scenario.name,
        summary=scenario.summary,
        size=asdict(size),
        campaigns=plan.campaigns,
        arrivals=len(plan.arrivals),
        sessions=crowd.sessions,
        curve=[[round(at, 4), round(rate(plan.curve, at, step), 6)] for at in moments],
        machine={
            "cores": psutil.cpu_count(),
            "memory_bytes": psutil.virtual_memory().total,
            "system": f"{platform.system()} {platform.release()}",
            "python": platform.python_version(),
        },
    )
    return plan


def release(
    plan: Plan,
    url: str,
    roots: Mapping[str, int],
    recording: Recording,
    *,
    connections_max: int = CONNECTIONS_MAX,
    watch: Callable[[float, Progress], None] | None = None,
) -> Progress:
    """Let everybody come, and write down what happens."""
    release_s = perf_counter() + plan.lead_s(LEAD_S, datetime.now(UTC))
    note_release(recording, release_s)
    driver = OpenLoop(url, plan.arrivals, recording, connections_max=connections_max, watch=watch)
    with Watcher(recording, url, roots, release_s):
        driver.run(release_s)
        wait_until_at_rest(url)
    recording.note(ended_s=perf_counter() - release_s)
    recording.flush()
    return driver.progress


def note_release(recording: Recording, release_s: float) -> None:
    """Write down which instant the moment 0 of the recording is."""
    released = datetime.now(UTC) + timedelta(seconds=release_s - perf_counter())
    recording.note(release_utc=released.isoformat())


def verify(url: str, recording: Recording) -> Books:
    """Read the whole book back and hold it against every recorded answer."""
    recording.flush()
    with sign_in(url, "auditor", "loadtest auditor") as auditor:
        books = check(auditor, BOOK, recording.shelf)
        for _ in range(CHECKS_MAX):
            if _head(auditor) == books.position:
                break
            wait_until_at_rest(url)
            books = check(auditor, BOOK, recording.shelf)
        for merchant in books.merchants():
            with sign_in(url, "merchant", f"books of {merchant}", merchant=merchant) as owner:
                seen = f"{BOOK}:{books.position}"
                balance = owner.get("/v1/merchant/balance", min_position=seen)
                books.check_merchant(merchant, balance["items"])
    check_answers(books, recording)
    check_fairness(books, recording)
    recording.note(
        events=books.position,
        coupons=books.coupon_count,
        verdicts=[list(verdict) for verdict in books.verdicts()],
        findings=[str(finding) for finding in books.findings],
    )
    return books


def wait_until_at_rest(url: str) -> None:
    """Return once the book has not grown for a while: requests cut off may still commit."""
    with sign_in(url, "auditor", "loadtest auditor") as auditor:
        before = None
        while (head := _head(auditor)) != before:
            before = head
            time.sleep(REST_S)


def _head(auditor: Caller) -> int:
    return int(auditor.get(f"/v1/books/{BOOK}/head")["position"])
