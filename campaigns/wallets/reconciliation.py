"""Reconciliation: the operator's statement, the journal of instructions and the ledger, compared.

Each side is believed for nothing but itself, and every difference is a finding. What the ledger
asks for is told from its postings, not from the rules that the dispatcher reads events by. Work
that is under way is no difference. Pure: three lists in, findings out.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple

import msgspec

from campaigns.accounting import packet_account, postings_of
from campaigns.wallets.instructions import OPEN, State
from campaigns.wallets.port import WALLET_CLOSED, Entry, Instruction, Wallet
from ledger.events import Event
from ledger.verification import Finding

RECONCILIATION_CODES: Final[dict[str, str]] = {
    "doubled": "the operator has each instruction once in its statement",
    "statement_sum": "each line of the statement has the balance that follows from the one before",
    "missing_here": "what is in the operator's statement was asked for, and by us",
    "other_amount": "the operator did what it was asked to: wallet, kind, amount and currency",
    "done_there": "what the journal says was never sent or was refused is not in the statement",
    "missing_there": "what the journal says is done is in the operator's statement",
    "not_ordered": "each event that moves money of a packet is in the journal",
    "ordered_for_nothing": "each instruction in the journal has its event in the ledger",
    "other_order": "the journal asks for what the event says: wallet, kind, amount and currency",
    "refused": "the operator refuses nothing but instructions for closed wallets",
    "other_operator": "no instruction is open for another operator than the one dispatched to",
    "balance": "a wallet has what its lines add up to, and what its packets hold in the ledger",
    "closed_there": "a wallet that the operator closed has no packet with money in the ledger",
}
"""Finding → the rule that it breaks."""


class Booked(NamedTuple):
    """A row of the journal, of any book."""

    instruction: Instruction
    state: State
    code: str | None
    attempts: int
    operator: str

    @property
    def is_final(self) -> bool:
        """Whether it will not change."""
        return self.state not in OPEN


Journal = Mapping[str, Booked]
"""Rows by their number."""


class OperatorSide(NamedTuple):
    """What the operator says: its whole statement, and how each wallet stands."""

    name: str
    lines: Sequence[Entry]
    wallets: Mapping[str, Wallet]


class LedgerSide:
    """What the ledger's postings say: what is asked for, and what each wallet's packets hold."""

    def __init__(self) -> None:
        self.ordered: dict[str, Instruction] = {}
        self.held_minor: defaultdict[str, int] = defaultdict(int)

    def post(self, number: str, wallet: str, event: Event) -> None:
        """Add an event of a packet that is in a wallet."""
        account = packet_account(event.originator_id)
        for one in postings_of(event):
            if account not in (one.debit, one.credit):
                continue
            into = one.debit == account
            self.held_minor[wallet] += one.amount_minor if into else -one.amount_minor
            self.ordered[number] = Instruction(
                number=number,
                wallet=wallet,
                kind="credit" if into else "debit",
                amount_minor=one.amount_minor,
                currency=one.currency,
            )


class Sums(msgspec.Struct):
    """One side in figures."""

    credits: int = 0
    credited_minor: int = 0
    debits: int = 0
    debited_minor: int = 0
    closings: int = 0
    closed_minor: int = 0
    balance_minor: int = 0

    def add(self, kind: str, amount_minor: int) -> None:
        """Count one movement; the balance follows."""
        match kind:
            case "credit":
                self.credits += 1
                self.credited_minor += amount_minor
                self.balance_minor += amount_minor
            case "debit":
                self.debits += 1
                self.debited_minor += amount_minor
                self.balance_minor -= amount_minor
            case _:
                self.closings += 1
                self.closed_minor += amount_minor
                self.balance_minor -= amount_minor


class SumsOfSides(msgspec.Struct):
    """All three sides in figures; `journal` counts what is done."""

    ledger: Sums
    journal: Sums
    operator: Sums
    open: int
    refused: int


def findings(
    before: Journal, operator: OperatorSide, journal: Journal, ledger: LedgerSide
) -> Iterator[Finding]:
    """Return every difference.

    `before` is the journal read before the operator's side, `journal` read after it, and `ledger`
    goes as far as that. So what moved in between is not taken for a difference.
    """
    yield from _of_statement(operator.lines)
    yield from _of_lines(operator.lines, journal)
    yield from _of_done(before, operator.lines)
    yield from _of_orders(journal, ledger)
    yield from _of_rows(journal, operator.name)
    yield from _of_balances(before, operator, journal, ledger)


def sums(operator: OperatorSide, journal: Journal, ledger: LedgerSide) -> SumsOfSides:
    """Return all sides in figures."""
    found = SumsOfSides(Sums(), Sums(), Sums(), 0, 0)
    for instruction in ledger.ordered.values():
        found.ledger.add(instruction.kind, instruction.amount_minor)
    for row in journal.values():
        if row.state == "done":
            found.journal.add(row.instruction.kind, row.instruction.amount_minor)
        found.open += not row.is_final
        found.refused += row.state == "refused"
    for line in operator.lines:
        found.operator.add(line.kind, line.amount_minor)
    return found


def _of_statement(lines: Iterable[Entry]) -> Iterator[Finding]:
    """The statement by itself: nothing twice, and each balance follows from the one before."""
    seen: set[str] = set()
    balances: defaultdict[str, int] = defaultdict(int)
    for line in lines:
        if line.number is not None and line.number in seen:
            yield Finding("doubled", line.number, "one line", f"line {line.entry} as well")
        if line.number is not None:
            seen.add(line.number)
        balances[line.wallet] += line.change_minor
        if balances[line.wallet] != line.balance_minor:
            yield Finding(
                "statement_sum",
                f"line {line.entry}",
                f"balance {balances[line.wallet]}",
                str(line.balance_minor),
            )
            balances[line.wallet] = line.balance_minor


def _of_lines(lines: Iterable[Entry], journal: Journal) -> Iterator[Finding]:
    """Each line of the statement, as the journal knows it."""
    for line in lines:
        if line.number is None:
            continue
        row = journal.get(line.number)
        if row is None:
            yield Finding("missing_here", line.number, "nothing", _line(line))
        elif _of_line(line) != row.instruction:
            yield Finding("other_amount", line.number, _said(row.instruction), _line(line))
        elif row.state == "refused" or row.attempts == 0:
            yield Finding("done_there", line.number, row.code or row.state, _line(line))


def _of_done(before: Journal, lines: Iterable[Entry]) -> Iterator[Finding]:
    """Each done instruction has its line."""
    there = {line.number for line in lines}
    for number, row in before.items():
        if row.state == "done" and number not in there:
            yield Finding("missing_there", number, _said(row.instruction), "nothing")


def _of_orders(journal: Journal, ledger: LedgerSide) -> Iterator[Finding]:
    """The journal and the ledger's postings, both ways."""
    for number, wanted in ledger.ordered.items():
        row = journal.get(number)
        if row is None:
            yield Finding("not_ordered", number, _said(wanted), "nothing")
        elif row.instruction != wanted:
            yield Finding("other_order", number, _said(wanted), _said(row.instruction))
    for number, row in journal.items():
        if number not in ledger.ordered:
            yield Finding("ordered_for_nothing", number, "nothing", _said(row.instruction))


def _of_rows(journal: Journal, operator: str) -> Iterator[Finding]:
    """Rows that will not come right by themselves."""
    for number, row in journal.items():
        if row.state == "refused" and row.code != WALLET_CLOSED:
            yield Finding("refused", number, "done", row.code or "refused")
        elif not row.is_final and row.operator != operator:
            yield Finding("other_operator", number, operator, row.operator)


def _of_balances(
    before: Journal, operator: OperatorSide, journal: Journal, ledger: LedgerSide
) -> Iterator[Finding]:
    """What is in each wallet: as its lines add up, as the operator says, as the ledger says."""
    moving = {
        row.instruction.wallet
        for number, row in journal.items()
        if not row.is_final or number not in before or not before[number].is_final
    }
    lines: defaultdict[str, int] = defaultdict(int)
    for line in operator.lines:
        lines[line.wallet] += line.change_minor
    for wallet in sorted({*lines, *operator.wallets, *ledger.held_minor} - moving):
        found = operator.wallets.get(wallet)
        there, held = (found.balance_minor if found else 0), ledger.held_minor.get(wallet, 0)
        where = f"wallet {wallet}"
        if there != lines[wallet]:
            yield Finding("balance", where, f"{lines[wallet]} by its lines", str(there))
        if found is not None and found.state == "closed" and held and not there:
            yield Finding("closed_there", where, "no money in packets", str(held))
        elif there != held:
            yield Finding("balance", where, f"{held} in packets", str(there))


def _of_line(line: Entry) -> Instruction | None:
    if line.number is None or line.kind == "closing":
        return None
    return Instruction(
        number=line.number,
        wallet=line.wallet,
        kind=line.kind,
        amount_minor=line.amount_minor,
        currency=line.currency,
    )


def _said(instruction: Instruction) -> str:
    return (
        f"{instruction.kind} {instruction.amount_minor} {instruction.currency}"
        f" of {instruction.wallet}"
    )


def _line(line: Entry) -> str:
    return f"{line.kind} {line.amount_minor} {line.currency} of {line.wallet}"
