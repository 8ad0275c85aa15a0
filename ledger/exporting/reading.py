"""Reading an export's files without believing them: bounded, and in one place.

Whatever a file says of itself is compared with what the manifest says before anything of its size
is read. What cannot be read is `Unreadable`, which names the field where that can be told; no
other error of the Parquet library leaves this module.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from functools import cached_property
from hashlib import file_digest
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ledger.exporting.form import (
    CHECKPOINTS_PER_GROUP,
    EVENTS_PER_GROUP,
    SCHEMAS,
    Digests,
    File,
    Kind,
    number_bytes,
)
from ledger.transparency.leaves import Columns
from ledger.transparency.store import Signed

GROUP_BYTES_MAX: Final = 1 << 29
"""A row group that says it is larger is not read: none is ever written."""

LOOK_ROWS: Final = 64
"""Rows that are read at once to find the first one of a damaged page."""

TOPIC_BYTES_MAX: Final = 0xFFFF
"""Of a leaf's topic."""

_GROUP_ROWS: Final[dict[Kind, int]] = {
    "events": EVENTS_PER_GROUP,
    "checkpoints": CHECKPOINTS_PER_GROUP,
}
_COLUMNS: Final = ("book", "position", "stream", "version", "topic", "recorded_at", "state", "leaf")
_STRINGS_MAX: Final = 1 << 20
_CONTAINERS_MAX: Final = 1 << 14
_PERHAPS: Final = (OSError, pa.ArrowException, ValueError, TypeError, OverflowError, MemoryError)
"""What the library raises of a file that is damaged or was made to do harm."""


class Unreadable(Exception):
    """A file is not what the manifest says, or cannot be read; `field` is the column, or empty.

    `first` and `last` are the positions that are lost, and `stream` is that of the first, when it
    is known.
    """

    def __init__(
        self, why: str, first: int, last: int, field: str = "", stream: bytes | None = None
    ) -> None:
        super().__init__(why)
        self.first = first
        self.last = last
        self.field = field
        self.stream = stream


class Group:
    """A row group of events, column by column, as lists or as what leaves are made of.

    A column becomes Python's objects only when it is asked for; instants are microseconds since
    1970.
    """

    def __init__(self, table: Any) -> None:
        self.arrays: dict[str, Any] = {name: _whole(table.column(name)) for name in _COLUMNS}
        """Column → its Arrow array."""

    def __len__(self) -> int:
        return len(self.arrays["position"])

    @cached_property
    def columns(self) -> Columns:
        """What the leaves are made of."""
        topics = self.arrays["topic"]
        return Columns(
            self.arrays["position"].to_numpy(),
            _joined(self.arrays["stream"].storage),
            self.arrays["version"].to_numpy(),
            topics.dictionary.to_pylist(),
            topics.indices.to_numpy(),
            self.states,
            pc.max(pc.binary_length(self.arrays["state"])).as_py() or 0,
        )

    @cached_property
    def books(self) -> list[str]:
        """Whose events they say to be."""
        return _words(self.arrays["book"])

    @property
    def book_names(self) -> set[str]:
        """Every book that an event says to be of."""
        return _used(self.arrays["book"])

    @cached_property
    def positions(self) -> list[int]:
        """Where they are in the book."""
        return list(self.arrays["position"].to_pylist())

    @cached_property
    def streams(self) -> list[bytes]:
        """What each happened to."""
        return list(self.arrays["stream"].storage.to_pylist())

    @cached_property
    def versions(self) -> list[int]:
        """Their numbers in their streams."""
        return list(self.arrays["version"].to_pylist())

    @cached_property
    def topics(self) -> list[str]:
        """What happened."""
        return _words(self.arrays["topic"])

    @cached_property
    def instants(self) -> list[int | None]:
        """When it was recorded."""
        return list(self.arrays["recorded_at"].cast(pa.int64()).to_pylist())

    @cached_property
    def states(self) -> list[bytes]:
        """The stored bytes."""
        return list(self.arrays["state"].to_pylist())

    @cached_property
    def leaves(self) -> bytes:
        """The hashes of the leaves, one behind the other."""
        return _joined(self.arrays["leaf"])

    def impossible(self) -> tuple[int, str] | None:
        """Return the row and column of a value of which no leaf can be made, the first one."""
        columns, room = self.columns, TOPIC_BYTES_MAX // 4
        long_kinds = [kind for kind, topic in enumerate(columns.topics) if len(topic) > room]
        for field, is_out in (
            ("position", columns.positions < 0),
            ("version", columns.versions < 0),
            ("topic", np.isin(columns.kinds, long_kinds)),
        ):
            if is_out.any():
                return int(is_out.argmax()), field
        return None


def instants_of(instants: Sequence[datetime]) -> list[int]:
    """Return instants as the column `recorded_at` has them."""
    kind = SCHEMAS["events"].field("recorded_at").type
    return list(pa.array(instants, kind).cast(pa.int64()).to_pylist())


def digest_of(path: Path) -> str:
    """Return the SHA-256 of a file in hex."""
    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()


class ExportFile:
    """A file of an export, opened and measured; its rows are read group by group."""

    def __init__(self, path: Path, said: File, *, checksums: bool = True) -> None:
        """Raise `Unreadable` unless its form is that of a file with what `said` says.

        Without `checksums` as much as possible is read of pages that were damaged.
        """
        self.said = said
        with _reading(said.first, said.last):
            self._file = pq.ParquetFile(
                path,
                page_checksum_verification=checksums,
                thrift_string_size_limit=_STRINGS_MAX,
                thrift_container_size_limit=_CONTAINERS_MAX,
                pre_buffer=False,
            )
            problem = self._problem()
        if problem is not None:
            raise Unreadable(problem, said.first, said.last)

    def columns(self) -> dict[str, str] | None:
        """Return the digests of the columns that the file's own footer has."""
        found = (self._file.metadata.metadata or {}).get(b"tidebook.columns", b"")
        try:
            return msgspec.json.decode(found, type=dict[str, str])
        except (msgspec.DecodeError, ValueError, RecursionError):
            return None

    @property
    def groups(self) -> int:
        """How many row groups there are."""
        return int(self._file.metadata.num_row_groups)

    def span(self, number: int) -> tuple[int, int]:
        """Return the first and last positions of a row group of events."""
        first = self.said.first + number * EVENTS_PER_GROUP
        return first, min(first + EVENTS_PER_GROUP - 1, self.said.last)

    def events(self, number: int) -> Group:
        """Return a row group of events, all of which have a leaf."""
        with _reading(*self.span(number)):
            found = Group(self._table(number))
            impossible = found.impossible()
        if impossible is not None:
            row, field = impossible
            position, stream = self.span(number)[0] + row, found.streams[row]
            why = "a value that no leaf can have"
            raise Unreadable(why, position, position, field, stream)
        return found

    def arrays(self, number: int, names: Sequence[str]) -> list[Any]:
        """Return columns of a row group as the library has them, for whoever needs no objects."""
        return list(map(_whole, map(self._table(number, names).column, names)))

    def signed(self) -> Iterator[Signed]:
        """Yield the checkpoints."""
        for number in range(self.groups):
            table = self._table(number)
            columns = [table.column(name).to_pylist() for name in ("size", "root", "note")]
            yield from map(Signed, *columns)

    def digests(self) -> dict[str, str]:
        """Return the digest of each column that can be read, made anew."""
        found = {}
        for name in SCHEMAS[self.said.kind].names:
            digests = Digests([name])
            try:
                for number in range(self.groups):
                    digests.add(name, self._values(number, name))
            except Unreadable:
                continue
            found[name] = digests.hex()[name]
        return found

    def lost(self, number: int, why: str) -> Unreadable | None:
        """Return what of a row group cannot be read: from which row on, and in which columns."""
        lost = {}
        for name in SCHEMAS[self.said.kind].names:
            try:
                self._table(number, [name])
            except Unreadable:
                lost[name] = self._lost_row(number, name)
        if not lost:
            return None
        first, last = self.span(number)
        row = min(lost.values())
        stream = None if "stream" in lost else self._values(number, "stream")[row]
        return Unreadable(why, first + row, last, ", ".join(lost), stream)

    def _lost_row(self, number: int, name: str) -> int:
        """Return the first row of a group whose value cannot be read: that of a damaged page."""
        first, last = self.span(number)
        rows = 0
        with suppress(*_PERHAPS):
            for batch in self._file.iter_batches(
                LOOK_ROWS, row_groups=[number], columns=[name], use_threads=False
            ):
                rows += len(batch)
        return min(rows, last - first)

    # --- bounds -------------------------------------------------------------------------------

    def _problem(self) -> str | None:
        metadata, kind = self._file.metadata, self.said.kind
        if not self._file.schema_arrow.equals(SCHEMAS[kind]):
            return "the columns are others, or of other types"
        if metadata.num_rows != self.said.rows:
            return f"{metadata.num_rows} rows instead of {self.said.rows}"
        left = self.said.rows
        for number in range(metadata.num_row_groups):
            group = metadata.row_group(number)
            if group.num_rows != min(left, _GROUP_ROWS[kind]):
                return f"row group {number} has {group.num_rows} rows"
            if not 0 <= _size_of(group) <= GROUP_BYTES_MAX:
                return f"row group {number} would take {_size_of(group)} bytes"
            left -= group.num_rows
        return None

    def _table(self, number: int, names: Sequence[str] | None = None) -> Any:
        span = (
            self.span(number) if self.said.kind == "events" else (self.said.first, self.said.last)
        )
        with _reading(*span, field=names[0] if names else ""):
            table = self._file.read_row_group(number, columns=names, use_threads=False)
            table.validate(full=True)
        return table

    def _values(self, number: int, name: str) -> Sequence[bytes]:
        column = _whole(self._table(number, [name]).column(name))
        return _DIGESTED[name](column)


def _size_of(group: Any) -> int:
    sizes = [group.column(place).total_uncompressed_size for place in range(group.num_columns)]
    return -1 if min(sizes) < 0 else sum(sizes)


def _whole(column: Any) -> Any:
    """Return a column as one array: where it lies, if it lies together."""
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def _words(column: Any) -> list[str]:
    words = column.dictionary.to_pylist()
    return [words[place] for place in column.indices.to_pylist()]


def _used(column: Any) -> set[str]:
    """Return the words of a dictionary that stand in a column."""
    return set(column.dictionary.take(column.indices.unique()).to_pylist())


def _joined(column: Any) -> bytes:
    """Return the values of a column of fixed width, one behind the other."""
    width, start = column.type.byte_width, column.offset
    return bytes(memoryview(column.buffers()[1])[start * width : (start + len(column)) * width])


def _encoded(column: Any) -> list[bytes]:
    return [word.encode() for word in _words(column)]


_DIGESTED: Final[dict[str, Callable[[Any], list[bytes]]]] = {
    "book": _encoded,
    "position": lambda column: number_bytes(column.to_pylist()),
    "stream": lambda column: list(column.storage.to_pylist()),
    "version": lambda column: number_bytes(column.to_pylist()),
    "topic": _encoded,
    "recorded_at": lambda column: number_bytes(column.cast(pa.int64()).to_pylist()),
    "state": lambda column: list(column.to_pylist()),
    "leaf": lambda column: list(column.to_pylist()),
    "size": lambda column: number_bytes(column.to_pylist()),
    "root": lambda column: list(column.to_pylist()),
    "note": lambda column: list(column.to_pylist()),
}


@contextmanager
def _reading(first: int, last: int, field: str = "") -> Iterator[None]:
    try:
        yield
    except _PERHAPS as error:
        lines = str(error).splitlines() or [type(error).__name__]
        raise Unreadable(lines[0][:200], first, last, field) from None
