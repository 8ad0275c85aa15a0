"""Exports of made-up books, small enough for every test, and how they are damaged."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from msgspec.structs import replace

from campaigns.export_verification import Told, verify_export
from ledger.exporting import form, proving, reading, writing
from ledger.exporting.form import Manifest
from ledger.exporting.proving import Keys
from ledger.exporting.writing import End, write_export
from ledger.history import Entry
from ledger.merkle import CompactRange
from ledger.transparency.checkpoints import Checkpoint
from ledger.transparency.leaves import Columns, leaf_hashes_of
from ledger.transparency.notes import COSIGNATURE, ED25519, Signer, signed_note
from ledger.transparency.store import Signed
from ledger.verification import Finding

ORIGIN = "export.test/main"
KEY = Signer(ORIGIN, ED25519, b"k" * 32)
WITNESS = Signer("witness.test", COSIGNATURE, b"w" * 32)
KEYS = Keys((KEY.verifier,), (WITNESS.verifier,), 1)
PER_FILE, PER_GROUP = 32, 8


@pytest.fixture
def small_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of 32 events in groups of 8, so that a short book has several of each."""
    for module in (form, reading, writing, proving):
        for name, value in (("EVENTS_PER_FILE", PER_FILE), ("EVENTS_PER_GROUP", PER_GROUP)):
            if hasattr(module, name):
                monkeypatch.setattr(module, name, value)
    monkeypatch.setitem(reading._GROUP_ROWS, "events", PER_GROUP)


class Made:
    """A book in memory: its events, its log, and a checkpoint every few events."""

    def __init__(self, entries: Iterable[Entry], every: int = 5, book: str = "main") -> None:
        self.book = book
        self.all = list(entries)
        self.hashes = hashes_of(book, self.all)
        self.every = every

    def end(self, size: int | None = None) -> End:
        """Where an export ends, at the last event unless told."""
        size = len(self.all) if size is None else size
        keys = (str(KEY.verifier),), (str(WITNESS.verifier),)
        return End(self.book, ORIGIN, size, self.root(size), *keys)

    def root(self, size: int) -> bytes:
        """The root at a size."""
        tree = CompactRange()
        tree.extend(self.hashes[:size])
        return tree.root()

    def entries(self, after: int, until: int) -> list[Entry]:
        """The events at positions."""
        return self.all[after:until]

    def leaves(self, after: int, until: int) -> list[bytes]:
        """Their hashes in the log."""
        return self.hashes[after:until]

    def checkpoints(self, after: int, until: int) -> list[Signed]:
        """The checkpoints of sizes: every so many events, and at the end."""
        sizes = {*range(0, len(self.all), self.every), len(self.all)}
        return [self.signed(size) for size in sorted(sizes) if after < size <= until]

    def signed(self, size: int) -> Signed:
        """A checkpoint with a cosignature."""
        text = Checkpoint(ORIGIN, size, self.root(size)).text
        note = signed_note(text, [KEY]).signed(WITNESS.cosign(text, 1_780_000_000))
        return Signed(size, self.root(size), note.encode())


def hashes_of(book: str, entries: Sequence[Entry]) -> list[bytes]:
    """The leaf hashes of events."""
    if not entries:
        return []
    positions, streams, versions, topics, states, _ = zip(*entries, strict=True)
    keys = [stream.bytes for stream in streams]
    return leaf_hashes_of(book, Columns.of(positions, keys, versions, topics, states))


def exported(made: Made, to: Path, size: int | None = None, *, signed: bool = True) -> Manifest:
    """Export a book."""
    sign = (lambda text: signed_note(text, [KEY])) if signed else None
    return write_export(to, made, made.end(size), sign)


def verified(where: Path, keys: Keys | None = KEYS, jobs: int = 0) -> tuple[Told | None, list[Any]]:
    """What a verification tells, and what it finds."""
    findings: list[Finding] = []
    told = verify_export(where, keys, jobs, on_finding=findings.append)
    return told, findings


def found(where: Path, keys: Keys | None = KEYS) -> list[tuple[str, str]]:
    """Code and place of what is found."""
    return [(one.code, one.where) for one in verified(where, keys)[1]]


def copy_of(where: Path, to: Path) -> Path:
    """A copy to be damaged."""
    if to.exists():
        shutil.rmtree(to)
    return Path(shutil.copytree(where, to))


def manifest_of(where: Path) -> Manifest:
    """The manifest of an export."""
    return Manifest.parse((where / form.MANIFEST).read_bytes())


def forge(where: Path, change: Callable[[Manifest], Manifest]) -> None:
    """Write another manifest, as somebody would who does not have the log's key."""
    (where / form.MANIFEST).write_bytes(change(manifest_of(where)).encode())
    (where / form.MANIFEST_NOTE).unlink(missing_ok=True)


def rewritten(where: Path, kind: str, number: int, change: Callable[[pa.Table], pa.Table]) -> None:
    """Write a file anew with other rows, whole and readable, its footer as it was."""
    file = [one for one in manifest_of(where).files if one.kind == kind][number]
    path = where / file.name
    metadata = pq.read_metadata(path).metadata
    table = change(pq.read_table(path))
    options: dict[str, Any] = {"row_group_size": form.EVENTS_PER_GROUP, "compression": "zstd"}
    with pq.ParquetWriter(path, table.schema, use_dictionary=["book", "topic"]) as writer:
        for start in range(0, len(table), options["row_group_size"]):
            writer.write_table(table.slice(start, options["row_group_size"]))
        writer.add_key_value_metadata({b"tidebook.columns": metadata[b"tidebook.columns"]})


def believe_files(where: Path) -> None:
    """Forge the manifest so that it has the bytes and digests of the files as they are now."""

    def change(manifest: Manifest) -> Manifest:
        files = []
        for one in manifest.files:
            data = (where / one.name).read_bytes()
            columns = pq.read_metadata(where / one.name).metadata[b"tidebook.columns"]
            assert columns
            files.append(replace(one, bytes=len(data), sha256=sha256(data).hexdigest()))
        return replace(manifest, files=files)

    forge(where, change)


def with_value(table: pa.Table, name: str, row: int, change: Callable[[Any], Any]) -> pa.Table:
    """Return the table with one value changed."""
    place = table.schema.get_field_index(name)
    kind = table.schema.field(name).type
    column = table.column(name).combine_chunks()
    if name == "stream":
        values = column.storage.to_pylist()
        values[row] = change(values[row])
        made = pa.ExtensionArray.from_storage(kind, pa.array(values, pa.binary(16)))
    elif pa.types.is_dictionary(kind):
        values = column.to_pylist()
        values[row] = change(values[row])
        made = pa.array(values, pa.string()).dictionary_encode()
    elif name == "recorded_at":
        values = column.cast(pa.int64()).to_pylist()
        values[row] = change(values[row])
        made = pa.array(values, pa.int64()).cast(kind)
    else:
        values = column.to_pylist()
        values[row] = change(values[row])
        made = pa.array(values, kind)
    return table.set_column(place, table.schema.field(name), made)
