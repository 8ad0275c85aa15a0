"""The lists of public draws on this machine: kept up with the book, lent to one process at a time.

A list is a copy of what the book says. One that is damaged or lost is made again; one that is not
what was published is never drawn from.
"""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Final, NamedTuple
from uuid import UUID

from api.upkeep import Troubled
from campaigns.campaign import CAMPAIGN_FOLD, Campaign
from campaigns.draws.announcing import facts_of
from campaigns.draws.draw import DRAW_FOLD, PublicDraw, draw_id
from campaigns.draws.listing import EntryList
from campaigns.draws.terms import PublicDrawTerms
from ledger.books import Book
from ledger.history import History, state_of

FOLDERS_MAX: Final = 16
"""Processes that may keep the same list on one machine, each in a folder of its own."""

READ_AGAIN_MAX: Final = 10_000
"""Events of other things that are rather read once more than marked as read on disk."""


class Known(NamedTuple):
    """A campaign with a public draw, as its two streams tell."""

    campaign: Campaign
    terms: PublicDrawTerms
    draw: PublicDraw


def folder_of(lists: Path, book: str, campaign: UUID, number: int = 0) -> Path:
    """Return the folder of a campaign's list; the first is that of whoever draws alone."""
    return lists / book / f"{campaign.hex}-{number}"


class DrawLists:
    """The lists of one book's public draws."""

    def __init__(self, history: History, folder: Path) -> None:
        self.book = Book(history.book)
        self._history = history
        self._folder = folder

    def campaign(self, campaign: UUID) -> Campaign | None:
        """Return a campaign as the book has it."""
        return state_of(self._history.stream(campaign), CAMPAIGN_FOLD)

    def known(self, campaign: UUID) -> Known | None:
        """Return a campaign with its public draw, None where there is none or none was opened."""
        state = self.campaign(campaign)
        if state is None or state.terms.public_draw is None:
            return None
        draw = state_of(self._history.stream(draw_id(campaign)), DRAW_FOLD)
        return None if draw is None else Known(state, state.terms.public_draw, draw)

    @contextmanager
    def lend(self, campaign: UUID) -> Iterator[EntryList]:
        """Lend a folder of a list that no other process writes to."""
        for number in range(FOLDERS_MAX):
            folder = folder_of(self._folder, self.book, campaign, number)
            folder.parent.mkdir(parents=True, exist_ok=True)
            lock = (folder.parent / f"{folder.name}.lock").open("ab")
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                lock.close()
                continue
            with lock, EntryList(folder) as listed:
                yield listed
            return
        raise Troubled(f"{FOLDERS_MAX} processes keep this list already")

    def keep_up(self, listed: EntryList, campaign: UUID) -> None:
        """Take in what the book has got since; write it down when that is worth it."""
        before = listed.mark
        listed.follow(campaign, self._history.entries(before.position))
        after = listed.mark
        is_longer = (after.entries, after.withdrawn) != (before.entries, before.withdrawn)
        if is_longer or after.position - before.position >= READ_AGAIN_MAX:
            listed.keep()

    @contextmanager
    def frozen(self, known: Known) -> Iterator[EntryList]:
        """Lend a frozen list; one on disk that is not the published one is made again, once."""
        frozen, campaign = known.draw.frozen, known.campaign.id
        assert frozen is not None, "the list is frozen"
        with self.lend(campaign) as listed:
            for attempt in count():
                self.keep_up(listed, campaign)
                if listed.facts() == facts_of(frozen):
                    break
                if attempt:
                    raise Troubled("the book's entries are not the list that was frozen")
                listed.clear()
            yield listed
