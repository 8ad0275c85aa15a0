"""Re-execution: every recorded request decided again, in the state of its place in the order.

The commands are the service's own, the terms those that held at that position, the instant that of
the event. What comes out is compared with what is stored: events and replies byte for byte, pools
number by number. A difference is a `ledger.verification.Finding`; nothing is raised or repaired.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any, Final
from uuid import UUID

import msgspec

from campaigns.campaign import CampaignDrafted
from campaigns.commands import Call
from campaigns.coupon import CouponClaimed, coupon_id
from campaigns.drawing import entrants
from campaigns.draws.entry import DrawEntered, entry_id
from campaigns.event_types import MAPPER
from campaigns.granting import tell
from campaigns.packets.sharing import WrongSplitKey
from campaigns.refusals import RenderRefusal
from campaigns.replaying.asking import NotAsked, Sources, command_of, is_batch, no_draw_key
from campaigns.replaying.decisions import Recorded, recorded_decisions
from campaigns.replaying.lists import Lists
from campaigns.replaying.refused import (
    REFUSALS,
    Recognise,
    Recogniser,
    answer_at,
    instants,
)
from campaigns.replaying.world import Unreadable, World
from ledger.appending import Capacity, PoolKey
from ledger.books import Book
from ledger.commit import Verdict
from ledger.datastore import Datastore
from ledger.events import Event, scope_of
from ledger.history import Entry, History, dense
from ledger.kept import Kept, Key, kept_by_key, kept_in_order
from ledger.moulds import EncodedEvent
from ledger.verification import Finding

PAGE_DECISIONS: Final = 2_000
"""Decisions whose streams and kept replies are read at once."""

REEXECUTION_CODES: Final[dict[str, str]] = {
    "decided_otherwise": "a request that is decided again writes the same events",
    "event_otherwise": "each event that is decided again has the same bytes, field by field",
    "reply_otherwise": "each reply that is decided again has the same bytes, field by field",
    "capacity_otherwise": "a decision takes of stock and budget what its events say",
    "refusal_otherwise": "what was refused is refused again, at some instant of its time",
    "not_readable": "every event can be read",
}
"""Finding → the rule that it breaks."""


class Tally(msgspec.Struct):
    """What was decided again, what was not and why."""

    decided: Counter[str] = msgspec.field(default_factory=Counter)
    """Code of the outcome → how many decisions were made again."""
    refused: Counter[str] = msgspec.field(default_factory=Counter)
    """Code of the refusal → how many kept refusals were made again."""
    skipped: Counter[str] = msgspec.field(default_factory=Counter)
    """Reason → how many requests were not decided again."""
    position: int = 0


class Reexecution:
    """Decides a book again; `findings` yields the differences, and `tally` fills meanwhile."""

    def __init__(
        self,
        history: History,
        datastore: Datastore,
        render: RenderRefusal,
        recognise: Recognise,
        draw_key: Callable[[], bytes] = no_draw_key,
    ) -> None:
        """`render` writes refusals as the service does; `recognise` knows requests by mark."""
        self.tally = Tally()
        self._history = history
        self._datastore = datastore
        self._render = render
        self._sources = Sources(
            Book(history.book),
            draw_key,
            Lists(lambda until: history.entries(0, until)),
            lambda campaign, until: entrants(history.entries(0, until), campaign),
        )
        self._world = World(history.streams)
        self._recogniser = Recogniser(recognise, self._sources, render)

    def findings(
        self, until: int, on_events: Callable[[int], Any] = lambda _: None
    ) -> Iterator[Finding]:
        """Yield every difference up to a position. Raises `PositionGap` where one is missing."""
        book = self._history.book
        entries = dense(book, self._history.entries(0, until), until)
        decisions = recorded_decisions(entries, MAPPER)
        refusals = _Refusals(kept_in_order(self._datastore, book, REFUSALS, until))
        while page := list(islice(decisions, PAGE_DECISIONS)):
            kept = kept_by_key(self._datastore, book, list(_keys(page)))
            self._world.look_ahead(*_streams(page))
            for recorded in page:
                for refused in refusals.before(recorded.entries[0].position):
                    yield from self._refusal(refused, recorded)
                yield from self._decision(recorded, kept)
                on_events(len(recorded.entries))
            self._world.forget()
        for refused in refusals.before(until + 1):
            yield from self._refusal(refused, None)

    # Granted

    def _decision(self, recorded: Recorded, kept: dict[Key, Kept]) -> Iterator[Finding]:
        if not recorded.events:
            entry = recorded.entries[0]
            self.tally.skipped["unreadable"] += 1
            self._world.break_off(entry.position, entry.stream)
            where = self._where(entry)
            yield Finding("not_readable", where, entry.topic, str(recorded.problem))
            return
        verdict, findings = self._again(recorded)
        yield from findings
        changed = self._world.apply(recorded.position, recorded.events)
        self._world.now = recorded.events[-1].at
        self.tally.position = recorded.position
        first = recorded.events[0]
        if isinstance(first, CampaignDrafted):
            self._recogniser.learn(first.originator_id)
        if verdict is None:
            return
        self.tally.decided[verdict.code] += 1
        yield from self._compare(recorded, verdict)
        yield from self._compare_reply(recorded, verdict, kept)
        yield from self._compare_capacity(recorded, verdict, changed)

    def _again(self, recorded: Recorded) -> tuple[Verdict | None, list[Finding]]:
        """Decide again; return the verdict, or why there is none that can be compared."""
        first = recorded.events[0]
        why = first.why
        fingerprint = bytes.fromhex(why.fingerprint) if why.fingerprint else b""
        call = Call(first.by, why.request, self._render, why.key, fingerprint)
        try:
            command = command_of(recorded.events, self._world, self._sources)
            self._world.now = first.at
            verdict = command.request(call).decide(self._world)
        except NotAsked as error:
            self.tally.skipped[error.reason] += 1
            return None, []
        except WrongSplitKey:
            self.tally.skipped["draw_key"] += 1
            return None, []
        except Unreadable:
            self.tally.skipped["unreadable"] += 1
            return None, []
        except Exception as error:  # noqa: BLE001 - whatever a broken record leads to is a finding
            return None, [self._otherwise(recorded, f"{type(error).__name__}: {error}")]
        if not verdict.events:
            return None, [self._otherwise(recorded, f"refused: {verdict.code}")]
        return verdict, []

    def _otherwise(self, recorded: Recorded, instead: str) -> Finding:
        topics = ", ".join(entry.topic for entry in recorded.entries)
        return Finding("decided_otherwise", self._where(recorded.entries[0]), instead, topics)

    def _compare(self, recorded: Recorded, verdict: Verdict) -> Iterator[Finding]:
        decided = [_stored(event) for event in verdict.events]
        if [one[:3] for one in decided] != [entry[1:4] for entry in recorded.entries]:
            instead = ", ".join(f"{topic} {stream.hex}" for stream, _, topic, _ in decided)
            yield self._otherwise(recorded, instead)
            return
        for entry, (_, _, _, state) in zip(recorded.entries, decided, strict=True):
            if entry.state != state:
                for field, expected, found in differing(state, entry.state):
                    where = f"{self._where(entry)} field {field}"
                    yield Finding("event_otherwise", where, expected, found)

    def _compare_reply(
        self, recorded: Recorded, verdict: Verdict, kept: dict[Key, Kept]
    ) -> Iterator[Finding]:
        last, entry = recorded.events[-1], recorded.entries[-1]
        if last.why.key is None:
            return  # nobody was told: it was a step of the service itself
        reply = kept.get((scope_of(last), last.why.key))
        if reply is not None and reply.position == recorded.position:
            code, body = reply.code, reply.body
        else:
            told = tell(self._history.book, last) if entry.request is not None else None
            code, body = told or ("none", b"{}")
        first = recorded.events[0]
        if isinstance(first, DrawEntered) and is_batch(first) and b'"void":[]' not in body:
            self.tally.skipped["void"] += 1
            return
        where = f"{self._where(entry)} reply"
        if code != verdict.code:
            yield Finding("reply_otherwise", f"{where} field code", verdict.code, code)
        elif body != verdict.body:
            for field, expected, found in differing(verdict.body, body):
                yield Finding("reply_otherwise", f"{where} field {field}", expected, found)

    def _compare_capacity(
        self, recorded: Recorded, verdict: Verdict, changed: dict[PoolKey, Capacity]
    ) -> Iterator[Finding]:
        taken: dict[PoolKey, Capacity] = {}
        for pool, change in verdict.capacity:
            taken[pool] = taken.get(pool, Capacity()).plus(change)
        nothing = Capacity()
        for pool in sorted(taken.keys() | changed.keys(), key=str):
            expected, found = taken.get(pool, nothing), changed.get(pool, nothing)
            if expected != found:
                where = f"{self._where(recorded.entries[0])} pool {pool[1]}"
                yield Finding("capacity_otherwise", where, str(expected), str(found))

    # Refused

    def _refusal(self, kept: Kept, after: Recorded | None) -> Iterator[Finding]:
        """Ask again for what was refused between the last decision and the one `after` it."""
        book, world = self._history.book, self._world
        try:
            refused = self._recogniser.refused(kept)
            began = world.now
            before = after.events[0].at if after is not None and after.events else None
            answers = [
                answer_at(refused, world, at)
                for at in list(instants(world, refused.campaign, began, before))
            ]
            world.now = began
        except NotAsked as error:
            self.tally.skipped[error.reason] += 1
            return
        except (Unreadable, WrongSplitKey) as error:
            reason = "unreadable" if isinstance(error, Unreadable) else "draw_key"
            self.tally.skipped[reason] += 1
            return
        self.tally.refused[kept.code] += 1
        if (kept.code, kept.body) not in answers:
            where = f"{book}:{kept.position} reply {kept.scope}/{kept.key}"
            code, body = answers[0]
            if code != kept.code:
                yield Finding("refusal_otherwise", f"{where} field code", code, kept.code)
                return
            for field, expected, found in differing(body, kept.body):
                yield Finding("refusal_otherwise", f"{where} field {field}", expected, found)

    def _where(self, entry: Entry) -> str:
        return f"{self._history.book}:{entry.position} {entry.topic} {entry.stream.hex}"


class _Refusals:
    """Kept refusals in order of position, handed out as the book comes to them."""

    def __init__(self, kept: Iterator[Kept]) -> None:
        self._kept = kept
        self._next = next(kept, None)

    def before(self, position: int) -> Iterator[Kept]:
        """Yield those that were decided before the event at a position."""
        while self._next is not None and self._next.position < position:
            yield self._next
            self._next = next(self._kept, None)


def differing(decided: bytes, recorded: bytes) -> list[tuple[str, str, str]]:
    """Return the fields in which two JSON objects differ: path, decided and recorded value."""
    try:
        one, other = msgspec.json.decode(decided), msgspec.json.decode(recorded)
    except msgspec.DecodeError:
        return [("", decided.decode(errors="replace"), recorded.decode(errors="replace"))]
    fields = list(_differing("", one, other))
    if not fields:  # they mean the same and are written otherwise
        return [("(bytes)", decided.decode(errors="replace"), recorded.decode(errors="replace"))]
    return fields


_ABSENT: Final = object()


def _differing(path: str, one: Any, other: Any) -> Iterator[tuple[str, str, str]]:
    if isinstance(one, dict) and isinstance(other, dict):
        for name in {**one, **other}:
            inner = f"{path}.{name}" if path else name
            yield from _differing(inner, one.get(name, _ABSENT), other.get(name, _ABSENT))
    elif one != other:
        yield path, _text(one), _text(other)


def _text(value: Any) -> str:
    return "absent" if value is _ABSENT else msgspec.json.encode(value).decode()


def _stored(event: Event | EncodedEvent) -> tuple[UUID, int, str, bytes]:
    stream, version = event.originator_id, event.originator_version
    if isinstance(event, EncodedEvent):
        return stream, version, event.mould.topic, event.state
    return stream, version, event.TOPIC, MAPPER.types.encode(event)


def _keys(page: Iterable[Recorded]) -> Iterator[Key]:
    """Yield the keys of decisions that are not their own record."""
    for recorded in page:
        if recorded.events and recorded.entries[-1].request is None:
            event = recorded.events[-1]
            if event.why.key is not None:
                yield scope_of(event), event.why.key


def _streams(page: Iterable[Recorded]) -> tuple[set[UUID], set[UUID]]:
    """Return the streams that decisions look at, and those of them that they begin."""
    wanted: set[UUID] = set()
    new: set[UUID] = set()
    for recorded in page:
        for event in recorded.events:
            wanted.add(event.originator_id)
            if event.originator_version == 1:
                new.add(event.originator_id)
            if isinstance(event, CouponClaimed):
                wanted.update(_looked_at(event))
    return wanted - new, new


def _looked_at(event: CouponClaimed) -> Iterator[UUID]:
    """Yield what else a claim looks at: the person's coupons before it, or the entry that won."""
    for n in range(1, event.n):
        yield coupon_id(event.campaign, event.person, n)
    if event.drawn is True:
        yield entry_id(event.campaign, event.person)
