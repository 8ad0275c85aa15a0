"""`tidebook verify`: everything that must hold of a store, checked; what does not is a finding."""

from __future__ import annotations

import resource
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from api.cli import output, stores
from api.cli.options import AsJson, Books, Home

if TYPE_CHECKING:
    from collections.abc import Iterable

    from api.settings import Settings
    from ledger.datastore import Datastore
    from ledger.transparency.checkpoints import Checkpoint
    from ledger.verification import Finding

LISTED: Final = 1_000
"""Findings that are told one by one; of more only the number is told."""


@dataclass(slots=True)
class BookReport:
    """How far a book was read, and how fast."""

    book: str
    position: int
    replies: int
    seconds: float
    events_per_s: float


@dataclass(slots=True)
class Report:
    """What a verification found, in the form in which it is printed as JSON."""

    clean: bool = True
    books: list[BookReport] = field(default_factory=list)
    projections: list[str] = field(default_factory=list)
    findings: list[dict[str, str | None]] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    peak_memory_bytes: int = 0

    def add(self, findings: Iterable[Any]) -> None:
        """Take findings in; those beyond the bound are only counted."""
        for one in findings:
            self.clean = False
            self.counts[one.code] += 1
            if len(self.findings) < LISTED:
                self.findings.append(
                    {
                        "code": one.code,
                        "where": one.where,
                        "expected": one.expected,
                        "found": one.found,
                    }
                )


def verify(
    home: Home = None,
    book: Books = None,
    projections: Annotated[
        bool, typer.Option(help="Compare the projections with a fresh fold as well.")
    ] = True,
    as_json: AsJson = False,
) -> int:
    """Verify the store: order, bytes, money, every rule, kept replies, log, projections.

    Reads every book from position 1 and judges each event again. A book may be written meanwhile;
    nothing in it is changed. Exit status: **0** nothing found, **1** findings, **2** could not
    run.

    Examples:
    * `tidebook verify`
    * `tidebook verify --book main --json | jq .counts`
    * `tidebook verify --no-projections`
    """
    report = Report()
    started = time.monotonic()
    settings = stores.load_settings(home)
    with stores.store(settings) as datastore:
        books = stores.chosen_books(datastore, book)
        for one in books:
            head = _remembered(settings, one)
            report.books.append(_verify_book(datastore, one, head, report))
        if projections:
            _verify_projections(datastore, books if book else None, report)
    report.seconds = round(time.monotonic() - started, 3)
    report.peak_memory_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    if as_json:
        output.print_json(report)
    else:
        _print(report)
    return 0 if report.clean else 1


def _verify_book(
    datastore: Datastore, book: str, remembered: Checkpoint | None, report: Report
) -> BookReport:
    from campaigns.event_types import MAPPER
    from campaigns.verification import Audit
    from ledger.history import History
    from ledger.transparency.auditing import LogAudit

    history = History(datastore, book, MAPPER)
    log = LogAudit(datastore, book)
    standing = history.standing()
    audit = Audit(book)
    started = time.monotonic()
    with output.progress(f"{book}: events", standing.last) as advance:
        one, rest = output.counted(advance)
        for entry in history.entries(0, standing.last):
            audit.feed(entry)
            log.feed(entry)
            if audit.has_findings:
                report.add(audit.take_findings())
            one()
        rest()
    audit.finish(standing)
    report.add(audit.take_findings())
    report.add(log.finish(remembered))
    seconds = time.monotonic() - started
    with output.progress(f"{book}: kept replies", None, "replies") as advance:
        one, rest = output.counted(advance)
        replies = Counter[str]()

        def on_reply() -> None:
            replies[book] += 1
            one()

        report.add(_of_replies(history, audit, on_reply))
        rest()
    rate = round(standing.last / seconds, 1) if seconds else 0.0
    return BookReport(book, standing.position, replies[book], round(seconds, 3), rate)


def _remembered(settings: Settings, book: str) -> Checkpoint | None:
    """Return the last head of a book that this home has signed."""
    from api.transparency import memory_of
    from ledger.transparency.checkpoints import Checkpoint

    note = memory_of(settings.home, book).head()
    return None if note is None else Checkpoint.parse(note.text)


def _of_replies(history: Any, audit: Any, on_reply: Any) -> list[Finding]:
    from campaigns.event_types import MAPPER
    from campaigns.verification import CODES
    from ledger.reply_verification import verify_replies

    return verify_replies(history, audit.book, MAPPER, CODES, on_reply)


def _verify_projections(datastore: Datastore, books: list[str] | None, report: Report) -> None:
    from projections import verification
    from projections.registry import PROJECTIONS

    for projection in PROJECTIONS:
        with output.progress(f"{projection.name}: fold", None) as advance:
            done = 0

            def on_progress(_phase: str, events: int, _total: int) -> None:
                nonlocal done
                advance(events - done)
                done = events

            report.add(
                verification.verify(datastore, on_progress, projections=[projection], books=books)
            )
        report.projections.append(projection.name)


def _print(report: Report) -> None:
    console = output.console()
    books = output.table(
        None,
        "book",
        "position",
        "replies",
        "seconds",
        "events/s",
        numbers=("position", "replies", "seconds", "events/s"),
    )
    for one in report.books:
        books.add_row(
            one.book,
            f"{one.position:,}",
            f"{one.replies:,}",
            f"{one.seconds:,.1f}",
            f"{one.events_per_s:,.0f}",
        )
    if report.books:
        console.print(books)
    if report.projections:
        console.print(f"Projections compared with a fresh fold: {', '.join(report.projections)}")
    if report.clean:
        console.print("Clean: nothing was found.", style="green")
        return
    found = output.table(None, "finding", "where", "expected", "found")
    for finding in report.findings:
        found.add_row(*(finding[name] or "" for name in ("code", "where", "expected", "found")))
    console.print(found)
    total = sum(report.counts.values())
    console.print(
        f"{total:,} findings: " + ", ".join(f"{n:,} × {c}" for c, n in report.counts.items()),
        style="red",
    )
