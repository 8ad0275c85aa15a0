"""Visits: what one person or till does, as a script of calls that knows no network.

A script is a generator: it yields a call and is sent the answer, or it yields a pause. Whoever runs
it (`loadtest/openloop.py`, or Locust) sends the call, keeps its times and writes everything down,
so that both run the same visits. A script must never look at a clock or open a connection.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from loadtest.driver import build_request
from loadtest.feed import plain_id

if TYPE_CHECKING:
    import random

ATTEMPTS_MAX: Final = 8
"""A person gives up after so many undecided answers; the outcome stays unknown."""
BACK_OFF_S: Final = 0.1
"""The first pause after an answer that names none; each further one is twice as long."""
BACK_OFF_MAX_S: Final = 5.0
BOOK: Final = "main"

Json = dict[str, Any]


class Who(NamedTuple):
    """One device or terminal of somebody: a token, and the address that it calls from."""

    identity: str
    token: str
    address: str = "10.0.0.1"
    kind: str = "honest"
    """Whose calls these are, as the report tells them apart: honest, bot or staff."""
    run: str = ""
    """The run, so that no key of it was ever used before."""


class Call(NamedTuple):
    """One request: its name in the report, who sends it, and what it is about."""

    name: str
    who: Who
    method: str
    path: str
    about: str = ""
    """The campaign or coupon, by its 32 hex digits."""
    key: str = ""
    body: bytes = b""
    seen: str = ""
    """The position that a read has to include."""
    shown: str = ""
    """A waiting room's pass."""
    is_place: bool = False
    """Whether a success is a place in a waiting room, which is kept for the check."""
    is_stream: bool = False
    """Whether a success is a stream of events, each of them a place."""

    def headers(self) -> list[tuple[str, str]]:
        """The headers of the request, without those of its body."""
        fields = [("X-Forwarded-For", self.who.address)]
        if self.who.token:
            fields.append(("Authorization", f"Bearer {self.who.token}"))
        if self.key:
            fields.append(("Idempotency-Key", self.key))
        if self.seen:
            fields.append(("Tidebook-Min-Position", self.seen))
        if self.shown:
            fields.append(("Tidebook-Pass", self.shown))
        return fields

    def request(self, host: str) -> bytes:
        """The exact bytes of the request."""
        return build_request(
            self.method, self.path, host=host, headers=self.headers(), body=self.body
        )


class Answer(NamedTuple):
    """What came back; status 0 when nothing did."""

    status: int
    code: str = ""
    body: bytes = b""
    position: str = ""
    """The book and position that the answer names, as `main:17`."""
    replayed: bool = False
    retry_after_s: float = 0.0

    @property
    def is_success(self) -> bool:
        return 200 <= self.status < 300

    @property
    def is_decided(self) -> bool:
        """Whether asking again with the same key can bring nothing else."""
        if self.status == 409:
            return self.code != "idempotency_in_flight"
        return 200 <= self.status < 500 and self.status != 429

    def json(self) -> Json:
        """The body."""
        result: Json = json.loads(self.body)
        return result


class Pause(NamedTuple):
    """Nothing is sent for a while."""

    seconds: float


class Amiss(NamedTuple):
    """The answer before was not as it must be; the visit goes on, the run ends red."""

    what: str


Step = Call | Pause | Amiss
Script = Generator[Step, Answer, None]
Part = Generator[Step, Answer, Answer]


class Arrival(NamedTuple):
    """Somebody comes at a moment of the run."""

    due_s: float
    script: Callable[[], Script]


def insist(call: Call) -> Part:
    """Send a call, again with the same key until its outcome is known, and give up some time."""
    back_off_s = BACK_OFF_S
    answer = yield call
    for _ in range(ATTEMPTS_MAX - 1):
        if answer.is_decided:
            break
        yield Pause(answer.retry_after_s or back_off_s)
        back_off_s = min(2 * back_off_s, BACK_OFF_MAX_S)
        answer = yield call
    return answer


def must(answer: Answer, *codes: str) -> Generator[Step, Answer, None]:
    """Report an answer that is decided and is neither a success nor one of these refusals."""
    if answer.is_decided and not answer.is_success and answer.code not in codes:
        yield Amiss(f"{answer.status} {answer.code}")


def new_key(who: Who, rng: random.Random) -> str:
    """A key for a new intent: the same visits of another run have others."""
    return f"{who.run}{rng.getrandbits(64):016x}"


def new_order(rng: random.Random) -> str:
    """A merchant's number of an order."""
    return f"{rng.getrandbits(48):012x}"


def claim_call(who: Who, campaign: str, key: str, name: str = "claim", shown: str = "") -> Call:
    """A claim, with a waiting room's pass where there is one to be shown."""
    path = f"/v1/campaigns/{campaign}/claims"
    return Call(name, who, "POST", path, plain_id(campaign), key, b"{}", shown=shown)


def place_call(who: Who, campaign: str, name: str, *, method: str = "GET") -> Call:
    """Look at one's place in a waiting room, or take it with PUT."""
    path = f"/v1/campaigns/{campaign}/place"
    return Call(name, who, method, path, plain_id(campaign), is_place=True)


def watch_call(who: Who, campaign: str, name: str) -> Call:
    """Follow one's place as it moves; the answer is the last of the stream."""
    path = f"/v1/campaigns/{campaign}/place/events"
    return Call(name, who, "GET", path, plain_id(campaign), is_place=True, is_stream=True)


def redemption_call(
    who: Who, coupon: str, order: str, total: Json, key: str, name: str = "redeem"
) -> Call:
    """A redemption at a till."""
    body = json.dumps({"order": order, "order_total": total}, separators=(",", ":")).encode()
    path = f"/v1/coupons/{coupon}/redemptions"
    return Call(name, who, "POST", path, plain_id(coupon), key, body)


def refund_call(who: Who, coupon: str, order: str, key: str) -> Call:
    """A refund of a redemption."""
    body = json.dumps({"order": order, "reason": "returned"}, separators=(",", ":")).encode()
    path = f"/v1/coupons/{coupon}/refunds"
    return Call("refund", who, "POST", path, plain_id(coupon), key, body)


def void_call(who: Who, coupon: str, key: str) -> Call:
    """An operator ends a coupon."""
    path = f"/v1/coupons/{coupon}/void"
    return Call("void", who, "POST", path, plain_id(coupon), key, b'{"reason":"load test"}')


def read_call(name: str, who: Who, path: str, seen: str = "") -> Call:
    """A read, of a moment not before `seen`."""
    return Call(name, who, "GET", path, seen=seen)
