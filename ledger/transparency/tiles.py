"""Tiles (C2SP tlog-tiles): a tree as files that never change, 256 hashes or entries in each.

A tile is named by its level and its number in the level; a partial one by its width as well. What
is in a partial tile is the beginning of the full one. Entry bundles have the number of the tile at
level 0 that holds the hashes of their entries.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final, NamedTuple

from ledger.merkle import (
    HASH_BYTES,
    SIZE_MAX,
    CompactRange,
    HashReader,
    Node,
    parent_hashes,
)
from ledger.transparency.texts import Malformed

TILE_WIDTH: Final = 256
TILE_HEIGHT: Final = 8
LEVEL_MAX: Final = 63
ENTRY_BYTES_MAX: Final = 0xFFFF

_LEVEL: Final = re.compile(r"0|[1-9][0-9]?", re.ASCII)
_NUMBER: Final = re.compile(r"(?:x[0-9]{3}/){0,6}[0-9]{3}", re.ASCII)
_WIDTH: Final = re.compile(r"[1-9][0-9]{0,2}", re.ASCII)
_LENGTH: Final = struct.Struct(">H")


class Tile(NamedTuple):
    """The name of a tile: level (None: a bundle of entries), number, and width."""

    level: int | None
    number: int
    width: int = TILE_WIDTH

    @classmethod
    def parse(cls, path: str) -> Tile:
        """Read the path below a log's prefix, for example `tile/0/x001/234.p/8`."""
        prefix, _, rest = path.partition("/")
        kind, _, rest = rest.partition("/")
        if prefix != "tile":
            raise Malformed("a tile's path begins with tile/")
        return cls.parse_parts(kind, rest)

    @classmethod
    def parse_parts(cls, kind: str, rest: str) -> Tile:
        """Read level (or `entries`) and number with width; raise `Malformed`."""
        number, partial, width = rest.partition(".p/")
        if kind != "entries" and not (_LEVEL.fullmatch(kind) and int(kind) <= LEVEL_MAX):
            raise Malformed("a level is a number up to 63")
        if not _NUMBER.fullmatch(number) or number.startswith("x000/"):
            raise Malformed("a tile's number is in groups of three digits, all but the last with x")
        if partial and not (_WIDTH.fullmatch(width) and int(width) < TILE_WIDTH):
            raise Malformed("a partial tile's width is a number from 1 to 255")
        found = int(number.replace("x", "").replace("/", ""))
        if found > SIZE_MAX // TILE_WIDTH:
            raise Malformed("no tree has so many tiles")
        level = None if kind == "entries" else int(kind)
        return cls(level, found, int(width) if partial else TILE_WIDTH)

    @property
    def path(self) -> str:
        """The path below the log's prefix."""
        digits = f"{self.number:03d}"
        digits = digits.zfill(-(-len(digits) // 3) * 3)
        groups = [digits[at : at + 3] for at in range(0, len(digits), 3)]
        number = "/".join([*(f"x{group}" for group in groups[:-1]), groups[-1]])
        kind = "entries" if self.level is None else self.level
        return f"tile/{kind}/{number}" + (f".p/{self.width}" if self.is_partial else "")

    @property
    def is_partial(self) -> bool:
        """Whether more may come."""
        return self.width < TILE_WIDTH

    def is_in(self, size: int) -> bool:
        """Whether the tree of this size has all that the tile holds."""
        return self.number * TILE_WIDTH + self.width <= size >> (TILE_HEIGHT * (self.level or 0))


def tiles_of(size: int, since: int = 0) -> Iterator[Tile]:
    """Yield the tiles of hashes in a tree that those of an earlier size do not hold already.

    Full tiles come whole and the last one of each level as wide as it is; levels from below.
    """
    level = 0
    while (count := size >> (TILE_HEIGHT * level)) and level <= LEVEL_MAX:
        before = since >> (TILE_HEIGHT * level)
        if count > before:
            for number in range(before // TILE_WIDTH, -(-count // TILE_WIDTH)):
                yield Tile(level, number, min(TILE_WIDTH, count - number * TILE_WIDTH))
        level += 1


def hashes_in(tile: bytes) -> list[bytes]:
    """Return the hashes of a tile; raise `Malformed`."""
    if not tile or len(tile) % HASH_BYTES or len(tile) > TILE_WIDTH * HASH_BYTES:
        raise Malformed("a tile is 1 to 256 hashes")
    return [tile[at : at + HASH_BYTES] for at in range(0, len(tile), HASH_BYTES)]


def encode_bundle(entries: Iterable[bytes]) -> bytes:
    """Return a bundle of entries: each behind its length in two bytes."""
    return b"".join(part for entry in entries for part in (_LENGTH.pack(len(entry)), entry))


def entries_in(bundle: bytes) -> list[bytes]:
    """Return the entries of a bundle; raise `Malformed`."""
    entries = []
    at = 0
    while at < len(bundle):
        if at + _LENGTH.size > len(bundle):
            raise Malformed("the bundle ends within a length")
        start = at + _LENGTH.size
        at = start + _LENGTH.unpack_from(bundle, at)[0]
        if at > len(bundle):
            raise Malformed("the bundle ends within an entry")
        entries.append(bundle[start:at])
    if not 0 < len(entries) <= TILE_WIDTH:
        raise Malformed("a bundle has 1 to 256 entries")
    return entries


# --- hashes of subtrees, found in tiles -------------------------------------------------------

TileReader = Callable[[Sequence[tuple[int, int]]], Sequence[bytes]]
"""Returns the stored bytes of tiles named by level and number, as wide as they are kept."""


def reader_of(read: TileReader) -> HashReader:
    """Return how the hashes of complete subtrees are read from tiles, all tiles at once."""

    def hashes(nodes: Sequence[Node]) -> list[bytes]:
        names = list(dict.fromkeys(map(_tile_of, nodes)))
        found = dict(zip(names, read(names), strict=True))
        return [_hash_of(node, found[_tile_of(node)]) for node in nodes]

    return hashes


def _tile_of(node: Node) -> tuple[int, int]:
    level, height = divmod(node.level, TILE_HEIGHT)
    return level, node.number >> (TILE_HEIGHT - height)


def _hash_of(node: Node, tile: bytes) -> bytes:
    height = node.level % TILE_HEIGHT
    start = (node.number << height) % TILE_WIDTH
    part = tile[start * HASH_BYTES : (start + (1 << height)) * HASH_BYTES]
    if len(part) != HASH_BYTES << height:
        raise Malformed(f"the tile is too narrow for subtree {node.number} of level {node.level}")
    hashes = hashes_in(part)
    while len(hashes) > 1:
        hashes = parent_hashes(hashes)
    return hashes[0]


class TileBuilder:
    """Grows the tiles of a tree leaf by leaf, from the tiles on its right edge.

    `size` leaves are in it. What has changed since is taken by `take_changed`.
    """

    def __init__(self, size: int = 0, edge: dict[int, bytes] | None = None) -> None:
        """Take up a tree: `edge` has its last tile of each level that is not full."""
        self._edge: list[list[bytes]] = []
        self._changed: dict[tuple[int, int], bytes] = {}
        self._touched: set[int] = set()
        self.size = size
        for tile in edge_of(size):
            assert tile.level is not None
            hashes = hashes_in((edge or {})[tile.level]) if tile.width else []
            if len(hashes) != tile.width:
                raise Malformed(f"the last tile of level {tile.level} is {len(hashes)} wide")
            self._edge.append(hashes)

    def extend(self, leaves: Sequence[bytes]) -> None:
        """Add the hashes of the next leaves."""
        at = 0
        while at < len(leaves):
            if not self._edge:
                self._edge.append([])
            room = TILE_WIDTH - len(self._edge[0])
            part = leaves[at : at + room]
            self._edge[0].extend(part)
            self.size += len(part)
            at += len(part)
            self._touched.add(0)
            self._carry(0)

    def root(self) -> bytes:
        """Return the root of the tree."""
        return self.compact().root()

    def compact(self) -> CompactRange:
        """Return the compact range of the whole tree."""
        hashes: list[bytes] = []
        for level in self._edge:
            hashes = _peaks(level) + hashes
        return CompactRange(0, self.size, hashes)

    def take_changed(self) -> dict[tuple[int, int], bytes]:
        """Return the tiles that are new or wider since the last time, by level and number."""
        changed, self._changed = self._changed, {}
        for level in self._touched:
            if self._edge[level]:
                number = (self.size >> (TILE_HEIGHT * level)) // TILE_WIDTH
                changed[level, number] = b"".join(self._edge[level])
        self._touched.clear()
        return changed

    def _carry(self, level: int) -> None:
        """Put a tile that is full away, and its root into the level above."""
        hashes = self._edge[level]
        if len(hashes) < TILE_WIDTH:
            return
        number = (self.size >> (TILE_HEIGHT * level)) // TILE_WIDTH - 1
        self._changed[level, number] = b"".join(hashes)
        self._edge[level] = []
        while len(hashes) > 1:
            hashes = parent_hashes(hashes)
        if len(self._edge) == level + 1:
            self._edge.append([])
        self._edge[level + 1].append(hashes[0])
        self._touched.add(level + 1)
        self._carry(level + 1)


def edge_of(size: int) -> Iterator[Tile]:
    """Yield the last tile of each level, with the width 0 where the one before is full."""
    level = 0
    while count := size >> (TILE_HEIGHT * level):
        yield Tile(level, count // TILE_WIDTH, count % TILE_WIDTH)
        level += 1


def _peaks(hashes: list[bytes]) -> list[bytes]:
    """Return the roots of the complete subtrees that hashes of one level make up, from the left."""
    peaks: list[bytes] = []
    while hashes:
        if len(hashes) & 1:
            peaks.insert(0, hashes[-1])
        hashes = parent_hashes(hashes)
    return peaks
