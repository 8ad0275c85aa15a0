"""`make bench-recovery`: how long nobody is granted a coupon after the store was killed (F01).

    python -m loadtest.recovery --kills 5 --seconds 12

It brings the whole system up as `tidebook run` does, lets people claim as fast as they are
answered, sends SIGKILL to PostgreSQL's postmaster, and counts from there to the first claim that is
granted to a request sent afterwards. Then the last claims that were answered before are sent again,
under their keys: each must get the same bytes. It must never kill a server that it did not start.
"""

from __future__ import annotations

import argparse
import itertools
import os
import platform
import signal
import statistics
import sys
import tempfile
import threading
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Final, NamedTuple

from loadtest.contenders import CREATED
from loadtest.driver import Driver, drive
from loadtest.ours import SETTINGS
from loadtest.people import tourists
from loadtest.servers import Child, answers, free_port
from loadtest.stage import Staff, address_of, claim_request

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from loadtest.driver import Run

BACK_WITHIN_S: Final = 5.0
"""What was promised for a killed store."""

PEOPLE: Final = 10_000
CAMPAIGNS: Final = 24
"""Each person has one claim of each: enough for a rush, and for those that hear 503 behind it."""
CONNECTIONS: Final = 256
GIVE_UP_S: Final = 60.0
"""A store that is not back by then does not come back by itself."""
AFTERWARDS_S: Final = 1.0
"""How long people go on after the first claim that was granted again."""
ASKED_AGAIN: Final = 500
"""Claims answered last before the kill: what was lost would be among them."""


class Recovery(NamedTuple):
    """What one kill did."""

    claims_before: int
    """Granted between the start of the rush and the kill."""
    seconds: float
    """From the kill to the first claim granted to a request that was sent after it."""
    changed: int
    """Of the claims answered last before the kill: how many were answered otherwise again."""


class Interrupted(Driver):
    """A driver that watches for the first claim that is granted after a kill."""

    killed_s = float("inf")
    back_s: float | None = None

    def _record(
        self, index: int, due_s: float, sent_s: float, now_s: float, status: int, body: bytes
    ) -> None:
        super()._record(index, due_s, sent_s, now_s, status, body)
        if status == CREATED and self.back_s is None and sent_s > self.killed_s:
            self.back_s = now_s
            self._deadline_s = now_s + AFTERWARDS_S


class NotBack(Exception):
    """Nobody was granted anything again for a long time after a kill."""


class Subject:
    """The system that is brought up and whose store is killed."""

    def __init__(self, home: Path, workers: int) -> None:
        self.home = home / "home"
        self.url = f"http://127.0.0.1:{free_port()}"
        host, port = address_of(self.url)
        self.child = Child(
            "run",
            [Path(sys.executable).with_name("tidebook"), "run", "--no-examples"],
            log=home / "run.log",
            ready=lambda: answers(f"{self.url}/healthz"),
            env={
                **SETTINGS,
                "TIDEBOOK_HOME": str(self.home),
                "TIDEBOOK_HOST": host,
                "TIDEBOOK_PORT": str(port),
                "TIDEBOOK_WORKERS": str(workers),
            },
        )

    def kill_store(self) -> None:
        """Send SIGKILL to the postmaster."""
        (status,) = self.home.glob("postgres/**/postmaster.pid")
        os.kill(int(status.read_text().split("\n", 1)[0]), signal.SIGKILL)


class Rush:
    """People who claim again and again."""

    def __init__(self, subject: Subject) -> None:
        self._subject = subject
        self._tokens = tourists(subject.url, (f"person {n}" for n in range(PEOPLE)))
        self._rushes = itertools.count(1)

    def interrupted(self, seconds: float) -> Recovery:
        """Claim for so long, then kill the store and go on until it grants again."""
        subject = self._subject
        staff, name = Staff.signed_in(subject.url), f"Rush {next(self._rushes)}"
        with staff.operator, staff.approver, staff.auditor:
            campaigns = [staff.open_campaign(f"{name}.{part}", PEOPLE) for part in range(CAMPAIGNS)]
        host, port = address_of(subject.url)
        requests = (self._request(campaigns, index) for index in range(CAMPAIGNS * PEOPLE))
        driver = Interrupted(host, port, requests, duration_s=seconds + GIVE_UP_S, keep_bodies=True)

        def kill() -> None:
            subject.kill_store()
            driver.killed_s = perf_counter()

        timer = threading.Timer(seconds, kill)
        timer.start()
        run = driver.drive(CONNECTIONS)
        timer.join()
        if driver.back_s is None:
            raise NotBack(f"nothing was granted for {GIVE_UP_S:g} s after the kill")
        before = list(granted_before(run, driver.killed_s))
        again = [self._request(campaigns, index) for index in before[-ASKED_AGAIN:]]
        repeated = drive(host, port, again, connections=CONNECTIONS, keep_bodies=True)
        told = [run.bodies[index] for index in before[-ASKED_AGAIN:]]
        return Recovery(len(before), driver.back_s - driver.killed_s, changed(told, repeated))

    def _request(self, campaigns: Sequence[str], index: int) -> bytes:
        campaign, token = campaigns[index // PEOPLE], self._tokens[index % PEOPLE]
        return claim_request(self._subject.url, campaign, token, str(index))


def granted_before(run: Run, killed_s: float) -> Iterator[int]:
    """The requests that were granted before a moment, in the order of their answers."""
    for index, status, answered_s in zip(run.requests, run.statuses, run.answered_s, strict=True):
        if status == CREATED and answered_s < killed_s:
            yield index


def changed(told: Sequence[bytes], repeated: Run) -> int:
    """How many were told something else, or nothing, when they asked again in this order."""
    return sum(repeated.bodies.get(number) != body for number, body in enumerate(told))


def text(recoveries: Sequence[Recovery]) -> str:
    """What the kills did, as lines of text."""
    lines = [f"{'claims before':>14}  {'back after':>10}  answers changed"]
    lines += [
        f"{one.claims_before:>14,}  {one.seconds:>8.2f} s  {one.changed}" for one in recoveries
    ]
    seconds = sorted(one.seconds for one in recoveries)
    verdict = "met" if seconds[-1] <= BACK_WITHIN_S else "NOT MET"
    lines.append(
        f"median {statistics.median(seconds):.2f} s, longest {seconds[-1]:.2f} s; "
        f"at most {BACK_WITHIN_S:g} s wanted: {verdict}"
    )
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Kill and wait, so many times; status 1 when it took too long or an answer changed."""
    options = _parser().parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="tidebook-recovery-") as directory:
        home = Path(directory)
        home.chmod(0o711)  # PostgreSQL runs under another account when we are root
        subject = Subject(home, options.workers)
        with subject.child:
            rush = Rush(subject)
            recoveries = [rush.interrupted(options.seconds) for _ in range(options.kills)]
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, Linux {platform.release()}")
    print(text(recoveries))
    bad = [one for one in recoveries if one.changed or one.seconds > BACK_WITHIN_S]
    return 1 if bad else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m loadtest.recovery",
        description="Bring the whole system up, kill PostgreSQL in a rush of claims, again and "
        "again, and say how long nobody was granted anything. Takes a minute and a half.",
    )
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=12.0, help="of claims before each kill")
    parser.add_argument("--workers", type=int, default=2, help="server processes (default 2)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
