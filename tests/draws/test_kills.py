"""Holders that are killed by SIGKILL before and after each step of a draw.

Goal: there is no moment at which a dead holder leaves half a draw, or makes the next one do
something twice.
Method: processes of their own die right before and right after each commit of a draw; each next one
goes on. In the end the book is verified and the bundle is checked.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import pytest

from campaigns.draws.draw import DrawDrawn, DrawFrozen, DrawMovedUp
from ledger.datastore import Datastore
from tests.docs.pages import REPOSITORY
from tests.draws.stories import CLOSES, DEADLINE, DRAWN_AT
from tests.draws.test_holding import Fair
from tests.support.desk import Desk

STEPS = [(CLOSES, 1), (DRAWN_AT, 2), (DEADLINE, 2)]
"""When, and how many commits there are then: freeze; draw, seats; move up, seats."""


@pytest.mark.slow
@pytest.mark.fault
def test_a_draw_survives_any_death(datastore: Datastore, database_url: str, tmp_path: Path) -> None:
    """Killed before and after every commit, it comes to the same draw, once."""
    desk = Desk(datastore, "deaths")
    try:
        fair = Fair(desk, tmp_path / "lists")
        for at, commits in STEPS:
            deaths = [die(fair, database_url, at, when) for _ in range(commits) for when in WHEN]
            assert deaths == [-signal.SIGKILL] * len(deaths)
        fair.hold(DEADLINE)
        assert [len(fair.events(kind)) for kind in (DrawFrozen, DrawDrawn, DrawMovedUp)] == [1] * 3
        assert len(fair.winners()) == len(set(fair.winners())) == 7
        fair.check(tmp_path / "bundle")
    finally:
        desk.close()


WHEN = ("before", "after")


def die(fair: Fair, url: str, at: datetime, when: str) -> int:
    """Start a holder that dies at its first commit; return how it ended."""
    arguments = [url, fair.desk.book, str(fair.lists), at.isoformat(), "1", when]
    done = subprocess.run(
        [sys.executable, "-m", "tests.draws.dying", *arguments],
        cwd=REPOSITORY,
        capture_output=True,
        check=False,
    )
    return done.returncode
