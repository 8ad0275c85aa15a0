"""`make bench`: Tidebook measured against its baselines, in turns, on this machine.

    python -m loadtest.bench --runs 5 --json bench.json

It starts every server itself, as a child on loopback with a home in a temporary directory, and
leaves nothing behind. All contenders run by turns after a warm-up, there and back (A B C, C B A,
…): a slow minute of the machine slows all of them, and nobody always runs behind the same one.
After the last run the whole book is read over HTTP and checked; a benchmark whose invariants do
not hold ends with status 1, whatever its figures are. A contender that fails is named, and the
others go on; it must never have a figure.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import shlex
import signal
import statistics
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from loadtest import lineup, report
from loadtest.contenders import Contender, Outcome
from loadtest.rebuilding import rebuild_each
from loadtest.report import Failure, Latency, Measurement, Report
from loadtest.servers import POSTGRES_SETTINGS, PeakMemory

if TYPE_CHECKING:
    from collections.abc import Callable

    from loadtest.ours import Tidebook

WARM_UP_S: Final = 1.5
REBUILDS_MAX: Final = 3
REBUILD: Final = "rebuild"
CHECK: Final = "check"


@dataclass(frozen=True)
class Plan:
    """How much is measured."""

    runs: int
    seconds: float
    workers: int
    only: Sequence[str]

    @property
    def rebuilds(self) -> int:
        """How often the read models are rebuilt: each time takes many runs' worth of seconds."""
        return min(self.runs, REBUILDS_MAX)

    @classmethod
    def of(cls, options: argparse.Namespace) -> Plan:
        """The plan that the options ask for; `--quick` is for trying things out."""
        runs, seconds = (1, 0.7) if options.quick else (5, 3.0)
        return cls(
            runs=options.runs or runs,
            seconds=options.seconds or seconds,
            workers=options.workers,
            only=lineup.chosen(options.only, REBUILD),
        )


@dataclass
class Series:
    """What the runs of one contender gave."""

    contender: Contender
    outcomes: list[Outcome] = field(default_factory=list)
    peak_bytes: dict[str, int] = field(default_factory=dict)
    findings: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        """What the contender is called."""
        return self.contender.name

    def run(self, seconds: float) -> None:
        """One run, with the memory of the contender's processes watched."""
        with PeakMemory(self.contender.roots) as memory:
            outcome = self.contender.run(seconds)
        for name, used in memory.peak_bytes.items():
            self.peak_bytes[name] = max(self.peak_bytes.get(name, 0), used)
        self.outcomes.append(outcome)
        self.findings += outcome.findings

    def measurement(self) -> Measurement:
        """The runs, summed up."""
        outcomes = self.outcomes
        others: Counter[str] = Counter()
        for outcome in outcomes:
            others.update(outcome.others)
        entry = lineup.ENTRIES[self.name]
        return Measurement.of(
            self.name,
            entry.title,
            entry.unit,
            [outcome.per_s for outcome in outcomes],
            kind=entry.kind,
            latency=Latency(
                round(statistics.median(outcome.p50_ms for outcome in outcomes), 2),
                round(statistics.median(outcome.p99_ms for outcome in outcomes), 2),
            ),
            connections=self.contender.connections,
            peak_memory_bytes=self.peak_bytes,
            cpu_us=_medians([outcome.cpu_us for outcome in outcomes]),
            lag_s=_largest([outcome.lag_s for outcome in outcomes]),
            offered_per_s=_median([outcome.offered_per_s for outcome in outcomes]),
            others=dict(others),
        )


def _largest(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return round(max(known), 3) if known else None


def _median(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return round(statistics.median(known), 1) if known else None


def _medians(runs: Sequence[Mapping[str, float]]) -> dict[str, float]:
    names = runs[0] if runs else ()
    return {name: round(statistics.median(run.get(name, 0.0) for run in runs), 1) for name in names}


@dataclass
class Rebuilds:
    """What the rebuilds of the read models gave, per read model and for all of them in turn."""

    rates: defaultdict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    cpu_us: defaultdict[str, list[dict[str, float]]] = field(
        default_factory=lambda: defaultdict(list)
    )
    peak_bytes: int = 0

    def run(self, tidebook: Tidebook) -> None:
        """Rebuild every read model from position 0 over the events that the claims made."""
        done = rebuild_each(tidebook)
        for one in done:
            self.rates[one.projection].append(one.events_per_s)
            self.cpu_us[one.projection].append(one.cpu_us)
            self.peak_bytes = max(self.peak_bytes, one.peak_memory_bytes)
        events = sum(one.events for one in done)
        self.rates["all"].append(events / sum(one.seconds for one in done))

    def measurements(self) -> list[Measurement]:
        """The runs, summed up."""
        return [
            Measurement.of(
                f"rebuild_{name}",
                f"rebuild {name.replace('_', ' ')}",
                "events/s",
                rates,
                kind="rebuild",
                peak_memory_bytes={"rebuild": self.peak_bytes},
                cpu_us=_medians(self.cpu_us[name]),
            )
            for name, rates in self.rates.items()
        ]


class Steps:
    """Progress that is drawn between the runs only: drawing costs the driver its core."""

    def __init__(self, console: Console, total: int) -> None:
        self._bar = Progress(
            TextColumn("{task.description:<44}"),
            BarColumn(),
            TextColumn("{task.completed:.0f}/{task.total:.0f}"),
            TimeElapsedColumn(),
            console=console,
            auto_refresh=False,
            transient=True,
        )
        self._task = self._bar.add_task("", total=total)

    def step(self, description: str, work: Callable[[], object]) -> None:
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
        self.failures: list[Failure] = []
        self.findings: list[str] = []
        self.events = 0

    def measure(self, home: Path) -> None:
        """Start everything, measure by turns, check, and end everything."""
        plan = self._plan
        people = math.ceil(lineup.PEOPLE_PER_S * plan.seconds)
        with contextlib.ExitStack() as servers:
            stage = lineup.Stage(home, plan.workers, people, servers)
            turns = len(plan.only) * (2 + plan.runs)
            with Steps(self._console, turns + plan.rebuilds + 1) as progress:
                series = self._start(stage, progress)
                self._by_turns(series, progress)
                if stage.tidebook is not None:
                    self._behind(stage.tidebook, progress)
        for one in series:
            self.findings += one.findings
        kept = [one.measurement() for one in series if not self._has_failed(one.name)]
        rebuilds = [] if self._has_failed(REBUILD) else self._rebuilds.measurements()
        self.measurements = report.compared([*kept, *rebuilds])

    def _start(self, stage: lineup.Stage, progress: Steps) -> list[Series]:
        series: list[Series] = []

        def start(name: str) -> None:
            series.append(Series(lineup.ENTRIES[name].start(stage)))

        for name in self._plan.only:
            if name != REBUILD:
                self._try(name, f"start of {name}", partial(start, name), progress)
        return series

    def _by_turns(self, series: list[Series], progress: Steps) -> None:
        for one in series:
            warm_up_s = min(WARM_UP_S, self._plan.seconds)
            self._try(one.name, f"warm-up of {one.name}", partial(one.run, warm_up_s), progress)
            one.outcomes.clear()
        for turn in range(1, self._plan.runs + 1):
            for one in lineup.in_turn(series, turn):
                if not self._has_failed(one.name):
                    run = partial(one.run, self._plan.seconds)
                    self._try(one.name, f"run {turn} of {one.name}", run, progress)

    def _behind(self, tidebook: Tidebook, progress: Steps) -> None:
        """What reads behind the claims: rebuilds, and the check of every event."""
        if REBUILD in self._plan.only:
            for turn in range(1, self._plan.rebuilds + 1):
                rebuild = partial(self._rebuilds.run, tidebook)
                if not self._has_failed(REBUILD):
                    self._try(REBUILD, f"rebuild {turn}", rebuild, progress)
        else:
            follow = partial(tidebook.command, "project", "--once")
            self._try(CHECK, "projections", follow, progress)
        self._try(CHECK, "check of every event", partial(self._check, tidebook), progress)

    def _check(self, tidebook: Tidebook) -> None:
        self.events, findings = tidebook.check()
        self.findings += findings

    def _try(self, name: str, what: str, work: Callable[[], object], progress: Steps) -> None:
        """Do one step of a contender; when it fails, it is out, and the others go on."""
        try:
            progress.step(what, work)
        except Exception as error:  # noqa: BLE001 - whatever it was, it is this contender's alone
            said = f"{type(error).__name__}: {error}".strip()[:2000]
            self.failures.append(Failure(name, what, said))
            self._console.print(f"[red]✗[/red] {what}: {said}", highlight=False, markup=True)

    def _has_failed(self, name: str) -> bool:
        return any(failure.name == name for failure in self.failures)


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
        targets=report.targets(bench.measurements),
        events=bench.events,
        findings=bench.findings,
        failures=bench.failures,
    )
    report.write(result, options.json)
    for table in report.tables(result):
        console.print(table)
    _conclude(console, result, options.json)
    return 1 if result.findings or result.failures else 0


def _conclude(console: Console, result: Report, path: Path) -> None:
    for failure in result.failures:
        console.print(f"[red]✗[/red] {failure.name}: {failure.what} failed", highlight=False)
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
        "all servers itself and takes a quarter of an hour; keep the machine quiet meanwhile.",
    )
    parser.add_argument("--quick", action="store_true", help="about a minute, for trying it out")
    parser.add_argument("--runs", type=int, help="runs of each contender (default 5, quick 1)")
    parser.add_argument("--seconds", type=float, help="length of a run (default 3, quick 0.7)")
    parser.add_argument("--workers", type=int, default=2, help="server processes each (default 2)")
    parser.add_argument(
        "--only",
        nargs="+",
        metavar="NAME",
        choices=[*lineup.GROUPS, *lineup.ENTRIES, REBUILD],
        default=[],
        help=f"measure some of them: {', '.join([*lineup.ENTRIES, REBUILD])}; "
        f"or all of {', '.join(lineup.GROUPS)}",
    )
    parser.add_argument(
        "--json", type=Path, default=Path("bench.json"), metavar="PATH", help="where to write"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
