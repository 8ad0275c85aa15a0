"""Verification of kept replies: what a retry would be told is what happened, exactly once.

An event that is its own record has no kept reply; `ledger.verification` checks it in place.
All other decisions and the kept replies are compared as two sets, each in one pass in its own
order, by a mark that adds up. Only when the marks differ is every reply held against its event, and
every decision looked up, to name what is wrong. Nothing is repaired here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final, NamedTuple

from ledger.events import Event, EventMapper, scope_of
from ledger.history import Entry, History, KeptReply
from ledger.verification import UNREADABLE, BookAudit, Finding, Tally

REPLY_CODES: Final[dict[str, str]] = {
    "reply_beyond_head": "every kept reply stands at a position that the book has",
    "reply_code_unknown": "every kept reply has the code of a success or of a refusal",
    "reply_differs": "a kept reply to what tells itself is what it tells, byte for byte",
    "recorded_twice": "a key has one record: a kept reply, or an event",
    "reply_without_event": "a kept success has its event, of the same caller, key and fingerprint",
    "event_without_reply": "an event with a key is its own record or has its reply at its position",
}
"""Finding → the rule that it breaks."""

CHUNK_KEYS: Final = 1_000
"""Idempotency keys looked up at once."""

Key = tuple[str, str]
"""A scope and an idempotency key in it."""


Telling = Callable[[str, Event], tuple[str, bytes] | None]
"""Tells code and body of a book's event; None for one that does not tell its reply."""


class Codes(NamedTuple):
    """The codes of replies: of successes, with the topics that end such a decision; of refusals.

    `told` are the successes that events can `tell`.
    """

    successes: Mapping[str, frozenset[str]]
    refusals: frozenset[str]
    told: frozenset[str]
    tell: Telling


def verify_replies(
    history: History,
    audit: BookAudit,
    mapper: EventMapper,
    codes: Codes,
    on_reply: Callable[[], Any] = lambda: None,
) -> list[Finding]:
    """Return what is wrong with the kept replies of a book whose events `audit` has seen.

    Replies to decisions after those events are left to the next verification.
    """
    findings: list[Finding] = []
    borne_out = Tally()
    for reply, entry in history.replies(codes.told):
        on_reply()
        finding = _check_alone(audit.book, reply, codes) or _check_telling(
            audit.book, reply, entry, mapper, codes
        )
        if finding is not None:
            findings.append(finding)
        elif reply.code in codes.successes and reply.position <= audit.position:
            borne_out = borne_out.plus(Tally.mark(*reply[:5]))
    if borne_out != audit.decided:
        findings += _replies_without_event(history, mapper, codes)
        findings += _events_without_reply(history, audit.position, mapper)
    return findings


def _check_alone(book: str, reply: KeptReply, codes: Codes) -> Finding | None:
    if not 0 <= reply.position <= reply.head:
        expected = f"at most {reply.head}"
        return Finding("reply_beyond_head", _place(book, reply), expected, str(reply.position))
    if reply.code not in codes.successes and reply.code not in codes.refusals:
        expected = "the code of an outcome"
        return Finding("reply_code_unknown", _place(book, reply), expected, repr(reply.code))
    if reply.told_at is not None:
        found = f"the event at {reply.told_at} and a kept reply"
        return Finding("recorded_twice", _place(book, reply), "one record", found)
    return None


def _check_telling(
    book: str, reply: KeptReply, entry: Entry | None, mapper: EventMapper, codes: Codes
) -> Finding | None:
    """Compare a kept reply with what its event tells, where that does."""
    if entry is None or entry.topic not in codes.successes[reply.code]:
        return None
    try:
        event = mapper.decode(entry.topic, entry.state, entry.stream, entry.version)
    except UNREADABLE:
        return None
    told = codes.tell(book, event)
    if told is None or (reply.code, reply.body) == told:
        return None
    body = (reply.body or b"").decode(errors="replace")
    return Finding("reply_differs", _place(book, reply), told[1].decode(), body)


# Which ones differ


def _replies_without_event(
    history: History, mapper: EventMapper, codes: Codes
) -> Iterator[Finding]:
    for reply, entry in history.replies():
        topics = codes.successes.get(reply.code)
        if topics is None or reply.position > reply.head or reply.told_at is not None:
            continue
        instead = _instead(reply, entry, mapper, topics)
        if instead is not None:
            expected = f"its event at {history.book}:{reply.position}"
            place = _place(history.book, reply)
            yield Finding("reply_without_event", place, expected, instead)


def _instead(
    reply: KeptReply, entry: Entry | None, mapper: EventMapper, topics: frozenset[str]
) -> str | None:
    """Return what is at the reply's position instead of the event that it tells of, if so.

    An event that cannot be read is a finding of its own, and not blamed on the reply.
    """
    if entry is None:
        return "no event"
    try:
        event = mapper.decode(entry.topic, entry.state, entry.stream, entry.version)
    except UNREADABLE:
        return None
    if event.TOPIC not in topics:
        return event.TOPIC
    if (scope_of(event), event.why.key) != (reply.scope, reply.key):
        return f"{event.TOPIC} of another request"
    if event.why.fingerprint != reply.fingerprint:
        return f"{event.TOPIC} with another fingerprint"
    return None


class _Decision(NamedTuple):
    """What was decided under a key, and the position of its last event."""

    key: Key
    position: int


def _events_without_reply(history: History, until: int, mapper: EventMapper) -> Iterator[Finding]:
    chunk: list[_Decision] = []
    for decision in _keyed_decisions(history.entries(0, until), mapper):
        chunk.append(decision)
        if len(chunk) == CHUNK_KEYS:
            yield from _without_reply(history, chunk)
            chunk = []
    yield from _without_reply(history, chunk)


def _without_reply(history: History, decisions: list[_Decision]) -> Iterator[Finding]:
    kept = history.reply_positions([decision.key for decision in decisions])
    for key, position in decisions:
        if kept.get(key) != position:
            expected = f"a kept reply to {_name(*key)}"
            found = f"one at {kept[key]}" if key in kept else "none"
            yield Finding("event_without_reply", f"{history.book}:{position}", expected, found)


def _keyed_decisions(entries: Iterable[Entry], mapper: EventMapper) -> Iterator[_Decision]:
    """Yield the decisions that were asked for with a key, except those that cannot be read."""
    last: _Decision | None = None
    for entry in entries:
        key = _key_of(entry, mapper)
        if last is not None and last.key != key:
            yield last
        last = None if key is None else _Decision(key, entry.position)
    if last is not None:
        yield last


def _key_of(entry: Entry, mapper: EventMapper) -> Key | None:
    if entry.request is not None:
        return None  # its own record
    try:
        event = mapper.decode(entry.topic, entry.state, entry.stream, entry.version)
    except UNREADABLE:
        return None
    return None if event.why.key is None else (scope_of(event), event.why.key)


def _place(book: str, reply: KeptReply) -> str:
    return f"{book} reply {_name(reply.scope, reply.key)}"


def _name(scope: str, key: str) -> str:
    return f"{scope}/{key}"
