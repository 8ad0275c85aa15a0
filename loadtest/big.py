"""`make bench-big`: claims from a campaign that has given out millions, beside an empty one.

    python -m loadtest.big --coupons 12000000

Fills one campaign (see `loadtest/filling.py`), then measures claims by turns: from an empty
database, from a new campaign in the full one, and from the campaign that is full itself. The crowd
of a turn is new; each of the three gets the same requests. It reports the rates and their ratios,
what a claim takes on disk with all indexes, what it writes to the log in steady state and right
after a checkpoint, peak memory, and how fast each read model is rebuilt. In the end `tidebook
verify` judges the whole store. It must never report a rate of answers other than 201.
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import sys
import tempfile
import time
from contextlib import ExitStack, closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

import msgspec
import psycopg2
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from loadtest import report
from loadtest.contenders import CREATED, CommandFailed, NotMeasurable, outcome_of
from loadtest.filling import Mould, fill, read_model
from loadtest.ours import BOOK, CLAIMS_PER_S_MAX, Tidebook
from loadtest.people import tourists
from loadtest.rebuilding import Rebuilt, rebuild_each
from loadtest.servers import POSTGRES_SETTINGS, PeakMemory

if TYPE_CHECKING:
    from collections.abc import Sequence

    from loadtest.contenders import Outcome

COUPONS: Final = 1_000_000
"""Enough to outgrow the caches of a small machine; the target speaks of twelve times as many."""

TARGET: Final = 0.9
WARM_UP_S: Final = 1.0
ANNOUNCED: Final = timedelta(seconds=45)
"""How long before its begin a campaign is opened; servers look ahead every ten seconds."""

ROOM: Final = 2_000_000
"""Coupons that are left in the full campaign for those who claim in the measurement."""

EMPTY_DATABASE: Final = "empty database"
EMPTY_CAMPAIGN: Final = "empty campaign, full database"
FULL_CAMPAIGN: Final = "full campaign"
PLACES: Final = (EMPTY_DATABASE, EMPTY_CAMPAIGN, FULL_CAMPAIGN)

_SIZES: Final = """
SELECT c.relname, pg_relation_size(c.oid) FROM pg_class AS c
JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE n.nspname IN ('tidebook', 'rm_wallets') AND c.relkind IN ('r', 'i')
    AND pg_relation_size(c.oid) > %s
ORDER BY n.nspname DESC, c.relkind DESC, c.relname
"""
_WAL: Final = "SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn"
_ISSUED: Final = """
SELECT issued FROM tidebook.capacity WHERE book = %s AND campaign = %s
"""


class Place(msgspec.Struct):
    """What the runs in one place gave."""

    name: str
    claims_per_s: list[float] = []
    ratio: list[float] = []
    """To the empty database, turn by turn."""
    p99_ms: list[float] = []
    cpu_us: dict[str, float] = {}
    wal_bytes: list[float] = []
    """Per claim, in the measured runs."""
    wal_bytes_after_checkpoint: float | None = None
    """Per claim, in a run that began with a checkpoint: each page is logged whole once."""
    peak_memory_bytes: dict[str, int] = {}


class Result(msgspec.Struct):
    """All that was found."""

    date: datetime
    machine: Any
    versions: dict[str, str]
    postgres: dict[str, str]
    coupons: int
    fill_s: float
    rebuilds: list[Rebuilt]
    disk_bytes_per_claim: dict[str, float]
    places: list[Place]
    findings: list[str] = []


class Site:
    """One Tidebook with its database, and the crowd that has signed in to it."""

    def __init__(self, tidebook: Tidebook) -> None:
        self.tidebook = tidebook
        self.database_url = tidebook.database_url
        self.tokens: list[str] = []

    def value(self, statement: str, parameters: Any = None) -> Any:
        """The one value that a statement returns."""
        with closing(psycopg2.connect(self.database_url)) as connection:
            connection.autocommit = True
            cursor = connection.cursor()
            cursor.execute(statement, parameters)
            row = cursor.fetchone() if cursor.description else None
            return row[0] if row else None

    def sizes(self, at_least: int) -> dict[str, int]:
        """The bytes of each table and index that has so many."""
        with closing(psycopg2.connect(self.database_url)) as connection:
            cursor = connection.cursor()
            cursor.execute(_SIZES, (at_least,))
            return dict(cursor.fetchall())

    def invite(self, crowd: int, people: int) -> None:
        """Let a new crowd sign in."""
        names = (f"crowd {crowd}: {number}" for number in range(people))
        self.tokens = tourists(self.tidebook.url, names)


class Big:
    """The measurement."""

    def __init__(self, options: argparse.Namespace, console: Console) -> None:
        self._options = options
        self._console = console
        self._places = {name: Place(name) for name in PLACES}
        self._crowds = 0

    def measure(self, home: Path) -> Result:
        """Start everything, fill, measure by turns, check, and end everything."""
        options = self._options
        with ExitStack() as stack:
            empty = self._site(home / "empty", stack)
            full = self._site(home / "full", stack)
            campaign, fill_s = self._fill(full)
            rebuilds = self._rebuild(full) if options.projections else []
            sizes = {
                name: size / options.coupons for name, size in full.sizes(options.coupons).items()
            }
            if options.runs:
                self._claim(empty, full, campaign)
            findings = self._check(full, campaign)
        return Result(
            date=report.now(),
            machine=report.this_machine(os.getloadavg()[0]),
            versions=report.versions(),
            postgres=dict(POSTGRES_SETTINGS),
            coupons=options.coupons,
            fill_s=round(fill_s, 1),
            rebuilds=rebuilds,
            disk_bytes_per_claim={name: round(size, 1) for name, size in sizes.items()},
            places=list(self._places.values()) if options.runs else [],
            findings=findings,
        )

    def _site(self, home: Path, stack: ExitStack) -> Site:
        home.mkdir(mode=0o711)
        return Site(stack.enter_context(Tidebook.started(home, self._options.workers)))

    def _fill(self, site: Site) -> tuple[str, float]:
        """Let one person claim over HTTP, and everybody else as the model of that claim says."""
        coupons = self._options.coupons
        campaign = site.tidebook.open_campaign(coupons + ROOM)
        site.invite(0, 1)
        run = site.tidebook.claim(campaign, site.tokens, None)
        if set(run.statuses) != {CREATED}:
            raise NotMeasurable(f"the model claim was answered {dict(run.codes)}")
        [coupon] = site.tidebook.answers[campaign].acknowledged
        mould = Mould(read_model(site.database_url, BOOK, _uuid(coupon)))
        self._console.print(f"Filling a campaign with {coupons:,} claims …")
        bar = Progress(*Progress.get_default_columns(), console=self._console, transient=True)
        with bar:
            task = bar.add_task("filling", total=coupons)
            seconds = fill(
                site.database_url, mould, coupons - 1, lambda done: bar.advance(task, done)
            )
        self._console.print(f"… in {seconds:,.0f} s")
        return campaign, seconds

    def _rebuild(self, site: Site) -> list[Rebuilt]:
        self._console.print("Folding them into the projections …")
        return rebuild_each(site.tidebook)

    def _claim(self, empty: Site, full: Site, campaign: str) -> None:
        """Claim by turns in all places."""
        options = self._options
        self._announce(empty, full)
        self._turn(empty, full, campaign, WARM_UP_S, measured=False)
        for turn in range(1, options.runs + 1):
            self._console.print(f"Turn {turn} of {options.runs} …")
            self._turn(empty, full, campaign, options.seconds, measured=True)
        self._after_checkpoints(empty, full, campaign)

    def _announce(self, *sites: Site) -> None:
        """Let a campaign be about to begin, as before every rush: the servers get ready for it."""
        begins = datetime.now(UTC) + ANNOUNCED
        for site in sites:
            site.tidebook.staff.open_campaign("Announced", 1, begins=begins)
            site.tidebook.command("project", "--once")
        self._console.print(f"Waiting until {begins:%H:%M:%S}, when a campaign begins …")
        time.sleep(max(0.0, (begins - datetime.now(UTC)).total_seconds()))

    def _turn(
        self, empty: Site, full: Site, campaign: str, seconds: float, *, measured: bool
    ) -> None:
        """A new crowd claims in each place."""
        self._invite(empty, full, seconds)
        rates = {}
        for name, site, where in (
            (EMPTY_DATABASE, empty, None),
            (EMPTY_CAMPAIGN, full, None),
            (FULL_CAMPAIGN, full, campaign),
        ):
            place = self._places[name]
            with PeakMemory(site.tidebook.roots) as memory:
                outcome, wal_bytes = self._run(site, where, seconds)
            if not measured:
                continue
            rates[name] = outcome.per_s
            place.claims_per_s.append(round(outcome.per_s, 1))
            place.ratio.append(round(outcome.per_s / rates[EMPTY_DATABASE], 4))
            place.p99_ms.append(round(outcome.p99_ms, 2))
            place.wal_bytes.append(round(wal_bytes, 1))
            place.cpu_us = {what: round(us, 1) for what, us in outcome.cpu_us.items()}
            for what, used in memory.peak_bytes.items():
                place.peak_memory_bytes[what] = max(used, place.peak_memory_bytes.get(what, 0))

    def _after_checkpoints(self, empty: Site, full: Site, campaign: str) -> None:
        self._invite(empty, full, self._options.seconds)
        for name, site, where in (
            (EMPTY_DATABASE, empty, None),
            (EMPTY_CAMPAIGN, full, None),
            (FULL_CAMPAIGN, full, campaign),
        ):
            site.value("CHECKPOINT")
            _, wal_bytes = self._run(site, where, self._options.seconds)
            self._places[name].wal_bytes_after_checkpoint = round(wal_bytes, 1)

    def _invite(self, empty: Site, full: Site, seconds: float) -> None:
        self._crowds += 1
        people = min(self._options.people, int(CLAIMS_PER_S_MAX * seconds))
        for site in (empty, full):
            site.invite(self._crowds, people)

    def _run(self, site: Site, campaign: str | None, seconds: float) -> tuple[Outcome, float]:
        """Claims for so long, and the bytes of log that each took."""
        where = campaign or site.tidebook.open_campaign()
        before = site.value(_WAL)
        run = site.tidebook.claim(where, site.tokens, seconds)
        wal_bytes = float(site.value(_WAL) - before) / max(1, len(run.statuses))
        return outcome_of(run, CREATED), wal_bytes

    def _check(self, site: Site, campaign: str) -> list[str]:
        """What must not be: another count than was answered, or what `tidebook verify` finds."""
        said = site.tidebook.answers[campaign]
        least = self._options.coupons - 1 + len(said.acknowledged)
        issued = site.value(_ISSUED, (BOOK, str(_uuid(campaign))))
        findings = []
        if not least <= issued <= least + said.unknown:
            findings.append(f"{issued:,} coupons are issued, {least:,} were filled and answered")
        if self._options.verify:
            self._console.print("Verifying every event …")
            try:
                site.tidebook.command("verify")
            except CommandFailed as failed:
                findings.append(str(failed))
        return findings


def _uuid(public_id: str) -> UUID:
    """The UUID at the end of an id as the API writes it."""
    return UUID(public_id.rpartition("_")[2].rpartition(".")[2])


def show(result: Result, console: Console) -> None:
    """Print what was found."""
    if result.places:
        _show_claims(result, console)
    if result.rebuilds:
        _show_rebuilds(result.rebuilds, console)
    disk = Table("table or index", "bytes/claim", title="on disk")
    for name, size in result.disk_bytes_per_claim.items():
        disk.add_row(name, f"{size:,.0f}")
    disk.add_row("together", f"{sum(result.disk_bytes_per_claim.values()):,.0f}")
    console.print(disk)
    for finding in result.findings:
        console.print(f"[red]✗[/red] {finding}", highlight=False)
    if result.places:
        _show_ratios(result.places, console)


def _show_claims(result: Result, console: Console) -> None:
    rates = Table(title=f"claims beside {result.coupons:,} claimed coupons")
    columns = ("claims/s", "ratio", "p99 ms", "log B/claim", "after checkpoint", "CPU µs", "MiB")
    rates.add_column("where")
    for column in columns:
        rates.add_column(column, justify="right")
    for place in result.places:
        after = place.wal_bytes_after_checkpoint
        rates.add_row(
            place.name,
            f"{statistics.median(place.claims_per_s):,.0f}",
            f"{statistics.median(place.ratio):.3f}",
            f"{statistics.median(place.p99_ms):.1f}",
            f"{statistics.median(place.wal_bytes):,.0f}",
            "" if after is None else f"{after:,.0f}",
            f"{sum(us for what, us in place.cpu_us.items() if what != 'driver'):,.0f}",
            f"{sum(place.peak_memory_bytes.values()) / 2**20:,.0f}",
        )
    console.print(rates)


def _show_rebuilds(rebuilds: Sequence[Rebuilt], console: Console) -> None:
    table = Table("read model", title=f"rebuilds from {rebuilds[0].events:,} events")
    for column in ("events/s", "our CPU µs", "database's", "events/s and core", "MiB"):
        table.add_column(column, justify="right")
    for one in rebuilds:
        table.add_row(
            one.projection.replace("_", " "),
            f"{one.events_per_s:,.0f}",
            f"{one.cpu_us['projections']:.1f}",
            f"{one.cpu_us['postgres']:.1f}",
            f"{one.events_per_core_s:,.0f}",
            f"{one.peak_memory_bytes / 2**20:,.0f}",
        )
    console.print(table)


def _show_ratios(places: Sequence[Place], console: Console) -> None:
    full, empty = places[-1].claims_per_s, places[-2].claims_per_s
    ratio = statistics.median(one / other for one, other in zip(full, empty, strict=True))
    verdict = "met" if ratio >= TARGET else "missed"
    console.print(
        f"Full campaign: {ratio:.3f} of an empty one beside it; target {TARGET} {verdict}"
    )
    ratio = statistics.median(places[-1].ratio)
    console.print(f"And {ratio:.3f} of an empty database")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure; the exit status says whether the store was as it must be."""
    options = _parser().parse_args(arguments)
    console = Console()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # end the children on the way out
    with tempfile.TemporaryDirectory(prefix="tidebook-big-", dir=options.directory) as directory:
        home = Path(directory)
        home.chmod(0o711)  # PostgreSQL runs under another account when we are root
        result = Big(options, console).measure(home)
    options.json.write_bytes(msgspec.json.format(msgspec.json.encode(result), indent=2) + b"\n")
    show(result, console)
    console.print(f"Written to {options.json}")
    return 1 if result.findings else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m loadtest.big",
        description="Measure claims from a campaign that has given out millions of coupons. A "
        "million takes a few minutes and 3 GB of disk, twelve of them half an hour and 30 GB.",
    )
    parser.add_argument("--coupons", type=int, default=COUPONS, help="claimed before (1,000,000)")
    parser.add_argument(
        "--runs", type=int, default=5, help="in each place (default 5; 0: no claims)"
    )
    parser.add_argument("--seconds", type=float, default=4.0, help="length of a run (default 4)")
    parser.add_argument("--people", type=int, default=60_000, help="a turn's crowd, at most")
    parser.add_argument("--workers", type=int, default=2, help="server processes (default 2)")
    parser.add_argument(
        "--no-projections", dest="projections", action="store_false", help="fold no read models"
    )
    parser.add_argument(
        "--no-verify", dest="verify", action="store_false", help="leave `tidebook verify` out"
    )
    parser.add_argument("--directory", type=Path, help="where the databases lie meanwhile")
    parser.add_argument(
        "--json", type=Path, default=Path("big.json"), metavar="PATH", help="where to write"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
