"""Passages: a write that was checked on its way to its reply, past pace, gate and writer.

Each step calls the next one when it has heard its answer, so that ten thousand passages a second
need no task, no future and no timer of their own. Whoever waits for the end gets an answer that is
committed, a refusal by the gate, which surely had no effect, or a problem that says what is known.
A passage is told to end once; what the store says afterwards is heard for the gate's sake only.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from functools import lru_cache
from time import perf_counter
from typing import Any, Final, Protocol

import msgspec

from api.callers import Caller
from api.errors import RETRY_SOON, Problem, rate_limited, render_refusal
from api.nogate import AnyForesight, AnyGate, NoForesight, NoGate
from api.ratelimit import Rate, RateLimiter
from campaigns.gate import NO_TOKEN, Facts, Knock, Verdict, Word
from campaigns.refusals import Refusal
from ledger.commit import (
    Answer,
    GroupCommit,
    KeyInFlight,
    KeyReused,
    OutcomeUnknown,
    QueueFull,
    Request,
    StoreUnavailable,
    Ticket,
)

SWEEP_S: Final = 0.25
"""How often passages are looked for that have waited for too long."""

AGAIN_S: Final = 0.05
"""How long somebody waits who found no token, before asking the gate again."""
AGAIN_MAX: Final = 20
"""How often; then the slow lane tells. By then a sweep of the gate has found the truth."""
PROBES: Final = 2
"""Of those who wait at one campaign, so many ask the store each time: they find out whether it has
nothing left, which the gate is then told."""
TOKENLESS_MAX: Final = 20_000
"""So many may wait; beyond it the slow lane takes them, or refuses them for now."""

NO_POSITION: Final = -1
"""The position of an answer that the gate gave without one."""

_ADMITTED, _UNSURE = Verdict.ADMITTED, Verdict.UNSURE
_N: Final = b'"n":'


class Traffic(Protocol):
    """Whoever wants to know of every claim: when it came, how long it took, how it ended."""

    def note(self, campaign: Any, started: float, seconds: float, code: str) -> None:
        """Hear of a claim. Called in the event loop for each one, so it must be cheap."""
        ...


class NoTraffic:
    """Notes nothing."""

    def note(self, campaign: Any, started: float, seconds: float, code: str) -> None:
        """Let it pass."""


class Passages:
    """What the passages of one server process share."""

    in_slow_lane: int
    """Claims that are with the store although the gate could not speak for them."""

    def __init__(
        self,
        limiter: RateLimiter,
        *,
        timeout_s: float,
        slow_lane_max: int,
        traffic: Traffic | None = None,
    ) -> None:
        self.limiter = limiter
        self.gate: AnyGate = NoGate()
        self.foresight: AnyForesight = NoForesight()
        self.gate_paces = False
        """Whether the gate also says who is too fast; then nobody else is asked about claims."""
        self.traffic: Traffic = traffic if traffic is not None else NoTraffic()
        self.slow_lane_max = slow_lane_max
        self.in_slow_lane = 0
        self._timeout_s = timeout_s
        self._under_way: deque[Passage] = deque()
        """In the order in which they came, so that those to be ended are always in front."""
        self._sweeping: asyncio.TimerHandle | None = None
        self._tokenless: list[Passage] = []
        self.again_max = AGAIN_MAX
        self._word: Word | None = None
        self._answer: Answer | None = None
        """To the latest word: in a rush thousands are told the same one."""

    def watch(self, passage: Passage, loop: asyncio.AbstractEventLoop) -> None:
        """End a passage when it has waited for too long."""
        self._under_way.append(passage)
        if self._sweeping is None:
            pause_s = min(SWEEP_S, self._timeout_s / 4)
            self._sweeping = loop.call_later(pause_s, self._sweep, loop, pause_s)

    def wait_for_token(self, passage: Passage, loop: asyncio.AbstractEventLoop) -> bool:
        """Have a passage ask the gate again in a moment; False when too many wait for that."""
        if len(self._tokenless) >= TOKENLESS_MAX:
            return False
        if not self._tokenless:
            loop.call_later(AGAIN_S, self._ask_again)
        self._tokenless.append(passage)
        return True

    def _ask_again(self) -> None:
        waiting, self._tokenless = self._tokenless, []
        probes: dict[int, int] = {}
        for passage in waiting:
            if passage.over or passage.knock is None:
                continue
            campaign = passage.knock.campaign.int
            asked = probes[campaign] = probes.get(campaign, 0) + 1
            passage.go_on(slowly=asked <= PROBES)

    def answer_to(self, word: Word, code: str) -> Answer:
        """Return the answer that tells a refusal; the same one for the same word."""
        if word is self._word and self._answer is not None:
            return self._answer
        answer = Answer(code, _refusal_body(code, word.facts), word.position or NO_POSITION)
        self._word, self._answer = word, answer
        return answer

    def _sweep(self, loop: asyncio.AbstractEventLoop, pause_s: float) -> None:
        late = perf_counter() - self._timeout_s
        under_way = self._under_way
        while under_way and (under_way[0].over or under_way[0].began < late):
            passage = under_way.popleft()
            if not passage.over:
                passage.give_up()
        self._sweeping = loop.call_later(pause_s, self._sweep, loop, pause_s) if under_way else None


class Passage:
    """One write; subclasses know who waits for its end."""

    __slots__ = (
        "_again",
        "_loop",
        "_rate",
        "_request",
        "_slow",
        "_ticket",
        "_writer",
        "began",
        "caller",
        "knock",
        "over",
        "passages",
    )

    def __init__(
        self,
        passages: Passages,
        loop: asyncio.AbstractEventLoop,
        caller: Caller,
        writer: GroupCommit,
        request: Callable[[], Request],
        knock: Knock | None,
        began: float,
    ) -> None:
        self.passages = passages
        self.caller = caller
        self.knock = knock
        """What the gate is asked; None for what no gate is for."""
        self.began = began
        """When it came, by the performance counter."""
        self.over = False
        self._loop = loop
        self._writer = writer
        self._request = request
        self._ticket: Ticket | None = None
        self._rate: Rate | None = None
        self._slow = False
        self._again = 0
        """How often it has found no token."""

    # --- who waits ----------------------------------------------------------------------------

    def tell(self, answer: Answer) -> None:
        """Hand over the committed answer, or the gate's."""
        raise NotImplementedError

    def tell_problem(self, problem: Problem) -> None:
        """Hand over what is known instead of an answer."""
        raise NotImplementedError

    def tell_fault(self, error: Exception) -> None:
        """Hand over that something broke here."""
        raise NotImplementedError

    # --- the way ------------------------------------------------------------------------------

    def go(self, rate: Rate | None = None, *, paced: bool = True) -> None:
        """Set out. Unless the caller's pace was looked at before, that is the first step."""
        passages, knock = self.passages, self.knock
        if knock is not None and passages.gate_paces:
            self._rate = None if paced else rate
            if passages.foresight.takes(knock, self._heard):
                return  # it surely hears
            passages.watch(self, self._loop)
            self._pass_gate()
            return
        passages.watch(self, self._loop)
        if paced or rate is None:
            self._pass_gate()
        else:
            passages.limiter.ask(self.caller.scope, rate, self._paced)

    def _paced(self, wait_s: float) -> None:
        if self.over:
            return
        if wait_s > 0:
            self._refuse(rate_limited(wait_s))
        else:
            self._pass_gate()

    def _pass_gate(self) -> None:
        if self.knock is None:
            self._queue()
        else:
            self.passages.gate.ask(self.knock, self._heard)

    def _heard(self, word: Word) -> None:
        verdict = word.verdict
        if verdict is _ADMITTED:
            if self.over:
                self._release()
            else:
                self._queue()
        elif self.over:
            return
        elif word is NO_TOKEN:
            self._wait_for_token()
        elif verdict is _UNSURE:
            self._take_slow_lane()
        elif word.code is not None:
            self._end(self.passages.answer_to(word, word.code))
        elif verdict is Verdict.TOO_FAST:
            self._refuse(rate_limited(word.wait_s))
        else:
            self._refuse(_PLEASE_WAIT)

    def _wait_for_token(self) -> None:
        """There may be nothing left, or others hold the last ones: that is soon to be known."""
        passages = self.passages
        self._again += 1
        if self._again > passages.again_max or not passages.wait_for_token(self, self._loop):
            self._take_slow_lane()

    def go_on(self, *, slowly: bool) -> None:
        """Ask the store without a token, or the gate for one again."""
        if slowly:
            self._take_slow_lane()
        else:
            self._release()
            self._pass_gate()

    def _take_slow_lane(self) -> None:
        """Ask the store without the gate's word; so many at a time, or it would be the rush."""
        passages = self.passages
        wait_s = passages.limiter.take_here(self.caller.scope, self._rate)
        if wait_s > 0:
            self._release()
            self._refuse(rate_limited(wait_s))
            return
        if passages.in_slow_lane >= passages.slow_lane_max:
            self._release()
            self._refuse(
                Problem("overloaded", "Too many claims are asked one by one.", headers=RETRY_SOON)
            )
            return
        passages.in_slow_lane += 1
        self._slow = True
        passages.watch(self, self._loop)
        self._queue()

    def _queue(self) -> None:
        try:
            self._ticket = self._writer.queue(self._request(), self._loop, self._settled)
        except Exception as error:  # noqa: BLE001 - whatever it is, somebody waits to hear of it
            self._leave(None, error)
            self._fail(error)

    def _settled(self, ticket: Ticket) -> None:
        answer = ticket.answer
        self._ticket = None  # which knows us: a ring would be left to the garbage collector
        self._leave(answer, ticket.error)
        if self.over:
            return
        if answer is not None:
            self._end(answer)
        else:
            self._fail(ticket.error)

    def give_up(self) -> None:
        """End it unanswered: it has waited for too long."""
        ticket = self._ticket
        if ticket is None:
            self._refuse(Problem("overloaded", "The gate did not answer.", headers=RETRY_SOON))
        else:
            self._fail(KeyInFlight() if ticket.follows else OutcomeUnknown())

    # --- the end ------------------------------------------------------------------------------

    def _end(self, answer: Answer) -> None:
        self.over = True
        if self.knock is not None:
            self._note(answer.code)
        try:
            self.tell(answer)
        except Exception as error:  # noqa: BLE001 - whatever broke, the caller gets an answer
            self.tell_fault(error)

    def _fail(self, error: Exception | None) -> None:
        problem = _PROBLEMS.get(type(error))
        if problem is not None:
            self._refuse(Problem(*problem, headers=RETRY_AFTER_OF.get(problem[0])))
            return
        self.over = True
        if self.knock is not None:
            self._note("internal_error")
        self.tell_fault(error or RuntimeError("a ticket was settled without an answer"))

    def _refuse(self, problem: Problem) -> None:
        self.over = True
        if self.knock is not None:
            self._note(problem.trouble.code)
        self.tell_problem(problem)

    def _note(self, code: str) -> None:
        assert self.knock is not None
        seconds = perf_counter() - self.began
        self.passages.traffic.note(self.knock.campaign, self.began, seconds, code)

    # --- the gate -----------------------------------------------------------------------------

    def _leave(self, answer: Answer | None, error: Exception | None) -> None:
        """Say to slow lane and gate how it went with the store."""
        if self._slow:
            self._slow = False
            self.passages.in_slow_lane -= 1
        if self.knock is None:
            return
        if answer is not None:
            self._tell_gate(self.knock, answer)
        elif type(error) in _SURELY_NOT:
            self._release()

    def _tell_gate(self, knock: Knock, answer: Answer) -> None:
        gate, code = self.passages.gate, answer.code
        if code == "claimed":
            n = _n_of(answer.body)
            gate.claimed(knock.campaign, knock.pool, knock.person, knock.request, n, 0)
        elif code in _HAS_ALL:
            limit = _facts_of(answer.body).get("per_person_limit", 1)
            gate.claimed_before(knock.campaign, knock.pool, knock.person, knock.request, limit)
        else:
            self._release()
            if code in _USED_UP and not answer.replayed:
                facts = tuple(_facts_of(answer.body).items())
                gate.sold_out(knock.campaign, knock.pool, code, answer.position, facts)

    def _release(self) -> None:
        knock = self.knock
        if knock is not None:
            self.passages.gate.released(knock.campaign, knock.pool, knock.person, knock.request)


_HAS_ALL: Final = frozenset({"already_claimed", "limit_reached"})
_USED_UP: Final = frozenset({"sold_out", "budget_exhausted"})

RETRY_AFTER_OF: Final = {
    "overloaded": RETRY_SOON,
    "idempotency_in_flight": RETRY_SOON,
    "store_unavailable": RETRY_SOON,
    "outcome_unknown": RETRY_SOON,
}

_PLEASE_WAIT: Final = Problem(
    "waiting_room", "Take a place first; at your turn you get a pass.", headers=RETRY_SOON
)
_OVERLOADED: Final = ("overloaded", "Too many requests wait already.")
_PROBLEMS: Final[dict[type[Any], tuple[str, str]]] = {
    QueueFull: _OVERLOADED,
    **dict.fromkeys(QueueFull.__subclasses__(), _OVERLOADED),
    KeyReused: ("idempotency_key_reused", "This key was used with another call or body."),
    KeyInFlight: ("idempotency_in_flight", "The first call with this key still runs."),
    StoreUnavailable: (
        "store_unavailable",
        "The store cannot be reached; nothing was done.",
    ),
    OutcomeUnknown: (
        "outcome_unknown",
        "The store's answer was lost or late; the same key tells.",
    ),
}
"""What keeps the store from answering → the problem that says so."""

_SURELY_NOT: Final = frozenset(_PROBLEMS) - {OutcomeUnknown}
"""After these a request is not at the store and has left nothing there."""


def _refusal_body(code: str, facts: Facts) -> bytes:
    """Return the body of a refusal as it is rendered where refusals are decided."""
    if code == "already_claimed" and facts:
        ((name, holding),) = facts
        before, after = _mould(code, name)
        told: bytes = holding.encode()  # an id: nothing in it is escaped
        return before + told + after
    return _same_for_all(code, facts)


@lru_cache(maxsize=16)
def _mould(code: str, name: str) -> tuple[bytes, bytes]:
    """Return what stands before and after the only fact of a refusal."""
    before, _, after = render_refusal(Refusal(code, **{name: _SAMPLE})).partition(_SAMPLE.encode())
    return before, after


_SAMPLE: Final = "cpn_main_" + 32 * "0"


@lru_cache(maxsize=4_096)
def _same_for_all(code: str, facts: Facts) -> bytes:
    """The refusals of a campaign that is sold out are one and the same."""
    return render_refusal(Refusal(code, **dict(facts)))


def _n_of(body: bytes) -> int:
    """Return a claimed coupon's ordinal from its reply, without reading the rest."""
    start = body.index(_N) + len(_N)
    return int(body[start : body.index(b",", start)])


_MEMBERS: Final = frozenset({"type", "title", "status", "code", "detail"})
_object: Final = msgspec.json.Decoder(dict[str, Any]).decode


def _facts_of(body: bytes) -> dict[str, Any]:
    """Return the facts of a refusal from its body."""
    return {name: fact for name, fact in _object(body).items() if name not in _MEMBERS}
