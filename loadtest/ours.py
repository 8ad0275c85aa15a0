"""Tidebook in the benchmark: one server over PostgreSQL and Valkey, and everything asked of it.

People sign in before a clock starts and bring their session token; each claim is somebody's first
of one hot campaign. Whatever is answered is remembered and compared with the whole book when the
last run is over. It must never count a refusal that was not true, nor a claim that is not stored.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import sys
import time
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Final, NamedTuple

import httpx

from loadtest.client import UnexpectedAnswer
from loadtest.contenders import CREATED, QUOTA, Outcome, outcome_of, output_of
from loadtest.driver import UNKNOWN, Run, arrivals, build_request, drive, drive_open
from loadtest.invariants import check
from loadtest.lag import LagWatch, largest_s
from loadtest.people import scanners, tourists
from loadtest.servers import Child, CpuTime, Postgres, Used, Valkey, answers, free_port, used_by
from loadtest.stage import THRESHOLD_MINOR, Staff, address_of, claim_request, claim_requests, money

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from loadtest.client import Caller

BOOK: Final = "main"
CONFLICT: Final = 409
OK: Final = 200
CATCH_UP_TIMEOUT_S: Final = 120.0
CATCH_UP_PAUSE_S: Final = 0.05
SIZE_LINE: Final = 1
"""The line of a checkpoint (C2SP tlog-checkpoint) that has the size of the tree."""

RESERVE: Final = 100
"""Claims that use up the campaign whose refusals are counted; also those sent before the clock."""

CLAIMS_PER_S_MAX: Final = 16_000
"""So many people take part in a second; a faster server would end a run a little early."""
REFUSALS_PER_S_MAX: Final = 50_000
REDEMPTIONS_PER_S_MAX: Final = 16_000
HOLDERS: Final = 5_000
"""People who hold a coupon and ask for another one, again and again."""
OPEN_CONNECTIONS: Final = 512
"""In the open loop nobody waits for a connection, unless the service is far behind."""
LATE: Final = 1_024
"""Requests in flight of those who come too late: they are more than those who come in time."""
SCANNERS: Final = 256
MERCHANTS: Final = 20
SHARE: Final = 0.8
"""Of the rate that was measured just before: the latency at which people are served well."""

LIFTED: Final = "1000000"
SETTINGS: Final = {
    "TIDEBOOK_DEV_ISSUER": "1",
    "TIDEBOOK_SESSION_S": "3600",
    **{
        f"TIDEBOOK_RATE_{who}_{what}": LIFTED
        for who in ("TOURIST", "STAFF")
        for what in ("PER_S", "BURST")
    },
}
"""The limits are lifted, not switched off: each claim still asks for its token in the bucket."""


@dataclass
class Answers:
    """What was answered about some coupons, to be compared with the store afterwards."""

    acknowledged: list[str] = field(default_factory=list)
    unknown: int = 0

    def remember(self, run: Run) -> Run:
        """Keep the coupons that a run was told of, and count what may or may not have happened."""
        self.acknowledged += [json.loads(body)["coupon"] for body in run.bodies.values()]
        self.unknown += sum(1 for status in run.statuses if status == UNKNOWN or status >= 500)
        return run


class Refused(NamedTuple):
    """Refusals of one run, and the positions of the book before its first and after its last."""

    campaign: str
    code: str
    times: int
    low: int
    high: int


class Tidebook:
    """Our server."""

    connections = 512

    def __init__(self, home: Path, workers: int, postgres: Postgres, valkey: Valkey) -> None:
        self.url = f"http://127.0.0.1:{free_port()}"
        self.answers: defaultdict[str, Answers] = defaultdict(Answers)
        self.refused: list[Refused] = []
        self.redemptions = Answers()
        self._home = home
        self._env = _environment(home, workers, postgres.url, valkey.url, self.url)
        self._trees: dict[str, Child] = {"postgres": postgres, "valkey": valkey}
        self._campaigns = itertools.count(1)
        self._staff: Staff | None = None

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

    @property
    def database_url(self) -> str:
        """The database, as its owner."""
        return self._env["TIDEBOOK_DATABASE_URL"]

    @property
    def server_pid(self) -> int:
        """The parent of the server's processes."""
        return self._trees["server"].pid

    def child(self, *words: str, ready: Callable[[], bool] = lambda: True) -> Child:
        """A `tidebook` command that runs until it is stopped."""
        log = self._home / f"{words[0]}.log"
        return Child(words[0], [_tidebook(), *words], log=log, ready=ready, env=self._env)

    def command(self, *words: str) -> str:
        """The output of a `tidebook` command that ends by itself."""
        return output_of([_tidebook(), *words], {**os.environ, **self._env})

    def measured(self, *words: str) -> Used:
        """Run a `tidebook` command that ends by itself, and see what it takes."""
        env = {**os.environ, **self._env}
        with CpuTime({"postgres": self._trees["postgres"].pid}) as postgres:
            used = used_by([_tidebook(), *words], env)
        return used._replace(postgres_cpu_s=round(postgres.used_s["postgres"], 2))

    @property
    def staff(self) -> Staff:
        """People who open campaigns and read events."""
        if self._staff is None:
            self._staff = Staff.signed_in(self.url)
        return self._staff

    def open_campaign(self, quota: int = QUOTA) -> str:
        """A new campaign that is open for claims."""
        return self.staff.open_campaign(f"Rush {next(self._campaigns)}", quota)

    def head(self) -> int:
        """The position of the last event."""
        position: int = self.staff.auditor.get(f"/v1/books/{BOOK}/head")["position"]
        return position

    def drive(
        self,
        requests: Sequence[bytes],
        seconds: float | None,
        roots: Mapping[str, int] | None = None,
        connections: int | None = None,
    ) -> Run:
        """Send these in a closed loop, for so long or until all are sent."""
        host, port = address_of(self.url)
        with CpuTime(roots or self.roots()) as cpu:
            run = drive(
                host,
                port,
                requests,
                connections=connections or self.connections,
                duration_s=seconds,
                keep_bodies=True,
            )
        run.cpu_s = cpu.used_s
        return run

    def drive_open(self, requests: Sequence[bytes], due_s: Sequence[float]) -> Run:
        """Send each of these at its moment."""
        host, port = address_of(self.url)
        with CpuTime(self.roots()) as cpu:
            run = drive_open(
                host, port, requests, due_s=due_s, connections=OPEN_CONNECTIONS, keep_bodies=True
            )
        run.cpu_s = cpu.used_s
        return run

    def claim(
        self,
        campaign: str,
        tokens: Sequence[str],
        seconds: float | None,
        roots: Mapping[str, int] | None = None,
    ) -> Run:
        """Each person claims once, for so long or until all have."""
        requests = list(claim_requests(self.url, [campaign], tokens))
        return self.answers[campaign].remember(self.drive(requests, seconds, roots))

    def check(self) -> tuple[int, list[str]]:
        """Read the whole book over HTTP; return where it ends and what must not be."""
        auditor: Caller = self.staff.auditor
        books = check(auditor, BOOK)
        for campaign, said in self.answers.items():
            books.check_claim_answers(campaign, said.acknowledged, unknown=said.unknown)
        findings = [str(finding) for finding in books.findings]
        redeemed = books.states().get("redeemed", (0, 0))[0]
        known = len(self.redemptions.acknowledged)
        if not known <= redeemed <= known + self.redemptions.unknown:
            findings.append(f"{known} redemptions were answered, {redeemed} are stored")
        for refused in self.refused:
            thing = refused.campaign.rpartition("_")[2]
            if not books.is_so(refused.code, thing, refused.low, refused.high):
                findings.append(f"{refused.times} refusals {refused.code} of {thing} were not true")
        return books.position, findings

    def roots(self) -> dict[str, int]:
        """The server, its database and its Valkey."""
        return {name: child.pid for name, child in self._trees.items()}


class Rush:
    """Everybody claims from one campaign, all at once, as fast as they are answered."""

    name = "tidebook"

    def __init__(self, tidebook: Tidebook, people: int) -> None:
        self.connections = tidebook.connections
        self.roots = tidebook.roots
        self.tidebook = tidebook
        self.tokens = tourists(tidebook.url, (f"person {n}" for n in range(people)))
        self.coupons: list[str] = []
        self.per_s = 0.0
        """The rate of a run that was this one and nothing else, until somebody takes it."""

    def run(self, seconds: float, roots: Mapping[str, int] | None = None) -> Outcome:
        """A new campaign, and each person's first claim of it."""
        campaign = self.tidebook.open_campaign()
        run = self.tidebook.claim(campaign, self.tokens, seconds, roots)
        outcome = outcome_of(run, CREATED)
        self.coupons = list(self.tidebook.answers[campaign].acknowledged)
        self.per_s = outcome.per_s
        return outcome

    def wait_for_projections(self) -> None:
        """Return once the read models have seen every event there is."""
        auditor = self.tidebook.staff.auditor
        campaign = self.tidebook.open_campaign()
        seen = f"{BOOK}:{self.tidebook.head()}"

        def is_seen() -> bool:
            try:
                auditor.get(f"/v1/campaigns/{campaign}/figures", min_position=seen)
            except UnexpectedAnswer:
                return False
            return True

        _wait_until(is_seen, "the read models have not caught up")

    def wait_for_log(self) -> None:
        """Return once a checkpoint covers an event that is stored now."""
        self.tidebook.open_campaign()
        head = self.tidebook.head()
        address = f"{self.tidebook.url}/log/{BOOK}/checkpoint"
        _wait_until(
            lambda: int(httpx.get(address).text.splitlines()[SIZE_LINE]) >= head,
            "the log has not caught up",
        )


def _wait_until(condition: Callable[[], bool], trouble: str) -> None:
    deadline = time.monotonic() + CATCH_UP_TIMEOUT_S
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{trouble} after {CATCH_UP_TIMEOUT_S:g} s")
        time.sleep(CATCH_UP_PAUSE_S)


class Followed:
    """The same rush, while a command of ours reads what was committed."""

    def __init__(self, rush: Rush, name: str, command: str, reader: str) -> None:
        self.name = name
        self.reader = reader
        self.connections = rush.connections
        self._rush = rush
        self._command = command
        self._follower: Child | None = None

    def run(self, seconds: float) -> Outcome:
        """It has caught up when the clock starts."""
        tidebook = self._rush.tidebook
        tidebook.command(self._command, "--once")
        with tidebook.child(self._command) as self._follower:
            outcome = self._watched(seconds)
        self._rush.per_s = 0.0  # that of a rush that somebody followed
        return outcome

    def _watched(self, seconds: float) -> Outcome:
        return self._rush.run(seconds, self.roots())

    def roots(self) -> dict[str, int]:
        """The server, its database, its Valkey and, while it runs, the follower."""
        running = self._follower is not None and self._follower.is_running
        following = {self.reader: self._follower.pid} if self._follower and running else {}
        return {**self._rush.roots(), **following}


class WithProjections(Followed):
    """Projections follow the rush, and their lag is watched until the end."""

    def __init__(self, rush: Rush) -> None:
        super().__init__(rush, "tidebook_with_projections", "project", "projections")

    def _watched(self, seconds: float) -> Outcome:
        self._rush.wait_for_projections()
        with LagWatch(self._rush.tidebook.url, BOOK) as watch:
            outcome = super()._watched(seconds)
        outcome.lag_s = max(largest_s(watch.looks).values(), default=None)
        return outcome


class WithLog(Followed):
    """The transparency log is built and signed behind the rush."""

    def __init__(self, rush: Rush) -> None:
        super().__init__(rush, "tidebook_with_log", "log", "log")

    def _watched(self, seconds: float) -> Outcome:
        self._rush.wait_for_log()
        return super()._watched(seconds)


class NewPeople:
    """The same rush of people whom the server has never seen: each session token is a new one."""

    name = "tidebook_new_people"

    def __init__(self, tidebook: Tidebook, people: int) -> None:
        self.connections = tidebook.connections
        self.roots = tidebook.roots
        self._tidebook = tidebook
        self._people = people
        self._crowds = itertools.count(1)

    def run(self, seconds: float) -> Outcome:
        """They sign in, the clock starts, they claim."""
        crowd = next(self._crowds)
        tokens = tourists(
            self._tidebook.url, (f"new person {crowd}:{n}" for n in range(self._people))
        )
        run = self._tidebook.claim(self._tidebook.open_campaign(), tokens, seconds)
        return outcome_of(run, CREATED)


class AtEighty:
    """People who come by themselves, at 80 % of the rate that was measured just before."""

    name = "tidebook_at_80"

    def __init__(self, rush: Rush) -> None:
        self.connections = OPEN_CONNECTIONS
        self.roots = rush.roots
        self._rush = rush
        self._chance = Random(80)

    def run(self, seconds: float) -> Outcome:
        """Each request has its own moment; its latency counts from there."""
        if not self._rush.per_s:
            self._rush.run(seconds)
        tidebook, tokens = self._rush.tidebook, self._rush.tokens
        offered_per_s, self._rush.per_s = self._rush.per_s * SHARE, 0.0
        due_s = list(arrivals(offered_per_s, seconds, self._chance))[: len(tokens)]
        campaign = tidebook.open_campaign()
        requests = list(claim_requests(tidebook.url, [campaign], tokens[: len(due_s)]))
        run = tidebook.answers[campaign].remember(tidebook.drive_open(requests, due_s))
        outcome = outcome_of(run, CREATED)
        outcome.offered_per_s = offered_per_s
        return outcome


class SoldOut:
    """A campaign that has nothing left, and everybody who comes too late."""

    name = "sold_out"

    def __init__(self, rush: Rush) -> None:
        self.connections = LATE
        self.roots = rush.roots
        self._rush = rush

    def run(self, seconds: float) -> Outcome:
        """The last coupon is claimed before the clock starts, and nothing ever comes back."""
        tidebook, tokens = self._rush.tidebook, self._rush.tokens
        first, late = tokens[:RESERVE], tokens[RESERVE:]
        campaign = tidebook.open_campaign(RESERVE)
        tidebook.claim(campaign, first, None)
        return _refused(tidebook, campaign, late, self.name, seconds)


class AlreadyClaimed:
    """People who hold a coupon and want another one."""

    name = "already_claimed"

    def __init__(self, rush: Rush) -> None:
        self.connections = LATE
        self.roots = rush.roots
        self._rush = rush

    def run(self, seconds: float) -> Outcome:
        """They have claimed before the clock starts; only who was answered 201 asks again.

        That they hold a coupon is compared with the book, as for every other 201.
        """
        tidebook = self._rush.tidebook
        tokens = self._rush.tokens[:HOLDERS]
        campaign = tidebook.open_campaign()
        run = tidebook.claim(campaign, tokens, None)
        answered = zip(run.requests, run.statuses, strict=True)
        holders = [tokens[index] for index, status in answered if status == CREATED]
        return _refused(tidebook, campaign, holders, self.name, seconds)


def _refused(
    tidebook: Tidebook, campaign: str, tokens: Sequence[str], code: str, seconds: float
) -> Outcome:
    """Claims of these people, each with a new key, none of which may succeed."""
    low = tidebook.head()
    tidebook.drive(list(_more_claims(tidebook.url, campaign, tokens, "warm", RESERVE)), None)
    count = int(REFUSALS_PER_S_MAX * seconds)
    requests = list(_more_claims(tidebook.url, campaign, tokens, "more", count))
    run = tidebook.drive(requests, seconds, connections=LATE)
    outcome = outcome_of(run, CONFLICT, code)
    refused = run.codes[f"{CONFLICT} {code}"]
    if code == SoldOut.name:
        tidebook.refused.append(Refused(campaign, code, refused, low, tidebook.head()))
    return outcome


def _more_claims(
    url: str, campaign: str, tokens: Sequence[str], name: str, count: int
) -> Iterator[bytes]:
    """So many claims of these people in turn, each with a key of its own."""
    for index, token in zip(range(count), itertools.cycle(tokens), strict=False):
        yield claim_request(url, campaign, token, f"{name}-{index}")


class Redemptions:
    """The coupons of the last rush are shown at the tills, each scanner one at a time."""

    name = "redemptions"

    def __init__(self, rush: Rush) -> None:
        self.connections = rush.connections
        self.roots = rush.roots
        self._rush = rush
        self._scanners = scanners(rush.tidebook.url, SCANNERS, MERCHANTS)
        self._orders = itertools.count(1)

    def run(self, seconds: float) -> Outcome:
        """Each coupon once, each for an order of its own."""
        if not self._rush.coupons:
            self._rush.run(seconds)
        coupons = self._rush.coupons[: int(REDEMPTIONS_PER_S_MAX * seconds)]
        self._rush.coupons = []
        requests = [
            self._request(scanner, coupon)
            for coupon, scanner in zip(coupons, itertools.cycle(self._scanners), strict=False)
        ]
        tidebook = self._rush.tidebook
        return outcome_of(tidebook.redemptions.remember(tidebook.drive(requests, seconds)), OK)

    def _request(self, scanner: str, coupon: str) -> bytes:
        host, port = address_of(self._rush.tidebook.url)
        order = f"order-{next(self._orders)}"
        body = {"order": order, "order_total": money(THRESHOLD_MINOR)}
        return build_request(
            "POST",
            f"/v1/coupons/{coupon}/redemptions",
            host=f"{host}:{port}",
            headers=[("Authorization", f"Bearer {scanner}"), ("Idempotency-Key", order)],
            body=json.dumps(body).encode(),
        )


def _tidebook() -> str:
    """The `tidebook` command that is installed beside this Python."""
    return str(Path(sys.executable).with_name("tidebook"))


def _environment(
    home: Path, workers: int, database_url: str, redis_url: str, url: str
) -> dict[str, str]:
    host, port = address_of(url)
    return {
        **SETTINGS,
        "TIDEBOOK_HOME": str(home / "home"),
        "TIDEBOOK_DATABASE_URL": database_url,
        "TIDEBOOK_REDIS_URL": redis_url,
        "TIDEBOOK_HOST": host,
        "TIDEBOOK_PORT": str(port),
        "TIDEBOOK_WORKERS": str(workers),
    }
