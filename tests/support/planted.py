"""A server with a bug on purpose: `python -m tests.support.planted`, with the bug's name in PLANT.

The controls of the fault tests run it to show that they would see what they look for.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from api import confirming, passage, serve, worker
from campaigns import commands, gate
from ledger import appending

VARIABLE = "PLANT"
MARK = "PLANT_MARK"
"""A file that says that a worker has died once."""

DIES_AT = 40

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


def _dies_after_admission() -> None:
    """No bug: a worker is killed right after the gate has admitted somebody, once."""
    queue = passage.Passage._queue
    admitted = 0
    mark = Path(os.environ[MARK])

    def die(self: Any) -> None:
        nonlocal admitted
        admitted += 1
        if admitted == DIES_AT and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        queue(self)

    patch.setattr(passage.Passage, "_queue", die)


PLANTS: dict[str, Callable[[], None]] = {
    "nothing": _nothing,
    "stock_of_the_gate": _stock_of_the_gate,
    "no_person_key": _no_person_key,
    "refusals_not_confirmed": _refusals_not_confirmed,
    "no_tokens_is_sold_out": _no_tokens_is_sold_out,
    "errors_reach_callers": _errors_reach_callers,
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
