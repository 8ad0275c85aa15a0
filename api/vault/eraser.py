"""The eraser: does what was asked for, in the one order in which nothing untrue is ever recorded.

What the person holds is given up; the person goes on the list of the erased; the rows of the vault
are removed; and only then is the erasure recorded, in every book. Killed at any moment, the next
pass begins again and does nothing twice. Nothing here is ever recorded before it is true.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Final, NamedTuple, TypeVar
from uuid import UUID

from api.sessions import let_go, suspend
from api.upkeep import POLL_S, Upkeep, again_and_again
from api.vault.vault import Vault
from campaigns.campaign import CAMPAIGN_FOLD, Campaign
from campaigns.commands import Command, VoidCoupon
from campaigns.draws.entry import ENTRY_FOLD, DrawEntry, entry_id
from campaigns.draws.registering import WithdrawEntry
from campaigns.event_types import MAPPER
from campaigns.groups.commands import EmptyPurse
from campaigns.packets.commands import CloseWallet
from campaigns.persons.commands import RecordErasure
from ledger.books import Book
from ledger.commit import GroupCommit
from ledger.datastore import Datastore
from ledger.events import Actor
from ledger.history import streams_by_key
from projections import groups, packets, wallets
from projections.campaign_figures import CAMPAIGN_FIGURES
from projections.erasures import ERASURES, Erasure, pending, recorded
from projections.groups import GROUPS
from projections.packets import PACKETS
from projections.projection import Projection
from projections.tracking import wait_for
from projections.wallets import WALLETS

ERASER: Final = Actor("eraser", "system")

REASON: Final = "erasure"
"""Why something that was held was given up: it names nobody."""

LOOKED_AT: Final[tuple[Projection, ...]] = (WALLETS, PACKETS, GROUPS, CAMPAIGN_FIGURES, ERASURES)
"""Read models that say what there is to do. They are hints; the writer judges."""

BATCH: Final = 500
"""Things that are read at once."""
PERSONS: Final = 100
"""Persons that one pass takes on."""
SHOWN_WITHIN_S: Final = 10.0
TOKENS_LAST_S: Final = 7_200
"""By then every session and every remembered token of the person has ended."""

_OPEN: Final = """
SELECT campaign FROM rm_campaign_figures.campaign WHERE book = %s AND state IN ('open', 'paused')
"""

T = TypeVar("T")

_log = logging.getLogger("tidebook.eraser")


class Done(NamedTuple):
    """What a pass did: persons erased, and persons whose time has not come or who wait."""

    erased: tuple[str, ...] = ()
    waiting: int = 0
    given_up: int = 0
    behind: bool = False
    """True when a read model lags, so that somebody may be left."""


class Eraser:
    """Erases the persons of all books of a ledger, through writers of its own process."""

    def __init__(
        self,
        datastore: Datastore,
        writers: Sequence[GroupCommit],
        vault: Vault,
        *,
        after_s: float,
        by_the_book: bool = False,
        shown_within_s: float = SHOWN_WITHIN_S,
        on_step: Callable[[str], object] = lambda _: None,
    ) -> None:
        """`after_s` passes between request and erasure; `on_step` hears of each step done."""
        self._datastore = datastore
        self._vault = vault
        self._after = timedelta(seconds=0 if by_the_book else after_s)
        self._shown_within_s = shown_within_s
        self._on_step = on_step
        self._books: Mapping[Book, Upkeep] = {
            Book(writer.book): Upkeep(datastore, writer, ERASER, "erase", by_the_book=by_the_book)
            for writer in writers
        }

    def sweep(self) -> Done:
        """Erase everybody whose time has come; raise what the writers and the store raise."""
        if not self._shown():
            return Done(behind=True)
        with self._datastore.transaction() as cursor:
            asked = pending(cursor, PERSONS)
            cursor.execute("SELECT clock_timestamp()")
            (now,) = cursor.fetchone()
            lost = self._lost(cursor)
            self._vault.forget_tags(cursor)
        due = [one.person for one in asked if self._is_due(one, now)]
        done = Done(waiting=len(asked) - len(due))
        for person in dict.fromkeys([*due, *sorted(lost)]):
            given_up = self._erase(person)
            done = done._replace(erased=(*done.erased, person), given_up=done.given_up + given_up)
        return done

    def run(self, stop: threading.Event, poll_s: float = POLL_S) -> None:
        """Erase again and again until `stop` is set."""

        def look() -> None:
            done = self.sweep()
            if done.erased:
                _log.info("erased %d persons", len(done.erased))

        again_and_again(look, stop, poll_s, "erasing is put off", _log)

    def _is_due(self, erasure: Erasure, now: datetime) -> bool:
        return erasure.requested_at is not None and erasure.requested_at + self._after <= now

    def _lost(self, cursor: Any) -> set[str]:
        """Return who is on the list of the erased and is not recorded as that, or has a row.

        Somebody was killed in between, or books or rows were restored from an older backup.
        """
        listed = set(self._vault.keyring.erased())
        if not listed:
            return set()
        lost = set().union(*(listed - recorded(cursor, book) for book in self._books))
        return lost | self._vault.came_back(cursor)

    # --- one person ---------------------------------------------------------------------------

    def _erase(self, person: str) -> int:
        """Take every step of an erasure that is not taken yet; return how much was given up."""
        with self._datastore.transaction() as cursor:
            suspend(cursor, f"tourist:{person}")
        self._on_step("suspended")
        given_up = sum(self._give_up(book, person) for book in self._books)
        self._on_step("given up")
        with self._datastore.transaction() as cursor:
            until = self._claims_end(cursor)
        self._vault.keyring.add_erased(person)
        self._on_step("listed")
        with self._datastore.transaction() as cursor:
            self._vault.destroy(cursor, person, until)
            cursor.execute("SELECT extract(epoch FROM now())")
            let_go(cursor, f"tourist:{person}", float(cursor.fetchone()[0]) + TOKENS_LAST_S)
        self._on_step("destroyed")
        for book, upkeep in self._books.items():
            upkeep.ask([RecordErasure(book, person)], self._instant(upkeep))
            self._on_step("recorded")
        return given_up

    def _give_up(self, book: Book, person: str) -> int:
        """End what the person holds in a book, once each; what cannot be ended ends by itself."""
        upkeep = self._books[book]
        given_up, asked = 0, set[UUID]()
        while commands := [one for one in self._held(book, person) if one[0] not in asked]:
            asked.update(thing for thing, _ in commands)
            answers = upkeep.ask([command for _, command in commands], self._instant(upkeep))
            given_up += sum(
                answer.code in ("voided", "wallet_closed", "purse_emptied", "withdrawn")
                for answer in answers
            )
            self._on_step("gave up")
            self._shown()
        return given_up

    def _held(self, book: Book, person: str) -> Iterator[tuple[UUID, Command]]:
        with self._datastore.transaction() as cursor:
            coupons = _all_pages(
                partial(wallets.coupons_of, cursor, person, state="held"), wallets.cursor_of
            )
            money = _all_pages(
                partial(packets.packets_of, cursor, person, states=("held", "spent")),
                packets.cursor_of,
            )
            purses = _all_pages(partial(groups.purses_of, cursor, person), groups.purse_cursor_of)
            entries = [entry_id(one, person) for one in _open_campaigns(cursor, book)]
            streams = streams_by_key(cursor, book, MAPPER, entries)
        for coupon in coupons:
            if coupon.book == book:
                yield coupon.coupon, VoidCoupon(book, coupon.coupon, REASON)
        for packet in money:
            if packet.book == book:
                yield packet.packet, CloseWallet(book, packet.packet, REASON)
        for purse in purses:
            if purse.book == book and purse.balance_minor > 0:
                yield purse.purse, EmptyPurse(book, purse.purse, REASON)
        for stream, events in streams.items():
            entry: DrawEntry | None = None
            for positioned in events:
                entry = ENTRY_FOLD.evolve(entry, positioned.event)
            if entry is not None and entry.state == "registered":
                yield stream, WithdrawEntry(book, entry.campaign, stream)

    def _claims_end(self, cursor: Any) -> datetime | None:
        """Return when nothing can be claimed any more of all that is open now."""
        ends = []
        for book in self._books:
            streams = streams_by_key(cursor, book, MAPPER, _open_campaigns(cursor, book))
            for events in streams.values():
                campaign: Campaign | None = None
                for positioned in events:
                    campaign = CAMPAIGN_FOLD.evolve(campaign, positioned.event)
                if campaign is not None:
                    ends.append(campaign.terms.claim_until)
        return max(ends, default=None)

    # --- what is known ------------------------------------------------------------------------

    def _instant(self, upkeep: Upkeep) -> datetime | None:
        return upkeep.instant(None, upkeep.history.standing())

    def _shown(self) -> bool:
        """Wait until the read models show where the books stand; tell whether they do."""
        heads = {book: upkeep.history.head() for book, upkeep in self._books.items()}
        return all(
            wait_for(self._datastore, one, book, head, self._shown_within_s)
            for book, head in heads.items()
            for one in LOOKED_AT
        )


def _all_pages(read: Callable[..., list[T]], cursor_of: Callable[[T], object]) -> list[T]:
    """Return all that a list has, read in pages: no other book's things take anybody's place."""
    found = page = read(limit=BATCH)
    while len(page) == BATCH:
        page = read(after=cursor_of(page[-1]), limit=BATCH)
        found = [*found, *page]
    return found


def _open_campaigns(cursor: Any, book: Book) -> list[UUID]:
    cursor.execute(_OPEN, (book,))
    return [campaign for (campaign,) in cursor.fetchall()]
