"""An export is whole or goes on: killed at any step, taken up again, equal to the byte."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable
from pathlib import Path
from uuid import UUID

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.exporting import writing
from ledger.exporting.form import EVENTS, MANIFEST, MANIFEST_NOTE, Manifest
from ledger.exporting.writing import InUse, OtherLog, write_export
from ledger.merkle import leaf_hash
from ledger.transparency.leaves import Columns, encode_entry, leaf_hashes_of
from ledger.transparency.texts import Malformed
from tests.exports.made import Made, exported, found, manifest_of, verified


def tree(where: Path) -> dict[str, bytes]:
    """Every file below a directory."""
    return {str(p.relative_to(where)): p.read_bytes() for p in where.rglob("*") if p.is_file()}


def test_an_export_has_exactly_the_bytes_that_leaves_are_made_of(made: Made, export: Path) -> None:
    """Column by column, in order of position, in files of bounded size."""
    manifest = manifest_of(export)
    spans = [(one.first, one.last) for one in manifest.files if one.kind == "events"]
    assert spans == [(1, 32), (33, 64), (65, 96), (97, 128), (129, 150)]
    rows = []
    for one in manifest.files:
        if one.kind == "events":
            table = pq.read_table(export / one.name)
            assert table.schema.equals(EVENTS)
            rows += table.to_pylist()
    for row, entry, leaf in zip(rows, made.all, made.hashes, strict=True):
        assert (row["book"], row["position"], row["version"]) == ("main", entry.position, entry[2])
        assert (row["stream"], row["topic"], row["state"]) == (entry.stream, entry[3], entry[4])
        assert row["leaf"] == leaf
        assert b'"at":"%b' % row["recorded_at"].isoformat()[:19].encode() in entry.state


def test_later_runs_add_what_has_come_since(made: Made, tmp_path: Path, small_files: None) -> None:
    """And what there is then equals an export that was made at once."""
    for size in (10, 30, 35, 100, 150):
        exported(made, tmp_path / "grown", size)
        assert found(tmp_path / "grown") == []
    exported(made, tmp_path / "at once")
    assert tree(tmp_path / "grown") == tree(tmp_path / "at once")


def steps_of(made: Made, to: Path) -> int:
    """How many times an export asks the system for something that lasts."""
    return killed_at(made, to, 10**6)


def killed_at(made: Made, to: Path, step: int) -> int:
    """Export in a process that is killed at its n-th lasting step; return how many there were."""
    reading, telling = os.pipe()
    child = os.fork()
    if child == 0:
        count = 0

        def counted(real: Callable[..., object]) -> Callable[..., object]:
            def call(*arguments: object, **how: object) -> object:
                nonlocal count
                count += 1
                if count == step:
                    os.kill(os.getpid(), signal.SIGKILL)
                return real(*arguments, **how)

            return call

        try:
            for name in ("replace", "unlink", "open", "write_bytes"):
                setattr(Path, name, counted(getattr(Path, name)))
            os.fsync = counted(os.fsync)  # type: ignore[assignment]
            pq.ParquetWriter.write_table = counted(pq.ParquetWriter.write_table)
            exported(made, to)
            os.write(telling, str(count).encode())
        finally:
            os._exit(0)
    os.close(telling)
    os.waitpid(child, 0)
    said = os.read(reading, 100)
    os.close(reading)
    return int(said or b"0")


def test_killed_at_any_step_it_is_taken_up_and_equal_to_the_byte(
    made: Made, tmp_path: Path, small_files: None
) -> None:
    """Wherever it dies, no file that has its name is half-written, and a second run ends it."""
    short = Made(made.all[:70])
    exported(short, tmp_path / "at once")
    wanted = tree(tmp_path / "at once")
    steps = steps_of(short, tmp_path / "counted")
    assert steps > 30
    for step in range(1, steps + 1):
        where = tmp_path / f"killed-{step}"
        assert killed_at(short, where, step) == 0
        for name, data in tree(where).items():
            if not Path(name).name.startswith("."):
                assert data == wanted[name], f"{name} is half-written at step {step}"
        exported(short, where)
        assert tree(where) == wanted


def test_killed_while_it_grows_the_older_export_still_verifies(
    made: Made, tmp_path: Path, small_files: None
) -> None:
    """Until the new manifest is in its place the old one is of files that are there."""
    short = Made(made.all[:70])
    for step in range(1, 60, 4):
        where = tmp_path / f"grown-{step}"
        exported(short, where, 40)
        killed_at(short, where, step)
        assert found(where) == []
        exported(short, where)
        assert manifest_of(where).size == 70
        assert found(where) == []


def test_without_flushing_first_a_half_written_file_has_its_name(
    made: Made, tmp_path: Path, small_files: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: a writer that writes under the last name leaves half of it when it dies."""
    short = Made(made.all[:70])
    exported(short, tmp_path / "at once")
    wanted = tree(tmp_path / "at once")
    monkeypatch.setattr(Path, "with_name", lambda self, _: self)
    halves = 0
    for step in range(1, 30):
        where = tmp_path / f"killed-{step}"
        killed_at(short, where, step)
        halves += sum(data != wanted.get(name) for name, data in tree(where).items())
    assert halves > 0


def test_a_damaged_file_is_written_again(made: Made, export: Path) -> None:
    """What is there is kept only where it has the bytes that it should have."""
    before = tree(export)
    file = export / manifest_of(export).files[2].name
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    exported(made, export)
    assert tree(export) == before


def test_one_at_a_time_and_one_log(made: Made, export: Path) -> None:
    """A second writer is refused, and so is another log's export."""
    with writing._alone_in(export), pytest.raises(InUse):
        exported(made, export)
    with pytest.raises(OtherLog):
        write_export(export, made, made.end()._replace(origin="other.test/main"))


def test_an_unsigned_export_says_so(made: Made, tmp_path: Path, small_files: None) -> None:
    """Without the log's key there is no note; with it there is, and it is of this manifest."""
    exported(made, tmp_path / "main", signed=False)
    told, findings = verified(tmp_path / "main")
    assert findings == []
    assert told is not None
    assert not told.signed
    exported(made, tmp_path / "main")
    assert (tmp_path / "main" / MANIFEST_NOTE).exists()
    told, _ = verified(tmp_path / "main")
    assert told is not None
    assert told.signed


def test_a_manifest_is_written_in_one_way(export: Path) -> None:
    """Anything else that means the same is refused, and so is what cannot be."""
    data = (export / MANIFEST).read_bytes()
    assert Manifest.parse(data).encode() == data
    for other in (
        data[:-1],
        data.replace(b'":', b'": ', 1),
        b"",
        b"{}",
        b"[" * 100_000,
        data.replace(b'"size":150', b'"size":151'),
        re.sub(rb'"rows":32,', b'"rows":4294967296,', data, count=1),
        data.replace(b"tidebook-export/1", b"tidebook-export/2"),
    ):
        with pytest.raises(Malformed):
            Manifest.parse(other)


@given(
    rows=st.lists(
        st.tuples(
            st.integers(1, 2**63 - 1),
            st.uuids(),
            st.integers(1, 2**31 - 1),
            st.text(max_size=40),
            st.one_of(st.binary(max_size=99), st.just(b"{" * 65_490), st.just(b"{" * 70_000)),
        ),
        max_size=6,
    )
)
def test_many_leaves_are_hashed_like_one(rows: list[tuple[int, UUID, int, str, bytes]]) -> None:
    """Long states and long topics included."""
    columns = list(zip(*rows, strict=True)) or [(), (), (), (), ()]
    streams = [stream.bytes for stream in columns[1]]
    found = leaf_hashes_of("main", Columns.of(columns[0], streams, *columns[2:]))
    assert found == [leaf_hash(encode_entry("main", *row)) for row in rows]
