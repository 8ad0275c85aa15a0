"""Holders that are killed by SIGKILL before and after each step of a draw, and several at once.

Goal: there is no moment at which a dead holder leaves half a draw, or makes the next one do
something twice; and holders that know nothing of each other hold one draw.
Method: processes of their own, each with its writer, die right before and right after each commit
of a draw, or start in the same instant. In the end the book is verified and the bundle is checked.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from contextlib import ExitStack
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
    with started(fair, url, at, 1, when) as holder:
        holder.communicate(b"go\n")
    return holder.returncode


@pytest.mark.slow
@pytest.mark.fault
@pytest.mark.parametrize("shared", [True, False], ids=["one folder", "a folder each"])
def test_holders_in_processes_of_their_own(
    datastore: Datastore, database_url: str, tmp_path: Path, shared: bool
) -> None:
    """Two machines that both believe to be the one: a draw, and a seat each, are given once."""
    desk = Desk(datastore, f"crowd{shared:d}")
    try:
        fair = Fair(desk, tmp_path / "lists", people=30)
        for at, _ in STEPS:
            homes = [fair.lists if shared else tmp_path / f"lists {n}" for n in range(3)]
            with ExitStack() as stack:
                holders = [
                    stack.enter_context(started(fair, database_url, at, 0, "never", home))
                    for home in homes
                ]
                for holder in holders:  # each has its writer and waits for the word
                    assert holder.stdout is not None
                    assert holder.stdout.readline() == b"ready\n"
                for holder in holders:
                    assert holder.stdin is not None
                    holder.stdin.write(b"go\n")
                    holder.stdin.flush()
                assert [holder.wait(120) for holder in holders] == [0] * 3
        assert [len(fair.events(kind)) for kind in (DrawFrozen, DrawDrawn, DrawMovedUp)] == [1] * 3
        assert len(fair.winners()) == len(set(fair.winners())) == 7
        fair.check(tmp_path / "bundle")
    finally:
        desk.close()


def started(
    fair: Fair, url: str, at: datetime, fatal: int, when: str, lists: Path | None = None
) -> subprocess.Popen[bytes]:
    """Start a holder that begins when it is told to."""
    arguments = [url, fair.desk.book, str(lists or fair.lists), at.isoformat(), str(fatal), when]
    return subprocess.Popen(
        [sys.executable, "-m", "tests.draws.dying", *arguments],
        cwd=REPOSITORY,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
