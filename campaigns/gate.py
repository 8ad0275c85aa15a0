"""The gate: who may go on to the store now, who hears «no» at once, who comes too fast.

Workers ask it for every claim. It lives in Valkey and holds hints only, so it can be away, slow,
empty, full of lies or of another time: then it says «unsure», and the store decides. It never
grants anything: whoever is admitted still has to be granted a coupon by the book's writer. And it
never refuses by itself: «claimed» and «sold out» are proposals, which a judge compares with the
store before anybody hears them. Nothing about stock or money may ever be believed from here.

All questions of one turn of the event loop travel as one call per pool of a campaign, together
with what the store has said since. While a call is out, what comes is the next batch.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
from collections import OrderedDict
from collections.abc import Callable, Sequence
from enum import Enum
from typing import Any, Final, NamedTuple, Protocol
from uuid import UUID

import msgspec
from msgspec.structs import replace

from campaigns.wire import Away, Wire

log = logging.getLogger(__name__)

BATCH_MAX: Final = 512
"""Knocks in one call: Valkey serves nobody else for their duration, a few milliseconds."""

SETTLES_AT_ONCE: Final = 1_000
"""Settled requests in one call."""

PACE_S: Final = 0.008
"""Least time between two calls in a rush: a call by itself costs as much as ten knocks."""

RUSH: Final = 4
"""Knocks at once from which on it is a rush; nobody else is held up."""

SETTLES_MAX: Final = 10_000
"""What the store said and the gate does not know yet; beyond it the sweep has to put it right."""

MARK_BYTES: Final = 6
"""How much of a request's id the gate keeps, in hex. Two alike would only make it unsure."""

TICKS_PER_S: Final = 100_000
"""The gate counts rates in ticks of 10 µs."""

PoolKey = tuple[UUID, str]
Facts = tuple[tuple[str, Any], ...]


class Verdict(Enum):
    """What the gate says to a knock."""

    ADMITTED = "admitted"
    """Go on to the store: there seems to be stock."""
    UNSURE = "unsure"
    """Ask the store, by the slow lane: the gate knows nothing that helps."""
    CLAIMED = "claimed"
    """Refuse: the person has what one person may have."""
    SOLD_OUT = "sold_out"
    """Refuse: the stock or the budget is used up."""
    TOO_FAST = "too_fast"
    """Come again later: this person, device or address knocks too often."""
    WAIT = "wait"
    """The campaign has a waiting room, and no pass was shown."""
    NOT_OPEN = "not_open"
    """Refuse: claims have not begun, or are not taken now."""

    __hash__ = object.__hash__
    """Each is there once; they are counted at every call."""


class Knock(msgspec.Struct, frozen=True, gc=False):
    """A request for a coupon, at the gate.

    `request` is `ledger.appending.request_id(scope, key)`. `device` and `address` are marks, never
    the thing itself; None leaves that rate out.
    """

    book: str
    campaign: UUID
    pool: str
    person: str
    request: bytes
    scope: str
    key: str
    device: str | None = None
    address: str | None = None
    passed: bool = False
    """Whether a pass of the campaign's waiting room was shown."""
    begun: bool = False
    """Whether the store takes claims, whatever the gate believes."""


class Word(NamedTuple):
    """The gate's answer. A refusal has the store's own code, its facts and the position."""

    verdict: Verdict
    wait_s: float = 0.0
    code: str | None = None
    position: int = 0
    facts: Facts = ()


Heard = Callable[[Word], None]

ADMITTED: Final = Word(Verdict.ADMITTED)
UNSURE: Final = Word(Verdict.UNSURE)
NO_TOKEN: Final = Word(Verdict.UNSURE)
"""The store has to be asked because as many are there already as it has coupons left."""
WAIT: Final = Word(Verdict.WAIT)
NOT_OPEN: Final = Word(Verdict.NOT_OPEN, code="not_open")


_OTHER_WORDS: Final = {"T": NO_TOKEN, "W": WAIT}


class Rate(NamedTuple):
    """A bucket: the time of one token and the time to fill it, in ticks; zeros for no limit."""

    token: int = 0
    full: int = 0

    @classmethod
    def per_second(cls, tokens: float, burst: int) -> Rate:
        """Return the rate of so many tokens a second; 0 for no limit."""
        if tokens <= 0:
            return cls()
        token = max(1, round(TICKS_PER_S / tokens))
        return cls(token, token * burst)


class GateSettings(NamedTuple):
    """What can be chosen about the gate."""

    person_rate: Rate = Rate()
    device_rate: Rate = Rate()
    address_rate: Rate = Rate()
    persons_max: int = 200_000
    """Persons remembered in one half of a pool's memory."""
    persons_s: int = 600
    """Seconds after which the older half is forgotten."""
    sold_out_ms: int = 3_000
    """How long «sold out» is believed when nobody renews it."""
    pools_max: int = 1_024
    """Pools that one worker keeps up; beyond it the one that was idle longest falls out."""
    hold_s: float = 0.0
    """How long those wait who knock at a pool that is being built; 0: they are sent on at once."""
    held_max: int = 10_000
    """How many wait so at one pool; further ones are sent on at once."""

    @property
    def slice_s(self) -> int:
        """Seconds after which a bucket that nobody uses is full, so that it can be forgotten."""
        full = max(self.person_rate.full, self.device_rate.full, self.address_rate.full)
        return max(2, full // TICKS_PER_S + 1)


class Refusable(msgspec.Struct, frozen=True, gc=False):
    """A knock that the gate would refuse, and who waits for the answer."""

    knock: Knock
    heard: Heard
    word: Word


class Judge(Protocol):
    """Compares proposed refusals with the store; tells each `heard` its word, exactly once.

    What the store does not confirm, and what it cannot be asked about, becomes `UNSURE`.
    """

    def __call__(self, refusables: Sequence[Refusable]) -> None: ...


class Keeper(Protocol):
    """Whoever brings the gate up to date from the store."""

    def unknown(self, door: Door, *, broken: bool) -> None:
        """The gate knows nothing of a pool, or an older state, or what it has is `broken`.

        Those who knocked may be held, so `Gate.built` or `Gate.not_built` is called soon.
        """
        ...


class Door:
    """One pool of a campaign, as one worker knows it."""

    __slots__ = (
        "asked_at",
        "book",
        "campaign",
        "epoch",
        "held",
        "in_flight",
        "knocks",
        "limit",
        "older",
        "out",
        "patient",
        "pool",
        "queued",
        "settles",
        "sold",
        "tag",
    )

    def __init__(self, book: str, campaign: UUID, pool: str) -> None:
        self.book = book
        self.campaign = campaign
        self.pool = pool
        self.tag = tag_of((campaign, pool))
        self.epoch = 0
        self.limit = 0
        self.knocks: list[tuple[Knock, Heard]] = []
        self.settles: list[Any] = []
        self.sold: tuple[int, str, str] | None = None
        self.in_flight: dict[bytes, int] = {}
        """Requests that were admitted and not settled, with the epoch of their admission."""
        self.older: dict[bytes, int] = {}
        self.out = False
        """Whether nothing may be sent now: a call is out, or its knocks are held."""
        self.held: asyncio.TimerHandle | None = None
        """Ends the holding; None while nobody is held."""
        self.patient = True
        """Whether anybody may be held: once, until the gate has known the pool again."""
        self.queued = False
        self.asked_at = 0.0

    @property
    def key(self) -> PoolKey:
        """The pool's key in the store."""
        return self.campaign, self.pool

    @property
    def admitted(self) -> int:
        """How many requests were admitted and are not settled."""
        return len(self.in_flight) + len(self.older)

    def settled(self, request: bytes) -> int:
        """Let go of a request; return the epoch of its admission, 0 when it was not admitted."""
        epoch = self.in_flight.pop(request, None)
        if epoch is None:
            epoch = self.older.pop(request, 0) if self.older else 0
        return epoch

    def forget_the_oldest(self) -> int:
        """Let go of what was not settled since the call before last; return how many that were."""
        lost = len(self.older)
        self.older, self.in_flight = self.in_flight, {}
        return lost


class Tally:
    """What this worker's gate has done, for the metrics."""

    __slots__ = ("calls", "lost", "words")

    def __init__(self) -> None:
        self.words = dict.fromkeys(Verdict, 0)
        self.calls = 0
        self.lost = 0
        """Admitted requests that nobody settled."""


_PARTS: Final = 4
_SETTLED: Final = SETTLES_AT_ONCE * _PARTS

_Reply = tuple[int, str, list[float], tuple[int, str, str] | bool, int]
_pack: Final = msgspec.msgpack.Encoder().encode
_unpack: Final = msgspec.msgpack.Decoder(_Reply).decode


class Gate:
    """The gate, for one worker. Belongs to one event loop; all but `ask` can be called any time.

    After `ask`, `heard` is called once, in the loop and never from inside `ask`. Whoever goes on to
    the store then calls `claimed`, `claimed_before` or `released`, or nothing when the outcome is
    unknown.
    """

    def __init__(
        self,
        wire: Wire | None,
        settings: GateSettings | None = None,
        *,
        judge: Judge | None = None,
        keeper: Keeper | None = None,
        worker: str | None = None,
    ) -> None:
        """Without a wire the gate is always unsure; without a judge refusals are not compared."""
        self.settings = settings or GateSettings()
        self.worker = worker or f"{os.getpid()}-{secrets.token_hex(4)}"
        self.judge = judge
        self.keeper = keeper
        self.holds_all: Callable[[UUID, str, str], None] = _nobody_asks
        """Hears of each person who was granted the last coupon that one person may have."""
        self.tally = Tally()
        self.doors: OrderedDict[PoolKey, Door] = OrderedDict()
        self._wire = wire
        self._queued: list[Door] = []
        self._sent_at = float("-inf")
        self._loop: Any = None
        chosen = self.settings
        self._rules = msgspec.Raw(
            _pack(
                (
                    *chosen.person_rate,
                    *chosen.device_rate,
                    *chosen.address_rate,
                    chosen.persons_max,
                    chosen.persons_s,
                    chosen.sold_out_ms,
                    chosen.slice_s,
                )
            )
        )
        self._paces_others = bool(chosen.device_rate.token or chosen.address_rate.token)

    async def start(self) -> None:
        """Look for Valkey. Knocks are answered from now on, whether it is there or not."""
        self._loop = asyncio.get_running_loop()
        if self._wire is not None:
            await self._wire.start()

    async def close(self) -> None:
        """Let go of Valkey; whoever still waits hears «unsure»."""
        if self._wire is not None:
            await self._wire.close()
        for door in self.doors.values():
            self.not_built(door)
        await asyncio.sleep(0)

    @property
    def away(self) -> bool:
        """Whether the gate cannot be asked now, so that everything goes by the slow lane."""
        return self._wire is None or not self._wire.up

    # --- knocking -----------------------------------------------------------------------------

    def ask(self, knock: Knock, heard: Heard) -> None:
        """Knock; `heard` is told the word later."""
        door = self.doors.get((knock.campaign, knock.pool))
        if door is None:
            door = self._open(knock.book, knock.campaign, knock.pool)
        if door.held is not None and len(door.knocks) >= self.settings.held_max:
            self._loop.call_soon(self._hear_nothing, [(knock, heard)])
            return
        door.knocks.append((knock, heard))
        if not door.queued:
            self._queue(door)

    # --- what the store said ------------------------------------------------------------------

    def claimed(
        self, campaign: UUID, pool: str, person: str, request: bytes, n: int, limit: int
    ) -> None:
        """The store answered 201, now or again: this person's `n`-th coupon of `limit`.

        A limit of 0 is not known to whoever calls; then the one that was heard last stays.
        """
        door = self.doors.get((campaign, pool))
        if door is not None:
            door.limit = limit or door.limit
            door.settled(request)
            self._settle(door, person, request, n, 0)
            if n == door.limit:
                self.holds_all(campaign, pool, person)

    def claimed_before(
        self, campaign: UUID, pool: str, person: str, request: bytes, limit: int
    ) -> None:
        """The store answered `already_claimed` or `limit_reached`; a token that was taken returns.

        `limit` is the number of coupons that a person may have.
        """
        door = self.doors.get((campaign, pool))
        if door is not None:
            door.limit = limit
            self._settle(door, person, request, limit, door.settled(request))

    def released(self, campaign: UUID, pool: str, person: str, request: bytes) -> None:
        """The request surely had no effect: it was refused otherwise, or never reached the store.

        With an unknown outcome nothing is called: the token comes back by the sweep.
        """
        door = self.doors.get((campaign, pool))
        if door is not None:
            self._settle(door, person, request, 0, door.settled(request))

    def sold_out(
        self, campaign: UUID, pool: str, code: str, position: int, facts: Facts = ()
    ) -> None:
        """The store refused with this code at this position: stock or budget is used up."""
        door = self.doors.get((campaign, pool))
        if door is not None and (door.sold is None or door.sold[0] < position):
            door.sold = (position, code, facts_as_text(facts))
            if not door.queued:
                self._queue(door)

    # --- for the keeper -----------------------------------------------------------------------

    async def call(self, function: str, door: Door, argument: Any) -> Any:
        """Call a function about a door and return its answer unpacked; raise `Away` or an error."""
        if self._wire is None:
            raise Away
        answered: asyncio.Future[Any] = self._loop.create_future()

        def heard(answer: Any) -> None:
            if answered.done():
                return
            if isinstance(answer, Exception):
                answered.set_exception(answer)
            else:
                answered.set_result(answer)

        self._wire.call(function, door.tag, _pack(argument), heard)
        answer = await answered
        return msgspec.msgpack.decode(answer)

    def door(self, book: str, campaign: UUID, pool: str) -> Door:
        """Return the door of a pool, which counts as knocked at."""
        door = self.doors.get((campaign, pool)) or self._open(book, campaign, pool)
        door.asked_at = self._loop.time()
        return door

    def unknown(self, door: Door) -> None:
        """Have the gate built from the store: it knows nothing of a pool."""
        self._ask_keeper(door, broken=False)

    def built(self, door: Door) -> None:
        """Ask again for those who are held: the gate has been told of the pool."""
        if door.held is not None:
            self._end_holding(door)

    def not_built(self, door: Door) -> None:
        """Send those on who are held: the gate cannot be told of the pool now."""
        if door.held is not None:
            held, door.knocks = door.knocks, []
            self._end_holding(door)
            self._hear_nothing(held)

    def shut(self, door: Door) -> None:
        """Forget a door that nobody knocks at."""
        if not door.queued and not door.out:
            self.doors.pop(door.key, None)

    # --- batches ------------------------------------------------------------------------------

    def _open(self, book: str, campaign: UUID, pool: str) -> Door:
        if len(self.doors) >= self.settings.pools_max:
            self._shut_an_idle_one()
        door = self.doors[campaign, pool] = Door(book, campaign, pool)
        return door

    def _shut_an_idle_one(self) -> None:
        idle = [door for door in self.doors.values() if not door.queued and not door.out]
        if idle:
            self.shut(min(idle, key=lambda door: door.asked_at))

    def _settle(self, door: Door, person: str, request: bytes, n: int, epoch: int) -> None:
        """Note the person's coupons, 0 where nothing was done; `epoch`: whose token comes back."""
        if len(door.settles) < SETTLES_MAX * _PARTS:
            door.settles += (person, request[:MARK_BYTES].hex(), n, epoch)
        if not door.queued:
            self._queue(door)

    def _queue(self, door: Door) -> None:
        """Have the door's work sent at the end of this turn, or when its call is back."""
        door.queued = True
        if not door.out:
            if not self._queued:
                pause_s = self._sent_at + PACE_S - self._loop.time()
                if pause_s > 0:
                    self._loop.call_later(pause_s, self._send_all)
                else:
                    self._loop.call_soon(self._send_all)
            self._queued.append(door)

    def _send_all(self) -> None:
        doors, self._queued = self._queued, []
        if sum(len(door.knocks) for door in doors) >= RUSH:
            self._sent_at = self._loop.time()
        for door in doors:
            self._send(door)

    def _send(self, door: Door) -> None:
        batch, door.knocks = door.knocks[:BATCH_MAX], door.knocks[BATCH_MAX:]
        settles, door.settles = door.settles[:_SETTLED], door.settles[_SETTLED:]
        sold, door.sold = door.sold, None
        door.queued = False
        door.asked_at = self._loop.time()
        if self._wire is None or not self._wire.up:
            door.settles = []
            self._hear_nothing(batch)
            if door.knocks:
                self._queue(door)
            return
        argument = self._asked(door, batch, settles, sold)
        door.out = True
        self.tally.calls += 1

        def heard(answer: Any) -> None:
            self._hear(door, batch, answer)

        self._wire.call("knock", door.tag, argument, heard)

    def _asked(
        self, door: Door, batch: list[tuple[Knock, Heard]], settles: list[Any], sold: Any
    ) -> bytes:
        """Return what the gate is told and asked: those who are settled, then those who knock."""
        names, marks = settles[::_PARTS], settles[1::_PARTS]
        back = settles[3::_PARTS].count(door.epoch) if door.epoch else 0
        names += [knock.person for knock, _ in batch]
        marks += [knock.request[:MARK_BYTES].hex() for knock, _ in batch]
        others: list[str | bool] = []
        if self._paces_others:
            for knock, _ in batch:
                others += (knock.device or False, knock.address or False)
        return _pack(
            (
                self.worker,
                door.admitted,
                self._rules,
                names,
                marks,
                settles[2::_PARTS],
                (door.epoch, back) if back else False,
                sold or False,
                others or False,
                _flags(batch),
            )
        )

    def _hear(self, door: Door, batch: list[tuple[Knock, Heard]], answer: Any) -> None:
        """Tell everybody in a batch what the gate said."""
        door.out = False
        try:
            reply = _read(answer, len(batch))
        except Away:
            self._hear_nothing(batch)
        except Exception as error:  # noqa: BLE001 - whatever it is, the store can be asked
            log.warning("the gate gave no answer: %s", error)
            if _is_passing(error):
                self._hear_nothing(batch)
                self._ask_keeper(door, broken=False)
            else:
                self._hold(door, batch, broken=True)
        else:
            if reply[0] == 0 or reply[0] < door.epoch:  # it knows nothing, or has fallen back
                self._hold(door, batch, broken=False)
            else:
                door.patient = True
                self._tell(door, batch, reply)
        self._go_on(door)

    def _go_on(self, door: Door) -> None:
        if door.held is None and (door.queued or door.knocks or door.settles):
            self._queue(door)

    def _hold(self, door: Door, batch: list[tuple[Knock, Heard]], *, broken: bool) -> None:
        """Let those wait whom nothing can be said while the keeper builds the gate.

        They wait in order, with all who come meanwhile, for a bounded time and in bounded number.
        Who is held in vain is unsure, and nobody is held again until the gate knew the pool.
        """
        waiting = len(batch) + len(door.knocks)
        if batch and door.patient and self.keeper and 0 < waiting <= self.settings.held_max:
            hold_s = self.settings.hold_s
            if hold_s > 0:
                door.knocks = batch + door.knocks
                door.out, door.patient = True, False
                door.held = self._loop.call_later(hold_s, self.not_built, door)
                batch = []
        self._hear_nothing(batch)
        self._ask_keeper(door, broken=broken)

    def _end_holding(self, door: Door) -> None:
        assert door.held is not None
        door.held.cancel()
        door.held, door.out = None, False
        self._go_on(door)

    def _tell(self, door: Door, batch: list[tuple[Knock, Heard]], reply: _Reply) -> None:
        epoch, letters, waits, sold, limit = reply
        door.epoch, door.limit = epoch, limit
        refusables: list[Refusable] = []
        in_flight, next_wait = door.in_flight, iter(waits)
        proposed = {"C": _claimed(limit), "S": _sold_out(sold), "N": NOT_OPEN}
        judge, words = self.judge, self.tally.words
        for (knock, heard), letter in zip(batch, letters, strict=True):
            if letter == "A":
                in_flight[knock.request] = epoch
                word = ADMITTED
            elif letter in proposed:
                word = proposed[letter]
                if judge is not None and word is not UNSURE:
                    refusables.append(Refusable(knock, self._who_hears(knock, heard, word), word))
                    continue
            elif letter == "F":
                word = Word(Verdict.TOO_FAST, wait_s=next(next_wait) / 1000)
            else:
                word = _OTHER_WORDS.get(letter, UNSURE)
            words[word.verdict] += 1
            tell(heard, word)
        if refusables and judge is not None:
            judge(refusables)

    def _who_hears(self, knock: Knock, heard: Heard, word: Word) -> Heard:
        """Have one whom the gate takes for early ask again when the store takes claims by now."""
        if word is not NOT_OPEN or knock.begun:
            return heard

        def hear(judged: Word) -> None:
            if judged.verdict is Verdict.UNSURE and not self.away:
                self.ask(replace(knock, begun=True), heard)
            else:
                heard(judged)

        return hear

    def _hear_nothing(self, batch: list[tuple[Knock, Heard]]) -> None:
        self.tally.words[Verdict.UNSURE] += len(batch)
        for _, heard in batch:
            tell(heard, UNSURE)

    def _ask_keeper(self, door: Door, *, broken: bool) -> None:
        if self.keeper is not None:
            self.keeper.unknown(door, broken=broken)


def _nobody_asks(_campaign: UUID, _pool: str, _person: str) -> None:
    """Who has all is of no interest."""


def tell(heard: Heard, word: Word) -> None:
    """Tell one who knocked; whatever they make of it, the others hear theirs."""
    try:
        heard(word)
    except Exception:
        log.exception("whoever knocked failed on hearing the word")


def tag_of(pool: PoolKey) -> str:
    """Return what the keys of a pool begin with; the part in braces keeps them on one server."""
    return f"tb2:{{{pool[0].hex}:{pool[1]}}}:"


def facts_as_text(facts: Facts) -> str:
    """Return facts in the form in which the gate keeps them."""
    return msgspec.json.encode(facts).decode()


def _read(answer: Any, knocks: int) -> _Reply:
    """Return the gate's answer to so many knocks; raise what it is instead of one."""
    if isinstance(answer, Exception):
        raise answer
    reply: _Reply = _unpack(answer)
    if reply[0] and (len(reply[1]) != knocks or reply[1].count("F") != len(reply[2])):
        raise ValueError("the answer does not fit the question")
    return reply


def _flags(batch: list[tuple[Knock, Heard]]) -> str | bool:
    """Return a digit for each knock: 1 for a pass, 2 for `begun`; False when nobody has any."""
    if any(knock.passed or knock.begun for knock, _ in batch):
        return "".join([str(knock.passed + 2 * knock.begun) for knock, _ in batch])
    return False


def _claimed(limit: int) -> Word:
    return Word(Verdict.CLAIMED, code="already_claimed" if limit == 1 else "limit_reached")


def _sold_out(sold: tuple[int, str, str] | bool) -> Word:
    """Return what was said with the flag, or `UNSURE` when that cannot be read."""
    if isinstance(sold, bool):
        return UNSURE
    position, code, facts = sold
    try:
        pairs = tuple((name, value) for name, value in msgspec.json.decode(facts))
    except (msgspec.DecodeError, TypeError, ValueError):
        return UNSURE
    return Word(Verdict.SOLD_OUT, code=code, position=position, facts=pairs)


def _is_passing(error: Exception) -> bool:
    """Whether an error is about Valkey's memory or state and not about what is kept there."""
    return str(error).startswith(
        ("OOM", "LOADING", "BUSY", "MISCONF", "READONLY", "MASTERDOWN", "CLUSTERDOWN", "NOREPLICAS")
    )
