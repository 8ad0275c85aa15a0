"""`tidebook verify`: all that must hold of a store or an export, checked; else it is a finding."""

from __future__ import annotations

import resource
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from api.cli import output, stores
from api.cli.options import AsJson, Books, Home
from api.cli.trouble import Trouble

if TYPE_CHECKING:
    from collections.abc import Iterable

    from api.settings import Settings
    from campaigns.export_verification import Told
    from ledger.datastore import Datastore
    from ledger.exporting.proving import Keys
    from ledger.transparency.checkpoints import Checkpoint
    from ledger.transparency.notes import Verifier
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
class ExportReport:
    """How far an export was read, how fast, and by whose word."""

    book: str
    position: int
    judged: int
    checkpoints: int
    cosigned: int
    signed: bool
    believed: str
    seconds: float
    events_per_s: float


@dataclass(slots=True)
class Report:
    """What a verification found, in the form in which it is printed as JSON."""

    clean: bool = True
    books: list[BookReport] = field(default_factory=list)
    exports: list[ExportReport] = field(default_factory=list)
    daily_proofs: int = 0
    daily_signatures: bool = True
    """Whether it was known whose signatures the daily proofs must have."""
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
    directory: Annotated[
        Path | None,
        typer.Argument(
            metavar="[EXPORT]",
            help="A directory that `tidebook export` wrote. Without it, the store is verified.",
            show_default=False,
        ),
    ] = None,
    home: Home = None,
    book: Books = None,
    projections: Annotated[
        bool, typer.Option(help="Store: compare the projections with a fresh fold as well.")
    ] = True,
    log_key: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY",
            help="Export: verifier key of the log that is believed, instead of those in the export;"
            " can be given again.",
            show_default=False,
        ),
    ] = None,
    witness: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY",
            help="Export: verifier key of a witness that must have cosigned; can be given again.",
            show_default=False,
        ),
    ] = None,
    quorum: Annotated[
        int | None,
        typer.Option(
            min=0,
            metavar="N",
            help="Export: how many of these witnesses must have cosigned; without it all.",
            show_default=False,
        ),
    ] = None,
    statement_key: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY",
            help="Store: verifier key of the statements that signed the daily proofs, instead of"
            " the home's; can be given again.",
            show_default=False,
        ),
    ] = None,
    jobs: Annotated[
        int, typer.Option(min=0, max=64, help="Export: processes that read and hash beside this.")
    ] = 1,
    as_json: AsJson = False,
) -> int:
    """Verify the store, or an export with no store: order, bytes, money, every rule, the log.

    Reads every book from position 1 and judges each event again. Of a store, kept replies,
    capacity, daily proofs and projections are compared as well; it may be written meanwhile, and
    nothing in it is changed.
    Of an **EXPORT**, nothing is needed but its files: every leaf, every signed root and every
    signature is made again. Exit status: **0** nothing found, **1** findings, **2** could not run.

    Examples:
    * `tidebook verify`
    * `tidebook verify --book main --json | jq .counts`
    * `tidebook verify --no-projections`
    * `tidebook verify audit --log-key "$LOG" --witness "$WITNESS"`
    """
    report = Report()
    started = time.monotonic()
    if directory is not None:
        if statement_key:
            raise Trouble("--statement-key: it is for a store, and an EXPORT is named")
        keys = _keys(log_key, witness, quorum)
        _verify_exports(directory, book, keys, jobs, report)
    elif log_key or witness or quorum is not None:
        raise Trouble("--log-key, --witness, --quorum: they are for an EXPORT, which is not named")
    else:
        _verify_store(home, book, statement_key or [], report, projections=projections)
    report.seconds = round(time.monotonic() - started, 3)
    report.peak_memory_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    if as_json:
        output.print_json(report)
    else:
        _print(report)
    return 0 if report.clean else 1


def _verify_store(
    home: Path | None,
    book: list[str] | None,
    statement_key: list[str],
    report: Report,
    *,
    projections: bool,
) -> None:
    from api.cli.receipts import verifier_key

    signers = [verifier_key(text, "--statement-key") for text in statement_key]
    settings = stores.load_settings(home)
    with stores.store(settings) as datastore:
        books = stores.chosen_books(datastore, book)
        for one in books:
            head = _remembered(settings, one)
            report.books.append(_verify_book(datastore, one, head, report))
            _verify_daily_proofs(datastore, settings, one, signers, report)
        if projections:
            _verify_projections(datastore, books if book else None, report)


def _keys(log_key: list[str] | None, witness: list[str] | None, quorum: int | None) -> Keys | None:
    """Return who is believed, None when it is whoever the export names."""
    from api.cli.receipts import verifier_key
    from ledger.exporting.proving import Keys

    if not log_key:
        if witness or quorum is not None:
            raise Trouble(
                "--witness, --quorum: whoever is to be believed is named by --log-key too"
            )
        return None
    log = tuple(verifier_key(text, "--log-key") for text in log_key)
    witnesses = tuple(verifier_key(text, "--witness") for text in witness or ())
    return Keys(log, witnesses, len(witnesses) if quorum is None else quorum)


def _verify_exports(
    directory: Path, books: list[str] | None, keys: Keys | None, jobs: int, report: Report
) -> None:
    from campaigns.export_verification import NoExport, exports_in, verify_export

    try:
        found = exports_in(directory)
    except NoExport as none:
        raise Trouble(f"EXPORT: {none}") from None
    chosen = [one for one in found if not books or one.name in books]
    if books and len(chosen) < len(set(books)):
        raise Trouble(f"--book: {directory} has {', '.join(one.name for one in found)}")
    for one in chosen:
        started = time.monotonic()
        with output.progress(f"{one.name}: events", None) as advance:
            told = verify_export(one, keys, jobs, advance, lambda finding: report.add([finding]))
        if told is not None:
            report.exports.append(_of_export(told, keys, time.monotonic() - started))


def _of_export(told: Told, keys: Keys | None, seconds: float) -> ExportReport:
    return ExportReport(
        told.book,
        told.size,
        told.judged,
        told.checkpoints,
        told.cosigned,
        told.signed,
        "the keys that were given" if keys is not None else "the keys in the export",
        round(seconds, 3),
        round(told.size / seconds, 1) if seconds else 0.0,
    )


def _verify_book(
    datastore: Datastore, book: str, remembered: Checkpoint | None, report: Report
) -> BookReport:
    from campaigns.event_types import MAPPER
    from campaigns.verification import Audit
    from ledger.history import History
    from ledger.transparency.auditing import LogAudit

    history = History(datastore, book, MAPPER)
    log = LogAudit(datastore, book, remembered)
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
    report.add(log.finish())
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


def _verify_daily_proofs(
    datastore: Datastore, settings: Settings, book: str, signers: list[Verifier], report: Report
) -> None:
    """Check a book's daily proofs where there are any, and whose they are where that is known."""
    from api.cli.daily import checked, own_keys
    from api.daily import store

    with datastore.transaction() as cursor:
        kept = len(store.proofs(cursor, book))
    if kept:
        signers = signers or own_keys(datastore, settings, book)
        report.add(checked(datastore, book, signers or None))
        report.daily_proofs += kept
        report.daily_signatures &= bool(signers)


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
    if report.exports:
        _print_exports(report.exports)
    if report.daily_proofs:
        console.print(f"Daily proofs added up again: {report.daily_proofs:,}")
        if not report.daily_signatures:
            console.print(
                "Their signatures were not checked: this home has no key of statements, and no"
                " --statement-key was given.",
                style="yellow",
            )
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


def _print_exports(exports: list[ExportReport]) -> None:
    numbers = ("position", "judged", "roots", "cosigned", "seconds", "events/s")
    table = output.table(None, "book", *numbers, "manifest", "believed", numbers=numbers)
    for one in exports:
        table.add_row(
            one.book,
            f"{one.position:,}",
            f"{one.judged:,}",
            f"{one.checkpoints:,}",
            f"{one.cosigned:,}",
            f"{one.seconds:,.1f}",
            f"{one.events_per_s:,.0f}",
            "signed" if one.signed else "not signed",
            one.believed,
        )
    output.console().print(table)
