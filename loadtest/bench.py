"""`make bench`: Tidebook measured against its baselines, in turns, on this machine.

    python -m loadtest.bench --runs 5 --json bench.json

It starts every server itself, as a child on loopback with a home in a temporary directory, and
leaves nothing behind. All contenders run by turns (A B C A B C …) after a warm-up, so that a slow
minute of the machine slows all of them. After the last run the whole book is read over HTTP and
checked; a benchmark whose invariants do not hold ends with status 1, whatever its figures are.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import shlex
import signal
import statistics
import sys
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from loadtest import report
from loadtest.contenders import (
    BOOK,
    CREATED,
    Constant,
    Contender,
    KnownPeople,
    NewPeople,
    Stock,
    Tidebook,
    WithProjections,
)
from loadtest.invariants import check
from loadtest.report import Latency, Measurement, Report
from loadtest.servers import POSTGRES_SETTINGS, PeakMemory

if TYPE_CHECKING:
    from collections.abc import Callable

CONTENDERS: Final = ("constant", "stock", "tidebook")
WARM_UP_S: Final = 1.5
CLAIMS_PER_S_MAX: Final = 20_000
"""A run prepares requests for this rate; a faster server would end the run a little early."""

TITLES: Final = {
    "constant": "constant answer",
    "stock": "stock recorder",
    "tidebook": "Tidebook",
    "tidebook_new_people": "… new people",
    "tidebook_with_projections": "… with projections",
}


@dataclass(frozen=True)
class Plan:
    """How much is measured."""

    runs: int
    seconds: float
    people: int
    campaigns_per_run: int
    workers: int
    only: Sequence[str]

    @classmethod
    def of(cls, options: argparse.Namespace) -> Plan:
        """The plan that the options ask for; `--quick` is for trying things out."""
        runs, seconds, people = (2, 1.0, 1_000) if options.quick else (5, 4.0, 2_000)
        seconds = options.seconds or seconds
        return cls(
            runs=options.runs or runs,
            seconds=seconds,
            people=people,
            campaigns_per_run=math.ceil(CLAIMS_PER_S_MAX * seconds / people),
            workers=options.workers,
            only=options.only,
        )


@dataclass
class Series:
    """What the runs of one contender gave."""

    contender: Contender
    rates: list[float] = field(default_factory=list)
    p50s_ms: list[float] = field(default_factory=list)
    p99s_ms: list[float] = field(default_factory=list)
    cpu_us: defaultdict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    peak_bytes: dict[str, int] = field(default_factory=dict)

    def run(self, seconds: float) -> None:
        """One run, with the memory of the contender's processes watched."""
        with PeakMemory(self.contender.roots) as memory:
            run = self.contender.run(seconds)
        for name, used in memory.peak_bytes.items():
            self.peak_bytes[name] = max(self.peak_bytes.get(name, 0), used)
        if set(run.statuses) != {CREATED}:
            raise NotMeasurable(self.contender.name, run.status_counts(), dict(run.codes))
        self.rates.append(run.rate(status=CREATED))
        self.p50s_ms.append(run.percentile_ms(0.50))
        self.p99s_ms.append(run.percentile_ms(0.99))
        for name, used_s in run.cpu_s.items():
            self.cpu_us[name].append(used_s / len(run.statuses) * 1e6)

    def forget(self) -> None:
        """Drop the figures so far: the warm-up is over."""
        for runs in (self.rates, self.p50s_ms, self.p99s_ms):
            runs.clear()
        self.cpu_us.clear()

    def measurement(self, baseline: Measurement | None) -> Measurement:
        """The runs, summed up."""
        return Measurement.of(
            self.contender.name,
            TITLES[self.contender.name],
            "answers/s" if self.contender.name == Constant.name else "claims/s",
            self.rates,
            baseline=baseline,
            latency=Latency(
                round(statistics.median(self.p50s_ms), 2), round(statistics.median(self.p99s_ms), 2)
            ),
            connections=self.contender.connections,
            peak_memory_bytes=self.peak_bytes,
            cpu_us={name: round(statistics.median(us), 1) for name, us in self.cpu_us.items()},
        )


class NotMeasurable(Exception):
    """A contender answered something else than 201: its rate would be a lie."""

    def __init__(self, name: str, statuses: dict[int, int], codes: dict[str, int]) -> None:
        super().__init__(f"{name} answered {statuses} {codes}")


@dataclass
class Rebuilds:
    """What the rebuilds of the read models gave, per read model and for all of them in turn."""

    rates: defaultdict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    peak_bytes: int = 0

    def run(self, tidebook: Tidebook) -> None:
        """Rebuild every read model from position 0 over the events that the claims made."""
        done = json.loads(tidebook.command("project", "--rebuild", "--json"))
        for one in done:
            self.rates[one["projection"]].append(one["events_per_s"])
            self.peak_bytes = max(self.peak_bytes, one["peak_memory_bytes"])
        events = sum(one["events"] for one in done)
        self.rates["all"].append(events / sum(one["seconds"] for one in done))

    def measurements(self) -> list[Measurement]:
        """The runs, summed up."""
        return [
            Measurement.of(
                f"rebuild_{name}",
                f"rebuild {name.replace('_', ' ')}",
                "events/s",
                rates,
                peak_memory_bytes={"rebuild": self.peak_bytes},
            )
            for name, rates in self.rates.items()
        ]


class Steps:
    """Progress that is drawn between the runs only: drawing costs the driver its core."""

    def __init__(self, console: Console, total: int) -> None:
        self._bar = Progress(
            TextColumn("{task.description:<40}"),
            BarColumn(),
            TextColumn("{task.completed:.0f}/{task.total:.0f}"),
            TimeElapsedColumn(),
            console=console,
            auto_refresh=False,
            transient=True,
        )
        self._task = self._bar.add_task("", total=total)

    def step(self, description: str, work: Callable[[], None]) -> None:
        """Show what is done now, do it, and count it."""
        self._bar.update(self._task, description=description)
        self._bar.refresh()
        work()
        self._bar.advance(self._task)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()


class Bench:
    """One benchmark from the first server to the last check."""

    def __init__(self, plan: Plan, console: Console) -> None:
        self._plan = plan
        self._console = console
        self._rebuilds = Rebuilds()
        self.measurements: list[Measurement] = []
        self.findings: list[str] = []
        self.events = 0

    def measure(self, home: Path) -> None:
        """Start everything, measure by turns, check, and end everything."""
        with contextlib.ExitStack() as servers:
            self._console.print("Starting servers …")
            series, tidebook = self._start(home, servers)
            steps = len(series) * (1 + self._plan.runs) + (self._plan.runs + 2) * bool(tidebook)
            with Steps(self._console, steps) as progress:
                self._by_turns(series, progress)
                if tidebook is not None:
                    self._behind(tidebook, progress)
        stock = next((s.measurement(None) for s in series if s.contender.name == Stock.name), None)
        for one in series:
            baseline = stock if one.contender.name != Stock.name else None
            self.measurements.append(one.measurement(baseline))
        self.measurements += self._rebuilds.measurements()

    def _start(
        self, home: Path, servers: contextlib.ExitStack
    ) -> tuple[list[Series], Tidebook | None]:
        plan = self._plan
        contenders: list[Contender] = []
        tidebook = None
        if "constant" in plan.only:
            contenders.append(servers.enter_context(Constant.started(home, plan.workers)))
        if "stock" in plan.only:
            contenders.append(servers.enter_context(Stock.started(home, plan.workers)))
        if "tidebook" in plan.only:
            tidebook = servers.enter_context(Tidebook.started(home, plan.workers))
            known = KnownPeople(tidebook, plan.people, plan.campaigns_per_run)
            new = NewPeople(tidebook, plan.people)
            contenders += [known, new, WithProjections(tidebook, known)]
        return [Series(contender) for contender in contenders], tidebook

    def _by_turns(self, series: list[Series], progress: Steps) -> None:
        for one in series:
            warm_up_s = min(WARM_UP_S, self._plan.seconds)
            progress.step(f"warm-up of {one.contender.name}", partial(one.run, warm_up_s))
            one.forget()
        for turn in range(1, self._plan.runs + 1):
            for one in series:
                name = f"run {turn} of {one.contender.name}"
                progress.step(name, partial(one.run, self._plan.seconds))

    def _behind(self, tidebook: Tidebook, progress: Steps) -> None:
        """What reads behind the claims: rebuilds, and the check of every event."""
        for turn in range(1, self._plan.runs + 1):
            progress.step(f"rebuild {turn}", partial(self._rebuilds.run, tidebook))
        progress.step("check of every event", partial(self._check, tidebook))

    def _check(self, tidebook: Tidebook) -> None:
        with tidebook.staff().auditor as auditor:
            books = check(auditor, BOOK)
        for campaign, said in tidebook.answers.items():
            books.check_claim_answers(campaign, said.acknowledged, unknown=said.unknown)
        self.findings += [str(finding) for finding in books.findings]
        self.events = books.position


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; the exit status says whether every invariant held."""
    options = _parser().parse_args(arguments)
    plan = Plan.of(options)
    console = Console()
    load_before = os.getloadavg()[0]
    if load_before > report.QUIET_LOAD:
        console.print(f"[yellow]The machine is busy (load {load_before:.1f}): noisy figures.")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # end the children on the way out
    bench = Bench(plan, console)
    with tempfile.TemporaryDirectory(prefix="tidebook-bench-") as directory:
        home = Path(directory)
        home.chmod(0o711)  # PostgreSQL runs under another account when we are root
        bench.measure(home)
    result = Report(
        schema=report.SCHEMA,
        date=report.now(),
        command=shlex.join(["python", "-m", "loadtest.bench", *(arguments or sys.argv[1:])]),
        seconds_per_run=plan.seconds,
        machine=report.this_machine(load_before),
        versions=report.versions(),
        postgres=POSTGRES_SETTINGS,
        measurements=bench.measurements,
        events=bench.events,
        findings=bench.findings,
    )
    report.write(result, options.json)
    for table in report.tables(result):
        console.print(table)
    _conclude(console, result, options.json)
    return 1 if result.findings else 0


def _conclude(console: Console, result: Report, path: Path) -> None:
    for finding in result.findings[:20]:
        console.print(f"[red]✗[/red] {finding}", highlight=False)
    if result.events:
        verdict = f"{len(result.findings)} findings" if result.findings else "all invariants hold"
        console.print(f"{result.events:,} events read back over HTTP: {verdict}")
    console.print(f"Written to {path}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m loadtest.bench",
        description="Measure Tidebook against its baselines, in turns, on this machine. Starts "
        "all servers itself and takes about five minutes; keep the machine quiet meanwhile.",
    )
    parser.add_argument("--quick", action="store_true", help="half a minute, for trying it out")
    parser.add_argument("--runs", type=int, help="runs of each contender (default 5, quick 2)")
    parser.add_argument("--seconds", type=float, help="length of a run (default 4, quick 1)")
    parser.add_argument("--workers", type=int, default=2, help="server processes each (default 2)")
    parser.add_argument(
        "--only",
        nargs="+",
        choices=CONTENDERS,
        default=CONTENDERS,
        help="measure some of them",
    )
    parser.add_argument(
        "--json", type=Path, default=Path("bench.json"), metavar="PATH", help="where to write"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
