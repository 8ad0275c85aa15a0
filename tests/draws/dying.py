"""A holder in a process of its own that kills itself: `python -m tests.draws.dying …`.

It dies by SIGKILL right before or right after the n-th thing that it asks of the book, with
whatever it had on disk by then. Where n is 0 it lives, until everything that is due is done.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

from api.publicdraws import DrawHolder
from campaigns.accounting import check_postings
from campaigns.draws.beacon import Beacon
from campaigns.draws.terms import Chain
from campaigns.event_types import MAPPER
from ledger.commit import GroupCommit
from ledger.datastore import Datastore
from tests.draws.stories import SIGNATURE
from tests.support.desk import DRAW_KEY


class Public:
    """A beacon that speaks."""

    def value(self, _chain: Chain, number: int) -> Beacon | None:
        """The value of these tests."""
        return Beacon(number, SIGNATURE)


def mortal(ask: Callable[..., Any], fatal: int, after: bool) -> Callable[..., Any]:
    """Ask, and die at the `fatal`-th question, counted from 1, before it or when it is answered."""
    asked = 0

    def asking(*question: Any) -> Any:
        nonlocal asked
        asked += 1
        if asked == fatal and not after:
            os.kill(os.getpid(), signal.SIGKILL)
        answer = ask(*question)
        if asked == fatal:
            os.kill(os.getpid(), signal.SIGKILL)
        return answer

    return asking


def main(url: str, book: str, lists: str, at: str, fatal: str, when: str) -> None:
    """Hold what is due, as long as it lives."""
    datastore = Datastore(url)
    writer = GroupCommit(datastore, book, MAPPER, check=check_postings).start()
    holder = DrawHolder(datastore, writer, lambda: DRAW_KEY, Public(), Path(lists), batch=3)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sys.stdin.readline()
    upkeep = holder._upkeep
    upkeep.ask = mortal(upkeep.ask, int(fatal), when == "after")  # type: ignore[method-assign]
    for _ in holder.steps(datetime.fromisoformat(at)):
        pass
    writer.close()
    datastore.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
