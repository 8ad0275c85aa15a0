"""The form of an export: how its files are called, what is in them, and the manifest.

A file is named by what is in it, so that a name never stands for two contents. There is one way
to write a manifest, and only that one is read. Nothing is read from a disk here, and a name never
comes from a manifest: it follows from numbers.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from hashlib import sha256
from typing import Any, Final, Literal

import msgspec
import pyarrow as pa

from ledger.books import parse_book
from ledger.transparency.notes import is_name
from ledger.transparency.texts import Malformed, to_base64

FORM: Final = "tidebook-export/1"

EVENTS_PER_FILE: Final = 1 << 18
"""Events of a full file: its leaves are one complete subtree of the log."""
EVENTS_PER_GROUP: Final = 1 << 13
"""Events of a row group, which is what a reader holds at once: a subtree as well."""
CHECKPOINTS_PER_GROUP: Final = 1 << 10

MANIFEST: Final = "manifest.json"
MANIFEST_NOTE: Final = "manifest.note"
MANIFEST_BYTES_MAX: Final = 1 << 26
FILES_MAX: Final = 1 << 17
FILE_BYTES_MAX: Final = 1 << 34
KEYS_MAX: Final = 100

Kind = Literal["events", "checkpoints"]

EVENTS: Final = pa.schema(
    [
        pa.field("book", pa.dictionary(pa.int32(), pa.string()), nullable=False),
        pa.field("position", pa.int64(), nullable=False),
        pa.field("stream", pa.uuid(), nullable=False),
        pa.field("version", pa.int32(), nullable=False),
        pa.field("topic", pa.dictionary(pa.int32(), pa.string()), nullable=False),
        pa.field("recorded_at", pa.timestamp("us", tz="UTC"), nullable=True),
        pa.field("state", pa.binary(), nullable=False),
        pa.field("leaf", pa.binary(32), nullable=False),
    ]
)
CHECKPOINTS: Final = pa.schema(
    [
        pa.field("size", pa.int64(), nullable=False),
        pa.field("root", pa.binary(32), nullable=False),
        pa.field("note", pa.binary(), nullable=False),
    ]
)
SCHEMAS: Final[dict[Kind, Any]] = {"events": EVENTS, "checkpoints": CHECKPOINTS}

_HASH: Final = re.compile(r"[0-9a-f]{64}", re.ASCII)
_NAME: Final = re.compile(r"([0-9]{12})-([0-9]{12})\.parquet", re.ASCII)


class File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A file of an export. `columns` has the digest of each column's values, to say what differs.

    `first` and `last` are positions; a file of checkpoints has those of sizes from `first` to
    `last`, and the first file the one of size 0 as well.
    """

    kind: Kind
    first: int
    last: int
    rows: int
    bytes: int
    sha256: str
    columns: dict[str, str]

    @property
    def name(self) -> str:
        """The file's path below the book's directory."""
        return name_of(self.kind, self.first, self.last)


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What an export of one book says of itself: its end, its keys, and its files in order."""

    form: str
    book: str
    origin: str
    size: int
    root: str
    log_keys: list[str]
    witness_keys: list[str]
    files: list[File]

    def encode(self) -> bytes:
        """Return the canonical JSON: names sorted, no spaces, a newline at the end."""
        return msgspec.json.encode(self, order="sorted") + b"\n"

    @classmethod
    def parse(cls, data: bytes) -> Manifest:
        """Read a manifest; raise `Malformed` unless it is one, written in the one way."""
        if len(data) > MANIFEST_BYTES_MAX:
            raise Malformed(f"a manifest has at most {MANIFEST_BYTES_MAX} bytes")
        try:
            found = msgspec.json.decode(data, type=cls)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
            raise Malformed(f"not a manifest: {error}") from None
        if found.encode() != data:
            raise Malformed("not the canonical form of a manifest")
        found.check()
        return found

    def check(self) -> None:
        """Raise `Malformed` unless the files can be those of a book of this size."""
        try:
            parse_book(self.book)
        except ValueError as error:
            raise Malformed(f"book: {error}") from None
        if self.form != FORM:
            raise Malformed(f"form: {FORM} is known, not {self.form[:40]!r}")
        if not is_name(self.origin) or not _HASH.fullmatch(self.root):
            raise Malformed("origin and root: the name of a log and a hash")
        if len(self.files) > FILES_MAX or len(self.log_keys + self.witness_keys) > KEYS_MAX:
            raise Malformed("more files or keys than any export has")
        for one in self.files:
            _check_file(one)
        for kind in SCHEMAS:
            spans = [(one.first, one.last) for one in self.files if one.kind == kind]
            if spans != list(spans_of(self.size)):
                raise Malformed(f"{kind}: the files are not those of positions 1 to {self.size}")

    def note_text(self, data: bytes) -> str:
        """Return the text that a log's key signs of an export; no checkpoint is like it."""
        return f"{FORM}\n{self.origin}\n{self.size}\n{to_base64(sha256(data).digest())}\n"


def name_of(kind: Kind, first: int, last: int) -> str:
    """Return the path of a file below its book's directory."""
    return f"{kind}/{first:012d}-{last:012d}.parquet"


def is_file_name(name: str) -> bool:
    """Whether a file could be one of an export."""
    return bool(_NAME.fullmatch(name))


def spans_of(size: int) -> Iterable[tuple[int, int]]:
    """Yield the first and last positions of the files of a book of `size` events.

    A size beyond all bounds has none, so that a forged one costs nothing.
    """
    if 0 < size <= FILES_MAX * EVENTS_PER_FILE:
        for first in range(1, size + 1, EVENTS_PER_FILE):
            yield first, min(first + EVENTS_PER_FILE - 1, size)


def _check_file(one: File) -> None:
    what = f"{one.kind} {one.first} to {one.last}"
    rows = one.last - one.first + 1
    if not 1 <= one.first <= one.last or not 0 <= one.rows <= rows + 1:
        raise Malformed(f"{what}: {one.rows} rows")
    if one.kind == "events" and one.rows != rows:
        raise Malformed(f"{what}: {one.rows} rows instead of {rows}")
    if not 0 < one.bytes <= FILE_BYTES_MAX:
        raise Malformed(f"{what}: {one.bytes} bytes")
    if one.columns.keys() != set(SCHEMAS[one.kind].names):
        raise Malformed(f"{what}: the columns are {', '.join(SCHEMAS[one.kind].names)}")
    if not all(_HASH.fullmatch(value) for value in (one.sha256, *one.columns.values())):
        raise Malformed(f"{what}: a digest is 64 lower-case hex digits")


class Digests:
    """The digest of each column: of every value its length in four bytes and its bytes.

    Numbers and instants take eight bytes, big-endian and signed; an instant that is not known has
    length 0.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._digests = {name: sha256() for name in names}

    def add(self, name: str, values: Iterable[bytes]) -> None:
        """Add a column's next values."""
        update = self._digests[name].update
        update(b"".join([b"%b%b" % (len(value).to_bytes(4), value) for value in values]))

    def hex(self) -> dict[str, str]:
        """Return the digests so far."""
        return {name: digest.hexdigest() for name, digest in self._digests.items()}


def number_bytes(values: Iterable[int | None]) -> list[bytes]:
    """Return numbers as the digests take them."""
    return [b"" if value is None else value.to_bytes(8, signed=True) for value in values]
