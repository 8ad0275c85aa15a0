"""`tidebook reexecute` and `tidebook what-if`: the requests of the past, decided again."""

from __future__ import annotations

import resource
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from api.cli import output, stores
from api.cli.options import AsJson, Books, Home, parse_until
from api.cli.replaying import Until, position_of, public_id
from api.cli.trouble import Trouble

if TYPE_CHECKING:
    from uuid import UUID

    from api.settings import Settings
    from ledger.datastore import Datastore

LISTED: Final = 1_000
"""Differences that are told one by one; of more only the number is told."""

_FORM: Final = "NAME=VALUE"


@dataclass(slots=True)
class Again:
    """What came of deciding one book again."""

    book: str
    position: int = 0
    decided: dict[str, int] = field(default_factory=dict)
    refused: dict[str, int] = field(default_factory=dict)
    not_decided: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    requests_per_s: float = 0.0


@dataclass(slots=True)
class Report:
    """What came of deciding again, in the form in which it is printed as JSON."""

    same: bool = True
    books: list[Again] = field(default_factory=list)
    reasons: dict[str, str] = field(default_factory=dict)
    """Why requests were not decided again, in words."""
    differences: list[dict[str, str]] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    peak_memory_bytes: int = 0

    def add(self, found: Any) -> None:
        """Take a difference in; those beyond the bound are only counted."""
        self.same = False
        self.counts[found.code] += 1
        if len(self.differences) < LISTED:
            self.differences.append(found._asdict())


def reexecute(
    until: Until = None, book: Books = None, home: Home = None, as_json: AsJson = False
) -> int:
    """Decide every recorded request again, in the state of its day, and compare byte for byte.

    Claims, redemptions, refunds, draws, steps of campaigns and kept refusals are decided by the
    service's own rules, each at its place in the order. Events, replies, stock and money must come
    out as they are stored. Exit status: **0** all the same, **1** differences, **2** could not run.

    Examples:
    * `tidebook reexecute`
    * `tidebook reexecute --until 2026-05-01T20:00:00+08:00`
    * `tidebook reexecute --book main --json | jq .counts`
    """
    moment = None if until is None else parse_until(until)
    report = Report()
    settings = stores.load_settings(home)
    with stores.store(settings) as datastore:
        for one in stores.chosen_books(datastore, book):
            report.books.append(_again(datastore, settings, one, moment, report))
    report.peak_memory_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    if as_json:
        output.print_json(report)
    else:
        _print(report)
    return 0 if report.same else 1


def _again(
    datastore: Datastore, settings: Settings, book: str, moment: Any, report: Report
) -> Again:
    from api.errors import render_refusal
    from campaigns.event_types import MAPPER
    from campaigns.replaying.asking import REASONS
    from campaigns.replaying.reexecution import Reexecution
    from ledger.history import History

    history = History(datastore, book, MAPPER)
    until = position_of(history, moment)
    work = Reexecution(history, datastore, render_refusal, marks_of(book), draw_key_of(settings))
    started = time.monotonic()
    with output.progress(f"{book}: decided again", until) as advance:
        for found in work.findings(until, advance):
            report.add(found)
    seconds = time.monotonic() - started
    tally = work.tally
    report.reasons |= {reason: REASONS[reason] for reason in tally.skipped}
    requests = tally.decided.total() + tally.refused.total()
    return Again(
        book,
        tally.position,
        dict(sorted(tally.decided.items())),
        dict(sorted(tally.refused.items())),
        dict(sorted(tally.skipped.items())),
        round(seconds, 3),
        round(requests / seconds, 1) if seconds else 0.0,
    )


def draw_key_of(settings: Settings) -> Callable[[], bytes]:
    """Return what gives the ledger's draw key, which is not made where there is none."""
    from campaigns.replaying.asking import no_draw_key

    if settings.draw_key is None and not (settings.home / "keys" / "draw.key").exists():
        return no_draw_key
    return settings.draw_secret


def marks_of(book: str) -> Callable[[UUID], Mapping[bytes, str]]:
    """Return what knows the requests about a campaign whose body says nothing."""
    import hashlib

    from api.bodies import canonical
    from api.routes import campaigns, draws
    from api.schemas import EmptyBody
    from campaigns.replies import CAMPAIGN_PREFIX
    from ledger.books import Book, PublicId

    routes = {
        campaigns.CLAIM.route: "claim",
        campaigns.OPEN.route: "open",
        campaigns.RESUME.route: "resume",
        draws.CLAIM.route: "claim_win",
        draws.WITHDRAW.route: "withdraw_entry",
    }

    def marks(campaign: UUID) -> Mapping[bytes, str]:
        name = str(PublicId(CAMPAIGN_PREFIX, Book(book), campaign))
        return {
            hashlib.sha256(canonical(route.replace("{campaign}", name), EmptyBody())).digest(): what
            for route, what in routes.items()
        }

    return marks


def _print(report: Report) -> None:
    console = output.console()
    numbers = ("position", "decided", "refused", "not decided", "seconds", "requests/s")
    books = output.table(None, "book", *numbers, numbers=numbers)
    for one in report.books:
        counts = (one.decided, one.refused, one.not_decided)
        books.add_row(
            one.book,
            f"{one.position:,}",
            *(f"{sum(each.values()):,}" for each in counts),
            f"{one.seconds:,.1f}",
            f"{one.requests_per_s:,.0f}",
        )
    console.print(books)
    for one in report.books:
        for reason, count in one.not_decided.items():
            console.print(f"{one.book}: {count:,} not decided again: {report.reasons[reason]}.")
    if report.same:
        console.print("All the same, byte for byte.", style="green")
        return
    found = output.table(None, "difference", "where", "decided again", "recorded")
    for each in report.differences:
        found.add_row(*(each[name] for name in ("code", "where", "expected", "found")))
    console.print(found)
    told = ", ".join(f"{count:,} × {code}" for code, count in report.counts.items())
    console.print(f"{report.counts.total():,} differences: {told}", style="red")


# What if


def what_if(
    campaign: Annotated[str, typer.Option(metavar="CMP", help="The campaign.")],
    changes: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar=_FORM,
            help="A term that is otherwise: quota, budget, limit, face, threshold, window,"
            " validity, merchants, restock, tiers, split or intake; can be given again.",
            show_default=False,
        ),
    ] = None,
    until: Until = None,
    people: Annotated[
        bool, typer.Option("--people", help="Name who would have won or lost, by pseudonym.")
    ] = False,
    home: Home = None,
    as_json: AsJson = False,
) -> int:
    """Tell what would have been under other terms: who would have won, and the money.

    The requests of the record are decided again in their order, under the changed terms. Nothing is
    written. What is taken for granted is told with the answer.

    Examples:
    * `tidebook what-if --campaign cmp_main_3f2c… --set quota=20000`
    * `tidebook what-if --campaign cmp_main_3f2c… --set limit=1 --set face=2000 --people --json`
    * `tidebook what-if --campaign cmp_main_3f2c… --set tiers=20000:1000,5000:40000`
    * `tidebook what-if --campaign cmp_main_3f2c… --set window=2026-05-01T12:00Z/2026-05-02T12:00Z`
    """
    moment = None if until is None else parse_until(until)
    asked = public_id("--campaign", campaign, "cmp")
    wanted = _changes(changes or [])
    settings = stores.load_settings(home)
    with stores.store(settings) as datastore:
        document = _imagined(datastore, settings, asked, wanted, moment)
    if not people:
        for name in ("gained", "lost"):
            del document["people"][name]
    if as_json:
        output.print_json(document)
    else:
        _print_outcome(document)
    return 0


def _changes(given: list[str]) -> dict[str, str]:
    changes: dict[str, str] = {}
    for one in given:
        name, equals, value = one.partition("=")
        if not equals or not name or not value:
            raise Trouble(f"--set: {_FORM} is wanted, for example quota=20000, not {one[:64]!r}")
        if name in changes:
            raise Trouble(f"--set: {name} can be given once")
        changes[name] = value
    return changes


def _imagined(
    datastore: Datastore, settings: Settings, asked: Any, wanted: dict[str, str], moment: Any
) -> dict[str, Any]:
    from api.errors import render_refusal
    from campaigns.event_types import MAPPER
    from campaigns.replaying.reading import UnknownCampaign, what_if
    from campaigns.replaying.terms import BadChange
    from campaigns.replaying.whatif import ASSUMPTIONS
    from ledger.history import History

    stores.chosen_books(datastore, [asked.book])
    history = History(datastore, asked.book, MAPPER)
    until = position_of(history, moment)
    try:
        with output.progress(f"{asked.book}: read", until) as advance:
            one, rest = output.counted(advance)
            campaign, changed, outcome = what_if(
                history,
                datastore,
                asked.uuid,
                wanted,
                until,
                draw_key=draw_key_of(settings),
                recognise=marks_of(asked.book),
                render=render_refusal,
                on_event=one,
            )
            rest()
    except UnknownCampaign:
        raise Trouble(f"--campaign: {asked} was not drafted by then") from None
    except BadChange as error:
        raise Trouble(f"--set {error.name}: {error.rule}") from None
    if outcome.not_imagined.get("draw_key"):
        raise Trouble("TIDEBOOK_DRAW_KEY: what these packets hold is drawn with the draw key")
    return {
        "book": asked.book,
        "position": until,
        "campaign": str(asked),
        "currency": campaign.terms.currency,
        "changes": wanted,
        "terms": _terms(campaign.terms, changed.terms),
        "was": outcome.was,
        "would": outcome.would,
        "people": {
            "would_win": len(outcome.gained),
            "would_lose": len(outcome.lost),
            "would_have_more": outcome.more,
            "would_have_less": outcome.less,
            "gained": outcome.gained,
            "lost": outcome.lost,
        },
        "fell_away": outcome.fell_away,
        "steps_refused": outcome.steps_refused,
        "not_imagined": outcome.not_imagined,
        "assumptions": list(ASSUMPTIONS),
    }


def _terms(was: Any, would: Any) -> dict[str, dict[str, Any]]:
    from campaigns.replaying.terms import difference

    return {name: {"was": one, "would": other} for name, one, other in difference(was, would)}


_FIGURES: Final = (
    *("winners", "entered", "claimed", "used"),
    *("granted_minor", "spent_minor", "returned_minor", "held_minor", "put_in_minor"),
)


def _print_outcome(document: dict[str, Any]) -> None:
    console = output.console()
    changes = ", ".join(f"{name} {value}" for name, value in document["changes"].items())
    console.print(f"{document['campaign']} with {changes or 'its own terms'}:", style="bold")
    numbers = ("was", "would have been", "difference")
    figures = output.table(None, "figure", *numbers, numbers=numbers)
    was, would = document["was"], document["would"]
    for name in _FIGURES:
        one, other = getattr(was, name), getattr(would, name)
        figures.add_row(name, f"{one:,}", f"{other:,}", f"{other - one:+,}" if other != one else "")
    for code in sorted(was.refused.keys() | would.refused.keys()):
        one, other = was.refused.get(code, 0), would.refused.get(code, 0)
        difference = f"{other - one:+,}" if other != one else ""
        figures.add_row(f"refused: {code}", f"{one:,}", f"{other:,}", difference)
    console.print(figures)
    people = document["people"]
    console.print(
        f"{people['would_win']:,} more people would have won, {people['would_lose']:,} would not"
        f" have; of the others {people['would_have_more']:,} would have more and"
        f" {people['would_have_less']:,} less."
    )
    for name in ("gained", "lost"):
        for person in people.get(name, ()):
            console.print(f"  {name}: {person}")
    for code, count in document["fell_away"].items():
        console.print(f"Fell away: {count:,} × {code}.")
    for step in document["steps_refused"]:
        console.print(f"Refused step: {step}.", style="yellow")
    for reason, count in document["not_imagined"].items():
        console.print(f"Not asked again: {count:,} × {reason}.", style="yellow")
    console.print("Assumed:")
    for one in document["assumptions"]:
        console.print(f"- {one}")
