"""Where an export of a live book comes from: its events, its log's tiles, its checkpoints.

What is below the end never changes, so nothing is locked and no transaction stays open.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Final

from ledger.datastore import Datastore
from ledger.events import EventMapper
from ledger.exporting.writing import End
from ledger.history import Entry, History
from ledger.transparency import store
from ledger.transparency.checkpoints import Checkpoint
from ledger.transparency.notes import Note, Signature, parse_note
from ledger.transparency.store import Signed
from ledger.transparency.texts import Malformed
from ledger.transparency.tiles import TILE_WIDTH, hashes_in

_PAGE: Final = 1_000
_CHECKPOINTS: Final = (
    "SELECT size, root, note FROM log_checkpoint"
    " WHERE book = %s AND size > %s AND size <= %s ORDER BY size LIMIT %s"
)
_COSIGNATURES: Final = (
    "SELECT size, name, key_id, data FROM log_cosignature"
    " WHERE book = %s AND size >= %s AND size <= %s ORDER BY size, name, key_id"
)


class NothingSigned(Exception):
    """A book's log has no checkpoint yet, so that nothing could be proved of an export."""

    def __init__(self, book: str) -> None:
        super().__init__(
            f"book {book} has no signed checkpoint yet; `tidebook log --once` signs what is there"
        )


class StoreSource:
    """A book in the database."""

    def __init__(self, datastore: Datastore, book: str, mapper: EventMapper) -> None:
        self._datastore = datastore
        self._book = book
        self._history = History(datastore, book, mapper)

    def end(self, witness_keys: Iterable[str] = ()) -> End:
        """Return the head that is served, or the last that was signed; raise `NothingSigned`."""
        with self._datastore.transaction() as curs:
            served = store.published(curs, self._book)
            last = store.last_signed(curs, self._book)
            keys = tuple(str(key) for key in store.keys_of(curs, self._book))
        note = served if served is not None else parse_note(last.note) if last is not None else None
        if note is None:
            raise NothingSigned(self._book)
        head = Checkpoint.parse(note.text)
        return End(self._book, head.origin, head.size, head.root, keys, tuple(witness_keys))

    def entries(self, after: int, until: int) -> Iterable[Entry]:
        """Yield the events at positions after `after` up to `until`."""
        return self._history.entries(after, until)

    def leaves(self, after: int, until: int) -> list[bytes]:
        """Return the log's hashes of these events, as its tiles have them."""
        first = after // TILE_WIDTH
        names = [(0, number) for number in range(first, -(-until // TILE_WIDTH))]
        with self._datastore.transaction() as curs:
            tiles = store.tile_reader(curs, self._book)(names)
        found = [one for tile in tiles for one in hashes_in(tile)]
        wanted = found[after - first * TILE_WIDTH : until - first * TILE_WIDTH]
        if len(wanted) != until - after:
            raise Malformed(f"the log of book {self._book} does not reach position {until}")
        return wanted

    def checkpoints(self, after: int, until: int) -> Iterator[Signed]:
        """Yield the checkpoints of sizes after `after` up to `until`, with their cosignatures."""
        while True:
            with self._datastore.transaction() as curs:
                curs.execute(_CHECKPOINTS, (self._book, after, until, _PAGE))
                rows = curs.fetchall()
                cosigned: defaultdict[int, list[Signature]] = defaultdict(list)
                if rows:
                    curs.execute(_COSIGNATURES, (self._book, rows[0][0], rows[-1][0]))
                    for size, name, key_id, data in curs.fetchall():
                        cosigned[size].append(Signature(name, bytes(key_id), bytes(data)))
            for size, root, note in rows:
                whole: Note = parse_note(bytes(note)).signed(*cosigned[size])
                yield Signed(size, bytes(root), whole.encode())
            if len(rows) < _PAGE:
                return
            after = rows[-1][0]
