"""A server with a bug on purpose: `python -m tests.support.planted`, with the bug's name in PLANT.

The controls of the fault tests run it to show that they would see what they look for.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from api import confirming, gatekeeper, passage, serve, worker
from api.errors import Problem
from campaigns import commands, freeing, gate, wire
from ledger import appending

VARIABLE = "PLANT"
MARK = "PLANT_MARK"
"""A file that says that a worker has died once, and whose request it had just admitted."""

DIES_AT = 30

patch = pytest.MonkeyPatch()
"""It is never undone: the bug stays for the life of the process."""


def _nothing() -> None:
    """No bug."""


def _stock_of_the_gate() -> None:
    """The server believes in the gate's tokens and does not take the capacity row."""
    write = appending.capacity_statement

    def write_none_taken(cursor: Any, book: str, pools: Any) -> bytes:
        full = {pool: left._replace(issued=0, granted_minor=0) for pool, left in pools.items()}
        return write(cursor, book, full)

    patch.setattr(appending, "capacity_statement", write_none_taken)


def _no_person_key() -> None:
    """A coupon's id is not made of its person, so that only the gate remembers who has one."""
    patch.setattr(commands, "coupon_id", lambda *_: uuid4())


def _refusals_not_confirmed() -> None:
    """What the gate would refuse is refused, whatever the store says."""

    def believe(self: Any, refusables: Any) -> None:
        for refusable in refusables:
            gate.tell(refusable.heard, refusable.word)

    patch.setattr(confirming.Confirmer, "__call__", believe)


def _no_tokens_is_sold_out() -> None:
    """Whoever finds no token is told that all is gone."""
    take = passage.Passage._take_slow_lane

    def refuse(self: Any) -> None:
        if self.passages.gate.away:
            take(self)
            return
        word = gate.Word(gate.Verdict.SOLD_OUT, code="sold_out", facts=(("quota", 0),))
        self._heard(word)

    patch.setattr(passage.Passage, "_take_slow_lane", refuse)


def _errors_reach_callers() -> None:
    """An error at the gate ends the call instead of its way to the store."""

    def fail(self: Any, *_: Any, **__: Any) -> None:
        raise RuntimeError("the gate made an error")

    patch.setattr(gate.Gate, "_hear_nothing", fail)


def _errors_are_answers() -> None:
    """A function that is missing is taken for a gate that has nothing left."""
    patch.setattr(wire, "function_is_missing", lambda _: False)
    hold = gate.Gate._hold

    def refuse(self: Any, door: Any, batch: Any, *, broken: bool) -> None:
        if not broken:
            hold(self, door, batch, broken=broken)
            return
        word = gate.Word(gate.Verdict.SOLD_OUT, code="sold_out", facts=(("quota", 0),))
        for _, heard in batch:
            gate.tell(heard, word)

    patch.setattr(gate.Gate, "_hold", refuse)


def _tokens_only() -> None:
    """No bug yet: whoever finds no token has to come again, so that a lost one is missed."""
    hear = passage.Passage._heard

    def need_a_token(self: Any, word: gate.Word) -> None:
        if word is gate.NO_TOKEN and not self.over:
            self._release()
            self._refuse(Problem("overloaded", "There is no token."))
        else:
            hear(self, word)

    patch.setattr(passage.Passage, "_heard", need_a_token)


def _with_library(right: str, wrong: str) -> None:
    """Let the servers use functions of which one line is different."""
    template = files("campaigns").joinpath("gate.lua").read_text("utf-8")
    assert right in template
    library = wire.Library.of(template.replace(right, wrong))
    patch.setattr(gatekeeper, "wire_to", partial(wire.wire_to, library=library))
    patch.setattr(gatekeeper, "Freeing", partial(freeing.Freeing, library=library))


def _the_dead_hold_tokens() -> None:
    """What a worker said last counts for ever, however long it has been silent."""
    _with_library("if count and math.abs(now_s - at) <= WORKER_S then", "if count then")


def _the_stale_hold_tokens() -> None:
    """What was said at an instant that is yet to come counts until then."""
    _with_library("math.abs(now_s - at) <= WORKER_S", "now_s - at <= WORKER_S")


def _dies_after_admission() -> None:
    """No bug: a worker is killed right after the gate has admitted somebody, once."""
    hear = passage.Passage._heard
    admitted = 0
    mark = Path(os.environ[MARK])

    def die(self: Any, word: gate.Word) -> None:
        nonlocal admitted
        admitted += word.verdict is gate.Verdict.ADMITTED
        if admitted == DIES_AT and not mark.exists():
            assert self.knock is not None
            mark.write_text(self.knock.person)
            os.kill(os.getpid(), signal.SIGKILL)
        hear(self, word)

    patch.setattr(passage.Passage, "_heard", die)


PLANTS: dict[str, Callable[[], None]] = {
    "nothing": _nothing,
    "stock_of_the_gate": _stock_of_the_gate,
    "no_person_key": _no_person_key,
    "refusals_not_confirmed": _refusals_not_confirmed,
    "no_tokens_is_sold_out": _no_tokens_is_sold_out,
    "errors_reach_callers": _errors_reach_callers,
    "errors_are_answers": _errors_are_answers,
    "tokens_only": _tokens_only,
    "the_dead_hold_tokens": _the_dead_hold_tokens,
    "the_stale_hold_tokens": _the_stale_hold_tokens,
    "dies_after_admission": _dies_after_admission,
}


def main() -> None:
    """Plant the bugs in a worker; as the server itself, start workers that do so."""
    if sys.argv[1:2] == ["worker"]:
        del sys.argv[1]
        for plant in os.environ[VARIABLE].split(","):
            PLANTS[plant]()
        worker.main()
    else:
        patch.setattr(serve, "WORKER", (sys.executable, "-m", "tests.support.planted", "worker"))
        serve.main()


if __name__ == "__main__":
    main()
