"""The figures of a run say what its recording says."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest.charts import DOCUMENT_SECONDS
from loadtest.figures import GROWTH, Histogram, behind_s, bin_width, summarize
from loadtest.pages import render
from loadtest.recording import Recording, Times
from loadtest.scenarios import SCENARIOS
from loadtest.visits import Answer, Call, Who, claim_call
from tests.docs.pages import REPOSITORY, page

CAMPAIGN = "cmp_main_" + "c" * 32


@given(st.lists(st.floats(1e-5, 100), min_size=1, max_size=300), st.floats(0.01, 1))
def test_a_percentile_is_at_most_two_per_cent_high(durations: list[float], share: float) -> None:
    """Never below the exact one, and never above it by more than a bucket."""
    histogram = Histogram()
    for duration in durations:
        histogram.add(duration)
    ordered = sorted(durations)
    exact_ms = 1e3 * next(
        d for n, d in enumerate(ordered, 1) if n >= max(1.0, share * len(ordered)) - 1e-9
    )
    [found_ms] = histogram.percentiles_ms([share])
    assert exact_ms * 0.999 - 0.001 <= found_ms <= exact_ms * GROWTH * 1.001 + 0.001


@pytest.mark.parametrize("seconds", [0.1, 1, 20, 60, 3600, 86_400])
def test_bins_are_few(seconds: float) -> None:
    """Any run is drawn with about sixty bins at most."""
    assert seconds / bin_width(seconds) <= 60


def test_lag_is_the_time_since_the_book_ended_where_the_projection_is() -> None:
    """Halfway between two samples is halfway in time; nothing behind is no lag."""
    heads = [(0.0, 0), (1.0, 100), (2.0, 300)]
    assert behind_s(heads, 300) == 0.0
    assert behind_s(heads, 100) == 1.0
    assert behind_s(heads, 200) == 0.5
    assert behind_s(heads, 50) == 1.5


def recording() -> Recording:
    """A run of four calls, one of them before the release."""
    kept = Recording(None, new=True)
    size = {"users": 3, "seconds": 2.0, "seed": 1, "quota": None, "campaigns": 1}
    machine = {"cores": 2, "memory_bytes": 2**34, "system": "Linux <6>", "python": "3.11"}
    kept.note(scenario="rush", summary="a <rush>", size=size, arrivals=3, sessions=True)
    kept.note(machine=machine, curve=[[0.5, 0.7], [1.5, 0.3]], findings=[], events=5)
    kept.note(release_utc="2026-05-01T02:00:00+00:00", verdicts=[["a <rule>", 3, 0]])
    people = [Who("honest 1", ""), Who("bot 1", "", kind="bot"), Who("late", "")]
    kept.add(
        claim_call(people[0], CAMPAIGN, "k0"), Times(-9, -9, -8), Answer(201, "", b"{}", "main:4")
    )
    kept.add(
        claim_call(people[0], CAMPAIGN, "k1"),
        Times(0.1, 0.2, 0.6),
        Answer(201, "", b"{}", "main:5"),
    )
    kept.add(claim_call(people[1], CAMPAIGN, "k2"), Times(0.2, 0.2, 1.2), Answer(409, "sold_out"))
    kept.add(Call("wallet", people[2], "GET", "/v1/wallet"), Times(1.9, 1.9, 1.95), Answer(0, "x"))
    kept.sample(0.0, {"cpu_s": {"server": 1.0}, "memory_bytes": {"server": 2**20}})
    sample = {"cpu_s": {"server": 2.0}, "memory_bytes": {"server": 2**21}, "head": 5, "queued": 0}
    kept.sample(2.0, {**sample, "behind": {"wallets": 0}})
    kept.flush()
    return kept


def test_a_report_counts_what_happened_since_the_release() -> None:
    """What was prepared is not in it; latency runs from the intended moment."""
    report = summarize(recording())
    totals = report["totals"]
    assert [totals[k] for k in ("calls", "success", "refused", "unknown")] == [3, 1, 1, 1]
    assert totals["by_code"] == {"sold_out": 1, "x": 1}
    assert report["latency_ms"]["from intended"]["max"] == pytest.approx(1000.0)
    assert report["latency_ms"]["late sending"]["max"] == pytest.approx(100.0)
    [slot] = report["slots"]
    assert (slot["claims"], slot["in_first_second"], slot["refusals"]) == (1, 1, {"sold_out": 1})
    assert report["system"][1]["cores"] == {"server": 0.5}
    assert report["lag"] == {"wallets": {"seconds": 0.0, "positions": 0}}


def test_a_page_escapes_what_it_shows() -> None:
    """Nothing that a service or a machine says becomes markup."""
    report = summarize(recording())
    report["findings"] = ["<script>alert(1)</script>"]
    text = render(report)
    assert "<script" not in text
    assert "a &lt;rule&gt;" in text
    assert "1 finding." in text


def test_an_unchecked_run_is_not_shown_as_good() -> None:
    """Without findings there are none; without a check there is no verdict."""
    report = summarize(recording())
    report["findings"] = None
    assert "were not checked" in render(report)


def test_the_documented_shares_are_those_of_the_curves() -> None:
    """The table of docs/loadtest.md, cell by cell."""
    moments = [1, 5, 15, 30, 45, 60]
    rows = page("docs/loadtest.md").table("scenario", *(f"{moment} s" for moment in moments))
    assert [row[0].strip("`") for row in rows] == list(SCENARIOS)
    for row in rows:
        curve = SCENARIOS[row[0].strip("`")].curve(DOCUMENT_SECONDS)
        assert row[1:] == [f"{100 * curve.at(moment):.0f}" for moment in moments]


def test_the_drawing_shows_every_scenario() -> None:
    """And says nothing about where or when it was made."""
    drawing = (REPOSITORY / "docs" / "loadtest-curves.svg").read_text()
    assert all(f">{name}</text>" in drawing for name in SCENARIOS)
    assert not re.search(r"20\d\d-\d\d-\d\d", drawing)
