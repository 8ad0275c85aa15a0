"""Reading an export's files without believing them: bounded, and in one place.

Whatever a file says of itself is compared with what the manifest says before anything of its size
is read. What cannot be read is `Unreadable`, which names the field where that can be told; no
other error of the Parquet library leaves this module.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from hashlib import file_digest
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec
import pyarrow as pa
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
from ledger.transparency.store import Signed

GROUP_BYTES_MAX: Final = 1 << 29
"""A row group that says it is larger is not read: none is ever written."""

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
    """A file is not what the manifest says, or cannot be read; `field` is the column, or empty."""

    def __init__(self, why: str, first: int, last: int, field: str = "") -> None:
        super().__init__(why)
        self.first = first
        self.last = last
        self.field = field


class Group(NamedTuple):
    """A row group of events, column by column; instants are microseconds since 1970."""

    books: list[str]
    positions: list[int]
    streams: list[bytes]
    versions: list[int]
    topics: list[str]
    instants: list[int | None]
    states: list[bytes]
    leaves: list[bytes]


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
        table = self._table(number)
        columns = [table.column(name).combine_chunks() for name in _COLUMNS]
        books, positions, streams, versions, topics, instants, states, leaves = columns
        found = Group(
            _words(books),
            positions.to_pylist(),
            streams.storage.to_pylist(),
            versions.to_pylist(),
            _words(topics),
            instants.cast(pa.int64()).to_pylist(),
            states.to_pylist(),
            leaves.to_pylist(),
        )
        for field, is_out in (
            ("position", min(found.positions) < 0),
            ("version", min(found.versions) < 0),
            ("topic", max(map(len, found.topics)) * 4 > TOPIC_BYTES_MAX),
        ):
            if is_out:
                raise Unreadable("a value that no leaf can have", *self.span(number), field)
        return found

    def arrays(self, number: int, names: Sequence[str]) -> list[Any]:
        """Return columns of a row group as the library has them, for whoever needs no objects."""
        columns = map(self._table(number, names).column, names)
        return [
            column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
            for column in columns
        ]

    def streams(self) -> list[bytes]:
        """Return the streams of all events in the file."""
        groups = [self._values(number, "stream") for number in range(self.groups)]
        return [stream for group in groups for stream in group]

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

    def broken_fields(self, number: int) -> list[str]:
        """Return the columns of a row group that cannot be read."""
        broken = []
        for name in SCHEMAS[self.said.kind].names:
            try:
                self._table(number, [name])
            except Unreadable:
                broken.append(name)
        return broken

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
        column = self._table(number, [name]).column(name).combine_chunks()
        return _DIGESTED[name](column)


def _size_of(group: Any) -> int:
    sizes = [group.column(place).total_uncompressed_size for place in range(group.num_columns)]
    return -1 if min(sizes) < 0 else sum(sizes)


def _words(column: Any) -> list[str]:
    words = column.dictionary.to_pylist()
    return [words[place] for place in column.indices.to_pylist()]


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
