"""Who takes part in the benchmark, and what a run of each gives.

A contender is started once, then runs by turns with the others: everything is prepared before its
clock starts, and what it did is checked after its clock stopped. Every contender over HTTP gets the
same driver, the same machine and, where it writes, a PostgreSQL of its own with the same settings;
each may have as many requests in flight as suit it best. A run whose answers are not what they
should be must never give a figure.
"""

from __future__ import annotations

import contextlib
import itertools
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol
from uuid import uuid4

from loadtest.client import Caller
from loadtest.driver import Run, build_request, drive
from loadtest.servers import Child, CpuTime, Postgres, Valkey, answers, free_port
from loadtest.stage import address_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

CREATED: Final = 201
QUOTA: Final = 10_000_000

OTHERS_MAX: Final = 0.001
"""Share of other answers than the expected one that a run may have; they do not count as done."""

REQUESTS_PER_S_MAX: Final = 12_000
"""Claims of a baseline are prepared for this rate; a faster one would end a little early."""


class NotMeasurable(Exception):
    """A run was answered with something else than it should be: its rate would be a lie."""


@dataclass
class Outcome:
    """What one run gave."""

    per_s: float
    p50_ms: float
    p99_ms: float
    cpu_us: dict[str, float] = field(default_factory=dict)
    """CPU time of each process tree, and of the driver, for each request."""
    others: dict[str, int] = field(default_factory=dict)
    """Answers that were not what the run is about, by status and code."""
    lag_s: float | None = None
    """The longest that a projection was behind."""
    offered_per_s: float | None = None
    """In an open loop: how many requests were meant to be sent in a second."""
    findings: list[str] = field(default_factory=list)
    """What must not be."""


class Contender(Protocol):
    """Something whose work is counted."""

    @property
    def name(self) -> str:
        """What it is called in `bench.json`."""
        ...

    @property
    def connections(self) -> int | None:
        """How many requests are in flight at once."""
        ...

    def run(self, seconds: float) -> Outcome:
        """Work for so long, with everything prepared before the clock starts."""
        ...

    def roots(self) -> dict[str, int]:
        """The processes whose trees' memory is this contender's."""
        ...


def outcome_of(run: Run, status: int, code: str = "") -> Outcome:
    """What a run gave if it was answered with this status (and code) all but a few times."""
    total = len(run.statuses)
    others = Counter(
        {str(got): count for got, count in run.status_counts().items() if got < 400 and got}
    )
    others.update(run.codes)
    done = others.pop(f"{status} {code}".strip(), 0)
    if total == 0 or sum(others.values()) > total * OTHERS_MAX:
        raise NotMeasurable(f"{done} of {total} were answered {status} {code}, others {others}")
    used_s = {**run.cpu_s, "driver": run.driver_cpu_s}
    return Outcome(
        per_s=done / run.elapsed_s,
        p50_ms=run.percentile_ms(0.50),
        p99_ms=run.percentile_ms(0.99),
        cpu_us={name: used / total * 1e6 for name, used in used_s.items()},
        others=dict(others),
    )


class Constant:
    """A constant answer, to the same requests as claims are."""

    connections = 64

    def __init__(self, name: str, server: Child, url: str) -> None:
        self.name = name
        self._server, self._address = server, address_of(url)

    @classmethod
    @contextlib.contextmanager
    def started(cls, name: str, home: Path, workers: int, server: str) -> Iterator[Constant]:
        """Serve the constant by this module."""
        url, argv = module(server, workers)
        with Child(name, argv, log=home / f"{name}.log", ready=lambda: answers(url)) as child:
            yield cls(name, child, url)

    def run(self, seconds: float) -> Outcome:
        """One request over and over, as long as a real claim is."""
        host, port = self._address
        headers = [("Authorization", "Bearer " + "x" * 160), ("Idempotency-Key", "x" * 20)]
        campaign = f"cmp_main_{'0' * 32}"
        path = f"/v1/campaigns/{campaign}/claims"
        request = build_request("POST", path, host=host, headers=headers, body=b"{}")
        with CpuTime(self.roots()) as cpu:
            run = drive(
                host,
                port,
                itertools.repeat(request),
                connections=self.connections,
                duration_s=seconds,
            )
        run.cpu_s = cpu.used_s
        return outcome_of(run, CREATED)

    def roots(self) -> dict[str, int]:
        """The server."""
        return {"server": self._server.pid}


class Baseline:
    """A baseline that speaks the HTTP of `loadtest.baselines.claims`."""

    def __init__(self, name: str, connections: int, url: str, trees: dict[str, Child]) -> None:
        self.name = name
        self.connections = connections
        self._caller = Caller(url)
        self._address = address_of(url)
        self._trees = trees

    @classmethod
    @contextlib.contextmanager
    def in_postgres(
        cls, name: str, home: Path, workers: int, connections: int, words: Sequence[str]
    ) -> Iterator[Baseline]:
        """Serve the baseline of this module over a database of its own."""
        with Postgres(home / name) as postgres:
            words = [*words, "--database-url", postgres.url]
            with cls._served(name, home, workers, words) as (url, server):
                yield cls(name, connections, url, {"server": server, "postgres": postgres})

    @classmethod
    @contextlib.contextmanager
    def in_memory(
        cls, name: str, home: Path, workers: int, connections: int, words: Sequence[str]
    ) -> Iterator[Baseline]:
        """Serve the baseline of this module over a Valkey of its own."""
        (home / name).mkdir()
        with Valkey(home / name) as valkey:
            words = [*words, "--redis-url", valkey.url]
            with cls._served(name, home, workers, words) as (url, server):
                yield cls(name, connections, url, {"server": server, "valkey": valkey})

    @staticmethod
    @contextlib.contextmanager
    def _served(
        name: str, home: Path, workers: int, words: Sequence[str]
    ) -> Iterator[tuple[str, Child]]:
        url, argv = module(words[0], workers, *words[1:])
        log = home / f"{name}.log"
        with Child(name, argv, log=log, ready=lambda: answers(f"{url}/healthz")) as server:
            yield url, server

    def run(self, seconds: float) -> Outcome:
        """Claims of ever new people from a new campaign, counted in its store afterwards."""
        host, port = self._address
        campaign = self._caller.post("/v1/campaigns", {"name": "rush", "quota": QUOTA})["campaign"]
        requests = list(self._claims(campaign, int(seconds * REQUESTS_PER_S_MAX) + 1))
        with CpuTime(self.roots()) as cpu:
            run = drive(host, port, requests, connections=self.connections, duration_s=seconds)
        run.cpu_s = cpu.used_s
        outcome = outcome_of(run, CREATED)
        figures = self._caller.get(f"/v1/campaigns/{campaign}/figures")
        created = run.statuses.count(CREATED)
        unknown = len(run.statuses) - created
        if not created <= figures["claims"] == figures["issued"] <= created + unknown:
            outcome.findings.append(f"{self.name} answered {created} claims and holds {figures}")
        return outcome

    def _claims(self, campaign: str, count: int) -> Iterator[bytes]:
        for _ in range(count):
            person = uuid4().hex
            yield build_request(
                "POST",
                f"/v1/campaigns/{campaign}/claims",
                host=self._address[0],
                headers=[("Idempotency-Key", person)],
                body=b'{"person":"%s"}' % person.encode(),
            )

    def roots(self) -> dict[str, int]:
        """The server and its store."""
        return {name: child.pid for name, child in self._trees.items()}


def module(name: str, workers: int, *words: str) -> tuple[str, list[str]]:
    """The address and the command line of a module that serves."""
    port = free_port()
    argv = [sys.executable, "-m", name, "--port", str(port), "--workers", str(workers), *words]
    return f"http://127.0.0.1:{port}", argv


class CommandFailed(Exception):
    """A command ended with a status other than 0."""


def output_of(argv: Sequence[str], env: dict[str, str] | None = None) -> str:
    """The output of a command that ends by itself."""
    done = subprocess.run(  # noqa: S603 - a command line of our own
        argv, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    if done.returncode:
        name = " ".join([Path(argv[0]).name, *argv[1:3]])
        raise CommandFailed(f"{name}: {done.stderr[-2000:].strip()}")
    return done.stdout
