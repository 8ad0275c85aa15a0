"""The port to a wallet operator: open, credit, debit, close, statement, and look up by number.

The operator keeps the wallets of holders and is somebody else: it may be slow, away, or wrong.
Therefore every instruction has a number that is used for nothing else, an answer is only believed
when it fits its question, and whoever got none knows nothing. Nothing here may say «not done»
because of a timeout.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import Final, Literal, Protocol

import msgspec

Kind = Literal["credit", "debit"]
WalletState = Literal["open", "closed"]

AMOUNT_MAX: Final = 10**12
"""Largest amount of one instruction or balance, in minor units: more is a mistake of somebody's."""

NUMBER_REUSED: Final = "number_reused"
"""The refusal of a number under which the operator has something else."""

WALLET_CLOSED: Final = "wallet_closed"
"""The one refusal that the ledger acts on: the holder's wallet takes and gives no more money."""


class Instruction(msgspec.Struct, frozen=True, kw_only=True):
    """Money to be put into a wallet or taken out of it, once. `number` is `book:position`."""

    number: str
    wallet: str
    kind: Kind
    amount_minor: int
    currency: str


class Outcome(msgspec.Struct, frozen=True):
    """What became of an instruction, for ever: done, or refused with the operator's code."""

    instruction: Instruction
    code: str | None = None

    @property
    def is_done(self) -> bool:
        """Whether the money moved."""
        return self.code is None


class Wallet(msgspec.Struct, frozen=True):
    """A wallet as its operator says that it stands."""

    wallet: str
    state: WalletState
    balance_minor: int
    currency: str


class Entry(msgspec.Struct, frozen=True):
    """A line of an operator's statement; a closing takes the rest out and has no number."""

    entry: int
    number: str | None
    wallet: str
    kind: Literal["credit", "debit", "closing"]
    amount_minor: int
    balance_minor: int
    currency: str

    @property
    def change_minor(self) -> int:
        """By how much the wallet's balance changed."""
        return self.amount_minor if self.kind == "credit" else -self.amount_minor


class StatementPage(msgspec.Struct, frozen=True):
    """Lines of a statement in the operator's order; `next` is the cursor of the page behind."""

    items: list[Entry]
    next: int | None = None


class WalletPage(msgspec.Struct, frozen=True):
    """Wallets in the operator's order; `next` is the cursor of the page behind."""

    items: list[Wallet]
    next: str | None = None


class OperatorError(Exception):
    """An operator gave no answer that can be believed."""


class OperatorAway(OperatorError):
    """The operator could not be reached: surely nothing was sent."""


class OutcomeUnknown(OperatorError):
    """Something was sent, and what came back does not tell whether it was done."""


class WalletOperator(Protocol):
    """An operator of wallets. Every method raises `OperatorError`."""

    @property
    def name(self) -> str:
        """The operator's name in the ledger, under which its wallets' pseudonyms are made."""
        ...

    async def open(self, wallet: str, currency: str) -> WalletState:
        """Open a wallet unless it is open; tell whether it is, for a closed one stays closed."""
        ...

    async def instruct(self, instruction: Instruction) -> Outcome:
        """Credit or debit a wallet; the same number again gives the same outcome."""
        ...

    async def look_up(self, number: str) -> Outcome | None:
        """Return the outcome of an instruction, None when the operator has none of this number.

        None does not say that it will never be done: it may still be on its way.
        """
        ...

    async def close(self, wallet: str) -> Wallet:
        """Close a wallet for good; what is in it is taken out."""
        ...

    async def wallet(self, wallet: str) -> Wallet | None:
        """Return how a wallet stands."""
        ...

    async def statement(self, after: int, limit: int, wallet: str | None = None) -> StatementPage:
        """Return the lines after a cursor, of one wallet or of all; 0 begins."""
        ...

    async def hang_up(self) -> None:
        """Close connections that nobody uses; the next question opens another."""
        ...

    async def wallets(self, after: str, limit: int) -> WalletPage:
        """Return the wallets after a cursor; the empty text begins."""
        ...


class WalletNames:
    """The wallet of each person at one operator: a keyed pseudonym that no other operator knows.

    Two operators that compare notes cannot tell which of their wallets belong to one person.
    """

    def __init__(self, key: bytes, operator: str) -> None:
        self._mac = hmac.new(key, operator.encode() + b"\0", hashlib.sha256)

    def of(self, person: str) -> str:
        """Return the wallet of a person: 32 hex digits of HMAC-SHA256."""
        mac = self._mac.copy()
        mac.update(person.encode())
        return mac.hexdigest()[:32]
