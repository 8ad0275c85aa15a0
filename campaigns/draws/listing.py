"""The list of a draw on disk: every entry in order, the hashes of its tree, what was withdrawn.

It grows as entries arrive, so that its Merkle root is known the moment the registration ends. It is
a copy that can be thrown away: all of it follows from the book, and whatever does not fit together
on disk is made again. Nothing here decides; the writer takes no entry's index from it.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, suppress
from hashlib import sha256
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Final, Self, cast
from uuid import UUID

import msgspec
from msgspec.structs import replace

from campaigns.draws.announcing import ListFacts
from campaigns.draws.entry import LEAF_BYTES, DrawEntered, DrawEntryVoided, DrawWithdrawn, leaf_of
from ledger.history import Entry
from ledger.merkle import (
    HASH_BYTES,
    CompactRange,
    Node,
    Span,
    cover,
    inclusion_proof,
    leaf_hash,
    node_hash,
    root_at,
)

KEPT_LEVELS: Final = 4
"""Hashes of each fourth level are kept: a proof then makes at most eight hashes for each one."""

MARK: Final = "mark.json"
LIST: Final = "list.bin"
WITHDRAWN: Final = "withdrawn.bin"
_TREE: Final = "tree-%02d.bin"
_LEVELS: Final = range(0, 64, KEPT_LEVELS)
_NUMBER: Final = 8


class ListBroken(Exception):
    """The entries of a book are not numbered 0, 1, 2, …: the list cannot be made."""


class Mark(msgspec.Struct, frozen=True):
    """What the files hold: all of the book up to a position, so many entries and withdrawals.

    `root` is that of the tree, by which hashes that rotted on disk are found out.
    """

    position: int = 0
    entries: int = 0
    withdrawn: int = 0
    root: str = ""


class _Listed(msgspec.Struct):
    """What the list reads of an event."""

    campaign: UUID
    index: int


_EMPTIES: Final = frozenset({DrawWithdrawn.TOPIC, DrawEntryVoided.TOPIC})

_decode: Final = msgspec.json.Decoder(_Listed).decode
_read_mark: Final = msgspec.json.Decoder(Mark).decode


class ListFiles:
    """The files of a list, to be read, also while somebody adds to them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def entries(self) -> int:
        """Return how many entries the files surely have; 0 where there are none."""
        try:
            return _read_mark((self.folder / MARK).read_bytes()).entries
        except (OSError, msgspec.DecodeError):
            return 0

    def leaves_at(self, indices: Sequence[int]) -> list[bytes]:
        """Return some entries of the list."""
        with self._opened(LIST) as file:
            return [os.pread(file.fileno(), LEAF_BYTES, at * LEAF_BYTES) for at in indices]

    def proof(self, index: int, size: int) -> list[bytes]:
        """Return the proof that an entry is in the list of the first `size` entries."""
        return inclusion_proof(index, size, self._hashes)

    def root(self, size: int) -> bytes:
        """Return the root of the list of the first `size` entries."""
        return root_at(size, self._hashes)

    def _opened(self, name: str) -> BinaryIO:
        return cast("BinaryIO", (self.folder / name).open("rb", buffering=0))

    def _hashes(self, nodes: Sequence[Node]) -> list[bytes]:
        """Return hashes of complete subtrees: a `ledger.merkle.HashReader`."""
        with ExitStack() as stack:
            files = {
                level: stack.enter_context(self._opened(_TREE % level))
                for level in {_kept(node) for node in nodes}
            }
            return [_hash(node, files[_kept(node)]) for node in nodes]


def _kept(node: Node) -> int:
    """Return the kept level from which a subtree's hash is made."""
    return node.level - node.level % KEPT_LEVELS


def _hash(node: Node, file: BinaryIO) -> bytes:
    width = 1 << (node.level - _kept(node))
    data = os.pread(file.fileno(), width * HASH_BYTES, node.number * width * HASH_BYTES)
    row = [data[at : at + HASH_BYTES] for at in range(0, len(data), HASH_BYTES)]
    while len(row) > 1:
        row = [node_hash(*pair) for pair in zip(row[::2], row[1::2], strict=True)]
    return row[0]


class EntryList(ListFiles):
    """The list of one campaign's draw, in a folder of its own. One writer at a time; close it."""

    def __init__(self, folder: Path) -> None:
        """Take up the list where its mark says; begin anew where the files fall short of it."""
        super().__init__(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self._files: dict[str, BinaryIO] = {}
        self.mark, self._range = self._taken_up()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the files; what was added since the last `keep` is added again next time."""
        for file in self._files.values():
            file.close()
        self._files.clear()

    def clear(self) -> None:
        """Begin anew with nothing."""
        self.close()
        shutil.rmtree(self.folder)
        self.folder.mkdir(parents=True)
        self.mark, self._range = Mark(), CompactRange()

    def follow(self, campaign: UUID, entries: Iterable[Entry]) -> None:
        """Take in a book's events that come after the mark's position, in order."""
        named = f'"campaign":"{campaign}"'.encode()
        position, count, withdrawn = self.mark.position, self.mark.entries, self.mark.withdrawn
        listed, taken_back = self._file(LIST), self._file(WITHDRAWN)
        for entry in entries:
            position = entry.position
            if entry.topic == DrawEntered.TOPIC and named in entry.state:
                if _decode(entry.state).index != count:
                    raise ListBroken(f"position {position} is not entry {count} of its draw")
                leaf = leaf_of(entry.stream, entry.version)
                listed.write(leaf)
                self._range.append(leaf_hash(leaf), self._complete)
                count += 1
            elif entry.topic in _EMPTIES and named in entry.state:
                taken_back.write(_decode(entry.state).index.to_bytes(_NUMBER, "big"))
                withdrawn += 1
        self.mark = Mark(position, count, withdrawn)

    def add(self, leaves: Iterable[bytes]) -> None:
        """Add entries that are known otherwise than from a book."""
        listed, count = self._file(LIST), self.mark.entries
        for leaf in leaves:
            listed.write(leaf)
            self._range.append(leaf_hash(leaf), self._complete)
            count += 1
        self.mark = Mark(self.mark.position, count, self.mark.withdrawn)

    def take_back(self, indices: Iterable[int]) -> None:
        """Leave places empty that are known otherwise than from a book."""
        taken_back, count = self._file(WITHDRAWN), self.mark.withdrawn
        for index in indices:
            taken_back.write(index.to_bytes(_NUMBER, "big"))
            count += 1
        self.mark = Mark(self.mark.position, self.mark.entries, count)

    def flush(self) -> None:
        """Let what was added be read from the files."""
        for name in (LIST, WITHDRAWN):
            self._file(name)
        for file in self._files.values():
            file.flush()

    def keep(self) -> None:
        """Write the mark, after everything that it stands for."""
        for file in self._files.values():
            file.flush()
            os.fsync(file.fileno())
        fresh = self.folder / f"{MARK}.new"
        self.mark = replace(self.mark, root=self._range.root().hex())
        fresh.write_bytes(msgspec.json.encode(self.mark))
        fresh.replace(self.folder / MARK)

    def facts(self) -> ListFacts:
        """Return what is published of the list as it is."""
        taken_back = self.withdrawn()
        return ListFacts(
            self.mark.entries,
            self._range.root().hex(),
            len(taken_back),
            sha256(numbers(taken_back)).hexdigest(),
        )

    def withdrawn(self) -> list[int]:
        """Return the indices of what was withdrawn, sorted."""
        file = self._file(WITHDRAWN)
        file.flush()
        return numbers_in((self.folder / WITHDRAWN).read_bytes())

    # --- files ------------------------------------------------------------------------------

    def _file(self, name: str) -> BinaryIO:
        found = self._files.get(name)
        if found is None:
            found = self._files[name] = (self.folder / name).open("ab", buffering=1 << 18)
        return found

    def _complete(self, node: Node, value: bytes) -> None:
        if node.level % KEPT_LEVELS == 0:
            self._file(_TREE % node.level).write(value)

    def _taken_up(self) -> tuple[Mark, CompactRange]:
        """Return the mark and its tree, with every file cut to what the mark says."""
        with suppress(OSError, msgspec.DecodeError, ValueError):
            mark = _read_mark((self.folder / MARK).read_bytes())
            if self._cut(mark):
                peaks = self._hashes(cover(Span(0, mark.entries)))
                tree = CompactRange(0, mark.entries, peaks)
                if tree.root().hex() == mark.root:
                    return mark, tree
        shutil.rmtree(self.folder)
        self.folder.mkdir(parents=True)
        return Mark(), CompactRange()

    def _cut(self, mark: Mark) -> bool:
        """Cut the files to a mark; return whether none is shorter."""
        sizes = {LIST: mark.entries * LEAF_BYTES, WITHDRAWN: mark.withdrawn * _NUMBER}
        sizes |= {_TREE % level: (mark.entries >> level) * HASH_BYTES for level in _LEVELS}
        for name, size in sizes.items():
            path = self.folder / name
            found = path.stat().st_size if path.exists() else 0
            if found < size:
                return False
            if found > size:
                os.truncate(path, size)
        return True


def numbers(indices: Iterable[int]) -> bytes:
    """Return indices as they stand in a bundle: 8 bytes each."""
    return b"".join(index.to_bytes(_NUMBER, "big") for index in indices)


def numbers_in(data: bytes) -> list[int]:
    """Return the indices in bytes, sorted."""
    return sorted(_numbers(data))


def _numbers(data: bytes) -> Iterator[int]:
    for at in range(0, len(data), _NUMBER):
        yield int.from_bytes(data[at : at + _NUMBER], "big")
