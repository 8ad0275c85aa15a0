"""The sandbox operator's HTTP: who asks is checked, what is asked is carried out, or spoilt.

Every address but `/healthz` wants a MAC made with the shared key. Addresses under `/control` are
for whoever tries the dispatcher: plans of faults, and a holder who closes the wallet.
"""

from __future__ import annotations

import asyncio
import itertools
import re
import time
from collections.abc import Awaitable, Callable
from typing import Final
from urllib.parse import parse_qsl, urlsplit

import msgspec

from api.sandbox.faults import Fault, Faults
from api.sandbox.http import HANG_UP, Answer, Request
from api.sandbox.store import AMOUNT_MAX, Order, Reply, Store, problem
from api.wallets.signing import HEADER, Signer

PAGE_MAX: Final = 1_000

_NUMBER: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9:._-]{0,63}", re.ASCII)
_WALLET: Final = re.compile(r"[A-Za-z0-9_-]{8,64}", re.ASCII)
_CURRENCY: Final = re.compile(r"[A-Z]{3}", re.ASCII)


class Opening(msgspec.Struct, forbid_unknown_fields=True):
    """The body that opens a wallet."""

    currency: str


class Rejected(Exception):
    """A request is not one of ours; nothing was done."""

    def __init__(self, status: int, code: str) -> None:
        super().__init__(code)
        self.reply = problem(status, code)


Sleep = Callable[[float], Awaitable[None]]


class Service:
    """Answers requests from one store."""

    def __init__(
        self,
        store: Store,
        key: bytes,
        *,
        now: Callable[[], float] = time.time,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        self.store = store
        self.faults = Faults()
        self.under_way = 0
        self._signer = Signer(key)
        self._now = now
        self._sleep = sleep
        self._nonsense = itertools.count()

    async def handle(self, request: Request) -> Answer:
        """Answer one request."""
        self.under_way += 1
        try:
            return await self._handle(request)
        finally:
            self.under_way -= 1

    async def _handle(self, request: Request) -> Answer:
        if request.target == "/healthz":
            return Answer(200, b'{"status":"ok"}')
        question = request.headers.get(HEADER.lower(), "")
        if not self._signer.is_asked(
            question, request.method, request.target, request.body, self._now()
        ):
            return Answer(401, problem(401, "unauthenticated").body)
        fault = self._fault_of(request)
        if fault is None:
            return self._signed(question, await self._carried_out(request))
        return await self._spoilt(fault, question, request)

    def _signed(self, question: str, reply: Reply, times: int = 1) -> Answer:
        mac = self._signer.answer(question, reply.status, reply.body)
        return Answer(reply.status, reply.body, ((HEADER, mac),), times)

    def _fault_of(self, request: Request) -> Fault | None:
        if not request.target.startswith("/v1/instructions/"):
            return None
        if request.method == "GET":
            return self.faults.take("look_up", None)
        try:
            wallet = msgspec.json.decode(request.body, type=Order).wallet
        except msgspec.DecodeError:
            return None
        return self.faults.take("instruct", wallet)

    async def _spoilt(  # noqa: PLR0911 - one table
        self, fault: Fault, question: str, request: Request
    ) -> Answer:
        failed = problem(500, "failed")
        match fault.fault:
            case "fail_before":
                return self._signed(question, failed)
            case "cut_before":
                return HANG_UP
            case "late":
                await self._sleep(fault.seconds)
        reply = await self._carried_out(request)
        match fault.fault:
            case "fail_after":
                return self._signed(question, failed)
            case "cut_after":
                return HANG_UP
            case "delay":
                await self._sleep(fault.seconds)
            case "twice":
                return self._signed(question, reply, times=2)
            case "nonsense":
                return self._senseless(question, reply)
        return self._signed(question, reply)

    def _senseless(self, question: str, reply: Reply) -> Answer:
        """Return an answer that must not be believed; most are signed as they should be."""
        kinds = (
            lambda: self._signed(question, Reply(200, b"<html>maintenance</html>")),
            lambda: self._signed(question, Reply(201, b'{"outcome":"done"}')),
            lambda: self._signed(question, Reply(201, _changed(reply.body, number="other:1"))),
            lambda: self._signed(question, Reply(201, _changed(reply.body, amount_minor=-1))),
            lambda: self._signed(question, Reply(201, _changed(reply.body, amount_minor=10**30))),
            lambda: self._signed(question, Reply(409, _changed(reply.body, code=None))),
            lambda: self._signed(question, Reply(201, b"[" * 100_000)),
            lambda: self._signed(question, Reply(201, b" " * 10_000_000)),
            lambda: Answer(404, problem(404, "number_unknown").body),
            lambda: Answer(201, reply.body, ((HEADER, "v1 " + "A" * 32),)),
            lambda: self._signed(question, Reply(302, b"")),
        )
        return kinds[next(self._nonsense) % len(kinds)]()

    async def _carried_out(self, request: Request) -> Reply:
        try:
            return await self._route(request)
        except Rejected as rejected:
            return rejected.reply
        except (msgspec.DecodeError, ValueError):
            return problem(422, "malformed")

    async def _route(self, request: Request) -> Reply:  # noqa: PLR0911 - one table
        url = urlsplit(request.target)
        query = dict(parse_qsl(url.query, keep_blank_values=True))
        match [request.method, *url.path.strip("/").split("/")]:
            case ["PUT", "v1", "wallets", wallet]:
                opening = msgspec.json.decode(request.body, type=Opening)
                _require(_CURRENCY, opening.currency)
                _require(_WALLET, wallet)
                return await self.store.ask(
                    lambda db: self.store.open(db, wallet, opening.currency)
                )
            case ["GET", "v1", "wallets", wallet]:
                return await self.store.ask(lambda db: self.store.wallet(db, wallet))
            case ["POST", "v1" | "control", "wallets", wallet, "closing"]:
                return await self.store.ask(lambda db: self.store.shut(db, wallet))
            case ["PUT", "v1", "instructions", number]:
                order = _order(number, request.body)
                return await self.store.ask(lambda db: self.store.instruct(db, number, order))
            case ["GET", "v1", "instructions", number]:
                return await self.store.ask(lambda db: self.store.look_up(db, number))
            case ["GET", "v1", "statement" | "wallets" as what]:
                return await self._page(what, query)
            case [method, "control", "faults"]:
                return self._plan(method, request.body)
        raise Rejected(404, "not_found")

    async def _page(self, what: str, query: dict[str, str]) -> Reply:
        limit = int(query.get("limit", "100"))
        if not 1 <= limit <= PAGE_MAX:
            raise Rejected(422, "malformed")
        if what == "wallets":
            after = query.get("after", "")
            return await self.store.ask(lambda db: self.store.wallets(db, after, limit))
        line = int(query.get("after", "0"))
        wallet = query.get("wallet")
        return await self.store.ask(lambda db: self.store.statement(db, line, limit, wallet))

    def _plan(self, method: str, body: bytes) -> Reply:
        match method:
            case "POST":
                self.faults.plan(msgspec.json.decode(body, type=list[Fault]))
            case "DELETE":
                self.faults.clear()
            case "GET":
                pass
            case _:
                raise Rejected(405, "method_not_allowed")
        return Reply(200, msgspec.json.encode(self.faults.planned))


def _order(number: str, body: bytes) -> Order:
    _require(_NUMBER, number)
    order = msgspec.json.decode(body, type=Order)
    _require(_WALLET, order.wallet)
    _require(_CURRENCY, order.currency)
    if order.kind not in ("credit", "debit") or not 0 < order.amount_minor <= AMOUNT_MAX:
        raise Rejected(422, "malformed")
    return order


def _require(form: re.Pattern[str], text: str) -> None:
    if not form.fullmatch(text):
        raise Rejected(422, "malformed")


def _changed(body: bytes, **changes: object) -> bytes:
    document = msgspec.json.decode(body)
    return msgspec.json.encode({**document, **changes}) if isinstance(document, dict) else body
