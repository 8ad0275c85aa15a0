"""`bench.json` says what it must, and its figures are medians and ratios of neighbours."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import msgspec
import pytest
from rich.console import Console

from loadtest import report
from loadtest.report import SCHEMA, Latency, Measurement, Report

if TYPE_CHECKING:
    from pathlib import Path

STOCK = Measurement.of("stock", "stock recorder", "claims/s", [500.0, 250.0, 1000.0])
OURS = Measurement.of(
    "tidebook",
    "Tidebook",
    "claims/s",
    [5000.0, 2000.0, 6000.0],
    baseline=STOCK,
    latency=Latency(20.0, 80.0),
    connections=256,
    peak_memory_bytes={"server": 2**27, "postgres": 2**28},
    cpu_us={"server": 150.0, "postgres": 100.0},
)


@pytest.fixture
def bench() -> Report:
    """A report of two measurements."""
    return Report(
        schema=SCHEMA,
        date=report.now(),
        command="python -m loadtest.bench",
        seconds_per_run=4.0,
        machine=report.this_machine(0.1),
        versions=report.versions(),
        postgres={"fsync": "on"},
        measurements=[STOCK, OURS],
        events=12,
        findings=[],
    )


def test_a_figure_is_the_median_of_its_runs_with_their_spread() -> None:
    """Neither the best run nor the mean is reported."""
    assert OURS.median == 5000.0
    assert (OURS.spread.minimum, OURS.spread.maximum) == (2000.0, 6000.0)
    assert OURS.spread.deviation == pytest.approx(2081.7)
    assert Measurement.of("one", "one", "x/s", [7.0]).spread.deviation == 0.0


def test_a_ratio_is_taken_between_neighbours_in_time() -> None:
    """Run by run 10, 8 and 6 times as fast: 8, not the quotient of the medians, which is 10."""
    assert OURS.ratio is not None
    assert (OURS.ratio.to, OURS.ratio.median) == ("stock", 8.0)
    assert (OURS.ratio.minimum, OURS.ratio.maximum) == (6.0, 10.0)


def test_a_ratio_needs_as_many_runs_on_both_sides() -> None:
    """Runs that were not taken in turns cannot be compared."""
    with pytest.raises(ValueError, match="zip"):
        Measurement.of("odd", "odd", "claims/s", [1.0], baseline=STOCK)


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
    assert "old" not in written
    row = "| Tidebook | 3 | 5,000 claims/s | 2,000 – 6,000 | 8.0 | 20.0 / 80.0 | 250 | 384 |"
    assert row in written
    assert report.main([str(path), str(document)]) == 0
    assert document.read_text() == written


def test_a_document_without_marks_is_left_alone() -> None:
    """Figures are not appended somewhere."""
    with pytest.raises(ValueError, match="figures"):
        report.put_into("# Benchmarks", "1 claim/s")
