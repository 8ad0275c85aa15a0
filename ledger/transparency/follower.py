"""The follower: grows a book's tree behind its writers, signs heads, and has them cosigned.

One follower at a time holds a log, by a fence that every one of its transactions renews. It reads
what is committed, so it never holds up a writer. A head is signed only when the tree extends every
head that was signed before, and it is in the signer's own memory before anybody else can see it.
What contradicts that ends the following and halts the book.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, NamedTuple, Protocol

from eventsourcing.persistence import InterfaceError, OperationalError

from ledger.datastore import Datastore
from ledger.transparency import guard, store
from ledger.transparency.checkpoints import Checkpoint, parse_checkpoint
from ledger.transparency.copying import copy_leaf_hashes
from ledger.transparency.cosigning import Cosigner, Unreachable, Witness
from ledger.transparency.guard import Damaged
from ledger.transparency.keys import Contradiction, Regress
from ledger.transparency.notes import (
    BadSignature,
    Note,
    Signer,
    Untrusted,
    signed_note,
    verified,
)
from ledger.transparency.store import LogHead, LogHeld, LogLost
from ledger.transparency.texts import Malformed
from ledger.transparency.tiles import TileBuilder, reader_of

PAGE_EVENTS: Final = 1 << 15
"""More than come in a round of a rush: some megabytes, hashed in some tens of milliseconds."""

STANDBY_S: Final = 1.0
"""Pause before a follower that stands by asks for the log again."""
DAMAGED_S: Final = 30.0
"""Pause before a book that was halted is looked at again."""
RECONNECT_S: Final = 1.0

_log = logging.getLogger("tidebook.log")


class Memory(Protocol):
    """What a signer knows outside the database: its keys and the last head that it signed."""

    def signers(self) -> Sequence[Signer]:
        """Return the keys that sign now; the first one's name is the log's origin."""
        ...

    def head(self) -> Note | None:
        """Return the last head that was signed."""
        ...

    def keep(self, note: Note) -> None:
        """Remember a head for good, before it is shown to anybody.

        Raises `Regress` for one that is smaller than the last, `Contradiction` for another one
        of its size.
        """
        ...


class Progress(NamedTuple):
    """How far a log is: its leaves, the head that was signed last, and the one that is served."""

    size: int
    signed: int | None
    published: int | None


class Follower:
    """Keeps one book's log. `holder` names this follower among all that may exist."""

    def __init__(
        self,
        datastore: Datastore,
        book: str,
        holder: str,
        memory: Memory,
        *,
        witnesses: Sequence[Witness] = (),
        quorum: int | None = None,
        ttl_s: float = store.LEASE_TTL_S,
        page_events: int = PAGE_EVENTS,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.book = book
        self._datastore = datastore
        self._holder = holder
        self._memory = memory
        self._cosigners = [Cosigner(one, monotonic) for one in witnesses]
        self._quorum = len(witnesses) if quorum is None else quorum
        self._ttl_s = ttl_s
        self._page_events = page_events
        self._monotonic = monotonic
        self._renewed_s = float("-inf")
        self._head: LogHead | None = None
        self._tree = TileBuilder()
        self._signed: Checkpoint | None = None
        self._note: Note | None = None
        self._published: int | None = None
        self._settled: int | None = None
        """The size of the head that is served with all cosignatures that there will be."""

    def run(self, stop: threading.Event, interval_s: float) -> None:
        """Follow until `stop` is set, a round every `interval_s` seconds; let the log go then.

        Waits out other followers, lost connections and halted books.
        """
        try:
            while not stop.is_set():
                stop.wait(self._pause_after_round(interval_s))
        finally:
            self._release()

    def run_once(self) -> Progress:
        """Take in what the book has, sign its head, have it cosigned and serve it.

        Raises `LogHeld` while another follower works, `LogLost` when one took over, and `Damaged`
        when the book does not extend what was signed; then the book is halted.
        """
        try:
            if self._head is None:
                self._take_up()
            while self._follow():
                pass
            self._sign()
            self._publish()
        except Damaged as damaged:
            self._let_go()
            self._halt(damaged)
            raise
        except BaseException:
            self._let_go()
            raise
        return Progress(self._tree.size, self._signed and self._signed.size, self._published)

    # --- the tree -----------------------------------------------------------------------------

    def read(self) -> list[bytes]:
        """Return the hashes of the next leaves. Holds no lock."""
        size = self._tree.size
        with self._datastore.transaction() as curs:
            position = guard.head_position(curs, self.book)
            if position < size:
                raise Damaged(self.book, f"ends at position {position}, before its log's {size}")
            until = min(position, size + self._page_events)
            leaves = copy_leaf_hashes(curs, self.book, size, until)
        if len(leaves) != until - size:
            raise Damaged(self.book, f"has no position {size + len(leaves) + 1}")
        return leaves

    def write(self, leaves: Sequence[bytes]) -> None:
        """Grow the tree by leaves and write its tiles, under the fence."""
        assert self._head is not None, "the log is held"
        self._tree.extend(leaves)
        with self._fenced(self._tree.size) as curs:
            store.put_tiles(curs, self.book, self._tree.take_changed())

    def _take_up(self) -> None:
        """Take the log, and go on only when the store extends all that was signed."""
        origin = self._memory.signers()[0].verifier.name
        known = heads_elsewhere(self._memory.head(), origin, [o.witness for o in self._cosigners])
        with self._datastore.transaction() as curs:
            head = store.acquire(curs, self.book, self._holder, self._ttl_s)
        with self._datastore.transaction() as curs:
            guard.check(curs, self.book, known)
            self._tree = guard.take_up(curs, self.book, head.size)
            last = store.last_signed(curs, self.book)
            if guard.resume(curs, self.book):
                _log.warning("book %s extends what was signed; it takes events again", self.book)
        self._head = head
        if last is not None:
            self._note, self._signed = parse_checkpoint(last.note)

    def _follow(self) -> bool:
        """Take in one page; say whether there may be more."""
        leaves = self.read()
        if leaves:
            self.write(leaves)
        return len(leaves) == self._page_events

    # --- what is signed -----------------------------------------------------------------------

    def _sign(self) -> None:
        """Sign the tree as it is now, unless that was done."""
        if self._signed is not None and self._signed.size == self._tree.size:
            return
        signers = self._memory.signers()
        origin = signers[0].verifier.name
        checkpoint = Checkpoint(origin, self._tree.size, self._tree.root())
        with self._fenced(checkpoint.size) as curs:
            note = signed_note(checkpoint.text, signers)
            self._remember(note)
            store.sign(
                curs, self.book, store.Signed(checkpoint.size, checkpoint.root, note.encode())
            )
            keys = [signer.verifier for signer in signers]
            store.add_keys(curs, self.book, keys, checkpoint.size)
        self._signed, self._note = checkpoint, note

    def _remember(self, note: Note) -> None:
        try:
            self._memory.keep(note)
        except Regress as regress:  # somebody else has gone on; what they know is asked for next
            raise LogLost(f"the log of book {self.book}: {regress}") from regress
        except Contradiction as other:
            raise Damaged(self.book, f"would be signed again: {other}") from other

    def _publish(self) -> None:
        """Have the signed head cosigned, and serve it once enough have done so."""
        if self._signed is None or self._note is None or self._may_rest():
            return
        self._ask_witnesses(self._signed, self._note)
        assert self._head is not None
        with self._fenced(self._tree.size) as curs:
            cosignatures = store.cosignatures(curs, self.book, self._signed.size)
            served = store.published(curs, self.book)
            if len({one.name for one in cosignatures}) >= self._quorum:
                note = self._note.signed(*cosignatures)
                if note != served:
                    store.publish(curs, self.book, self._head, self._signed.size, note)
                self._published = self._signed.size
                if {one.name for one in cosignatures} >= {one.name for one in self._cosigners}:
                    self._settled = self._signed.size
            elif served is not None:
                self._published = Checkpoint.parse(served.text).size

    def _may_rest(self) -> bool:
        """Whether nothing is left to do for the signed head, nor the log to be held on to yet."""
        assert self._signed is not None
        is_held = self._monotonic() < self._renewed_s + self._ttl_s / 3
        return is_held and self._settled == self._signed.size

    def _ask_witnesses(self, checkpoint: Checkpoint, note: Note) -> None:
        if not self._cosigners:
            return
        with self._datastore.transaction() as curs:
            have = {one.name for one in store.cosignatures(curs, self.book, checkpoint.size)}
        asked = [one for one in self._cosigners if one.name not in have]
        found = []
        for one in asked:
            with self._datastore.transaction() as curs:
                tiles = reader_of(store.tile_reader(curs, self.book))
                signature = one.cosign(note, checkpoint, tiles)
            if signature is not None:
                found.append(signature)
        if found:
            with self._fenced(self._tree.size) as curs:
                store.cosign(curs, self.book, checkpoint.size, found)

    # --- holding the log ----------------------------------------------------------------------

    @contextmanager
    def _fenced(self, size: int) -> Iterator[Any]:
        """Lend a cursor in a transaction that holds the log and moves it to a size.

        Nobody waits for its commit: what a crash of the database takes from the end is made again
        from events that were waited for, and is the same to the byte.
        """
        assert self._head is not None, "the log is held"
        with self._datastore.transaction() as curs:
            curs.execute("SET LOCAL synchronous_commit = off")
            head = store.fence(curs, self.book, self._head, size, self._ttl_s)
            yield curs
        self._head = head
        self._renewed_s = self._monotonic()

    def _let_go(self) -> None:
        """Forget what may not be so; the next round begins with what is stored."""
        self._head = None
        self._tree = TileBuilder()
        self._signed = self._note = self._settled = None

    def _release(self) -> None:
        if self._head is None:
            return
        try:
            with self._datastore.transaction() as curs:
                store.release(curs, self.book, self._head)
        except (OperationalError, InterfaceError) as error:
            _log.warning("the log of %s is left to expire: %s", self.book, error)

    def _halt(self, damaged: Damaged) -> None:
        with self._datastore.transaction() as curs:
            guard.halt(curs, self.book, damaged.what)

    def _pause_after_round(self, interval_s: float) -> float:
        """Do a round and return how long to rest after it."""
        try:
            self.run_once()
        except LogHeld:
            return STANDBY_S
        except LogLost as lost:
            _log.warning("%s", lost)
            return STANDBY_S
        except Damaged as damaged:
            _log.error("%s: it takes no event until that is mended", damaged)
            return DAMAGED_S
        except (OperationalError, InterfaceError) as error:
            _log.warning("the log of book %s: %s", self.book, error)
            return RECONNECT_S
        return interval_s


def heads_elsewhere(
    remembered: Note | None, origin: str | None, witnesses: Sequence[Witness]
) -> list[Checkpoint]:
    """Return what is remembered of a log outside its database: by its signer and its witnesses.

    A witness that does not answer, or not in its own name, is passed over.
    """
    found = [] if remembered is None else [Checkpoint.parse(remembered.text)]
    if origin is None:
        return found
    for witness in witnesses:
        try:
            latest = witness.latest(origin)
            if latest is not None:
                verified(latest, [witness.verifier])
                found.append(Checkpoint.parse(latest.text))
        except (Unreachable, Malformed, Untrusted, BadSignature) as trouble:
            _log.warning("witness %s cannot be asked: %s", witness.verifier.name, trouble)
    return [one for one in found if one.origin == origin]
