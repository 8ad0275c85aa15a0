"""Checking daily proofs: against the events, and against each other where there are no events.

Everything is added up again from position 1, the tree included, and each line of each proof is
compared. What differs is a finding that names campaign, day and line; nothing is raised and
nothing is mended here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Final
from uuid import UUID

from api.daily import store
from api.daily.figures import AMOUNTS, COUNTS, DailyProof, DayEnd, Fold
from api.daily.making import Days
from api.daily.store import Stored
from campaigns.event_types import MAPPER
from ledger.datastore import Datastore
from ledger.history import History
from ledger.merkle import CompactRange
from ledger.transparency.copying import copy_leaf_hashes
from ledger.transparency.notes import BadSignature, Untrusted, Verifier, parse_note, verified
from ledger.transparency.statements import DAILY_PROOF, Statement
from ledger.transparency.texts import Malformed
from ledger.verification import Finding

DAILY_CODES: Final[dict[str, str]] = {
    "daily_figure_differs": "a daily proof says what the events up to the day's end add up to",
    "daily_checkpoint_differs": "it names the size and root of the log at the day's end",
    "daily_chain_broken": "it names the hash of the proof of the day before",
    "daily_signature_broken": "it is signed by the key of statements, and is what was signed",
    "daily_missing": "every day of a campaign from the opening to the close has its proof",
    "daily_unexpected": "no other day has one",
    "daily_over_issued": "no more is issued than the quota, and no more granted than the budget",
}
"""Finding → the rule that it breaks."""

PAGE_EVENTS: Final = 5_000
_CHECKPOINT: Final = frozenset({"size", "root"})
_MICROSECOND: Final = timedelta(microseconds=1)

Progress = Callable[[int], None]


def check(
    datastore: Datastore,
    book: str,
    keys: Sequence[Verifier] | None,
    campaign: UUID | None = None,
    advance: Progress = lambda _: None,
) -> Iterator[Finding]:
    """Yield what is wrong with the proofs of a book, or of one campaign, up to the last of them.

    Without `keys` (None) nothing is said of who signed them.
    """
    with datastore.transaction() as curs:
        found = store.proofs(curs, book, campaign)
    stored = {(one.campaign, one.day): one for one in found}
    last = max((one.until for one in found), default=None)
    if last is None:
        return
    for expected in _again(datastore, book, last, advance):
        if campaign in (None, expected.campaign):
            one = stored.pop((expected.campaign, expected.day), None)
            yield from _compared(expected, one, keys)
    for one in stored.values():
        yield Finding("daily_unexpected", _where(one.campaign, one.day), "no proof", "one")


def check_notes(notes: Iterable[bytes], keys: Sequence[Verifier]) -> Iterator[Finding]:
    """Yield what is wrong with the published proofs of one campaign, in order, without its events.

    That is what anybody can see: signatures, the chain, and whether the figures of each fit.
    """
    previous: str | None = None
    for number, data in enumerate(notes, 1):
        try:
            statement = _believed(data, keys)
        except (Malformed, Untrusted, BadSignature) as error:
            yield Finding("daily_signature_broken", f"proof {number}", "a signed proof", str(error))
            continue
        lines = statement.lines
        where = f"{lines.get('campaign', '')} {lines.get('day', '')}"
        before = lines.get("previous", "")
        if previous is not None and before != previous:
            yield Finding("daily_chain_broken", where, previous, before)
        previous = sha256(statement.text.encode()).hexdigest()
        yield from _fits(where, lines)


def _again(
    datastore: Datastore, book: str, last: datetime, advance: Progress
) -> Iterator[DailyProof]:
    """Yield the proofs that the events make, up to an instant."""
    days = Days(datastore, book, simulated=True)
    history = History(datastore, book, MAPPER)
    fold, tree = Fold(book), CompactRange()
    since = days.first()
    until = None if since is None else days.next_end(since)
    while until is not None and until <= last:
        position = history.position_at(until - _MICROSECOND)
        before = tree.end
        days.feed(fold, before, position)
        _grow(datastore, book, tree, position)
        advance(position - before)
        yield from fold.proofs(DayEnd(until, position, tree.root()))
        until = days.next_end(days.rest(position, until) if fold.is_idle else until)


def _grow(datastore: Datastore, book: str, tree: CompactRange, size: int) -> None:
    """Grow the tree to a size, or as far as no event is missing: then its root is another one."""
    leaves = [b""]
    while leaves and tree.end < size:
        with datastore.transaction() as curs:
            until = min(size, tree.end + PAGE_EVENTS)
            leaves = copy_leaf_hashes(curs, book, tree.end, until)
        tree.extend(leaves)


def _compared(
    expected: DailyProof, stored: Stored | None, keys: Sequence[Verifier] | None
) -> Iterator[Finding]:
    where = _where(expected.campaign, expected.day)
    if stored is None:
        yield Finding("daily_missing", where, "a proof", "none")
        return
    try:
        statement = _believed(stored.note, keys)
    except (Untrusted, BadSignature) as error:
        yield Finding("daily_signature_broken", where, "a signature that holds", str(error))
        statement = Statement.parse(parse_note(stored.note).text)
    except Malformed as error:
        yield Finding("daily_signature_broken", where, "a signed proof", str(error))
        return
    digest = sha256(statement.text.encode()).digest()
    if digest != stored.sha256:
        yield Finding("daily_chain_broken", where, stored.sha256.hex(), digest.hex())
    yield from _lines(where, expected.statement, statement)
    if expected.statement.lines["over_issued"] != "no":
        yield Finding("daily_over_issued", where, "no", expected.statement.lines["over_issued"])


def _lines(where: str, expected: Statement, found: Statement) -> Iterator[Finding]:
    for name in dict.fromkeys((*expected.lines, *found.lines)):
        wanted, told = (each.lines.get(name, "nothing") for each in (expected, found))
        if wanted != told:
            code = (
                "daily_checkpoint_differs"
                if name in _CHECKPOINT
                else "daily_chain_broken"
                if name == "previous"
                else "daily_figure_differs"
            )
            yield Finding(code, f"{where} {name}", wanted, told)
    if expected.title != found.title or list(expected.lines) != list(found.lines):
        yield Finding("daily_figure_differs", f"{where} form", expected.title, found.title)


def _believed(data: bytes, keys: Sequence[Verifier] | None) -> Statement:
    note = parse_note(data)
    if keys is not None:
        verified(note, keys)
    statement = Statement.parse(note.text)
    if statement.title != DAILY_PROOF:
        raise Malformed("not a daily proof")
    return statement


def _fits(where: str, lines: Mapping[str, str]) -> Iterator[Finding]:
    """Whether the figures of one proof fit together: pieces, money, quota and budget."""
    try:
        told = {name: int(lines[name]) for name in (*COUNTS, *AMOUNTS, *_MORE)}
    except (KeyError, ValueError) as error:
        yield Finding("daily_figure_differs", where, "every figure", str(error))
        return
    ended = sum(told[name] for name in _ENDED)
    if told["issued"] != told["outstanding"] + ended:
        expected = str(told["outstanding"] + ended)
        yield Finding("daily_figure_differs", f"{where} issued", expected, lines["issued"])
    put = sum(told[name] for name in _MONEY)
    if told["funded_minor"] != put:
        yield Finding(
            "daily_figure_differs", f"{where} funded_minor", str(put), lines["funded_minor"]
        )
    if told["issued"] - told["restocked"] > told["quota"] or told["pot_minor"] < 0:
        yield Finding("daily_over_issued", where, lines["quota"], lines["issued"])


_ENDED: Final = ("redeemed", "expired", "voided", "reclaimed", "wallets_closed")
_MONEY: Final = (
    "pot_minor",
    "purses_minor",
    "outstanding_minor",
    "redeemed_minor",
    "reclaimed_minor",
    "rolled_minor",
)
_MORE: Final = ("quota", "restocked", "budget_minor")


def _where(campaign: UUID, day: object) -> str:
    return f"{campaign.hex} {day}"
