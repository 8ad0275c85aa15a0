"""Verification of a book: what must hold for any book, whatever its events mean.

A pure pass over stored events, in order and in bounded memory (a version per stream, a balance
per account that is not zero), so that it runs on a live book and on an export alike. Findings are
values; nothing is raised and nothing is repaired here.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime, timedelta
from typing import Any, Final, NamedTuple

from ledger.events import Event, EventMapper, UnknownEventType, UnreadableEvent
from ledger.history import Entry, History, KeptReply, Standing
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
    "posting_broken": "every transfer moves a positive amount between two accounts",
    "account_overdrawn": "no account but the source of money ever pays out more than came in",
    "trial_balance": "all balances of a currency sum to zero",
    "reply_beyond_head": "every kept reply stands at a position that the book has",
    "reply_code_unknown": "every kept reply has the code of a success or of a refusal",
    "reply_without_event": "a kept success has its event, of the same caller, key and fingerprint",
    "event_without_reply": "an event with an idempotency key has its reply, at its position",
}
"""Finding → the rule that it breaks."""

CHUNK_KEYS: Final = 1_000
"""Idempotency keys looked up at once."""


class Finding(NamedTuple):
    """A rule that does not hold: its code, the place, what must be there and what is."""

    code: str
    where: str
    expected: str
    found: str

    def __str__(self) -> str:
        return f"{self.where}: {self.code}: expected {self.expected}, found {self.found}"


class Tally(NamedTuple):
    """How many decisions there are, and the sum of their last positions."""

    decisions: int = 0
    positions: int = 0


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
        sources: tuple[str, ...] = ("sponsor",),
    ) -> None:
        """`sources` are the kinds of accounts where money enters; only these may be overdrawn."""
        self.book = book
        self.findings: list[Finding] = []
        self.position = 0
        self.decided = Tally()
        """The decisions that were asked for with an idempotency key."""
        self.whole = True
        """False once an event was missing or unreadable: then nothing adds up, and nobody sums."""
        self.balances: defaultdict[str, dict[str, int]] = defaultdict(dict)
        """Currency → account → debits minus credits; accounts at zero are left out."""
        self._mapper = mapper
        self._postings_of = postings_of
        self._sources = tuple(f"{source}:" for source in sources)
        self._versions: dict[int, int] = {}
        self._broken: set[int] = set()
        self._at: datetime | None = None
        self._decision: object = None

    def feed(self, entry: Entry) -> Event | None:
        """Check one entry; return its event, None from the first broken one of a stream on."""
        in_place = self._check_place(entry)
        event = self._read(entry)
        if event is None or not in_place:
            self.whole = False
            self._broken.add(entry.stream.int)
        if event is None:
            return None
        self._count_decision(event)
        self._post(event)
        return None if entry.stream.int in self._broken else event

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
        if self._at is not None and (standing.at is None or standing.at < self._at):
            self._add("head_instant", head, f"{self._at} or later", standing.at)

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
        version = self._versions.get(stream, 0) + 1
        self._versions[stream] = entry.version
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
        except _UNREADABLE as error:
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
        if self._at is not None and at < self._at:
            self._here("instant_decreased", f"{self._at} or later", at)
        else:
            self._at = at

    def _count_decision(self, event: Event) -> None:
        """Events next to each other with one caller and key are one decision."""
        if event.why.key is None:
            self._decision = None
            return
        decision = (event.by, event.why.key)
        decisions, positions = self.decided
        if decision == self._decision:
            self.decided = Tally(decisions, positions + 1)
        else:
            self.decided = Tally(decisions + 1, positions + self.position)
            self._decision = decision

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


_NO_OFFSET: Final = timedelta(0)
_UNREADABLE: Final = (UnknownEventType, UnreadableEvent, ValueError)


class ReplyAudit:
    """Checks the kept replies of a book: feed it every one, then finish.

    `successes` says which topics end the decision of a success code; `refusals` are the codes of
    replies that have no event.
    """

    def __init__(
        self, book: str, successes: Mapping[str, frozenset[str]], refusals: frozenset[str]
    ) -> None:
        self.book = book
        self.findings: list[Finding] = []
        self.borne_out = Tally()
        self._successes = successes
        self._refusals = refusals

    def feed(self, reply: KeptReply, mapper: EventMapper, until: int) -> None:
        """Check one reply; those to decisions after position `until` are left to the next time."""
        if not 0 <= reply.position <= reply.head:
            self._add("reply_beyond_head", reply, f"at most {reply.head}", reply.position)
        elif reply.code in self._successes:
            self._check_event(reply, mapper, until)
        elif reply.code not in self._refusals:
            self._add("reply_code_unknown", reply, "the code of an outcome", repr(reply.code))

    def check_decisions(
        self, decisions: Iterable[Decision], positions: Callable[[list[Key]], Mapping[Key, int]]
    ) -> None:
        """Look every decision up in the kept replies (slow: only when the tallies differ)."""
        chunk: list[Decision] = []
        for decision in decisions:
            chunk.append(decision)
            if len(chunk) == CHUNK_KEYS:
                self._check_chunk(chunk, positions)
                chunk = []
        self._check_chunk(chunk, positions)

    def _check_chunk(
        self, chunk: list[Decision], positions: Callable[[list[Key]], Mapping[Key, int]]
    ) -> None:
        kept = positions([decision.key for decision in chunk])
        for key, position in chunk:
            if kept.get(key) != position:
                where = f"{self.book}:{position}"
                expected = f"a kept reply to {_name(*key)}"
                found = f"one at {kept[key]}" if key in kept else "none"
                self.findings.append(Finding("event_without_reply", where, expected, found))

    def _check_event(self, reply: KeptReply, mapper: EventMapper, until: int) -> None:
        instead = _instead(reply, mapper, self._successes[reply.code])
        if instead is None:
            if reply.position <= until:
                decisions, positions = self.borne_out
                self.borne_out = Tally(decisions + 1, positions + reply.position)
        else:
            expected = f"its event at {self.book}:{reply.position}"
            self._add("reply_without_event", reply, expected, instead)

    def _add(self, code: str, reply: KeptReply, expected: object, found: object) -> None:
        where = f"{self.book} reply {_name(reply.scope, reply.key)}"
        self.findings.append(Finding(code, where, str(expected), str(found)))


Key = tuple[str, str]
"""A scope and an idempotency key in it."""


class Decision(NamedTuple):
    """What was decided under a key, and the position of its last event."""

    key: Key
    position: int


def keyed_decisions(entries: Iterable[Entry], mapper: EventMapper) -> Iterator[Decision]:
    """Yield the decisions that were asked for with a key, except those that cannot be read."""
    last: Decision | None = None
    for entry in entries:
        request = _request_of(entry, mapper)
        if last is not None and (request is None or last.key != request.key):
            yield last
        last = None if request is None else Decision(request.key, entry.position)
    if last is not None:
        yield last


def verify_replies(
    history: History,
    audit: BookAudit,
    mapper: EventMapper,
    successes: Mapping[str, frozenset[str]],
    refusals: frozenset[str],
    on_reply: Callable[[], Any] = lambda: None,
) -> list[Finding]:
    """Check the kept replies of a book whose events `audit` has seen.

    Every reply must have its event. If then their number and the sum of their positions are those
    of the decisions, every decision has its reply; if not, each decision is looked up.
    """
    replies = ReplyAudit(audit.book, successes, refusals)
    for reply in history.replies():
        replies.feed(reply, mapper, audit.position)
        on_reply()
    if replies.borne_out != audit.decided:
        entries = history.entries(0, audit.position)
        replies.check_decisions(keyed_decisions(entries, mapper), history.reply_positions)
    return replies.findings


class _Request(NamedTuple):
    """What an event says about the request that it came from."""

    key: Key
    fingerprint: str | None


def _request_of(entry: Entry, mapper: EventMapper) -> _Request | None:
    """Return the keyed request behind an event; None when it has no key or cannot be read."""
    try:
        event = mapper.decode(entry.topic, entry.state, entry.stream, entry.version)
    except _UNREADABLE:
        return None
    if event.why.key is None:
        return None
    return _Request((f"{event.by.role}:{event.by.id}", event.why.key), event.why.fingerprint)


def _instead(reply: KeptReply, mapper: EventMapper, topics: frozenset[str]) -> str | None:
    """Return what is at the reply's position instead of the event that it tells of, if so."""
    if reply.entry is None:
        return "no event"
    topic = reply.entry.topic
    request = _request_of(reply.entry, mapper)
    if topic not in topics:
        return topic
    if request is None or request.key != (reply.scope, reply.key):
        return f"{topic} of another request"
    if request.fingerprint != reply.fingerprint.hex():
        return f"{topic} with another fingerprint"
    return None


def _name(scope: str, key: str) -> str:
    return f"{scope}/{key}"
