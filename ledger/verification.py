"""Verification of a book: what must hold for any book, whatever its events mean.

A pure pass over stored events, in order and in bounded memory (a version per stream, a balance
per account that is not zero), so that it runs on a live book and on an export alike. Findings are
values; nothing is raised and nothing is repaired here.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timedelta
from typing import Final, NamedTuple

from ledger.appending import request_id
from ledger.events import (
    Actor,
    Event,
    EventMapper,
    UnknownEventType,
    UnreadableEvent,
    scope_of,
)
from ledger.history import Entry, Standing
from ledger.money import MINOR_MAX, MoneyError
from ledger.postings import Transfer, Unbalanced, check_transfers

BOOK_CODES: Final[dict[str, str]] = {
    "position_gap": "positions are 1, 2, 3, … without a gap",
    "head_position": "the head's position is that of the last event",
    "head_instant": "the head's instant is not before that of the last event",
    "stream_version": "the versions of every stream are 1, 2, 3, … in order of position",
    "unknown_event_type": "every event type is known",
    "unreadable_event": "every event decodes as its topic says",
    "bytes_differ": "every event encodes again to the bytes that are stored",
    "instant_not_utc": "every event's instant is in UTC",
    "instant_decreased": "instants never decrease",
    "request_differs": "the request of an event that is its own record is that of caller and key",
    "untellable_event": "an event that is its own record is one that tells its reply",
    "posting_broken": "every transfer moves a positive amount between two accounts",
    "account_overdrawn": "no account but the source of money ever pays out more than came in",
    "trial_balance": "all balances of a currency sum to zero",
}
"""Finding → the rule that it breaks."""

UNREADABLE: Final = (UnknownEventType, UnreadableEvent, ValueError)
"""What decoding a damaged event can raise."""

_NO_OFFSET: Final = timedelta(0)


class Finding(NamedTuple):
    """A rule that does not hold: its code, the place, what must be there and what is."""

    code: str
    where: str
    expected: str
    found: str

    def __str__(self) -> str:
        return f"{self.where}: {self.code}: expected {self.expected}, found {self.found}"


class Tally(NamedTuple):
    """How many decisions there are and a mark of all of them, whatever their order."""

    decisions: int = 0
    marks: int = 0

    @staticmethod
    def mark(scope: str, key: str, fingerprint: str, code: str, position: int) -> int:
        """A number for one decision. Two sets of decisions with one sum are surely the same set.

        It is of this process only: the numbers that strings get here differ in every other one.
        """
        return hash((scope, key, fingerprint, code, position))

    def plus(self, mark: int) -> Tally:
        """Return the tally with one decision more."""
        return Tally(self.decisions + 1, self.marks + mark)

    def without(self, mark: int) -> Tally:
        """Return the tally with one decision less."""
        return Tally(self.decisions - 1, self.marks - mark)


PostingsOf = Callable[[Event], Iterable[Transfer]]


class BookAudit:
    """Checks a book event by event: feed it every entry in order, then finish.

    What it found is in `findings`; take it from there at any time.
    """

    def __init__(
        self,
        book: str,
        mapper: EventMapper,
        postings_of: PostingsOf,
        outcomes: Mapping[str, str] | None = None,
        sources: tuple[str, ...] = ("sponsor",),
        tells: Callable[[Event], bool] = lambda _: False,
        *,
        tallies: bool = True,
    ) -> None:
        """`outcomes`: topic of a decision's last event → code of its reply.

        `tells`: whether an event tells its reply, so that it can be the record of its request.
        `tallies`: whether decisions are counted, for kept replies to be compared with.
        `sources` are the kinds of accounts where money enters; only these may be overdrawn.
        """
        self.book = book
        self.findings: list[Finding] = []
        self.position = 0
        self.decided = Tally()
        """The decisions that were asked for with an idempotency key and have a kept reply."""
        self.whole = True
        """False once an event was missing or unreadable: then nothing adds up, and nobody sums."""
        self.balances: defaultdict[str, dict[str, int]] = defaultdict(dict)
        """Currency → account → debits minus credits; accounts at zero are left out."""
        self._mapper = mapper
        self._postings_of = postings_of
        self._outcomes = outcomes or {}
        self._tells = tells
        self._tallies = tallies
        self._sources = tuple(f"{source}:" for source in sources)
        self.versions: dict[int, int] = {}
        """Stream → the version of its last event."""
        self._broken: set[int] = set()
        self.at: datetime | None = None
        """The instant of the last event."""
        self._asked: tuple[str, Actor, int] | None = None

    def feed(self, entry: Entry) -> Event | None:
        """Check one entry; return its event, None from the first broken one of a stream on."""
        in_place = self._check_place(entry)
        event = self._read(entry)
        if event is None or not in_place:
            self.whole = False
            self._broken.add(entry.stream.int)
        if event is None:
            return None
        if entry.request is not None:
            self._check_own_record(event, entry.request)
        elif self._tallies:
            self._count_decision(event)
        self._post(event)
        return None if entry.stream.int in self._broken else event

    def passed(self, position: int, at: datetime) -> None:
        """Go on after this position: the events up to it were found sound without being fed.

        What they change of versions and balances is put in by whoever found that.
        """
        assert not self._tallies, "decisions are not counted"
        self.position, self.at = position, at

    def finish(self, standing: Standing | None = None) -> None:
        """Check what holds at the end, against the store's own head when it is known."""
        for currency, accounts in self.balances.items():
            if total := sum(accounts.values()):
                self._add("trial_balance", currency, 0, total)
        if standing is None:
            return
        head = f"{self.book} head"
        if standing.position != self.position:
            self.whole = False
            self._add("head_position", head, self.position, standing.position)
        if self.at is not None and (standing.at is None or standing.at < self.at):
            self._add("head_instant", head, f"{self.at} or later", standing.at)

    def place(self, event_or_position: int) -> str:
        """Return how a finding names a position of this book."""
        return f"{self.book}:{event_or_position}"

    def total(self, kind: str, currency: str) -> int:
        """Return the sum of all accounts of a kind, for example `holder`, in minor units."""
        accounts = self.balances.get(currency, {})
        return sum(minor for name, minor in accounts.items() if name.startswith(f"{kind}:"))

    def _add(self, code: str, where: str, expected: object, found: object) -> None:
        self.findings.append(Finding(code, where, str(expected), str(found)))

    def _here(self, code: str, expected: object, found: object) -> None:
        self._add(code, self.place(self.position), expected, found)

    def _check_place(self, entry: Entry) -> bool:
        expected = self.position + 1
        self.position = entry.position
        if entry.position != expected:
            self.whole = False
            self._here("position_gap", f"position {expected}", f"position {entry.position}")
        stream = entry.stream.int
        version = self.versions.get(stream, 0) + 1
        self.versions[stream] = entry.version
        if entry.version == version:
            return True
        self._here("stream_version", f"version {version} of {entry.stream}", entry.version)
        return False

    def _read(self, entry: Entry) -> Event | None:
        try:
            event = self._mapper.decode(entry.topic, entry.state, entry.stream, entry.version)
        except UnknownEventType:
            self._here("unknown_event_type", "a topic that is known", entry.topic)
            return None
        except UNREADABLE as error:
            self._here("unreadable_event", entry.topic, error)
            return None
        if entry.topic == event.TOPIC and self._mapper.types.encode(event) != entry.state:
            self._here("bytes_differ", "the canonical bytes of the event", "others that mean it")
        if event.at.utcoffset() != _NO_OFFSET:
            self._here("instant_not_utc", "an instant in UTC", event.at.isoformat())
            return None
        self._check_instant(event.at)
        return event

    def _check_instant(self, at: datetime) -> None:
        if self.at is not None and at < self.at:
            self._here("instant_decreased", f"{self.at} or later", at)
        else:
            self.at = at

    def _count_decision(self, event: Event) -> None:
        """Events next to each other with one caller and key are one decision: the last counts."""
        key = event.why.key
        if key is None:
            self._asked = None
            return
        code = self._outcomes.get(event.TOPIC, event.TOPIC)
        fingerprint = event.why.fingerprint or ""
        mark = Tally.mark(scope_of(event), key, fingerprint, code, self.position)
        asked = self._asked
        if asked is not None and asked[0] == key and asked[1] == event.by:
            self.decided = self.decided.without(asked[2])
        self.decided = self.decided.plus(mark)
        self._asked = (key, event.by, mark)

    def _check_own_record(self, event: Event, request: bytes) -> None:
        """A decision of its own, which needs no kept reply when a retry finds and tells it."""
        self._asked = None
        key = event.why.key
        if not self._tells(event) or event.why.fingerprint is None:
            self._here("untellable_event", "no request", request.hex())
        elif key is None or request_id(scope_of(event), key) != request:
            expected = "none" if key is None else request_id(scope_of(event), key).hex()
            self._here("request_differs", expected, request.hex())

    def _post(self, event: Event) -> None:
        for one in self._postings_of(event):
            debit, credit, amount_minor, currency = one
            accounts = self.balances.get(currency)
            if accounts is None or not 0 < amount_minor <= MINOR_MAX or debit == credit:
                accounts = self._accounts_of(one)
                if accounts is None:
                    return
            arrived = accounts.get(debit, 0) + amount_minor
            left = accounts.get(credit, 0) - amount_minor
            accounts[debit], accounts[credit] = arrived, left
            if not arrived:
                del accounts[debit]
            if not left:
                del accounts[credit]
            elif left < 0 <= left + amount_minor and not credit.startswith(self._sources):
                self._here("account_overdrawn", f"{credit} not below 0 {currency}", left)

    def _accounts_of(self, one: Transfer) -> dict[str, int] | None:
        """Return the accounts of a sound transfer's currency, which may be its first."""
        try:
            check_transfers([one])
        except (Unbalanced, MoneyError) as error:
            self.whole = False
            self._here("posting_broken", "postings in balance", error)
            return None
        return self.balances[one.currency]
