"""The load test's command: one scenario, against a running system or one of its own.

    python -m loadtest rush --users 2000 --seconds 20
    python -m loadtest day --url http://127.0.0.1:8080 --json

It ends with the check of every answer and writes `report.html`, `report.json` and the recording.
The exit status is 0 when everything held, 1 when something did not, 2 when the run could not begin.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import sqlite3
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import httpx
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from loadtest import pages
from loadtest.client import UnexpectedAnswer
from loadtest.openloop import CONNECTIONS_MAX
from loadtest.recording import Recording
from loadtest.run import prepare, release, verify
from loadtest.scenarios import SCENARIOS
from loadtest.scenarios.plan import Size
from loadtest.servers import StartFailed
from loadtest.stage import StageFailed
from loadtest.system import CommandFailed, System

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from loadtest.figures import Json
    from loadtest.openloop import Progress

FINDINGS_SHOWN: Final = 20
SECONDS_MIN: Final = 0.1
SECONDS_MAX: Final = 86_400
INTERRUPTED: Final = 130
"""The exit status of a program that Ctrl-C ended."""
_CANNOT_BEGIN: Final = (
    CommandFailed,
    StartFailed,
    StageFailed,
    UnexpectedAnswer,
    httpx.TransportError,
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a scenario; the exit status says whether everything held."""
    options = _parser().parse_args(arguments)
    logging.getLogger("httpx").setLevel(logging.WARNING)  # the check reads many pages
    console = Console(stderr=True, highlight=False)
    directory: Path = options.out or _default_directory(options.scenario)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        recording = Recording(directory / pages.CALLS_FILE, new=True)
    except (OSError, sqlite3.Error) as trouble:
        return _complain(console, f"nothing can be written to {directory} ({trouble})")
    with recording:
        try:
            _run(options, recording, console)
        except _CANNOT_BEGIN as trouble:
            _clear_away(directory)
            where = f"{options.url}: " if options.url else ""
            return _complain(console, f"{where}{trouble}")
        except KeyboardInterrupt:
            _complain(console, f"interrupted; {directory / pages.CALLS_FILE} was not checked")
            return INTERRUPTED
        report = pages.write(recording, directory)
    if options.json:
        print(json.dumps(report, ensure_ascii=False))
    else:
        _print(report, directory)
    return 1 if report["findings"] or report["findings"] is None else 0


def _complain(console: Console, what: str) -> int:
    """Say why there is no report."""
    console.print("[red]✗[/red]", escape(what), soft_wrap=True)
    return 2


def _clear_away(directory: Path) -> None:
    """Remove the recording of a run that did not begin, and the directory unless it was in use."""
    (directory / pages.CALLS_FILE).unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        directory.rmdir()


def _run(options: argparse.Namespace, recording: Recording, console: Console) -> None:
    scenario = SCENARIOS[options.scenario]
    size = Size(options.users, options.seconds, options.seed, options.quota, options.campaigns)
    with _system(options, console) as system:
        with console.status("Opening campaigns, signing people in"):
            plan = prepare(scenario, size, system.url, recording, sessions_last=options.url is None)
        recording.note(url=options.url or "a system of its own", driver="open loop")
        console.print(
            f"{len(plan.arrivals):,} arrivals in {size.seconds:g} s: {scenario.summary}",
            soft_wrap=True,
        )
        release(
            plan,
            system.url,
            system.roots,
            recording,
            connections_max=options.connections,
            watch=lambda now_s, progress: _tell(console, now_s, progress),
        )
        with console.status("Reading the book back, checking every answer"):
            verify(system.url, recording)


@contextlib.contextmanager
def _system(options: argparse.Namespace, console: Console) -> Iterator[System]:
    """The system that was named, or one of our own for the length of the run."""
    if options.url is not None:
        yield System(options.url, {})
        return
    with contextlib.ExitStack() as stack:
        with console.status("Starting PostgreSQL, Valkey, server, projections and sweeper"):
            system = stack.enter_context(System.started(options.workers))
        yield system


def _tell(console: Console, now_s: float, progress: Progress) -> None:
    """One line of progress."""
    kinds = {"ok": 0, "refused": 0, "unknown": 0}
    for status, count in progress.statuses.items():
        kind = "unknown" if status == 0 or status >= 500 else "refused" if status >= 400 else "ok"
        kinds[kind] += count
    codes = ", ".join(f"{code} {count:,}" for code, count in progress.codes.most_common(3))
    console.print(
        f"{max(now_s, 0.0):6.1f} s  {progress.arrived:>7,} arrived  {kinds['ok']:>7,} ok"
        f"  {kinds['refused']:>7,} refused  {kinds['unknown']:>4,} unknown"
        f"  {progress.in_flight:>5,} out  p99 {progress.percentile_ms(0.99):>5.0f} ms"
        f"  [dim]{codes}[/dim]",
        soft_wrap=True,
    )


def _print(report: Json, directory: Path) -> None:
    console = Console(highlight=False)
    table = Table(box=None, pad_edge=False)
    table.add_column("call")
    for name in ("success", "replay", "refused", "unknown", "p50 ms", "p99 ms", "max ms"):
        table.add_column(name, justify="right")
    for one in report["calls"]:
        counts = [f"{one.get(kind, 0):,}" for kind in ("success", "replay", "refused", "unknown")]
        times = [f"{one['latency_ms'][name]:,.1f}" for name in ("p50", "p99", "max")]
        table.add_row(one["name"], *counts, *times)
    console.print(table)
    for finding in (report["findings"] or [])[:FINDINGS_SHOWN]:
        console.print(f"[red]✗[/red] {finding}")
    checks = sum(one["checked"] for one in report["verdicts"])
    verdict = _findings(len(report["findings"])) if report["findings"] else "every invariant holds"
    console.print(f"{report['events']:,} events, {checks:,} checks: {verdict}")
    console.print(f"Report: {directory / pages.PAGE_FILE}", soft_wrap=True)


def _findings(count: int) -> str:
    return "1 finding" if count == 1 else f"{count:,} findings"


def _default_directory(scenario: str) -> Path:
    return Path("load") / f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{scenario}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m loadtest",
        description="Let a crowd loose on Tidebook, check every answer, write a report.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="scenarios:\n"
        + "\n".join(f"  {one.name:<12} {one.summary}" for one in SCENARIOS.values()),
    )
    parser.add_argument("scenario", choices=SCENARIOS, help="who comes when, and does what")
    parser.add_argument("--users", type=_count, default=500, help="people who come (default 500)")
    parser.add_argument(
        "--seconds", type=_seconds, default=10.0, help="length of the arrival curve (default 10)"
    )
    parser.add_argument(
        "--url",
        type=_url,
        help="a running system with its development issuer; default: one of its own",
    )
    parser.add_argument(
        "--out", type=Path, help="directory for the report (default load/<time>-<scenario>)"
    )
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.add_argument(
        "--quota", type=_count, help="coupons in each campaign (default: few enough)"
    )
    parser.add_argument(
        "--campaigns", type=_count, default=200, help="campaigns of «skewed» (default 200)"
    )
    parser.add_argument("--seed", type=int, default=1, help="the same seed, the same visits")
    parser.add_argument(
        "--workers", type=_count, default=2, help="server processes of a system of its own"
    )
    parser.add_argument(
        "--connections",
        type=_count,
        default=CONNECTIONS_MAX,
        help=f"most connections at once (default {CONNECTIONS_MAX})",
    )
    return parser


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 1 on")
    return int(text)


def _seconds(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not SECONDS_MIN <= number <= SECONDS_MAX:
        limits = f"from {SECONDS_MIN} to {SECONDS_MAX}"
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds {limits}")
    return number


def _url(text: str) -> str:
    """The driver speaks plain HTTP to the root of a service."""
    parts = urlsplit(text)
    with contextlib.suppress(ValueError):
        if parts.scheme == "http" and parts.hostname and parts.port != 0 and not parts.query:
            return text.rstrip("/")
    raise argparse.ArgumentTypeError(f"{text!r} is no address like http://127.0.0.1:8080")


if __name__ == "__main__":
    sys.exit(main())
