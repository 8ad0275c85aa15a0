"""`make lottery`: a lottery of a million entries from the intake to the last check.

    python -m loadtest.lottery --entries 1000000 --places 100000

One person enters over HTTP and everybody else as the model of that entry says
(`loadtest/entries.py`). Then `tidebook draw`, `tidebook project --rebuild` and `tidebook verify`
are run, and the whole book is read over HTTP and drawn once more by `loadtest/books.py`. For each
step it reports CPU time and peak memory of the command and CPU time of PostgreSQL: both hardly
depend on who else uses the machine. It must never report a step that did not end well.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from uuid import UUID

import msgspec
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from loadtest import report
from loadtest.contenders import NotMeasurable
from loadtest.driver import drive
from loadtest.entries import EntryMould, fill_entries, read_entry
from loadtest.invariants import check
from loadtest.ours import BOOK, Tidebook
from loadtest.people import tourists
from loadtest.servers import CpuTime, PeakMemory
from loadtest.stage import address_of, claim_request

if TYPE_CHECKING:
    from collections.abc import Sequence

    from loadtest.servers import Used

ENTRIES: Final = 1_000_000
SHARE: Final = 10
"""One entrant in so many wins, unless the places are named."""
INTAKE_S: Final = 8
"""Long enough for one entry over HTTP on a busy machine."""
LEAD_S: Final = 2.0
ENTERED: Final = 202


class Step(NamedTuple):
    """What one step took."""

    name: str
    cpu_s: float
    postgres_cpu_s: float
    peak_bytes: int


class Lottery:
    """One lottery, step by step."""

    def __init__(self, tidebook: Tidebook, options: argparse.Namespace, console: Console) -> None:
        self.tidebook = tidebook
        self.steps: list[Step] = []
        self.findings: list[str] = []
        self._options = options
        self._console = console

    def run(self) -> None:
        """Enter, fill, draw, fold, verify, and draw once more from what is read over HTTP."""
        options = self._options
        places = options.places or max(1, options.entries // SHARE)
        ends = self._fill(places)
        time.sleep(max(0.0, (ends - datetime.now(UTC)).total_seconds()) + 1.0)
        drawn = self._step("draw", "draw", "--json")
        given = sum(row["given"] for row in json.loads(drawn.output))
        if given != min(places, options.entries):
            self.findings.append(f"{given:,} coupons were given, not {places:,}")
        self._step("fold", "project", "--rebuild", "--json")
        verified = self._step("verify", "verify", "--json")
        self.findings += [str(one) for one in json.loads(verified.output)["findings"]]
        if options.feed:
            self._check()

    def _fill(self, places: int) -> datetime:
        """A lottery with all its entries; return the end of its intake."""
        tidebook, entries = self.tidebook, self._options.entries
        [token] = tourists(tidebook.url, ["the first who enters"])
        begins = datetime.now(UTC) + timedelta(seconds=LEAD_S)
        intake = {"kind": "lottery", "seconds": INTAKE_S}
        campaign = tidebook.staff.open_campaign("Lottery", places, intake=intake, begins=begins)
        time.sleep(max(0.0, (begins - datetime.now(UTC)).total_seconds()) + 0.5)
        host, port = address_of(tidebook.url)
        claim = claim_request(tidebook.url, campaign, token, "0")
        run = drive(host, port, [claim], connections=1, keep_bodies=True)
        if list(run.statuses) != [ENTERED]:
            raise NotMeasurable(f"the model entry was answered {run.status_counts()}")
        coupon = UUID(json.loads(run.bodies[0])["coupon"].rpartition("_")[2])
        mould = EntryMould(read_entry(tidebook.database_url, BOOK, coupon))
        self._console.print(f"Filling a lottery with {entries:,} entries …")
        with Progress(console=self._console, transient=True) as bar:
            task = bar.add_task("filling", total=entries)
            fill_entries(
                tidebook.database_url, mould, entries - 1, lambda done: bar.advance(task, done)
            )
        return begins + timedelta(seconds=INTAKE_S)

    def _step(self, name: str, *words: str) -> Used:
        self._console.print(f"tidebook {' '.join(words)} …")
        used = self.tidebook.measured(*words)
        if used.status > 1 or not used.output:
            raise NotMeasurable(f"tidebook {' '.join(words)} ended with {used.status}")
        self.steps.append(Step(name, used.cpu_s, used.postgres_cpu_s, used.peak_bytes))
        return used

    def _check(self) -> None:
        """Read the book over HTTP and draw again, by code that shares none with the service."""
        self._console.print("Reading the book over HTTP, drawing again …")
        roots = self.tidebook.roots()
        with CpuTime(roots) as cpu, PeakMemory(self.tidebook.roots) as memory:
            books = check(self.tidebook.staff.auditor, BOOK)
        served = sum(cpu.used_s[name] for name in roots if name in {"server", "driver"})
        peak = max(memory.peak_bytes.get("server", 0), memory.peak_bytes.get("driver", 0))
        self.steps.append(Step("read over HTTP", round(served, 1), cpu.used_s["postgres"], peak))
        self.findings += [str(one) for one in books.findings]


def result_of(lottery: Lottery, options: argparse.Namespace) -> dict[str, Any]:
    """All that was found, as JSON."""
    return {
        "date": report.now().isoformat(),
        "machine": msgspec.to_builtins(report.this_machine(os.getloadavg()[0])),
        "entries": options.entries,
        "places": options.places or max(1, options.entries // SHARE),
        "steps": [one._asdict() for one in lottery.steps],
        "findings": lottery.findings,
    }


def show(lottery: Lottery, console: Console) -> None:
    """Print what was found."""
    table = Table("step", title="a lottery, step by step")
    for column in ("CPU s", "of PostgreSQL", "peak MiB"):
        table.add_column(column, justify="right")
    for one in lottery.steps:
        memory = f"{one.peak_bytes / 2**20:,.0f}"
        table.add_row(one.name, f"{one.cpu_s:,.1f}", f"{one.postgres_cpu_s:,.1f}", memory)
    console.print(table)
    for finding in lottery.findings:
        console.print(f"[red]✗[/red] {finding}", highlight=False)


def main(arguments: Sequence[str] | None = None) -> int:
    """Hold a lottery; the exit status says whether everything held."""
    options = _parser().parse_args(arguments)
    console = Console(stderr=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # end the children on the way out
    with tempfile.TemporaryDirectory(prefix="tidebook-lottery-", dir=options.directory) as name:
        home = Path(name)
        home.chmod(0o711)  # PostgreSQL runs under another account when we are root
        with Tidebook.started(home, options.workers) as tidebook:
            lottery = Lottery(tidebook, options, console)
            lottery.run()
    show(lottery, console)
    if options.json:
        print(json.dumps(result_of(lottery, options), indent=1))
    return 1 if lottery.findings else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m loadtest.lottery",
        description="Hold a lottery among a million entries and say what each step takes. It needs "
        "about 2.5 GB of disk for a million.",
    )
    parser.add_argument("--entries", type=int, default=ENTRIES, help="who enters (1,000,000)")
    parser.add_argument("--places", type=int, help="coupons (default: one for ten entries)")
    parser.add_argument("--workers", type=int, default=1, help="server processes (default 1)")
    parser.add_argument(
        "--no-feed", dest="feed", action="store_false", help="do not read the book over HTTP"
    )
    parser.add_argument("--directory", type=Path, help="where the database lies meanwhile")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    return parser


if __name__ == "__main__":
    sys.exit(main())
