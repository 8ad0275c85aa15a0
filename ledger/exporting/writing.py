"""Writing an export: file by file, each whole before it has its name, and resumable at any step.

A file is written under a name that no reader looks at, flushed to the disk and only then renamed;
the manifest comes last. So whatever is found under its own name is whole, and a run that was
killed is taken up where it was. What is written is what the source gives, unjudged.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from hashlib import file_digest
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Final, NamedTuple, Protocol

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from ledger.exporting.form import (
    CHECKPOINTS,
    CHECKPOINTS_PER_GROUP,
    EVENTS,
    EVENTS_PER_GROUP,
    FORM,
    MANIFEST,
    MANIFEST_BYTES_MAX,
    MANIFEST_NOTE,
    SCHEMAS,
    Digests,
    File,
    Kind,
    Manifest,
    is_file_name,
    name_of,
    number_bytes,
    spans_of,
)
from ledger.history import Entry, dense
from ledger.transparency.notes import Note
from ledger.transparency.store import Signed
from ledger.transparency.texts import Malformed

_DIGESTS: Final = b"tidebook.columns"
_OPTIONS: Final[dict[str, Any]] = {
    "compression": "zstd",
    "compression_level": 3,
    "data_page_size": 1 << 18,  # what one changed byte can make unreadable
    "use_dictionary": ["book", "topic"],
    "write_page_checksum": True,
    "write_statistics": ["position", "recorded_at", "topic", "version", "size"],
}


class InUse(Exception):
    """Another process is writing into the directory."""


class OtherLog(Exception):
    """The directory has the export of another log."""


class Source(Protocol):
    """Where a book and its log are read from, by position."""

    def entries(self, after: int, until: int) -> Iterable[Entry]:
        """Yield the events at positions after `after` up to `until`."""
        ...

    def leaves(self, after: int, until: int) -> Sequence[bytes]:
        """Return the log's hashes of these events."""
        ...

    def checkpoints(self, after: int, until: int) -> Iterable[Signed]:
        """Yield the checkpoints of sizes after `after` up to `until`, with their cosignatures."""
        ...


class End(NamedTuple):
    """Where an export ends: at a checkpoint of the book's log, and whose keys sign."""

    book: str
    origin: str
    size: int
    root: bytes
    log_keys: tuple[str, ...] = ()
    witness_keys: tuple[str, ...] = ()


class _At(msgspec.Struct):
    at: Annotated[datetime, msgspec.Meta(tz=True)]


_instant: Final = msgspec.json.Decoder(_At).decode


def write_export(
    directory: Path,
    source: Source,
    end: End,
    sign: Callable[[str], Note] | None = None,
    on_events: Callable[[int], None] = lambda _: None,
) -> Manifest:
    """Write the export of a book up to `end` into `directory`, or take one up that is there.

    What is there already is kept where it is what it says. Raises `InUse` and `OtherLog`.
    """
    for folder in SCHEMAS:
        (directory / folder).mkdir(parents=True, exist_ok=True)
    with _alone_in(directory):
        before = _manifest_in(directory)
        if before is not None and (before.book, before.origin) != (end.book, end.origin):
            raise OtherLog(f"{directory} is the export of book {before.book} of {before.origin}")
        known = {} if before is None else {one.name: one for one in before.files}
        files = []
        for first, last in spans_of(end.size):
            for kind in SCHEMAS:
                kept = _kept(directory, kind, (first, last), known)
                if kept is None:
                    kept = _write(directory, kind, (first, last), source, end.book, on_events)
                elif kind == "events":
                    on_events(kept.rows)
                files.append(kept)
        manifest = Manifest(
            FORM,
            end.book,
            end.origin,
            end.size,
            end.root.hex(),
            list(end.log_keys),
            list(end.witness_keys),
            files,
        )
        _finish(directory, manifest, sign)
    return manifest


# --- one file ---------------------------------------------------------------------------------


def _kept(
    directory: Path, kind: Kind, span: tuple[int, int], known: dict[str, File]
) -> File | None:
    """Return the file of a span when it is there and is what it says."""
    name = name_of(kind, *span)
    path = directory / name
    if not path.is_file():
        return None
    with path.open("rb") as opened:
        digest = file_digest(opened, "sha256").hexdigest()
    if name in known:
        return known[name] if known[name].sha256 == digest else None
    try:
        metadata = pq.read_metadata(path)
        columns = msgspec.json.decode(metadata.metadata[_DIGESTS], type=dict[str, str])
    except (OSError, pa.ArrowException, KeyError, TypeError, ValueError):
        return None
    return File(kind, *span, metadata.num_rows, path.stat().st_size, digest, columns)


def _write(
    directory: Path,
    kind: Kind,
    span: tuple[int, int],
    source: Source,
    book: str,
    on_events: Callable[[int], None],
) -> File:
    first, last = span
    path = directory / name_of(kind, first, last)
    draft = path.with_name(f".{path.name}.part")
    digests = Digests(SCHEMAS[kind].names)
    if kind == "events":
        entries = dense(book, source.entries(first - 1, last), last, first - 1)
        tables = _events(book, entries, source, digests)
    else:
        after = first - 1 if first > 1 else -1
        tables = _checkpoints(source.checkpoints(after, last), digests)
    rows = 0
    with pq.ParquetWriter(draft, SCHEMAS[kind], **_OPTIONS) as writer:
        for table in tables:
            writer.write_table(table)
            rows += table.num_rows
            if kind == "events":
                on_events(table.num_rows)
        columns = digests.hex()
        writer.add_key_value_metadata({_DIGESTS: msgspec.json.encode(columns, order="sorted")})
    digest = _put(draft, path)
    return File(kind, first, last, rows, path.stat().st_size, digest, columns)


def _events(
    book: str, entries: Iterator[Entry], source: Source, digests: Digests
) -> Iterator[pa.Table]:
    while page := list(islice(entries, EVENTS_PER_GROUP)):
        positions, streams, versions, topics, states, _ = zip(*page, strict=True)
        leaves = source.leaves(positions[0] - 1, positions[-1])
        instants = pa.array(
            [_instant_of(state) for state in states], EVENTS.field("recorded_at").type
        )
        keys = [stream.bytes for stream in streams]
        books = [book] * len(page)
        digests.add("book", [book.encode()] * len(page))
        digests.add("position", number_bytes(positions))
        digests.add("stream", keys)
        digests.add("version", number_bytes(versions))
        digests.add("topic", [topic.encode() for topic in topics])
        digests.add("recorded_at", number_bytes(instants.cast(pa.int64()).to_pylist()))
        digests.add("state", states)
        digests.add("leaf", leaves)
        yield pa.Table.from_arrays(
            [
                pa.array(books, pa.string()).dictionary_encode(),
                pa.array(positions, pa.int64()),
                pa.ExtensionArray.from_storage(pa.uuid(), pa.array(keys, pa.binary(16))),
                pa.array(versions, pa.int32()),
                pa.array(topics, pa.string()).dictionary_encode(),
                instants,
                pa.array(states, pa.binary()),
                pa.array(leaves, pa.binary(32)),
            ],
            schema=EVENTS,
        )


def _instant_of(state: bytes) -> datetime | None:
    try:
        return _instant(state).at
    except (msgspec.DecodeError, ValueError, RecursionError):
        return None


def _checkpoints(signed: Iterable[Signed], digests: Digests) -> Iterator[pa.Table]:
    waiting = iter(signed)
    while page := list(islice(waiting, CHECKPOINTS_PER_GROUP)):
        sizes, roots, notes = zip(*page, strict=True)
        digests.add("size", number_bytes(sizes))
        digests.add("root", roots)
        digests.add("note", notes)
        yield pa.Table.from_arrays(
            [
                pa.array(sizes, pa.int64()),
                pa.array(roots, pa.binary(32)),
                pa.array(notes, pa.binary()),
            ],
            schema=CHECKPOINTS,
        )


# --- the end ----------------------------------------------------------------------------------


def _finish(directory: Path, manifest: Manifest, sign: Callable[[str], Note] | None) -> None:
    """Put the manifest in place of the one before, and then take away what only that one named.

    A note never stands beside a manifest that it is not of: in between there is none.
    """
    data = manifest.encode()
    path, note = directory / MANIFEST, directory / MANIFEST_NOTE
    if not path.is_file() or path.read_bytes() != data:
        note.unlink(missing_ok=True)
        _put_bytes(path, data)
    if sign is not None:
        _put_bytes(note, sign(manifest.note_text(data)).encode())
    names = {one.name for one in manifest.files}
    for kind in SCHEMAS:
        for found in (directory / kind).iterdir():
            is_draft = found.name.startswith(".") and found.name.endswith(".part")
            is_left = is_file_name(found.name) and f"{kind}/{found.name}" not in names
            if is_draft or is_left:
                found.unlink()


def _manifest_in(directory: Path) -> Manifest | None:
    with suppress(FileNotFoundError, Malformed), (directory / MANIFEST).open("rb") as file:
        return Manifest.parse(file.read(MANIFEST_BYTES_MAX + 1))
    return None


def _put_bytes(path: Path, data: bytes) -> None:
    draft = path.with_name(f".{path.name}.part")
    draft.write_bytes(data)
    _put(draft, path)


def _put(draft: Path, path: Path) -> str:
    """Give a file that is written its name, once it is on the disk; return its digest."""
    with draft.open("rb") as file:
        digest = file_digest(file, "sha256").hexdigest()
        os.fsync(file.fileno())
    draft.replace(path)
    _flush(path.parent)
    return digest


def _flush(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _alone_in(directory: Path) -> Iterator[None]:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise InUse(f"another process writes into {directory}") from None
    finally:
        os.close(descriptor)
