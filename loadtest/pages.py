"""The report of a run as one page that needs nothing else: no network, no script, light and dark.

It says first whether everything held, then how fast it was, then shows how it went over time, and
at the end what exactly was checked. Every chart has its figures below it as a table. Nothing here
may compute a figure: `loadtest/figures.py` does.

    python -m loadtest.pages report/
"""

from __future__ import annotations

import argparse
import json
import sys
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from loadtest import charts
from loadtest.figures import summarize
from loadtest.recording import Recording

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

Json = dict[str, Any]

CALLS_FILE: Final = "calls.sqlite"
JSON_FILE: Final = "report.json"
PAGE_FILE: Final = "report.html"
FINDINGS_SHOWN: Final = 50
ROWS_MAX: Final = 200

PROVEN: Final = {
    "Order": "An answer that names position p came after p was written, and an event whose call "
    "was sent after another call had been answered was not there for that one. So each call saw "
    "the book somewhere between two positions.",
    "Refusals": "A refusal is true when what it says was so after at least one position in that "
    "span, and false when it was so after none. The width of the span is the resolution: about as "
    "many positions as calls were in flight.",
    "Windows": "Refusals for a window that is not open are compared with the clock of the load "
    "generator, which may be off by a second.",
    "Latency": "From the moment at which a call was meant, laid down before the run, to the end "
    "of its answer. Whoever had to wait, here or there, is counted with the waiting. Percentiles "
    "are at most 2 % too high.",
    "Waiting rooms": "Everybody has a number from the opening on. Whoever follows the stream "
    "learns of the turn within a second, whoever looks again within three; that is part of the "
    "real wait, and the rules allow for it.",
    "Chance": "Whether places before the opening and winners of a draw have nothing to do with "
    "arrival is tested by chi-square, with a bound that chance passes once in a million runs.",
    "Lag": "As the service tells it, sampled twice a second: the age of the first event that a "
    "projection has not seen.",
}
"""How to read the page: what was looked at, and how sharply."""

STYLE: Final = """
:root{color-scheme:light dark;--page:#f6f7f9;--card:#fff;--ink:#1f2630;--dim:#5c6673;
--line:#dfe3e8;--good:#1f7a4d;--bad:#b3261e;--good-bg:#e3f4ea;--bad-bg:#fbe4e2}
@media(prefers-color-scheme:dark){:root{--page:#12161b;--card:#1b2129;--ink:#e3e8ee;--dim:#9aa5b1;
--line:#2e3742;--good:#6fd3a0;--bad:#ff8f86;--good-bg:#173326;--bad-bg:#43201d}}
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--ink);font:15px/1.5 system-ui,sans-serif}
main{max-width:1180px;margin:0 auto;padding:1.2rem 1rem 3rem}
h1{font-size:1.55rem;margin:.2rem 0}h2{font-size:1.1rem;margin:2.2rem 0 .6rem}
h3{font-size:.98rem;margin:0 0 .1rem}
p{margin:.3rem 0}.dim{color:var(--dim);font-size:.88rem}
.verdict{border-radius:10px;padding:.8rem 1rem;margin:1rem 0;font-size:1.08rem}
.good{background:var(--good-bg);color:var(--good)}.bad{background:var(--bad-bg);color:var(--bad)}
.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(12.5rem,45%),1fr));gap:.7rem}
.card,figure,.box{background:var(--card);border:1px solid var(--line);border-radius:10px}
.card{padding:.6rem .8rem}.card b{display:block;font-size:1.35rem;line-height:1.3}
.charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,21.5rem),1fr));gap:.9rem}
figure{margin:0;padding:.8rem .9rem .5rem;min-width:0}
figure svg{display:block;width:100%;height:auto}
.box{padding:.3rem .9rem;overflow-x:auto}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
th,td{padding:.3rem .6rem;text-align:right;border-bottom:1px solid var(--line);white-space:nowrap}
th{font-weight:600;color:var(--dim);font-size:.85rem}
tr:last-child td{border-bottom:0}
td:first-child,th:first-child{text-align:left;white-space:normal}
.red td{color:var(--bad);font-weight:600}
details{font-size:.85rem;margin:.2rem 0}summary{cursor:pointer;color:var(--dim)}
details .scroll{max-height:18rem;overflow:auto}
code{font-size:.92em}li{margin:.25rem 0;overflow-wrap:anywhere}
"""


def render(report: Json) -> str:
    """The page."""
    size = report["size"]
    title = f"Tidebook load test: {report['scenario']}"
    sessions = "session tokens" if report["sessions"] else "the issuer's tokens"
    body = [
        f"<h1>{escape(title)}</h1>",
        f"<p>{escape(report['summary'][:1].upper() + report['summary'][1:])}.</p>",
        (
            f'<p class="dim">{report["arrivals"]:,} arrivals of {size["users"]:,} people in '
            f"{size['seconds']:g} s, with {sessions}; seed {size['seed']}; "
            f"released {escape(str(report['release_utc'])[:19])} UTC; "
            f"{escape(_machine(report))}</p>"
        ),
        _verdict(report),
        _cards(report),
        "<h2>Over time</h2>",
        f'<div class="charts">{"".join(_figures(report))}</div>',
        "<h2>Calls</h2>",
        _calls(report),
        "<h2>Release slots</h2>",
        _slots(report),
        "<h2>Invariants</h2>",
        _invariants(report),
        "<h2>How to read this</h2>",
        "<ul>"
        + "".join(f"<li><b>{name}.</b> {escape(text)}</li>" for name, text in PROVEN.items())
        + "</ul>",
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head>"
        f"<body><main>{''.join(body)}</main></body></html>\n"
    )


def _machine(report: Json) -> str:
    machine = report["machine"]
    return (
        f"{machine['cores']} cores, {machine['memory_bytes'] / 2**30:.0f} GiB, "
        f"{machine['system']}, Python {machine['python']}"
    )


def _verdict(report: Json) -> str:
    checks = sum(one["checked"] for one in report["verdicts"])
    findings = report["findings"]
    if findings is None:
        return '<p class="verdict bad">✗ The invariants were not checked.</p>'
    if not findings:
        events = report["events"]
        return (
            f'<p class="verdict good">✓ Every invariant holds: {checks:,} checks of '
            f"{len(report['verdicts'])} rules over {events:,} events and "
            f"{report['totals']['calls']:,} calls.</p>"
        )
    shown = "".join(f"<li>{escape(one)}</li>" for one in findings[:FINDINGS_SHOWN])
    rest = len(findings) - FINDINGS_SHOWN
    more = f"<li>and {rest:,} more</li>" if rest > 0 else ""
    return (
        f'<div class="verdict bad">✗ {len(findings):,} finding{"s" if len(findings) > 1 else ""}'
        f"{' or more' if len(findings) >= 1000 else ''}.<ul>{shown}{more}</ul></div>"
    )


def _cards(report: Json) -> str:
    totals, latency = report["totals"], report["latency_ms"]["from intended"]
    lag = max((one["seconds"] for one in report["lag"].values()), default=None)
    cards = [
        ("successes", f"{totals['success']:,}"),
        ("replays", f"{totals['replay']:,}"),
        ("refusals", f"{totals['refused']:,}"),
        ("without an outcome", f"{totals['unknown']:,}"),
        ("most answers a second", f"{totals['peak_per_s']:,.0f}"),
        ("p50", _ms(latency["p50"])),
        ("p99", _ms(latency["p99"])),
        ("longest", _ms(latency["max"])),
        ("sent late, p99", _ms(report["latency_ms"]["late sending"]["p99"])),
        ("largest projection lag", "not seen" if lag is None else f"{lag:.2f} s"),
    ]
    return (
        '<div class="cards">'
        + "".join(
            f'<div class="card"><b>{value}</b><span class="dim">{name}</span></div>'
            for name, value in cards
        )
        + "</div>"
    )


def _figures(report: Json) -> Iterable[str]:
    """Every chart that there are figures for, each with its table."""
    moments, system = report["over_time"], report["system"]
    kinds = list(charts.OUTCOMES)
    yield _figure(
        "Throughput",
        "answers a second, over the planned arrivals",
        charts.throughput(report),
        ["s", "meant", *kinds],
        ([_s(one), one["meant"], *(one["answered"].get(k, 0) for k in kinds)] for one in moments),
    )
    names = ["p50", "p90", "p99", "p99_9", "max"]
    yield _figure(
        "Latency over time",
        "from the intended moment, by that moment",
        charts.latency(report),
        ["s", "calls", *names],
        (
            [_s(one), one["latency_ms"]["count"], *(_ms(one["latency_ms"][n]) for n in names)]
            for one in moments
            if one["latency_ms"]
        ),
    )
    shape = report["distribution"]
    yield _figure(
        "Latency distribution",
        "which share of calls took at most how long",
        charts.distribution(report),
        ["share", "from intended", "from sending"],
        (
            [f"{100 * share:g} %", _ms(intended), _ms(sent)]
            for share, intended, sent in zip(
                shape["share"], shape["from intended"], shape["from sending"], strict=True
            )
        ),
    )
    codes = list(report["totals"]["by_code"])
    yield _figure(
        "Refusals",
        "by reason",
        charts.refusals(report),
        ["s", *codes],
        ([_s(one), *(one["refusals"].get(code, 0) for code in codes)] for one in moments),
    )
    if any("lag_s" in row for row in system):
        names = sorted({name for row in system for name in row.get("lag_s", {})})
        yield _figure(
            "Projection lag",
            "the dashed line is the promise",
            charts.lag(report),
            ["s", "head", "queued", *names],
            (
                [_s(row), row["head"], row["queued"], *(f"{row['lag_s'][n]:.2f}" for n in names)]
                for row in system
                if "lag_s" in row
            ),
        )
    for heading, what, chart, scale in (
        ("Processors", "cores", charts.processors, 1.0),
        ("Memory", "memory_bytes", charts.memory, 2.0**20),
    ):
        names = sorted({name for row in system for name in row[what]})
        yield _figure(
            heading,
            "by tree of processes" if scale > 1 else "cores in use",
            chart(report),
            ["s", *names],
            (
                [_s(row), *(f"{row[what].get(name, 0) / scale:,.2f}" for name in names)]
                for row in system
                if row[what]
            ),
        )
    yield from _fair_figures(report)
    if any(slot["claims"] for slot in report["slots"]):
        yield _figure(
            "First second of each slot",
            "who asked in the first second and got a coupon",
            charts.first_seconds(report),
            ["campaign", "coupons", "in the first second"],
            ([s["campaign"], s["claims"], s["in_first_second"]] for s in report["slots"]),
        )


def _fair_figures(report: Json) -> Iterable[str]:
    """What a waiting room or a draw did with people, for the first of each."""
    for room in report.get("rooms", [])[:1]:
        yield _figure(
            "Places",
            "who came when; before the opening (dashed) by lot, after it in order",
            charts.places(room),
            ["came, s", "place"],
            ([f"{came:.2f}", number] for came, number in room["places"]),
        )
        off = room["estimate_off_ms"]
        yield _figure(
            "Waits",
            f"the first estimate against the wait; off by {_ms(off['p50'])} in the median, "
            f"{_ms(off['max'])} at most, the pause between two looks included",
            charts.estimates(room),
            ["told, s", "waited, s"],
            ([f"{told:.1f}", f"{real:.1f}"] for told, real in room["waits"]),
        )
    for draw in report.get("draws", [])[:1]:
        yield _figure(
            "Luck by arrival",
            "which share of each tenth of the entries won",
            charts.luck(draw),
            ["until, s", "entries", "won"],
            ([f"{until:.2f}", entries, won] for until, entries, won in draw["by_arrival"]),
        )


def _figure(
    heading: str, caption: str, svg: str, head: Sequence[str], rows: Iterable[Sequence[object]]
) -> str:
    """A chart and, folded away, its figures."""
    svg = svg.replace('role="img"', f'role="img" aria-label="{escape(heading)}"', 1)
    return (
        f'<figure><h3>{escape(heading)}</h3><p class="dim">{escape(caption)}</p>{svg}'
        '<details><summary>Figures</summary><div class="scroll">'
        f"{_table(head, rows)}</div></details>"
        "</figure>"
    )


def _calls(report: Json) -> str:
    head = ["call", "success", "replay", "refused", "unknown", "p50", "p90", "p99", "p99.9", "max"]
    rows = [
        [
            one["name"],
            *(f"{one.get(kind, 0):,}" for kind in charts.OUTCOMES),
            *(_ms(one["latency_ms"][name]) for name in ("p50", "p90", "p99", "p99_9", "max")),
        ]
        for one in report["calls"]
    ]
    return f'<div class="box">{_table(head, rows)}</div>'


def _slots(report: Json) -> str:
    head = ["campaign", "coupons", "first second", "to bots", "p50", "p99", "refused because"]
    rows = [
        [
            slot["campaign"],
            f"{slot['claims']:,}",
            _percent(slot["in_first_second"], slot["claims"]),
            _percent(slot["by_kind"].get("bot", 0), slot["claims"]),
            _ms(slot["latency_ms"]["p50"]),
            _ms(slot["latency_ms"]["p99"]),
            ", ".join(f"{code} {count:,}" for code, count in slot["refusals"].items()) or "none",
        ]
        for slot in report["slots"]
    ]
    if not rows:
        return '<p class="dim">No coupons were given out first come, first served.</p>'
    return f'<div class="box">{_table(head, rows)}</div>'


def _invariants(report: Json) -> str:
    rows = [
        [one["rule"], f"{one['checked']:,}", f"{one['broken']:,}", "✗" if one["broken"] else "✓"]
        for one in sorted(report["verdicts"], key=lambda one: -one["broken"])
    ]
    table = _table(["rule", "checked", "broken", ""], rows, red=lambda row: row[3] == "✗")
    return f'<div class="box">{table}</div>'


def _table(head: Sequence[str], rows: Iterable[Sequence[object]], *, red: Any = None) -> str:
    lines = ["".join(f"<th>{escape(str(cell))}</th>" for cell in head)]
    text = [f"<thead><tr>{lines[0]}</tr></thead><tbody>"]
    for number, row in enumerate(rows):
        if number >= ROWS_MAX:
            text.append("<tr><td>…</td></tr>")
            break
        mark = ' class="red"' if red is not None and red(row) else ""
        cells = "".join(f"<td>{escape(str(cell))}</td>" for cell in row)
        text.append(f"<tr{mark}>{cells}</tr>")
    return f"<table>{''.join(text)}</tbody></table>"


def _s(row: Json) -> str:
    return f"{row['at_s']:g}"


def _ms(value: float) -> str:
    if value >= 1000:
        return f"{value / 1000:,.2f} s"
    return f"{value:.0f} ms" if value >= 10 else f"{value:.1f} ms"


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.0f} %" if whole else "–"


def write(recording: Recording, directory: Path) -> Json:
    """Write the report of a recording into a directory, as JSON and as a page; return the JSON."""
    report = summarize(recording)
    (directory / JSON_FILE).write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n")
    (directory / PAGE_FILE).write_text(render(report))
    return report


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the page of a run once more, from its recording."""
    parser = argparse.ArgumentParser(
        prog="python -m loadtest.pages", description="Write a run's report again."
    )
    parser.add_argument("directory", type=Path, help=f"where {CALLS_FILE} lies")
    options = parser.parse_args(arguments)
    with Recording(options.directory / CALLS_FILE) as recording:
        write(recording, options.directory)
    print(options.directory / PAGE_FILE)
    return 0


if __name__ == "__main__":
    sys.exit(main())
