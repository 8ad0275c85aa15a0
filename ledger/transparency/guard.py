"""Does a store still extend what was signed of it? Asked at every start; if not, writes stay off.

A signed head that left the signer can never be taken back. A store that was restored from an older
copy, or in which a byte has changed, no longer leads to that head. Then the book is halted in the
database, so that no process of any machine writes another event to it, until the right store is
back and the question is answered yes. Nothing is repaired here and nothing is guessed.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from ledger.merkle import HASH_BYTES, CompactRange, root_at
from ledger.transparency import store
from ledger.transparency.checkpoints import Checkpoint
from ledger.transparency.copying import copy_leaf_hashes
from ledger.transparency.texts import Malformed
from ledger.transparency.tiles import TILE_WIDTH, TileBuilder, edge_of, hashes_in, reader_of

PAGE_EVENTS: Final = 5_000

_POSITION: Final = "SELECT position FROM tidebook.book_head WHERE book = %s"
_HALT: Final = "UPDATE book_head SET halted = %s WHERE book = %s"
_RESUME: Final = "UPDATE book_head SET halted = NULL WHERE book = %s AND halted IS NOT NULL"
_HALTED: Final = "SELECT halted FROM book_head WHERE book = %s"
_OPEN: Final = "INSERT INTO book_head (book) VALUES (%s) ON CONFLICT DO NOTHING"


class Damaged(Exception):
    """A book does not extend what was signed of it; says where it stops doing so."""

    def __init__(self, book: str, what: str) -> None:
        super().__init__(f"book {book} {what}")
        self.book = book
        self.what = what


def check(curs: Any, book: str, heads: Iterable[Checkpoint]) -> None:
    """Raise `Damaged` unless the store extends these heads and the last that it knows itself.

    Costs some tiles and the last few events, however long the book is: of the events before them
    `tidebook verify` takes care.
    """
    size = store.size_of(curs, book)
    position = head_position(curs, book)
    if position < size:
        raise Damaged(book, f"ends at position {position}, but its log has {size} leaves")
    try:
        _check_edge(curs, book, size)
        known = store.last_signed(curs, book)
        own = [] if known is None else [Checkpoint("", known.size, known.root)]
        for head in sorted({(one.size, one.root) for one in (*heads, *own)}):
            _check_head(curs, book, size, position, *head)
    except Malformed as error:
        raise Damaged(book, f"has a log that cannot be read: {error}") from error


def head_position(curs: Any, book: str) -> int:
    """Return the last position of a book."""
    curs.execute(_POSITION, (book,))
    row = curs.fetchone()
    return int(row[0]) if row else 0


def halt(curs: Any, book: str, what: str) -> None:
    """Let nobody write another event to a book."""
    curs.execute(_OPEN, (book,))
    curs.execute(_HALT, (what[:1_000], book))


def resume(curs: Any, book: str) -> bool:
    """Let events be written again; say whether they were not."""
    curs.execute(_RESUME, (book,))
    return bool(curs.rowcount)


def halted(curs: Any, book: str) -> str | None:
    """Return why a book is halted, None when it is not."""
    curs.execute(_HALTED, (book,))
    row = curs.fetchone()
    return row[0] if row else None


def take_up(curs: Any, book: str, size: int) -> TileBuilder:
    """Return the tree of a log as the store has it."""
    edge = [tile for tile in edge_of(size) if tile.width]
    names = [(tile.level or 0, tile.number) for tile in edge]
    tiles = store.tile_reader(curs, book)(names) if names else []
    found = {
        level: tile[: one.width * HASH_BYTES]
        for (level, _), one, tile in zip(names, edge, tiles, strict=True)
    }
    return TileBuilder(size, found)


def _check_edge(curs: Any, book: str, size: int) -> None:
    """The last leaves of the log are those of the events that are stored now."""
    if size == 0:
        return
    number = (size - 1) // TILE_WIDTH
    (tile,) = store.tile_reader(curs, book)([(0, number)])
    stored = hashes_in(tile)[: size - number * TILE_WIDTH]
    found = copy_leaf_hashes(curs, book, number * TILE_WIDTH, size)
    if found != stored:
        pairs = enumerate(zip(found, stored, strict=False))
        wrong = next((place for place, (one, other) in pairs if one != other), len(found))
        raise Damaged(book, f"has another event at position {number * TILE_WIDTH + wrong + 1}")


def _check_head(
    curs: Any, book: str, size: int, position: int, head_size: int, head_root: bytes
) -> None:
    if position < head_size:
        raise Damaged(
            book, f"ends at position {position}, but a head of {head_size} leaves was signed"
        )
    if head_size <= size:
        root = root_at(head_size, reader_of(store.tile_reader(curs, book)))
    else:
        root = _root_beyond(curs, book, take_up(curs, book, size).compact(), head_size)
    if root != head_root:
        raise Damaged(book, f"has another root than was signed of its first {head_size} leaves")


def _root_beyond(curs: Any, book: str, tree: CompactRange, size: int) -> bytes:
    """Return the root at a size that the tiles have not reached yet, from the events."""
    while tree.end < size:
        leaves = copy_leaf_hashes(curs, book, tree.end, min(size, tree.end + PAGE_EVENTS))
        if not leaves:
            raise Damaged(book, f"has no position {tree.end + 1}")
        tree.extend(leaves)
    return tree.root()
