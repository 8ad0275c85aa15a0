"""The charts of the benchmark: small SVG files beside the document, with text that stays text.

Each bar is a median, its whisker the least and the most of the runs. Nothing here may compute a
figure: what is drawn is what the report says.
"""

from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING, Any, Final

import matplotlib as mpl
from matplotlib.figure import Figure

from loadtest.charts import COLOURS, GREY, STYLE

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from matplotlib.axes import Axes

    from loadtest.report import Measurement, Report

WIDTH_IN: Final = 7.2
ROW_IN: Final = 0.34
FRAME_IN: Final = 0.8
TREES: Final = ("server", "postgres", "valkey", "projections", "log", "driver")
_PAGE: Final = (
    "<style>svg{color:#24292f}@media(prefers-color-scheme:dark){svg{color:#d7dde4}}</style>"
)
_METADATA: Final[dict[str, Any]] = {"Date": None, "Creator": None}


def charts(report: Report) -> dict[str, str]:
    """The charts for which there are figures: a word for the file's name, and the SVG."""
    kinds = {m.name: m.kind for m in report.measurements}
    http = [m for m in report.measurements if m.kind == "http" and m.unit == "claims/s"]
    store = [m for m in report.measurements if m.kind == "store" and m.unit == "claims/s"]
    calls = [m for m in report.measurements if m.cpu_us and _is_ours(m, kinds)]
    drawn = {
        "claims": (http, _rates, "claims a second over HTTP"),
        "store": (store, _rates, "claims a second, straight to the store"),
        "cpu": (calls, _costs, "CPU time of one call in µs"),
    }
    return {
        name: _chart(name, chosen, draw, title)
        for name, (chosen, draw, title) in drawn.items()
        if chosen
    }


def _is_ours(m: Measurement, kinds: dict[str, str]) -> bool:
    return m.name.startswith("tidebook") or m.name == "constant" or kinds[m.name] == "calls"


def _chart(
    name: str,
    shown: Sequence[Measurement],
    draw: Callable[[Axes, Sequence[Measurement]], None],
    title: str,
) -> str:
    style: dict[Any, Any] = {**STYLE, "axes.grid.axis": "x", "svg.hashsalt": f"benchmarks-{name}"}
    with mpl.rc_context(style):
        figure = Figure(figsize=(WIDTH_IN, FRAME_IN + ROW_IN * len(shown)))
        axes = figure.subplots()
        axes.set_axisbelow(True)
        axes.set_xlabel(title)
        draw(axes, shown)
        axes.invert_yaxis()
        text = io.StringIO()
        figure.savefig(text, format="svg", transparent=True, metadata=_METADATA)
    return _standalone(text.getvalue())


def _rates(axes: Axes, shown: Sequence[Measurement]) -> None:
    places = range(len(shown))
    colours = [COLOURS[0] if m.name.startswith(("tidebook", "commit")) else GREY for m in shown]
    axes.barh(places, [m.median for m in shown], color=colours, height=0.62)
    low = [m.median - m.spread.minimum for m in shown]
    high = [m.spread.maximum - m.median for m in shown]
    medians = [m.median for m in shown]
    axes.errorbar(medians, places, xerr=(low, high), fmt="none", ecolor="black", elinewidth=0.8)
    for place, m in zip(places, shown, strict=True):
        times = f"  ({m.ratio.median:.3g} ×)" if m.ratio else ""
        axes.text(m.spread.maximum, place, f"  {m.median:,.0f}{times}", va="center")
    axes.set_yticks(places, [m.title for m in shown])
    axes.margins(x=0.22)


def _costs(axes: Axes, shown: Sequence[Measurement]) -> None:
    places = range(len(shown))
    before = [0.0] * len(shown)
    for tree, colour in zip(TREES, COLOURS, strict=False):
        costs = [m.cpu_us.get(tree, 0.0) for m in shown]
        if any(costs):
            axes.barh(places, costs, left=before, color=colour, height=0.62, label=tree)
            before = [b + c for b, c in zip(before, costs, strict=True)]
    for place, total in zip(places, before, strict=True):
        axes.text(total, place, f"  {total:,.0f}", va="center")
    axes.set_yticks(places, [m.title for m in shown])
    axes.margins(x=0.12)
    axes.legend(loc="lower right")


def _standalone(svg: str) -> str:
    """Lines and letters follow the reader's light or dark; no date, no machine."""
    svg = svg.replace("stroke: #000000", "stroke: currentColor")
    svg = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font: \1px system-ui, sans-serif", svg)
    svg = svg.replace('<text style="', '<text style="fill: currentColor; ')
    svg = re.sub(r"<metadata>.*?</metadata>\n?", "", svg, flags=re.DOTALL)
    return re.sub(r"(<svg [^>]*>)", rf"\1\n {_PAGE}", svg, count=1)
