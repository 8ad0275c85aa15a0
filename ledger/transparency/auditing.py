"""Is the log the log of these events? Every leaf, tile, root and signature, from the events alone.

A pass beside the one over the book, in bounded memory. What differs is a finding that names the
position, the tile or the size; nothing is raised and nothing is repaired here.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from ledger.datastore import Datastore
from ledger.history import Entry
from ledger.merkle import HASH_BYTES, CompactRange, leaf_hash
from ledger.transparency import store
from ledger.transparency.checkpoints import Checkpoint, parse_checkpoint
from ledger.transparency.copying import copy_entries
from ledger.transparency.flips import find_flip, is_one_byte
from ledger.transparency.leaves import decode_entry, encode_entry
from ledger.transparency.notes import BadSignature, Untrusted, Verifier, verified
from ledger.transparency.store import Signed
from ledger.transparency.texts import Malformed
from ledger.transparency.tiles import TILE_WIDTH, TileBuilder
from ledger.verification import Finding

LOG_CODES: Final[dict[str, str]] = {
    "leaf_differs": "every event hashes to its leaf in the log",
    "tile_differs": "every tile is made of the one below it",
    "root_differs": "every root that was signed is that of the events up to its size",
    "signature_broken": "every checkpoint says its size and root, and a key of the log signed it",
    "log_ahead": "the log has no more leaves than the book has events",
    "head_not_extended": "the book leads to every head that is remembered outside the database",
}
"""Finding → the rule that it breaks."""

_PAGE_LEAVES: Final = 16 * TILE_WIDTH
_PAGE_CHECKPOINTS: Final = 1_000
_SEARCHED_MAX: Final = 8
"""Events whose changed byte is searched for: where more are changed, it was no single byte."""
_FULL_BYTES: Final = TILE_WIDTH * HASH_BYTES

_CHECKPOINTS: Final = """
SELECT size, root, note FROM log_checkpoint WHERE book = %s AND size > %s ORDER BY size LIMIT %s
"""
_TILE: Final = "SELECT hashes FROM log_tile WHERE book = %s AND level = %s AND number = %s"


class LogAudit:
    """Compares a book's log with its events: feed it every entry in order, then finish.

    Make it before the book's last position is asked for: the log never has more than the book.
    `remembered` is the last head that the signer remembers. The log itself may be behind that, for
    its own rows are the follower's to write again after a crash; the book may not.
    """

    def __init__(
        self, datastore: Datastore, book: str, remembered: Checkpoint | None = None
    ) -> None:
        self.findings: list[Finding] = []
        self._remembered = remembered
        self._reached: bytes | None = None
        """The root of the book's events at the remembered size."""
        self._datastore = datastore
        self._book = book
        with datastore.transaction() as curs:
            self.size = store.size_of(curs, book)
            self._keys = store.keys_of(curs, book)
        self._tiles = TileBuilder()
        self._tree = CompactRange()
        self._leaves: list[bytes] = []
        self._searched = 0
        self._differing: set[tuple[int, int]] = set()
        self._checkpoints = self._signed_in_order()
        self._next = next(self._checkpoints, None)
        self._look_at_root()

    def feed(self, entry: Entry) -> None:
        """Take in the next event; those that neither log nor signer knows yet are passed over."""
        is_logged = entry.position <= self.size
        if not is_logged and (self._remembered is None or entry.position > self._remembered.size):
            return
        leaf = leaf_hash(encode_entry(self._book, *entry[:5]))
        self._tree.append(leaf)
        if is_logged:
            self._leaves.append(leaf)
        if len(self._leaves) == _PAGE_LEAVES:
            self._compare_tiles(last=False)
        self._look_at_root()

    def finish(self) -> list[Finding]:
        """Return what differs."""
        self._compare_tiles(last=True)
        if self._tree.end < self.size:
            self._add("log_ahead", str(self._book), self._tree.end, self.size)
        head = self._remembered
        if head is not None and self._reached != head.root:
            expected: object = head.size if self._reached is None else head.root.hex()
            found: object = self._tree.end if self._reached is None else self._reached.hex()
            self._add("head_not_extended", f"{self._book} head", expected, found)
        return self.findings

    def _add(self, code: str, where: str, expected: object, found: object) -> None:
        self.findings.append(Finding(code, where, str(expected), str(found)))

    # --- tiles --------------------------------------------------------------------------------

    def _compare_tiles(self, *, last: bool) -> None:
        self._tiles.extend(self._leaves)
        self._leaves = []
        changed = self._tiles.take_changed()
        with self._datastore.transaction() as curs:
            for (level, number), ours in sorted(changed.items()):
                if last or len(ours) == _FULL_BYTES:
                    curs.execute(_TILE, (self._book, level, number))
                    row = curs.fetchone()
                    self._compare(curs, level, number, ours, bytes(row[0]) if row else b"")

    def _compare(self, curs: Any, level: int, number: int, ours: bytes, stored: bytes) -> None:
        if stored[: len(ours)] == ours:
            return
        for at in range(0, len(ours), HASH_BYTES):
            expected, found = ours[at : at + HASH_BYTES], stored[at : at + HASH_BYTES]
            if expected == found:
                continue
            place = number * TILE_WIDTH + at // HASH_BYTES
            self._differing.add((level, number))
            if (level - 1, place) in self._differing:
                continue  # it follows from what was found below
            if level == 0:
                self.findings.append(self._leaf(curs, place + 1, found, expected))
            else:
                where = f"{self._book} tile {level}/{number}"
                self._add("tile_differs", where, expected.hex(), found.hex() or "none")

    def _leaf(self, curs: Any, position: int, logged: bytes, made: bytes) -> Finding:
        """Return the finding of an event that is not its leaf, with the field of a single byte."""
        where, expected, found = f"{self._book}:{position}", logged.hex() or "none", made.hex()
        rows = copy_entries(curs, self._book, position - 1, position)
        if rows:
            where += f" stream {decode_entry(rows[0].entry).stream}"
        if is_one_byte(logged, made):
            where += " field leaf"
        elif rows and logged and self._searched < _SEARCHED_MAX:
            self._searched += 1
            flip = find_flip(rows[0].entry, logged)
            if flip is not None:
                where, expected, found = f"{where} field {flip.field}", flip.signed, flip.stored
        return Finding("leaf_differs", where, expected, found)

    # --- what was signed ----------------------------------------------------------------------

    def _look_at_root(self) -> None:
        if self._remembered is not None and self._remembered.size == self._tree.end:
            self._reached = self._tree.root()
        while self._next is not None and self._next.size <= self._tree.end:
            if self._next.size == self._tree.end:
                self._check_root(self._next)
            self._next = next(self._checkpoints, None)

    def _check_root(self, signed: Signed) -> None:
        where = f"{self._book} at size {signed.size}"
        root = self._tree.root()
        if signed.root != root:
            self._add("root_differs", where, signed.root.hex(), root.hex())
        trouble = _trouble_with(signed, self._keys)
        if trouble is not None:
            self._add("signature_broken", where, "a checkpoint signed by the log", trouble)

    def _signed_in_order(self) -> Iterator[Signed]:
        after = -1
        while True:
            with self._datastore.transaction() as curs:
                curs.execute(_CHECKPOINTS, (self._book, after, _PAGE_CHECKPOINTS))
                rows = curs.fetchall()
            for size, root, note in rows:
                yield Signed(size, bytes(root), bytes(note))
            if len(rows) < _PAGE_CHECKPOINTS:
                return
            after = rows[-1][0]


def _trouble_with(signed: Signed, keys: list[Verifier]) -> str | None:
    try:
        note, said = parse_checkpoint(signed.note)
        verified(note, keys)
    except (Malformed, Untrusted, BadSignature) as error:
        return str(error)
    if (said.size, said.root) != (signed.size, signed.root):
        return f"one of size {said.size} and root {said.root.hex()}"
    return None
