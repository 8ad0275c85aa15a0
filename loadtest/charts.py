"""Charts as SVG that fits into a page: its colours follow the page, light or dark.

Drawn by matplotlib without a display. Text stays text and takes the page's font. Nothing here may
compute a figure: what is drawn is what `loadtest/figures.py` says.
"""

from __future__ import annotations

import argparse
import io
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from loadtest.scenarios import SCENARIOS
from loadtest.scenarios.curves import rate

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import TracebackType

    from matplotlib.axes import Axes

Json = dict[str, Any]

SIZE_IN: Final = (4.7, 2.6)
"""Small on purpose: on a telephone the letters keep a readable size."""
BLUE, GREEN, ORANGE, RED = "#4c8dd6", "#3aa57a", "#e08a3c", "#d65a5a"
PURPLE, TEAL, GREY, YELLOW = "#9a7bd0", "#2fa3b5", "#8a8f98", "#bf9a1f"
COLOURS: Final = (BLUE, ORANGE, GREEN, PURPLE, RED, TEAL, YELLOW, GREY)
OUTCOMES: Final = {"success": GREEN, "replay": TEAL, "refused": ORANGE, "unknown": RED}
KINDS: Final = {"honest": BLUE, "bot": RED, "staff": GREY}
STYLE: Final[dict[Any, Any]] = {
    "svg.fonttype": "none",
    "font.size": 9,
    "font.family": "sans-serif",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.alpha": 0.25,
    "grid.linewidth": 0.6,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "lines.linewidth": 1.5,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "figure.constrained_layout.use": True,
}
LEAST_RATE: Final = 0.02
DOCUMENT_SECONDS: Final = 60.0
"""Length of the runs whose curves the documentation shows."""


def throughput(report: Json) -> str:
    """Answers per second by what became of them, over the planned arrivals."""
    moments, width = report["over_time"], report["bin_s"]
    with _Chart("throughput") as chart:
        axes = chart.axes("seconds since the release", "a second")
        at = [one["at_s"] + width / 2 for one in moments]
        below = [0.0] * len(at)
        for kind, colour in OUTCOMES.items():
            values = [one["answered"].get(kind, 0) / width for one in moments]
            if any(values):
                axes.bar(at, values, width, below, color=colour, label=kind)
                below = [a + b for a, b in zip(below, values, strict=True)]
        if report.get("curve"):
            planned = [[at_s, share * report["arrivals"]] for at_s, share in report["curve"]]
            axes.plot(*_columns(planned), color=GREY, ls="--", lw=1.2, label="planned arrivals")
        axes.set_ylim(0, 1.3 * axes.get_ylim()[1])
        axes.legend(ncols=3, loc="upper right")
    return chart.svg


def latency(report: Json) -> str:
    """Percentiles over time, by the moment at which calls were meant."""
    moments = [one for one in report["over_time"] if one["latency_ms"]]
    with _Chart("latency") as chart:
        axes = chart.axes("seconds since the release", "milliseconds")
        at = [one["at_s"] + report["bin_s"] / 2 for one in moments]
        for name, colour in (("p50", GREEN), ("p90", BLUE), ("p99", ORANGE), ("max", RED)):
            axes.plot(at, [one["latency_ms"][name] for one in moments], color=colour, label=name)
        _logarithmic(axes)
        axes.legend(ncols=4, loc="upper right")
    return chart.svg


def distribution(report: Json) -> str:
    """Which share was answered in which time; the slowest have as much room as the others."""
    shape = report["distribution"]
    with _Chart("distribution") as chart:
        axes = chart.axes("share of calls", "milliseconds")
        shares = [min(share, 0.9999) for share in shape["share"]]
        at = [1 / (1 - share) for share in shares]
        for name, colour in (("from intended", BLUE), ("from sending", ORANGE)):
            axes.plot(at, shape[name], color=colour, label=name)
        axes.set_xscale("log")
        ticks = {2: "50 %", 10: "90 %", 100: "99 %", 1000: "99.9 %", 10_000: "100 %"}
        axes.xaxis.set_major_locator(FixedLocator(list(ticks)))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: ticks.get(round(x), "")))
        _logarithmic(axes)
        axes.legend(loc="upper left")
    return chart.svg


def refusals(report: Json) -> str:
    """Refusals per second by their code, and calls without an outcome."""
    moments, width = report["over_time"], report["bin_s"]
    codes = list(report["totals"]["by_code"])
    with _Chart("refusals") as chart:
        axes = chart.axes("seconds since the release", "a second")
        at = [one["at_s"] + width / 2 for one in moments]
        below = [0.0] * len(at)
        for number, code in enumerate(codes):
            values = [one["refusals"].get(code, 0) / width for one in moments]
            axes.bar(at, values, width, below, color=COLOURS[number % len(COLOURS)], label=code)
            below = [a + b for a, b in zip(below, values, strict=True)]
        axes.set_ylim(0, 1.3 * max([1.0, *below]))
        if codes:
            axes.legend(ncols=2, loc="upper right")
    return chart.svg


def lag(report: Json) -> str:
    """How old each projection is."""
    rows = [row for row in report["system"] if "lag_s" in row]
    with _Chart("lag") as chart:
        axes = chart.axes("seconds since the release", "seconds behind")
        names = sorted({name for row in rows for name in row["lag_s"]})
        for number, name in enumerate(names):
            values = [row["lag_s"].get(name, 0.0) for row in rows]
            at = [row["at_s"] for row in rows]
            label = name.replace("_", " ")
            axes.plot(at, values, color=COLOURS[number % len(COLOURS)], label=label)
        axes.axhline(1.0, color=GREY, ls="--", lw=1)
        axes.set_ylim(
            0, max(1.2, *(max(row["lag_s"].values(), default=0) for row in rows), 0) * 1.1
        )
        axes.legend(ncols=3, loc="upper right")
    return chart.svg


def processors(report: Json) -> str:
    """Cores in use by each tree of processes."""
    return _trees(report, "cores", "cores in use", 1.0)


def memory(report: Json) -> str:
    """Memory of each tree of processes, shared pages counted once."""
    return _trees(report, "memory_bytes", "MiB", 2.0**20)


def _trees(report: Json, what: str, unit: str, scale: float) -> str:
    rows = [row for row in report["system"] if row[what]]
    with _Chart(what) as chart:
        axes = chart.axes("seconds since the release", unit)
        names = sorted({name for row in rows for name in row[what]})
        for number, name in enumerate(names):
            values = [row[what].get(name, 0.0) / scale for row in rows]
            at = [row["at_s"] for row in rows]
            axes.plot(at, values, color=COLOURS[number % len(COLOURS)], label=name)
        axes.set_ylim(bottom=0)
        if names:
            axes.legend(ncols=3, loc="upper right")
            axes.set_ylim(top=axes.get_ylim()[1] * 1.25)
    return chart.svg


def first_seconds(report: Json) -> str:
    """Which share of each campaign's coupons was asked for in its first second, and by whom."""
    slots = [slot for slot in report["slots"] if slot["claims"]]
    with _Chart("first-seconds", height=max(SIZE_IN[1], 0.9 + 0.24 * len(slots))) as chart:
        axes = chart.axes("share of the coupons, %", "")
        names = [f"…{slot['campaign'][-6:]}" for slot in slots]
        left = [0.0] * len(slots)
        for kind, colour in KINDS.items():
            values = [100 * slot["first_by_kind"].get(kind, 0) / slot["claims"] for slot in slots]
            if any(values):
                axes.barh(names, values, 0.6, left, color=colour, label=kind)
                left = [a + b for a, b in zip(left, values, strict=True)]
        rest = [100 - done for done in left]
        axes.barh(names, rest, 0.6, left, color=GREY, alpha=0.3, label="later")
        axes.set_xlim(0, 100)
        axes.grid(axis="y", visible=False)
        axes.set_ylim(max(3.5, len(slots) - 0.4), -1.1)
        axes.legend(ncols=3, loc="upper left")
    return chart.svg


def places(room: Json) -> str:
    """Who came when, and got which place: a cloud before the opening, a line after it."""
    with _Chart("places") as chart:
        axes = chart.axes("came, seconds since the release", "place")
        opens_s = room["opens_s"]
        for label, colour, early in (("before", BLUE, True), ("after the opening", ORANGE, False)):
            points = [one for one in room["places"] if (one[0] < (opens_s or 0)) is early]
            if points:
                axes.scatter(*_columns(points), s=7, color=colour, label=label, linewidths=0)
        if opens_s is not None:
            axes.axvline(opens_s, color=GREY, ls="--", lw=1)
        axes.set_ylim(0, 1.25 * max([1, *(number for _, number in room["places"])]))
        axes.legend(ncols=2, loc="upper left")
    return chart.svg


def estimates(room: Json) -> str:
    """What people were told that they would have to wait, and how long they waited."""
    with _Chart("estimates") as chart:
        axes = chart.axes("wait as first told, s", "real wait, s")
        longest = 1.1 * max([1.0, *(value for one in room["waits"] for value in one)])
        axes.plot([0, longest], [0, longest], color=GREY, ls="--", lw=1, label="as told")
        if room["waits"]:
            axes.scatter(*_columns(room["waits"]), s=7, color=GREEN, linewidths=0, label="a person")
        axes.set_xlim(0, longest)
        axes.set_ylim(0, longest)
        axes.legend(loc="upper left")
    return chart.svg


def luck(draw: Json) -> str:
    """Which share of each tenth of the entries won, in order of arrival."""
    parts = draw["by_arrival"]
    with _Chart("luck") as chart:
        axes = chart.axes("entries in order of arrival, tenths", "winners, %")
        shares = [100 * won / entries for _, entries, won in parts]
        axes.bar(range(1, len(parts) + 1), shares, 0.7, color=BLUE, label="won")
        entries = sum(one[1] for one in parts)
        if entries:
            mean = 100 * sum(one[2] for one in parts) / entries
            axes.axhline(mean, color=GREY, ls="--", lw=1, label="all")
        axes.xaxis.set_major_locator(FixedLocator(range(1, len(parts) + 1)))
        axes.set_ylim(0, 1.3 * max([1.0, *shares]))
        axes.legend(ncols=2, loc="upper right")
    return chart.svg


def curves() -> str:
    """The arrival curves of all scenarios, for the documentation."""
    with _Chart("curves", height=1.5 * len(SCENARIOS), plain=True) as chart:
        panels = chart.figure.subplots(len(SCENARIOS), 1, sharex=True)
        for axes, scenario, colour in zip(panels, SCENARIOS.values(), COLOURS, strict=False):
            curve, step = scenario.curve(DOCUMENT_SECONDS), 0.25
            moments = [(n + 0.5) * step for n in range(int(DOCUMENT_SECONDS / step))]
            rates = [100 * rate(curve, at, step) for at in moments]
            axes.plot(moments, rates, color=colour)
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axes.yaxis.set_minor_locator(NullLocator())
            axes.set_title(scenario.name, loc="left", fontsize=9.5, fontweight="bold")
            axes.set_xlim(0, DOCUMENT_SECONDS)
            axes.set_ylim(LEAST_RATE, 2 * max(rates))
            axes.set_ylabel("% a second")
        panels[-1].set_xlabel("seconds since the release")
    return chart.svg


# --- drawing --------------------------------------------------------------------------------------


class _Chart:
    """One figure that becomes SVG text at the end of its block."""

    def __init__(self, name: str, *, height: float = SIZE_IN[1], plain: bool = False) -> None:
        self._name, self._plain = name, plain
        self._style = mpl.rc_context({**STYLE, "svg.hashsalt": name})
        self._height = height
        self.svg = ""

    def __enter__(self) -> Self:
        self._style.__enter__()
        self.figure = Figure(figsize=(SIZE_IN[0], self._height))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if error is None:
                text = io.StringIO()
                metadata: Mapping[str, Any] = {"Date": None, "Creator": None}
                self.figure.savefig(text, format="svg", transparent=True, metadata=dict(metadata))
                self.svg = (
                    _standalone(text.getvalue())
                    if self._plain
                    else _inline(text.getvalue(), self._name)
                )
        finally:
            self._style.__exit__(kind, error, trace)

    def axes(self, x: str, y: str) -> Axes:
        """The one coordinate system of a chart."""
        axes = self.figure.subplots()
        axes.set_xlabel(x)
        axes.set_ylabel(y)
        axes.set_axisbelow(True)
        return axes


def _inline(svg: str, name: str) -> str:
    """Text and lines in the page's colour and font, ids of its own, as wide as there is room."""
    svg = svg[svg.index("<svg") :]
    svg = _coloured(svg)
    svg = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', svg)
    svg = re.sub(r'(xlink:href="#|url\(#)([^")]+)', rf"\1{name}-\2", svg)
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    return re.sub(
        r'<svg [^>]*?viewBox="([^"]+)"[^>]*>', r'<svg viewBox="\1" role="img">', svg, count=1
    )


def _standalone(svg: str) -> str:
    """The same for a file of its own, which follows the reader's light or dark."""
    style = "<style>svg{color:#24292f}@media(prefers-color-scheme:dark){svg{color:#d7dde4}}</style>"
    svg = re.sub(r"<metadata>.*?</metadata>\n?", "", _coloured(svg), flags=re.DOTALL)
    svg = re.sub(r"(\d\.\d)\d+", r"\1", svg)
    return re.sub(r"(<svg [^>]*>)", rf"\1\n {style}", svg, count=1)


def _coloured(svg: str) -> str:
    svg = svg.replace("stroke: #000000", "stroke: currentColor")
    svg = re.sub(
        r"font: (?:(bold) )?([\d.]+)px [^;\"]*", r"font: \1 \2px system-ui, sans-serif", svg
    )
    return svg.replace('<text style="', '<text style="fill: currentColor; ')


def _logarithmic(axes: Axes) -> None:
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_locator(NullLocator())
    low, high = axes.get_ylim()
    axes.set_ylim(low, high * 3)


def _columns(rows: Sequence[Sequence[float]]) -> tuple[list[float], list[float]]:
    return [row[0] for row in rows], [row[1] for row in rows]


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw the arrival curves into a file."""
    parser = argparse.ArgumentParser(
        prog="python -m loadtest.charts", description="Draw the arrival curves of all scenarios."
    )
    parser.add_argument("file", type=Path)
    options = parser.parse_args(arguments)
    options.file.write_text(curves())
    return 0


if __name__ == "__main__":
    sys.exit(main())
