"""Judging a run of alike events by columns: it is without any finding, or nothing is said of it.

The rules are worded in the audit and nowhere else. Here each is a comparison of columns that holds
only where the audit would find nothing; and what the audit would have changed is changed alike.
Nothing is changed for an event that is not confirmed or comes after one.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple
from uuid import UUID

import numpy as np

from campaigns.accounting import campaign_account, merchant_account, sponsor_account
from campaigns.campaign import Campaign, Terms
from campaigns.columns.alike import (
    CLAIM,
    EXPIRY,
    REDEMPTION,
    REFUND,
    VOIDING,
    Fact,
    micros_of,
)
from campaigns.columns.names import keys_of, owners_of
from campaigns.columns.reading import Columns, Shared
from campaigns.columns.streams import HAS_COUPON, STEP_BITS, VERSION_BITS_FROM
from campaigns.columns.sums import Running
from campaigns.columns.texts import Array
from campaigns.export_window import Window
from campaigns.judging import (
    EXPIRED,
    FIRST_INSTANT,
    HELD,
    ORDINAL_BITS_FROM,
    REDEEMED,
    STATE_MASK,
    VOIDED,
    Pot,
)
from campaigns.verification import Audit
from ledger.exporting.spilling import mixed

AMOUNT_MAX: Final = 1 << 40
"""Largest face value that is summed up in columns: a run of such stays far inside 64 bits."""

QUANTITY_MAX: Final = 1 << 60
"""Largest stock, budget or balance to which a run is added in columns."""

_NOTHING: Final = -1
_BEFORE: Final = np.array([_NOTHING, HELD, REDEEMED, HELD, HELD], np.int64)
_AFTER: Final = np.array([HELD, REDEEMED, HELD, EXPIRED, VOIDED], np.int64)
"""Kind of event → what the coupon must be before it, and what it is after it."""

_EVER, _NEVER = -(1 << 62), 1 << 62
_EPOCH: Final = datetime.fromtimestamp(0, UTC)
_SINCE_FIRST: Final = micros_of(FIRST_INSTANT)
_MICROSECOND: Final = timedelta(microseconds=1)


class _Bounds(NamedTuple):
    """What a fact asks of its events, and what each of them changes; nothing where it is wrong."""

    is_sound: bool = False
    begin: int = 0
    end: int = 0
    """Instants of the events: from and until, in microseconds since 1970."""
    least: int = 0
    limit: int = 0
    """Ordinals of the claims."""
    threshold: int = 0
    issued: int = 0
    granted: int = 0
    budget: int = 0
    """What a pot's figures change by."""
    pot: int = 0
    """What the pot's account changes by."""
    held: int = 0
    earned: int = 0


class _Chains(NamedTuple):
    """The events of a run by stream, those of one stream behind each other in order."""

    order: Array
    is_first: Array
    group: Array
    rows: Array
    """What was kept of each stream."""


class Judge:
    """Confirms runs of events of the book that an audit with a window is fed."""

    def __init__(self, audit: Audit, window: Window) -> None:
        self._audit = audit
        self._book, self._rules = audit.book, audit.rules
        self._window = window
        self._erased: Array = keys_of([])
        self._erased_count = 0
        self.confirmed = 0
        """How many events were."""

    @property
    def is_able(self) -> bool:
        """Whether runs can be judged: not any more once something was found."""
        return self._audit.is_clean

    def confirm(self, run: Columns, shared: Shared) -> int:
        """Return how many events from the first on are without any finding, and go on after them.

        None of the run's positions is missing.
        """
        while len(run.kind):
            confirmed = _Run(self._audit, self._window, run, shared, self._erased_keys()).judge()
            if confirmed == len(run.kind):
                self.confirmed += confirmed
                return confirmed
            run = run.part(0, confirmed)
        return 0

    def _erased_keys(self) -> Array:
        erased = self._rules.persons.erased
        if len(erased) != self._erased_count:
            self._erased_count = len(erased)
            self._erased = keys_of(sorted(erased))
        return self._erased


class _Run:
    """One run of events, judged once."""

    def __init__(
        self, audit: Audit, window: Window, run: Columns, shared: Shared, erased: Array
    ) -> None:
        self._book, self._rules = audit.book, audit.rules
        self._window = window
        self._run = run
        self._shared = shared
        self._erased = erased
        self._used = np.unique(run.fact).tolist()
        self._bounds = self._bounds_of_facts()
        self._wrong = np.zeros(len(run.kind), bool)

    def judge(self) -> int:
        """Return the number of events before the first that is not confirmed.

        Where that is all of them, the audit has gone on after them.
        """
        self._judge_alone()
        chains = self._judge_steps()
        self._judge_ordinals(chains)
        moved = self._judge_pots()
        earned = self._judge_merchants()
        if self._wrong.any():
            return int(np.argmax(self._wrong))
        self._keep(chains)
        for pot, change in moved.items():
            self._move_pot(pot, change)
        for (currency, account), minor in earned.items():
            self._move(currency, account, minor)
        self._move_holders()
        last = _EPOCH + int(self._run.at[-1]) * _MICROSECOND
        position = self._book.position + len(self._run.kind)
        self._book.passed(position, last)
        self._rules.passed(position)
        return len(self._run.kind)

    # --- facts --------------------------------------------------------------------------------

    def _bounds_of_facts(self) -> dict[str, Array]:
        facts, known = self._shared.facts, [_Bounds()] * len(self._shared.facts)
        for number in self._used:
            known[number] = self._bounds_of(facts[number])
        columns = zip(*known, strict=True)
        return {
            name: np.array(column) for name, column in zip(_Bounds._fields, columns, strict=True)
        }

    def _bounds_of(self, fact: Fact) -> _Bounds:
        pot = self._rules.pots.get(fact.campaign)
        if pot is None or not self._is_sound(fact, pot):
            return _Bounds()
        return _BOUNDS[fact.kind](fact, pot.campaign.terms)

    def _is_sound(self, fact: Fact, pot: Pot) -> bool:
        """Whether what the events have in common is what the campaign says at this position."""
        terms = pot.campaign.terms
        is_plain = pot.lottery is None and pot.handout is None and terms.public_draw is None
        if not (pot.judged and is_plain) or terms.kind == "packet" or terms.packet is not None:
            return False
        if (fact.amount_minor, fact.currency) != (terms.face_minor, terms.currency):
            return False
        if not 0 < fact.amount_minor <= AMOUNT_MAX or fact.currency not in self._book.balances:
            return False
        asks = _ASKS.get(fact.kind)
        return asks is None or asks(fact, pot.campaign)

    # --- rules --------------------------------------------------------------------------------

    def _of(self, name: str) -> Array:
        """Return what each event's fact has there."""
        found: Array = self._bounds[name][self._run.fact]
        return found

    def _judge_alone(self) -> None:
        """Judge what an event and its campaign say, and that instants do not decrease."""
        run, wrong = self._run, self._wrong
        wrong |= ~self._of("is_sound")
        wrong |= (run.at < self._of("begin")) | (run.at >= self._of("end"))
        wrong |= (run.n < self._of("least")) | (run.n > self._of("limit"))
        wrong |= run.total_minor < self._of("threshold")
        wrong[1:] |= run.at[1:] < run.at[:-1]
        if self._book.at is not None and run.at[0] < micros_of(self._book.at):
            wrong[0] = True
        if len(self._erased):
            wrong |= (run.kind == CLAIM) & np.isin(run.person["low"], self._erased["low"])
        for number in self._used:
            fact = self._shared.facts[number]
            pot = self._rules.pots.get(fact.campaign)
            if fact.kind == REDEMPTION and pot is not None and pot.merchants is not None:
                named = np.array([one in pot.merchants for one in self._shared.merchants])
                wrong |= (run.fact == number) & ~named[run.merchant]

    def _judge_steps(self) -> _Chains:
        """Judge that every stream goes on by one version and every coupon by a step of its life."""
        run, wrong = self._run, self._wrong
        chains = self._chains()
        order, is_first, group, rows = chains
        kinds, has_coupon = run.kind[order], (rows["step"] & HAS_COUPON) != 0
        firsts = np.flatnonzero(is_first)
        step = np.arange(len(order)) - firsts[group]
        version = (rows["step"] >> VERSION_BITS_FROM)[group] + 1 + step
        state = np.where(has_coupon, rows["step"] & STATE_MASK, _NOTHING)
        before = _behind(_AFTER[kinds], is_first, state)
        amiss = (run.version[order] != version) | (before != _BEFORE[kinds])
        owners = owners_of(run.person, self._campaigns()[run.fact])[order]
        before = _behind(owners, is_first, rows["owner"])
        amiss |= (kinds != CLAIM) & (before != owners)
        marks = run.mark[order]
        amiss |= (kinds == REFUND) & (_behind(marks, is_first, rows["mark"]) != marks)
        wrong[order[amiss]] = True
        return chains

    def _chains(self) -> _Chains:
        stream = self._run.stream
        numbers = mixed(stream)
        order = np.argsort(numbers, kind="stable")
        numbers, sorted_streams = numbers[order], stream[order]
        is_first = np.ones(len(order), bool)
        is_first[1:] = numbers[1:] != numbers[:-1]
        # Different streams of one number would not be in order: nobody has such by chance.
        is_mixed = np.zeros(len(order), bool)
        is_mixed[1:] = ~is_first[1:] & (sorted_streams[1:] != sorted_streams[:-1])
        self._wrong[order[is_mixed]] = True
        rows = self._window.streams.found(sorted_streams[is_first])
        return _Chains(order, is_first, np.cumsum(is_first) - 1, rows)

    def _campaigns(self) -> Array:
        """Return the key of the campaign of each fact."""
        return keys_of([fact.campaign.hex for fact in self._shared.facts])

    def _judge_ordinals(self, chains: _Chains) -> None:
        """Judge that the one before was claimed by the same person, of claims but the first."""
        run = self._run
        later = np.flatnonzero((run.kind == CLAIM) & (run.n > 1))
        if not len(later):
            return
        wanted = run.before[later]
        keys, places = np.unique(wanted, return_inverse=True)
        has_coupon = ((self._window.streams.found(keys)["step"] & HAS_COUPON) != 0)[places]
        firsts = np.flatnonzero(chains.is_first)
        heads = chains.order[firsts]
        claimed = np.searchsorted(mixed(run.stream[heads]), mixed(wanted))
        head = heads[np.minimum(claimed, len(heads) - 1)]
        is_claimed = (run.stream[head] == wanted) & (run.kind[head] == CLAIM) & (head < later)
        self._wrong[later[~(has_coupon | is_claimed)]] = True

    def _judge_pots(self) -> dict[UUID, dict[str, int]]:
        """Judge stock and money at every position; return what changed of each pot."""
        numbers: dict[UUID, int] = {}
        for number in self._used:
            numbers.setdefault(self._shared.facts[number].campaign, len(numbers))
        of_fact = np.zeros(len(self._shared.facts), np.int16)
        for number in self._used:
            of_fact[number] = numbers[self._shared.facts[number].campaign]
        pots = [self._rules.pots.get(campaign) for campaign in numbers]
        group = of_fact[self._run.fact]
        figures = {
            "issued": [pot.issued if pot else 0 for pot in pots],
            "quota": [pot.quota if pot else 0 for pot in pots],
            "granted": [pot.granted_minor if pot else 0 for pot in pots],
            "budget": [pot.budget_minor if pot else 0 for pot in pots],
            "pot": [
                self._balance(pot.campaign.terms.currency, campaign_account(campaign)) if pot else 0
                for campaign, pot in zip(numbers, pots, strict=True)
            ],
        }
        if max(map(abs, (one for ones in figures.values() for one in ones))) > QUANTITY_MAX:
            self._wrong[:] = True
            return {}
        begins = {name: np.array(column, np.int64) for name, column in figures.items()}
        changes = {name: self._of(name) for name in figures if name != "quota"}
        running = Running(group)
        sums = {name: running.sums(change, begins[name]) for name, change in changes.items()}
        self._wrong |= (sums["issued"] < 0) | (sums["issued"] > begins["quota"][group])
        self._wrong |= (sums["granted"] < 0) | (sums["granted"] > sums["budget"])
        self._wrong |= sums["pot"] < 0
        return {
            campaign: {name: int(change[group == number].sum()) for name, change in changes.items()}
            for campaign, number in numbers.items()
        }

    def _judge_merchants(self) -> dict[tuple[str, str], int]:
        """Judge that no merchant gives back what was not earned; return what each came to."""
        run = self._run
        rows = np.flatnonzero((run.kind == REDEMPTION) | (run.kind == REFUND))
        if not len(rows):
            return {}
        currencies = sorted({self._shared.facts[number].currency for number in self._used})
        of_fact = np.array(
            [
                currencies.index(fact.currency) if fact.currency in currencies else 0
                for fact in self._shared.facts
            ]
        )
        count = len(self._shared.merchants)
        used, group = np.unique(
            of_fact[run.fact[rows]] * count + run.merchant[rows], return_inverse=True
        )
        accounts = [
            (currencies[one // count], merchant_account(self._shared.merchants[one % count]))
            for one in used.tolist()
        ]
        balances = [self._balance(*account) for account in accounts]
        if max(map(abs, balances)) > QUANTITY_MAX:
            self._wrong[rows] = True
            return {}
        changes = self._of("earned")[rows]
        sums = Running(group).sums(changes, np.array(balances, np.int64))
        self._wrong[rows[sums < 0]] = True
        last = np.zeros(len(used), np.int64)
        np.add.at(last, group, changes)
        return dict(zip(accounts, last.tolist(), strict=True))

    # --- what the audit would have changed ----------------------------------------------------

    def _keep(self, chains: _Chains) -> None:
        """Keep what every stream and its coupon have become."""
        order, is_first, _, rows = chains
        run = self._run
        is_last = np.ones(len(order), bool)
        is_last[:-1] = is_first[1:]
        first, last = order[is_first], order[is_last]
        claimed = run.kind[first] == CLAIM
        ordinal = np.where(
            claimed, run.n[first] << ORDINAL_BITS_FROM, rows["step"] & (1 << STEP_BITS) - 1
        )
        state = _AFTER[run.kind[last]]
        rows["step"] = (
            run.version[last] << VERSION_BITS_FROM | HAS_COUPON | ordinal & ~STATE_MASK | state
        )
        taken = run.kind[last] == REDEMPTION
        rows["mark"] = np.where(taken, run.mark[last], 0)
        rows["micros"] = np.where(taken, run.at[last] - _SINCE_FIRST, 0)
        rows["taken"] = np.where(taken, run.version[last], 0)
        owners = owners_of(run.person[last], self._campaigns()[run.fact[last]])
        rows["owner"] = owners
        self._window.streams.keep(rows)

    def _move_pot(self, campaign: UUID, change: dict[str, int]) -> None:
        pot = self._rules.pots[campaign]
        pot.issued += change["issued"]
        pot.granted_minor += change["granted"]
        pot.budget_minor += change["budget"]
        currency = pot.campaign.terms.currency
        self._move(currency, campaign_account(campaign), change["pot"])
        self._move(currency, sponsor_account(pot.campaign.sponsor), -change["budget"])

    def _move_holders(self) -> None:
        currencies = {self._shared.facts[number].currency for number in self._used}
        held, earned = self._of("held"), self._of("earned")
        for currency in currencies:
            of_fact = np.array([fact.currency == currency for fact in self._shared.facts])
            rows = slice(None) if len(currencies) == 1 else of_fact[self._run.fact]
            self._window.holders[currency].move(self._run.person[rows], held[rows])
            self._rules.held_minor[currency] += int(held[rows].sum())
            self._rules.redeemed_minor[currency] += int(earned[rows].sum())

    def _balance(self, currency: str, account: str) -> int:
        return self._book.balances[currency].get(account, 0)

    def _move(self, currency: str, account: str, minor: int) -> None:
        accounts = self._book.balances[currency]
        accounts[account] = accounts.get(account, 0) + minor
        if not accounts[account]:
            del accounts[account]


# --- kinds of events --------------------------------------------------------------------------


def _claim(fact: Fact, terms: Terms) -> _Bounds:
    return _Bounds(
        is_sound=True,
        begin=micros_of(terms.claim_from),
        end=micros_of(terms.claim_until),
        least=1,
        limit=terms.per_person_limit,
        issued=1,
        granted=fact.amount_minor,
        pot=-fact.amount_minor,
        held=fact.amount_minor,
    )


def _redemption(fact: Fact, terms: Terms) -> _Bounds:
    return _Bounds(
        is_sound=True,
        begin=micros_of(terms.valid_from),
        end=micros_of(terms.valid_until),
        threshold=terms.threshold_minor,
        held=-fact.amount_minor,
        earned=fact.amount_minor,
    )


def _refund(fact: Fact, terms: Terms) -> _Bounds:
    """Return those of a refund; one after the validity owes a reclaim and is not for columns."""
    return _Bounds(
        is_sound=True,
        begin=_EVER,
        end=micros_of(terms.valid_until),
        held=fact.amount_minor,
        earned=-fact.amount_minor,
    )


def _end(fact: Fact, terms: Terms) -> _Bounds:
    valid_until = micros_of(terms.valid_until)
    is_pots = fact.destination[0] == "campaign"
    return _Bounds(
        is_sound=True,
        begin=valid_until if fact.kind == EXPIRY else _EVER,
        end=_NEVER if fact.kind == EXPIRY else valid_until,
        issued=-1 if terms.restock else 0,
        granted=-fact.amount_minor,
        budget=0 if is_pots else -fact.amount_minor,
        pot=fact.amount_minor if is_pots else 0,
        held=-fact.amount_minor,
    )


_BOUNDS: Final[dict[int, Callable[[Fact, Terms], _Bounds]]] = {
    CLAIM: _claim,
    REDEMPTION: _redemption,
    REFUND: _refund,
    EXPIRY: _end,
    VOIDING: _end,
}


def _is_claim_of(fact: Fact, campaign: Campaign) -> bool:
    terms = campaign.terms
    expected = (campaign.version, terms.threshold_minor)
    validity = (terms.valid_from, terms.valid_until)
    return (
        campaign.state == "open"
        and (fact.campaign_version, fact.threshold_minor) == expected
        and fact.validity == validity
    )


def _is_expiry_of(fact: Fact, campaign: Campaign) -> bool:
    return fact.validity == (campaign.terms.valid_until,) and _is_end_of(fact, campaign)


def _is_end_of(fact: Fact, campaign: Campaign) -> bool:
    return fact.destination == (campaign.returns_to, campaign.sponsor)


_ASKS: Final[dict[int, Callable[[Fact, Campaign], bool]]] = {
    CLAIM: _is_claim_of,
    EXPIRY: _is_expiry_of,
    VOIDING: _is_end_of,
}
"""Kind → whether its facts are the campaign's; those of other kinds have none but the amount."""


def _behind(values: Array, is_first: Array, begins: Array) -> Array:
    """Return the value behind each in its chain; of the first in each what it begins with."""
    found = np.empty(len(values), np.int64)
    found[1:] = values[:-1]
    found[is_first] = begins
    return found
