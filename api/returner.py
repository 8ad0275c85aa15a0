"""The returner: gives senders back what nobody took in a day, and empties purses at the end.

Which groups and purses are due is read from their projection, and that is a hint: each is judged
again by the book's writer, under its lock and its clock. So rows that lag, two returners at once
and a share that is taken in the same moment are all harmless. Nothing is decided here.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from datetime import datetime
from typing import Final, NamedTuple
from uuid import UUID

from api.sweeper import SHOWN_WITHIN_S, SWEEPER
from api.upkeep import POLL_S, Upkeep, again_and_again, instant_in
from campaigns.commands import Command
from campaigns.groups.commands import ReturnGroup, SweepPurse
from campaigns.groups.replies import GROUP_PREFIX
from campaigns.seeds import DrawKey
from ledger.books import PublicId
from ledger.commit import Answer, GroupCommit
from ledger.datastore import Datastore
from projections.groups import GROUPS, due_groups, due_purses
from projections.tracking import wait_for

BATCH: Final = 100
"""Groups asked for at once: each one's stream is read as a whole."""

_log = logging.getLogger("tidebook.returner")


class Returned(NamedTuple):
    """What a pass did: groups returned, purses emptied, and what the writer judged otherwise."""

    groups: int = 0
    purses: int = 0
    refused: int = 0
    behind: bool = False
    """True when the rows lag, so that something due may be left."""


class Returner:
    """Returns what is due of one book, through a writer of its own process."""

    def __init__(
        self,
        datastore: Datastore,
        writer: GroupCommit,
        draw_key: DrawKey,
        *,
        by_the_book: bool = False,
        batch: int = BATCH,
        shown_within_s: float = SHOWN_WITHIN_S,
    ) -> None:
        """`by_the_book`: in simulated time, the instant is that of the book's last event."""
        self._upkeep = Upkeep(datastore, writer, SWEEPER, "return", by_the_book=by_the_book)
        self.book = self._upkeep.book
        self._datastore = datastore
        self._draw_key = draw_key
        self._batch = batch
        self._shown_within_s = shown_within_s

    def sweep(self, at: datetime | None = None) -> Returned:
        """Return every group that is due, and then empty every purse that is.

        `at` is the instant in simulated time. Raises what the writer and the store raise.
        """
        head = self._upkeep.history.standing()
        if not head.position:
            return Returned()
        at = self._upkeep.instant(at, head)
        done = Returned(behind=not self._wait_for(head.position))
        done = self._work_off(done, "groups", at)
        return self._work_off(done, "purses", at)

    def run(self, stop: threading.Event, poll_s: float = POLL_S) -> None:
        """Return what is due again and again until `stop` is set."""

        def look() -> None:
            done = self.sweep()
            if done.groups or done.purses:
                _log.info("%s: %d groups, %d purses", self.book, done.groups, done.purses)

        put_off = f"the returns of {self.book} are put off"
        again_and_again(look, stop, poll_s, put_off, _log)

    def _work_off(self, done: Returned, what: str, at: datetime | None) -> Returned:
        """Ask for all that is due of a kind, batch by batch, each thing once."""
        asked: set[UUID] = set()
        while due := [one for one in self._due(what, at) if one not in asked]:
            asked.update(due)
            answers = self._upkeep.ask([self._command(what, one) for one in due], at)
            self._tell_wrong_key(due, answers)
            count = sum(answer.code in ("group_returned", "purse_emptied") for answer in answers)
            behind = not self._wait_for(answers[-1].position)
            done = done._replace(
                refused=done.refused + len(due) - count,
                behind=behind,
                **{what: getattr(done, what) + count},
            )
            if behind:
                break
        return done

    def _due(self, what: str, at: datetime | None) -> list[UUID]:
        with self._datastore.transaction() as cursor:
            read = due_groups if what == "groups" else due_purses
            return read(cursor, self.book, instant_in(cursor, at), self._batch)

    def _command(self, what: str, due: UUID) -> Command:
        if what == "groups":
            return ReturnGroup(self.book, due, self._draw_key)
        return SweepPurse(self.book, due)

    def _tell_wrong_key(self, due: Sequence[UUID], answers: Sequence[Answer]) -> None:
        for one, answer in zip(due, answers, strict=True):
            if answer.code == "other_seed":
                _log.error(
                    "%s waits: the draw key is not the one that it was sent with",
                    PublicId(GROUP_PREFIX, self.book, one),
                )

    def _wait_for(self, position: int) -> bool:
        return wait_for(self._datastore, GROUPS, self.book, position, self._shown_within_s)
