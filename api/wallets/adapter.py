"""The HTTP adapter to a wallet operator: asks, and believes nothing that does not fit the question.

An answer counts when it came in time, is not too long, carries the MAC of this very question,
parses as the type that was asked for, lies within bounds and names what was asked about. Anything
else, an error included, leaves the outcome unknown. The URL comes from the settings alone, and no
redirect or proxy of the environment is followed.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable
from typing import Annotated, Any, Final, Literal, TypeVar
from urllib.parse import urlencode

import msgspec

from api.wallets import wire
from api.wallets.signing import HEADER, Signer
from campaigns.wallets.port import (
    AMOUNT_MAX,
    NUMBER_REUSED,
    Entry,
    Instruction,
    OperatorAway,
    Outcome,
    OutcomeUnknown,
    StatementPage,
    Wallet,
    WalletPage,
    WalletState,
)

ANSWER_MAX: Final = 16 * 1024
"""Longest answer about one instruction or wallet, in bytes."""

PAGE_ANSWER_MAX: Final = 1024 * 1024
"""Longest page of a statement."""

_Minor = Annotated[int, msgspec.Meta(ge=0, le=AMOUNT_MAX)]
_Amount = Annotated[int, msgspec.Meta(gt=0, le=AMOUNT_MAX)]
_Number = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9:._-]{0,63}$")]
_WalletName = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_-]{8,64}$")]
_Currency = Annotated[str, msgspec.Meta(pattern=r"^[A-Z]{3}$")]
_Code = Annotated[str, msgspec.Meta(pattern=r"^[a-z][a-z_]{0,63}$")]
_Place = Annotated[int, msgspec.Meta(ge=0, le=2**62)]


class _Instructed(msgspec.Struct):
    number: _Number
    wallet: _WalletName
    kind: Literal["credit", "debit"]
    amount_minor: _Amount
    currency: _Currency
    outcome: Literal["done", "refused"]
    code: _Code | None


class _Wallet(msgspec.Struct):
    wallet: _WalletName
    state: Literal["open", "closed"]
    balance_minor: _Minor
    currency: _Currency


class _Line(msgspec.Struct):
    entry: _Place
    number: _Number | None
    wallet: _WalletName
    kind: Literal["credit", "debit", "closing"]
    amount_minor: _Minor
    balance_minor: _Minor
    currency: _Currency


class _Statement(msgspec.Struct):
    items: list[_Line]
    next: _Place | None


class _Wallets(msgspec.Struct):
    items: list[_Wallet]
    next: _WalletName | None


class _Problem(msgspec.Struct):
    code: _Code


T = TypeVar("T")


class HttpOperator:
    """A wallet operator that speaks our HTTP. Use it within one event loop, and close it."""

    def __init__(
        self,
        name: str,
        url: str,
        key: bytes,
        *,
        timeout_s: float,
        connections: int = 16,
        now: Callable[[], float] = time.time,
        new_nonce: Callable[[], str] = lambda: secrets.token_urlsafe(16),
    ) -> None:
        self._name = name
        self._signer = Signer(key)
        self._timeout_s = timeout_s
        self._now = now
        self._new_nonce = new_nonce
        self._client = wire.Client(url, connections=connections)

    @property
    def name(self) -> str:
        """The operator's name in the ledger."""
        return self._name

    async def hang_up(self) -> None:
        """Close connections that nobody uses; the next question opens another."""
        self._client.close()
        await asyncio.sleep(0)  # the event loop closes the sockets in its next turn

    async def open(self, wallet: str, currency: str) -> WalletState:
        """Open a wallet unless it is open; tell whether it is."""
        body = msgspec.json.encode({"currency": currency})
        reply = await self._ask("PUT", f"/v1/wallets/{wallet}", body)
        return _same_wallet(_parsed(reply, _Wallet, 200), wallet).state

    async def instruct(self, instruction: Instruction) -> Outcome:
        """Credit or debit a wallet; the same number again gives the same outcome."""
        body = msgspec.json.encode(
            {
                "wallet": instruction.wallet,
                "kind": instruction.kind,
                "amount_minor": instruction.amount_minor,
                "currency": instruction.currency,
            }
        )
        reply = await self._ask("PUT", f"/v1/instructions/{instruction.number}", body)
        if reply.status == 422 and _parsed(reply, _Problem, 422).code == NUMBER_REUSED:
            return Outcome(instruction, NUMBER_REUSED)
        outcome = _outcome(reply)
        if outcome.instruction != instruction:
            raise OutcomeUnknown("the answer is about another instruction")
        return outcome

    async def look_up(self, number: str) -> Outcome | None:
        """Return the outcome of an instruction, None when the operator has none of this number."""
        reply = await self._ask("GET", f"/v1/instructions/{number}")
        if reply.status == 404 and _parsed(reply, _Problem, 404).code == "number_unknown":
            return None
        outcome = _outcome(reply)
        if outcome.instruction.number != number:
            raise OutcomeUnknown("the answer is about another number")
        return outcome

    async def close(self, wallet: str) -> Wallet:
        """Close a wallet for good; what is in it is taken out."""
        reply = await self._ask("POST", f"/v1/wallets/{wallet}/closing", b"{}")
        found = _same_wallet(_parsed(reply, _Wallet, 200), wallet)
        if found.state != "closed" or found.balance_minor:
            raise OutcomeUnknown("the wallet is said to be neither closed nor empty")
        return found

    async def wallet(self, wallet: str) -> Wallet | None:
        """Return how a wallet stands."""
        reply = await self._ask("GET", f"/v1/wallets/{wallet}")
        if reply.status == 404 and _parsed(reply, _Problem, 404).code == "wallet_unknown":
            return None
        return _same_wallet(_parsed(reply, _Wallet, 200), wallet)

    async def statement(self, after: int, limit: int, wallet: str | None = None) -> StatementPage:
        """Return the lines after a cursor, of one wallet or of all; 0 begins."""
        query = {"after": after, "limit": limit} | ({"wallet": wallet} if wallet else {})
        reply = await self._ask("GET", f"/v1/statement?{urlencode(query)}", most=PAGE_ANSWER_MAX)
        page = _parsed(reply, _Statement, 200)
        places = [line.entry for line in page.items]
        _check_page(places, after, limit, page.next)
        if wallet is not None and any(line.wallet != wallet for line in page.items):
            raise OutcomeUnknown("the statement is of another wallet")
        return StatementPage([_entry(line) for line in page.items], page.next)

    async def wallets(self, after: str, limit: int) -> WalletPage:
        """Return the wallets after a cursor; the empty text begins."""
        query = urlencode({"after": after, "limit": limit})
        reply = await self._ask("GET", f"/v1/wallets?{query}", most=PAGE_ANSWER_MAX)
        page = _parsed(reply, _Wallets, 200)
        _check_page([one.wallet for one in page.items], after, limit, page.next)
        return WalletPage([_wallet(one) for one in page.items], page.next)

    async def control(self, method: str, path: str, body: bytes = b"") -> Any:
        """Ask the sandbox operator to misbehave or behave; return what it says is planned."""
        reply = await self._ask(method, f"/control/{path}", body, most=PAGE_ANSWER_MAX)
        return _parsed(reply, object, 200)

    async def _ask(
        self, method: str, target: str, body: bytes = b"", most: int = ANSWER_MAX
    ) -> wire.Reply:
        """Ask once, within the time for all of it; return an answer to this very question."""
        question = self._signer.question(method, target, body, int(self._now()), self._new_nonce())
        try:
            reply = await self._client.ask(
                method, target, {HEADER: question}, body, most, self._timeout_s
            )
        except wire.NotReached as error:
            raise OperatorAway(str(error)) from error
        except TimeoutError:
            raise OutcomeUnknown("no answer in time") from None
        except wire.Broken as error:
            raise OutcomeUnknown(str(error)) from error
        mac = reply.headers.get(HEADER.lower(), "")
        if not self._signer.is_answered(mac, question, reply.status, reply.body):
            raise OutcomeUnknown(f"an answer with status {reply.status} that is not signed for us")
        return reply


def _parsed(reply: wire.Reply, wanted: type[T], status: int) -> T:
    if reply.status != status:
        raise OutcomeUnknown(f"an answer with status {reply.status}")
    try:
        return msgspec.json.decode(reply.body, type=wanted)
    except (msgspec.DecodeError, RecursionError):
        raise OutcomeUnknown("an answer that is not of the form agreed on") from None


def _outcome(reply: wire.Reply) -> Outcome:
    """Return what an answer says became of an instruction; its status must say the same."""
    said = _parsed(reply, _Instructed, 201 if reply.status == 201 else 409)
    if (said.outcome == "done") != (reply.status == 201) or (said.code is None) != (
        said.outcome == "done"
    ):
        raise OutcomeUnknown("an answer that contradicts itself")
    instruction = Instruction(
        number=said.number,
        wallet=said.wallet,
        kind=said.kind,
        amount_minor=said.amount_minor,
        currency=said.currency,
    )
    return Outcome(instruction, said.code)


def _check_page(places: list[Any], after: Any, limit: int, following: Any) -> None:
    """A page goes on behind its cursor, in order, and ends where it says, or is endless."""
    if len(places) > limit or places != sorted(set(places)) or (places and places[0] <= after):
        raise OutcomeUnknown("a page that is not in order")
    if following is not None and (not places or following != places[-1]):
        raise OutcomeUnknown("a page whose cursor is not its end")


def _same_wallet(said: _Wallet, wallet: str) -> Wallet:
    if said.wallet != wallet:
        raise OutcomeUnknown("the answer is about another wallet")
    return _wallet(said)


def _wallet(said: _Wallet) -> Wallet:
    return Wallet(said.wallet, said.state, said.balance_minor, said.currency)


def _entry(line: _Line) -> Entry:
    return Entry(
        line.entry,
        line.number,
        line.wallet,
        line.kind,
        line.amount_minor,
        line.balance_minor,
        line.currency,
    )
