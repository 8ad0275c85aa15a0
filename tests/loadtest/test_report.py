"""`bench.json` says what it must, and its figures are medians and ratios of neighbours."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import msgspec
import pytest
from rich.console import Console

from loadtest import report
from loadtest.report import SCHEMA, Failure, Latency, Measurement, Report

if TYPE_CHECKING:
    from pathlib import Path

STOCK = Measurement.of("stock", "stock recorder", "claims/s", [500.0, 250.0, 1000.0], kind="http")
TIDEBOOK = Measurement.of(
    "tidebook",
    "Tidebook",
    "claims/s",
    [5000.0, 2000.0, 6000.0],
    kind="http",
    latency=Latency(20.0, 80.0),
    connections=256,
    peak_memory_bytes={"server": 2**27, "postgres": 2**28},
    cpu_us={"server": 150.0, "postgres": 80.0, "driver": 20.0},
)
REBUILD = Measurement.of("rebuild_all", "rebuild all", "events/s", [9e4, 8e4, 7e4], kind="rebuild")
STOCK, OURS, REBUILD = report.compared([STOCK, TIDEBOOK, REBUILD])


def bench_of(*measurements: Measurement, failures: list[Failure] | None = None) -> Report:
    """A report of these measurements."""
    return Report(
        schema=SCHEMA,
        date=report.now(),
        command="python -m loadtest.bench",
        seconds_per_run=4.0,
        machine=report.this_machine(0.1),
        versions=report.versions(),
        postgres={"fsync": "on"},
        measurements=list(measurements),
        targets=report.targets(measurements),
        events=12,
        findings=[],
        failures=failures or [],
    )


@pytest.fixture
def bench() -> Report:
    """A report of three measurements."""
    return bench_of(STOCK, OURS, REBUILD)


def test_a_figure_is_the_median_of_its_runs_with_their_spread() -> None:
    """Neither the best run nor the mean is reported."""
    assert OURS.median == 5000.0
    assert (OURS.spread.minimum, OURS.spread.maximum) == (2000.0, 6000.0)
    assert OURS.spread.deviation == pytest.approx(2081.7)
    assert Measurement.of("one", "one", "x/s", [7.0], kind="http").spread.deviation == 0.0


def test_a_ratio_is_taken_between_neighbours_in_time() -> None:
    """Run by run 10, 8 and 6 times as fast: 8, not the quotient of the medians, which is 10."""
    assert OURS.ratio is not None
    assert (OURS.ratio.to, OURS.ratio.median) == ("stock", 8.0)
    assert (OURS.ratio.minimum, OURS.ratio.maximum) == (6.0, 10.0)


def test_a_ratio_needs_as_many_runs_on_both_sides() -> None:
    """Runs that were not taken in turns cannot be compared."""
    with pytest.raises(ValueError, match="zip"):
        report.compared([STOCK, Measurement.of("odd", "odd", "claims/s", [1.0], kind="http")])


def test_each_kind_has_a_baseline_of_its_own_or_none() -> None:
    """Claims without HTTP are not compared with claims over HTTP; the baseline has no ratio."""
    umadb = Measurement.of("umadb_32", "umadb", "claims/s", [2000.0], kind="store")
    commit = Measurement.of("commit_32", "ours", "claims/s", [3000.0], kind="store")
    _, compared = report.compared([umadb, commit])
    assert compared.ratio is not None
    assert (compared.ratio.to, compared.ratio.median) == ("umadb_32", 1.5)
    assert report.compared([TIDEBOOK])[0].ratio is None
    assert (STOCK.ratio, REBUILD.ratio) == (None, None)


def test_a_target_is_met_by_a_figure_only() -> None:
    """What was not measured is not met, and what was is judged by its own rule."""
    at_80 = msgspec.structs.replace(TIDEBOOK, name="tidebook_at_80", latency=Latency(9.0, 100.0))
    lagging = msgspec.structs.replace(TIDEBOOK, name="tidebook_with_projections", lag_s=1.2)
    judged = {target.what: target for target in report.targets([STOCK, TIDEBOOK, at_80, lagging])}
    assert judged["claims a second over HTTP"].measured == 5000.0
    assert not judged["claims a second over HTTP"].met
    times = judged["claims, × the stock recorder"]
    assert (times.measured, times.met) == (8.0, False)
    assert judged["p99 in ms at 80 % of that rate"].met
    lag = judged["largest lag of a projection in s"]
    assert (lag.measured, lag.met) == (1.2, False)
    redemptions = judged["redemptions a second"]
    assert (redemptions.measured, redemptions.met) == (None, False)


def test_the_cost_of_a_call_says_what_all_cores_could_do(bench: Report) -> None:
    """250 µs a claim are 4,000 claims a second for each core; 5,000 are so much of two."""
    cores = bench.machine.cores
    [row] = [line for line in report.markdown(bench).splitlines() if "| 150 | 80 |" in line]
    assert f"| 250 | {4000 * cores:,}/s | {5000 / (4000 * cores):.0%} |" in row


def test_a_contender_that_failed_is_named_in_the_document() -> None:
    """Its figures are missing, the reason is not."""
    broken = Failure("umadb_32", "start of umadb_32", "no such binary")
    written = report.markdown(bench_of(STOCK, failures=[broken]))
    assert "**umadb_32 was not measured:** start of umadb_32 failed." in written


def test_the_file_holds_everything_and_reads_back_the_same(bench: Report, tmp_path: Path) -> None:
    """Name, median, spread, ratio, peak memory and machine are there under these names."""
    path = tmp_path / "bench.json"
    report.write(bench, path)
    assert report.read(path) == bench
    written = json.loads(path.read_text())
    assert set(written) == set(Report.__struct_fields__)
    assert set(written["machine"]) >= {"cpu", "cores", "memory_bytes", "system", "load_before"}
    ours = written["measurements"][1]
    assert set(ours) >= {"name", "median", "spread", "ratio", "peak_memory_bytes", "runs", "unit"}
    assert ours["peak_memory_bytes"] == {"server": 2**27, "postgres": 2**28}
    assert written["versions"]["eventsourcing"]


def test_a_file_that_is_no_report_is_refused(tmp_path: Path) -> None:
    """A missing or a wrong field does not pass for a report."""
    path = tmp_path / "bench.json"
    path.write_text('{"schema": 1, "measurements": [{"name": "x", "median": "fast"}]}')
    with pytest.raises(msgspec.ValidationError):
        report.read(path)


def test_the_table_shows_rate_ratio_latency_and_memory(bench: Report) -> None:
    """One row per measurement, readable on eighty columns."""
    console = Console(width=80, record=True)
    with console.capture() as captured:
        for table in report.tables(bench):
            console.print(table)
    [row] = [line for line in captured.get().splitlines() if "Tidebook" in line]
    shown = ("Tidebook", "5,000", "40", "8.0", "×", "20.0", "80.0", "250", "384")
    assert tuple(row.split()) == shown


def test_the_figures_go_into_the_document_and_nothing_else_changes(
    bench: Report, tmp_path: Path
) -> None:
    """What stands between the marks is replaced; a second time changes nothing."""
    path, document = tmp_path / "bench.json", tmp_path / "benchmarks.md"
    report.write(bench, path)
    document.write_text("# Benchmarks\n<!-- figures -->\nold\n<!-- end of figures -->\nafter\n")
    assert report.main([str(path), str(document)]) == 0
    written = document.read_text()
    assert written.startswith("# Benchmarks\n<!-- figures -->\n")
    assert written.endswith("<!-- end of figures -->\nafter\n")
    assert "\nold\n" not in written
    assert "![Claims a second over HTTP, and" in written
    chart = tmp_path / "benchmarks-claims.svg"
    drawn = chart.read_text()
    assert "Tidebook" in drawn
    assert "5,000  (8 ×)" in drawn
    assert len(drawn) < 40_000
    row = "| Tidebook | 3 | 5,000 claims/s | 2,000 – 6,000 | 8.0 | 20.0 / 80.0 | 250 | 384 |"
    assert row in written
    assert report.main([str(path), str(document)]) == 0
    assert document.read_text() == written
    assert chart.read_text() == drawn


def test_a_document_without_marks_is_left_alone() -> None:
    """Figures are not appended somewhere."""
    with pytest.raises(ValueError, match="figures"):
        report.put_into("# Benchmarks", "1 claim/s")
