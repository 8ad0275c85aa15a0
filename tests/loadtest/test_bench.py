"""The benchmark runs from the first server to the report, and leaves nothing behind."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from loadtest import lineup, report
from loadtest.contenders import NotMeasurable, outcome_of
from loadtest.driver import Run

SHORT = ("--quick", "--runs", "1", "--seconds", "0.2", "--workers", "1")


def bench(path: Path, *options: str, planted: str = "") -> subprocess.CompletedProcess[str]:
    """Run a benchmark in a directory of its own, which must be empty afterwards."""
    run = "import sys; from loadtest.bench import main; sys.exit(main(sys.argv[1:]))"
    with tempfile.TemporaryDirectory(prefix="tidebook-test-") as own:
        Path(own).chmod(0o711)  # PostgreSQL runs under another account when we are root
        done = subprocess.run(
            [sys.executable, "-c", f"{planted}\n{run}", *options, "--json", path],
            env={**os.environ, "TMPDIR": own},
            capture_output=True,
            text=True,
            timeout=280,
            check=False,
        )
        assert list(Path(own).iterdir()) == []
    return done


@pytest.mark.slow
def test_a_short_benchmark_writes_a_whole_report(tmp_path: Path) -> None:
    """One short run of three contenders: all measured, compared, and every server gone."""
    path = tmp_path / "bench.json"
    done = bench(path, *SHORT, "--only", "stock", "memory", "umadb_1")
    assert done.returncode == 0, done.stdout + done.stderr
    result = report.read(path)
    memory, stock = result.measurement("memory"), result.measurement("stock")
    assert memory.ratio is not None
    assert memory.ratio.to == "stock"
    assert stock.median > 0
    assert stock.latency is not None
    assert set(stock.peak_memory_bytes) == {"server", "postgres"}
    assert set(stock.cpu_us) == {"server", "postgres", "driver"}
    assert result.measurement("umadb_1").ratio is None
    assert result.postgres["fsync"] == "on"
    assert not any(target.met for target in result.targets)
    assert "stock recorder" in done.stdout


@pytest.mark.slow
def test_our_own_claims_are_measured_and_every_answer_is_checked(tmp_path: Path) -> None:
    """Claims, the open loop, refusals and redemptions, all of which the book confirms."""
    path = tmp_path / "bench.json"
    names = ("tidebook", "tidebook_at_80", "sold_out", "already_claimed", "redemptions")
    done = bench(path, *SHORT, "--only", *names)
    assert done.returncode == 0, done.stdout + done.stderr
    result = report.read(path)
    assert [m.name for m in result.measurements] == list(names)
    assert (result.findings, result.failures) == ([], [])
    assert result.events > 100
    at_80 = result.measurement("tidebook_at_80")
    offered_per_s = result.measurement("tidebook").median * 0.8
    assert at_80.offered_per_s == pytest.approx(offered_per_s, rel=0.01)
    assert set(result.measurement("sold_out").cpu_us) >= {"server", "postgres", "valkey"}


@pytest.mark.slow
def test_a_contender_that_fails_is_named_and_the_others_go_on(tmp_path: Path) -> None:
    """A `umadb` that does not start fails its two contenders, and nothing else."""
    path = tmp_path / "bench.json"
    planted = "from loadtest import stores; stores.PAGE_CACHE_MB = 'no number'"
    done = bench(path, *SHORT, "--only", "umadb_1", "umadb_32", "copy", planted=planted)
    assert done.returncode == 1
    result = report.read(path)
    assert [failure.name for failure in result.failures] == ["umadb_1", "umadb_32"]
    assert "umadb" in result.failures[0].said
    assert [m.name for m in result.measurements] == ["copy"]


LOST_AND_UNTRUE = """
from loadtest.ours import Refused, Tidebook
check = Tidebook.check
def planted(self):
    campaign, said = next(iter(self.answers.items()))
    said.acknowledged.append("cpn_main_" + "0" * 32)
    self.refused.append(Refused(campaign, "sold_out", 7, 1, self.head()))
    self.redemptions.acknowledged.append("cpn_main_" + "0" * 32)
    return check(self)
Tidebook.check = planted
"""


@pytest.mark.slow
def test_what_does_not_hold_ends_the_benchmark_with_status_1(tmp_path: Path) -> None:
    """Planted: a claim and a redemption that are not stored, and a «sold out» that was not true."""
    path = tmp_path / "bench.json"
    done = bench(path, *SHORT, "--only", "tidebook", planted=LOST_AND_UNTRUE)
    assert done.returncode == 1
    findings = "\n".join(report.read(path).findings)
    assert "what was answered is stored" in findings
    assert "7 refusals sold_out of" in findings
    assert "1 redemptions were answered, 0 are stored" in findings


def test_the_line_up_is_chosen_by_names_and_groups() -> None:
    """In the order of the turns; without a name everybody takes part."""
    assert lineup.chosen(["umadb_1", "tidebook"]) == ["tidebook", "umadb_1"]
    assert lineup.chosen(["stores"]) == list(lineup.GROUPS["stores"])
    assert lineup.chosen([], "rebuild") == [*lineup.ENTRIES, "rebuild"]
    grouped = [name for names in lineup.GROUPS.values() for name in names]
    assert sorted(grouped) == sorted(lineup.ENTRIES)


def test_turns_go_there_and_back() -> None:
    """Neighbours run behind each other as often one way as the other."""
    turns = [name for turn in (1, 2, 3) for name in lineup.in_turn("ABC", turn)]
    assert "".join(turns) == "ABCCBAABC"


def run_of(*statuses: int, codes: dict[str, int] | None = None) -> Run:
    """A run of a second with these answers."""
    run = Run(started_s=0.0, ended_s=1.0)
    run.statuses.extend(statuses)
    run.latencies_s.extend([0.001] * len(statuses))
    run.codes.update(codes or {})
    return run


def test_a_run_that_was_answered_with_something_else_gives_no_figure() -> None:
    """A refusal, an error and a connection that was lost are no claims, however fast they came."""
    assert outcome_of(run_of(201, 201, 201), 201).per_s == 3.0
    with pytest.raises(NotMeasurable, match="sold_out"):
        outcome_of(run_of(201, 409, codes={"409 sold_out": 1}), 201)
    with pytest.raises(NotMeasurable, match="connection_lost"):
        outcome_of(run_of(0, 0, codes={"0 connection_lost": 2}), 201)
    with pytest.raises(NotMeasurable, match="already_claimed"):
        outcome_of(
            run_of(409, 409, codes={"409 sold_out": 1, "409 already_claimed": 1}), 409, "sold_out"
        )
    with pytest.raises(NotMeasurable):
        outcome_of(run_of(), 201)


def test_one_odd_answer_in_thousands_is_told_and_does_not_count() -> None:
    """The rest is still a figure; what was odd stands beside it."""
    odd = run_of(*[201] * 2999, 503, codes={"503 overloaded": 1})
    outcome = outcome_of(odd, 201)
    assert (outcome.per_s, outcome.others) == (2999.0, {"503 overloaded": 1})
