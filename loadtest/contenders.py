"""Who takes part in the benchmark: how each is started, what a run of each sends and to whom.

Every contender gets the same driver, the same machine and, where it writes, a PostgreSQL of its own
with the same settings. Each may use as many connections as suit it best.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import subprocess
import sys
import time
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol
from uuid import uuid4

from loadtest.client import Caller, UnexpectedAnswer
from loadtest.driver import UNKNOWN, Run, build_request, drive
from loadtest.servers import Child, CpuTime, Postgres, Valkey, answers, free_port
from loadtest.stage import Staff, address_of, claim_requests, tokens_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

QUOTA: Final = 10_000_000
CREATED: Final = 201
BOOK: Final = "main"
CATCH_UP_TIMEOUT_S: Final = 120.0

CROWD: Final = 4
"""New people of a run, as a multiple of the known ones: their tokens take time to fetch."""

GREETINGS: Final = 3
"""Claims of each known person before the clock starts: most workers have then seen the token."""

RATES: Final = {
    "TIDEBOOK_RATE_TOURIST_PER_S": "100000",
    "TIDEBOOK_RATE_TOURIST_BURST": "100000",
    "TIDEBOOK_RATE_STAFF_PER_S": "100000",
    "TIDEBOOK_RATE_STAFF_BURST": "100000",
}
"""The limits are lifted, not switched off: each claim still asks for its token in the bucket."""


class CommandFailed(Exception):
    """A `tidebook` command ended with a status other than 0."""


class Contender(Protocol):
    """Something whose claims are counted."""

    name: str
    connections: int

    def run(self, seconds: float) -> Run:
        """Claim for so long, with everything prepared before the clock starts."""
        ...

    def roots(self) -> dict[str, int]:
        """The processes whose trees' memory is this contender's."""
        ...


class Constant:
    """The constant answer, to the same requests as claims are."""

    name = "constant"
    connections = 64

    def __init__(self, server: Child, url: str) -> None:
        self._server, self._address = server, address_of(url)

    @classmethod
    @contextlib.contextmanager
    def started(cls, home: Path, workers: int) -> Iterator[Constant]:
        """Serve the constant."""
        url, argv = _module("loadtest.baselines.constant", workers)
        with Child(
            "constant", argv, log=home / "constant.log", ready=lambda: answers(url)
        ) as child:
            yield cls(child, url)

    def run(self, seconds: float) -> Run:
        """One request over and over, as long as a real claim is."""
        host, port = self._address
        headers = [("Authorization", "Bearer " + "x" * 400), ("Idempotency-Key", "x" * 20)]
        request = build_request("POST", "/claims", host=host, headers=headers, body=b"{}")
        with CpuTime(self.roots()) as cpu:
            run = drive(
                host,
                port,
                itertools.repeat(request),
                connections=self.connections,
                duration_s=seconds,
            )
        run.cpu_s = cpu.used_s
        return run

    def roots(self) -> dict[str, int]:
        """The server."""
        return {"server": self._server.pid}


class Stock:
    """FastAPI and the stock recorder."""

    name = "stock"
    connections = 32

    def __init__(self, server: Child, postgres: Postgres, url: str) -> None:
        self._server, self._postgres = server, postgres
        self._caller = Caller(url)
        self._address = address_of(url)

    @classmethod
    @contextlib.contextmanager
    def started(cls, home: Path, workers: int) -> Iterator[Stock]:
        """Serve the baseline over a database of its own."""
        with Postgres(home / "stock") as postgres:
            url, argv = _module("loadtest.baselines.stock", workers)
            argv += ["--database-url", postgres.url]
            with Child(
                "stock", argv, log=home / "stock.log", ready=lambda: answers(f"{url}/healthz")
            ) as child:
                yield cls(child, postgres, url)

    def run(self, seconds: float) -> Run:
        """Claims of ever new people from a new campaign, counted in its database afterwards."""
        host, port = self._address
        campaign = self._caller.post("/v1/campaigns", {"name": "rush", "quota": QUOTA})["campaign"]

        def claims() -> Iterator[bytes]:
            while True:
                person = uuid4().hex
                yield build_request(
                    "POST",
                    f"/v1/campaigns/{campaign}/claims",
                    host=host,
                    headers=[("Idempotency-Key", person)],
                    body=b'{"person":"%s"}' % person.encode(),
                )

        with CpuTime(self.roots()) as cpu:
            run = drive(host, port, claims(), connections=self.connections, duration_s=seconds)
        run.cpu_s = cpu.used_s
        figures = self._caller.get(f"/v1/campaigns/{campaign}/figures")
        created = run.status_counts().get(CREATED, 0)
        assert figures["claims"] == figures["issued"] == created, "the baseline lost claims"
        return run

    def roots(self) -> dict[str, int]:
        """The server and its database."""
        return {"server": self._server.pid, "postgres": self._postgres.pid}


@dataclass
class Answers:
    """What was answered about one campaign, to be compared with the store afterwards."""

    acknowledged: list[str] = field(default_factory=list)
    unknown: int = 0


class Tidebook:
    """Our server over PostgreSQL and Valkey."""

    name = "tidebook"
    connections = 256

    def __init__(self, home: Path, workers: int, postgres: Postgres, valkey: Valkey) -> None:
        self.url = f"http://127.0.0.1:{free_port()}"
        self.answers: defaultdict[str, Answers] = defaultdict(Answers)
        self._home = home
        self._env = _environment(home, workers, postgres.url, valkey.url, self.url)
        self._trees: dict[str, Child] = {"postgres": postgres, "valkey": valkey}
        self._campaigns = 0

    @classmethod
    @contextlib.contextmanager
    def started(cls, home: Path, workers: int) -> Iterator[Tidebook]:
        """Serve Tidebook over servers of its own, without anything that reads behind it."""
        with Postgres(home / "tidebook") as postgres, Valkey(home) as valkey:
            tidebook = cls(home, workers, postgres, valkey)
            tidebook.command("migrate")
            server = tidebook.child("serve", ready=lambda: answers(f"{tidebook.url}/healthz"))
            with server:
                tidebook._trees["server"] = server
                yield tidebook

    def child(self, *words: str, ready: Callable[[], bool] = lambda: True) -> Child:
        """A `tidebook` command that runs until it is stopped."""
        log = self._home / f"{words[0]}.log"
        return Child(words[0], [_tidebook(), *words], log=log, ready=ready, env=self._env)

    def command(self, *words: str) -> str:
        """The output of a `tidebook` command that ends by itself."""
        done = subprocess.run(  # noqa: S603 - a command line of our own
            [_tidebook(), *words],
            env={**os.environ, **self._env},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise CommandFailed(f"tidebook {' '.join(words)}: {done.stderr[-2000:]}")
        return done.stdout

    def staff(self) -> Staff:
        """People who open campaigns and read events."""
        return Staff.signed_in(self.url)

    def open_campaigns(self, staff: Staff, count: int) -> list[str]:
        """So many new campaigns, all open."""
        self._campaigns += count
        return [staff.open_campaign(f"Rush {self._campaigns}", QUOTA) for _ in range(count)]

    def claim(
        self,
        campaigns: Sequence[str],
        tokens: Sequence[str],
        seconds: float | None,
        roots: Mapping[str, int] | None = None,
    ) -> Run:
        """Each person claims from each campaign in turn, for so long or until all have."""
        host, port = address_of(self.url)
        requests = list(claim_requests(self.url, campaigns, tokens))
        with CpuTime(roots or self.roots()) as cpu:
            run = drive(
                host,
                port,
                requests,
                connections=self.connections,
                duration_s=seconds,
                keep_bodies=True,
            )
        run.cpu_s = cpu.used_s
        self._remember(run, campaigns, len(tokens))
        return run

    def _remember(self, run: Run, campaigns: Sequence[str], people: int) -> None:
        for body in run.bodies.values():
            claimed = json.loads(body)
            self.answers[claimed["campaign"]].acknowledged.append(claimed["coupon"])
        run.bodies.clear()
        for index, status in zip(run.requests, run.statuses, strict=True):
            if status == UNKNOWN or status >= 500:
                self.answers[campaigns[index // people]].unknown += 1

    def roots(self) -> dict[str, int]:
        """The server, its database and its Valkey."""
        return {name: child.pid for name, child in self._trees.items()}


class KnownPeople:
    """Claims of people whose tokens the server has seen within the last minute."""

    name = "tidebook"

    def __init__(self, tidebook: Tidebook, people: int, campaigns: int) -> None:
        self.connections = tidebook.connections
        self.roots = tidebook.roots
        self._tidebook = tidebook
        self._campaigns = campaigns
        self._staff = tidebook.staff()
        self._tokens = tokens_of(tidebook.url, [f"known person {i}" for i in range(people)])

    def run(self, seconds: float, roots: Mapping[str, int] | None = None) -> Run:
        """Everybody claims before the clock starts, then from campaign after campaign."""
        before = self._tidebook.open_campaigns(self._staff, GREETINGS)
        during = self._tidebook.open_campaigns(self._staff, self._campaigns)
        self._tidebook.claim(before, self._tokens, None)
        return self._tidebook.claim(during, self._tokens, seconds, roots)

    def wait_for_projections(self) -> None:
        """Return once the read models have seen every event there is."""
        auditor = self._staff.auditor
        head = auditor.get(f"/v1/books/{BOOK}/head")["position"]
        [campaign] = self._tidebook.open_campaigns(self._staff, 1)
        deadline = time.monotonic() + CATCH_UP_TIMEOUT_S
        while True:
            try:
                auditor.get(f"/v1/campaigns/{campaign}/figures", min_position=f"{BOOK}:{head}")
                return
            except UnexpectedAnswer:
                if time.monotonic() > deadline:
                    raise


class NewPeople:
    """Claims of people whom the server sees for the first time: every token is checked anew."""

    name = "tidebook_new_people"

    def __init__(self, tidebook: Tidebook, people: int) -> None:
        self.connections = tidebook.connections
        self.roots = tidebook.roots
        self._tidebook = tidebook
        self._people = people * CROWD
        self._staff = tidebook.staff()
        self._runs = itertools.count()

    def run(self, seconds: float) -> Run:
        """So many people who never came before claim from one campaign."""
        crowd = next(self._runs)
        names = [f"new person {crowd}:{i}" for i in range(self._people)]
        tokens = tokens_of(self._tidebook.url, names)
        return self._tidebook.claim(self._tidebook.open_campaigns(self._staff, 1), tokens, seconds)


class WithProjections:
    """The same claims as of known people, while the projections follow them."""

    name = "tidebook_with_projections"

    def __init__(self, tidebook: Tidebook, known: KnownPeople) -> None:
        self.connections = tidebook.connections
        self._tidebook = tidebook
        self._known = known
        self._project: Child | None = None

    def run(self, seconds: float) -> Run:
        """The projections have caught up when the clock starts, and keep running."""
        with self._tidebook.child("project") as self._project:
            self._known.wait_for_projections()
            return self._known.run(seconds, self.roots())

    def roots(self) -> dict[str, int]:
        """The server, its database, its Valkey and, while it runs, the projections."""
        return {**self._known.roots(), **self._following()}

    def _following(self) -> dict[str, int]:
        running = self._project is not None and self._project.is_running
        return {"projections": self._project.pid} if self._project and running else {}


def _module(name: str, workers: int) -> tuple[str, list[str]]:
    port = free_port()
    argv = [sys.executable, "-m", name, "--port", str(port), "--workers", str(workers)]
    return f"http://127.0.0.1:{port}", argv


def _tidebook() -> str:
    """The `tidebook` command that is installed beside this Python."""
    return str(Path(sys.executable).with_name("tidebook"))


def _environment(
    home: Path, workers: int, database_url: str, redis_url: str, url: str
) -> dict[str, str]:
    host, port = address_of(url)
    return {
        **RATES,
        "TIDEBOOK_HOME": str(home / "home"),
        "TIDEBOOK_DATABASE_URL": database_url,
        "TIDEBOOK_REDIS_URL": redis_url,
        "TIDEBOOK_HOST": host,
        "TIDEBOOK_PORT": str(port),
        "TIDEBOOK_WORKERS": str(workers),
        "TIDEBOOK_DEV_ISSUER": "1",
    }
