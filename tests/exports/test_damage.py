"""One changed byte anywhere is found and named; nothing that is made up is believed or crashes."""

from __future__ import annotations

import os
import random
import re
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from campaigns.export_synthetic import Synthetic
from ledger.exporting import proving
from ledger.exporting.form import EVENTS, EVENTS_PER_GROUP, MANIFEST, MANIFEST_NOTE
from ledger.exporting.proving import Keys
from ledger.exporting.writing import write_export
from ledger.transparency.notes import ED25519, Signer
from tests.exports.made import (
    KEYS,
    WITNESS,
    Made,
    believe_files,
    copy_of,
    exported,
    forge,
    found,
    hashes_of,
    manifest_of,
    rewritten,
    verified,
    with_value,
)


@pytest.fixture
def damaged(export: Path, tmp_path: Path) -> Path:
    """A copy of the export, to be damaged."""
    return copy_of(export, tmp_path / "damaged")


def test_a_sound_export_is_clean(export: Path, made: Made) -> None:
    """Every event is judged and every signed root made again."""
    told, findings = verified(export)
    assert findings == []
    assert told is not None
    assert (told.size, told.judged, told.cosigned, told.signed) == (150, 150, 1, True)
    assert told.checkpoints == len(made.checkpoints(-1, 150))


def test_other_processes_prove_the_same(made: Made, tmp_path: Path) -> None:
    """With files of their real size, and one process more."""
    exported(made, tmp_path / "main")
    assert verified(tmp_path / "main", jobs=1) == verified(tmp_path / "main")
    assert found(tmp_path / "main") == []


CHANGES: list[tuple[str, Callable[[Any], Any]]] = [
    ("position", lambda value: value + 1),
    ("stream", lambda value: value[:7] + bytes([value[7] ^ 1]) + value[8:]),
    ("version", lambda value: value + 1),
    ("topic", lambda value: value.replace("coupon", "coupom")),
    ("recorded_at", lambda value: value + 1),
    ("state", lambda value: value.replace(b'"face_minor":500', b'"face_minor":501')),
    ("leaf", lambda value: bytes([value[0] ^ 1]) + value[1:]),
    ("book", lambda _: "mainn"),
]


@pytest.mark.parametrize(("field", "change"), CHANGES, ids=[name for name, _ in CHANGES])
def test_a_changed_value_is_named_by_position_stream_and_field(
    damaged: Path, made: Made, field: str, change: Callable[[Any], Any]
) -> None:
    """In a file that is whole and readable, and even when the manifest is forged to fit."""
    row = next(n for n, one in enumerate(made.all[32:64]) if one.topic == "coupon.claimed")
    entry = made.all[32 + row]
    rewritten(damaged, "events", 1, lambda table: with_value(table, field, row, change))
    places = [where for _, where in found(damaged)]
    named = f"main:{entry.position} "
    assert any(where.startswith(named) and field in where.split("field")[1] for where in places)
    if field not in {"stream", "book"}:
        assert any(f"stream {entry.stream} field" in where for where in places)
    believe_files(damaged)
    codes = {code for code, where in found(damaged) if f"main:{entry.position}" in where}
    assert codes & {"leaf_differs", "position_differs", "instant_differs", "book_differs"}


def test_an_event_that_is_changed_with_its_leaf_is_found_by_the_root(
    damaged: Path, made: Made
) -> None:
    """Whoever forges leaf and manifest as well cannot sign the root: it differs from there on."""
    position = next(one.position for one in made.all[32:] if one.topic == "coupon.redeemed")
    entry = made.all[position - 1]
    state = entry.state.replace(b'"order_total_minor":3', b'"order_total_minor":4')
    assert state != entry.state
    [leaf] = hashes_of("main", [entry._replace(state=state)])
    row = position - 33

    def change(table: pa.Table) -> pa.Table:
        table = with_value(table, "state", row, lambda _: state)
        return with_value(table, "leaf", row, lambda _: leaf)

    rewritten(damaged, "events", 1, change)
    believe_files(damaged)
    places = found(damaged)
    assert {code for code, _ in places} == {"root_differs"}
    first = -(-position // made.every) * made.every
    assert places[0] == ("root_differs", f"main at size {first} field root")


def test_a_rule_that_is_broken_is_found_in_an_export_that_proves_itself(
    made: Made, tmp_path: Path, small_files: None
) -> None:
    """The log is right and what it logs is not: the same finding as of a store."""
    position = next(one.position for one in made.all if one.topic == "coupon.redeemed")
    twice = made.all[position - 1]
    version = twice.version + 1
    wrong = Made(
        [
            *made.all[:position],
            twice._replace(position=position + 1, version=version),
        ]
    )
    exported(wrong, tmp_path / "wrong")
    codes = ["account_overdrawn", "redeemed_twice"]
    assert found(tmp_path / "wrong") == [(code, f"main:{position + 1}") for code in codes]


PLACE = r"^main:\d+( to main:\d+)? stream [0-9a-f-]{36} field "


@pytest.mark.parametrize("name", ["events", "checkpoints"])
def test_a_flipped_byte_of_any_file_is_found(export: Path, damaged: Path, name: str) -> None:
    """Wherever it is; where the rows are lost, their positions and the field are named."""
    chance = random.Random(name)
    for file in (one for one in manifest_of(export).files if one.kind == name):
        whole = (export / file.name).read_bytes()
        metadata = pq.read_metadata(export / file.name)
        for place in sorted(chance.sample(range(len(whole)), 6)):
            data = bytearray(whole)
            data[place] ^= 1 << chance.randrange(8)
            (damaged / file.name).write_bytes(data)
            places = found(damaged)
            assert ("file_differs", f"main {file.name}") in places
            field = field_at(metadata, place)
            if name == "events" and field is not None:
                named = [where for code, where in places if code != "file_differs"]
                assert any(field in where for where in named), field
                assert field == "stream" or any(re.search(PLACE, where) for where in named)
        (damaged / file.name).write_bytes(whole)
    assert found(damaged) == []


def test_a_page_that_cannot_be_unpacked_is_named_by_its_first_event(tmp_path: Path) -> None:
    """Other pages of its row group are read; the range begins where the damaged page does."""
    story = Synthetic(EVENTS_PER_GROUP, claims=2_000, block=100)
    told = Synthetic(EVENTS_PER_GROUP, claims=2_000, block=100)
    entries = list(story.entries(0, EVENTS_PER_GROUP))
    manifest = write_export(tmp_path, told, story.end())
    path = tmp_path / next(one.name for one in manifest.files if one.kind == "events")
    whole, group = path.read_bytes(), pq.read_metadata(path).row_group(0)
    (state,) = [
        group.column(n)
        for n in range(group.num_columns)
        if group.column(n).path_in_schema == "state"
    ]
    begin, size = state.data_page_offset, state.total_compressed_size
    places = []
    for part in (0.3, 0.9):
        at = begin + int(size * part)
        path.write_bytes(whole[:at] + bytes(64) + whole[at + 64 :])
        (where,) = [where for code, where in found(tmp_path, None) if code == "file_unreadable"]
        match = re.fullmatch(r"main:(\d+) to main:8192 stream ([0-9a-f-]{36}) field state", where)
        assert match is not None, where
        first = int(match[1])
        assert match[2] == str(entries[first - 1].stream)
        assert abs(first - part * 8192) < 1_024, "not far from where the bytes are"
        places.append(first)
    assert 1 < places[0] < places[1]


def field_at(metadata: Any, place: int) -> str | None:
    """The column whose values are at a place of a file; None in headers and the footer."""
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        for index in range(group.num_columns):
            column = group.column(index)
            begin = column.dictionary_page_offset or column.data_page_offset
            if begin + 64 <= place < begin + column.total_compressed_size:
                return str(column.path_in_schema)
    return None


def test_a_flipped_byte_of_the_manifest_or_its_note_is_found(export: Path, damaged: Path) -> None:
    """Signed or not, and whether the log's key is known from elsewhere or from the export."""
    chance = random.Random(1)
    whole = (export / MANIFEST).read_bytes()
    note = (export / MANIFEST_NOTE).read_bytes()
    for place in sorted(chance.sample(range(len(whole)), 60)):
        data = bytearray(whole)
        data[place] ^= 1 << chance.randrange(7)
        (damaged / MANIFEST).write_bytes(data)
        assert found(damaged, chance.choice([KEYS, None]))
        (damaged / MANIFEST_NOTE).unlink(missing_ok=True)
        unsigned = verified(damaged, None)
        is_harmless = b"witness" in whole[: place + 1] and not unsigned[1]
        assert unsigned[1] or is_harmless
        (damaged / MANIFEST_NOTE).write_bytes(note)
    (damaged / MANIFEST).write_bytes(whole)
    for place in range(0, len(note), 7):
        data = bytearray(note)
        data[place] ^= 1
        (damaged / MANIFEST_NOTE).write_bytes(data)
        assert [code for code, _ in found(damaged)] == ["manifest_unsigned"]


def test_files_that_are_cut_swapped_or_gone_are_named(export: Path, damaged: Path) -> None:
    """Cut anywhere, exchanged for one another, missing, or of another kind."""
    events = [one for one in manifest_of(export).files if one.kind == "events"]
    first, second = (damaged / one.name for one in events[:2])
    one, two = first.read_bytes(), second.read_bytes()
    for cut in (0, 1, 4, 100, len(one) // 2, len(one) - 1):
        first.write_bytes(one[:cut])
        assert {code for code, _ in found(damaged)} == {"file_differs", "file_unreadable"}
    first.write_bytes(two)
    second.write_bytes(one)
    assert {("file_differs", f"main {one.name}") for one in events[:2]} <= set(found(damaged))
    believe_files(damaged)
    assert "position_differs" in {code for code, _ in found(damaged)}
    first.unlink()
    assert ("file_missing", f"main {events[0].name}") in found(damaged)
    first.mkdir()
    assert ("file_missing", f"main {events[0].name}") in found(damaged)
    first.rmdir()
    first.symlink_to(export / events[0].name)
    assert ("file_missing", f"main {events[0].name}") in found(damaged)


def test_a_manifest_that_leaves_the_end_away_has_no_checkpoint_of_it(
    damaged: Path, made: Made
) -> None:
    """The last events cannot be left out, nor can an end be made up."""

    def shorter(manifest: Any) -> Any:
        files = [one for one in manifest.files if one.last <= 128]
        return replace(manifest, size=128, files=files)

    forge(damaged, shorter)
    assert found(damaged) == [("checkpoint_missing", "main")]


def test_who_is_believed_is_for_the_auditor_to_say(export: Path) -> None:
    """Another log's key, or a witness that has not cosigned, and it does not hold."""
    other = Signer("other.test", ED25519, b"o" * 32).verifier
    codes = {code for code, _ in found(export, Keys((other,)))}
    assert codes == {"signature_broken", "manifest_unsigned"}
    stranger = Signer("stranger.test", 4, b"s" * 32).verifier
    lacking = KEYS._replace(witnesses=(WITNESS.verifier, stranger), quorum=2)
    assert [code for code, _ in found(export, lacking)] == ["not_cosigned"]


def test_a_file_of_another_form_is_unreadable(damaged: Path) -> None:
    """Other columns, other types, more rows, fewer row groups, no Parquet at all."""
    file = manifest_of(damaged).files[0]
    path = damaged / file.name
    whole = path.read_bytes()
    table = pq.read_table(path)
    for other in (
        table.drop_columns(["leaf"]),
        table.append_column("more", table.column("leaf")),
        table.set_column(1, "position", table.column("position").cast(pa.int32())),
        pa.concat_tables([table, table]),
        table.slice(0, 8),
        table.slice(0, 0),
    ):
        pq.write_table(other, path, row_group_size=8)
        believe_bytes(damaged, path, 0)
        assert "file_unreadable" in {code for code, _ in found(damaged)}
    pq.write_table(table, path, row_group_size=32)
    believe_bytes(damaged, path, 0)
    assert "file_unreadable" in {code for code, _ in found(damaged)}
    path.write_bytes(whole)


def believe_bytes(where: Path, path: Path, number: int) -> None:
    """Forge the manifest to have a file's bytes."""
    data = path.read_bytes()

    def change(manifest: Any) -> Any:
        files = list(manifest.files)
        files[number] = replace(files[number], bytes=len(data), sha256=sha256(data).hexdigest())
        return replace(manifest, files=files)

    forge(where, change)


def test_a_decompression_bomb_is_not_unpacked(
    damaged: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A small file that would take much memory is refused by what it says of itself."""
    monkeypatch.setattr("ledger.exporting.reading.GROUP_BYTES_MAX", 1 << 20)
    file = manifest_of(damaged).files[0]
    path = damaged / file.name
    bomb = with_value(pq.read_table(path), "state", 3, lambda _: bytes(16 << 20))
    with pq.ParquetWriter(path, EVENTS, compression="zstd", use_dictionary=["book"]) as writer:
        for start in range(0, 32, 8):
            writer.write_table(bomb.slice(start, 8))
    assert path.stat().st_size < 1 << 16
    believe_bytes(damaged, path, 0)
    [unreadable] = [one for one in verified(damaged)[1] if one.code == "file_unreadable"]
    assert re.match(r"row group 0 would take 1\d{7} bytes", unreadable.found)


@settings(
    max_examples=int(os.environ.get("FUZZ_EXAMPLES", "60")),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(data=st.data())
def test_nothing_that_is_done_to_an_export_makes_the_verifier_crash_or_believe(
    export: Path, tmp_path: Path, data: st.DataObject
) -> None:
    """Bytes flipped, put in, taken out and moved in any file: found, and told as findings."""
    damaged = copy_of(export, tmp_path / "fuzzed")
    names = sorted(str(p.relative_to(export)) for p in export.rglob("*") if p.is_file())
    name = data.draw(st.sampled_from(names))
    path = damaged / name
    whole = path.read_bytes()
    mangled = data.draw(mangling(whole))
    path.write_bytes(mangled)
    told = verified(damaged)
    assert mangled == whole or told[1], f"{name} was believed"
    if name.endswith(".parquet") and mangled != whole:
        number = [one.name for one in manifest_of(damaged).files].index(name)
        believe_bytes(damaged, path, number)
        verified(damaged, None)


@pytest.mark.parametrize(
    ("field", "value"), [("position", -1), ("version", -1), ("topic", "t" * 70_000)]
)
def test_a_value_that_no_leaf_can_have_is_a_finding(
    damaged: Path, made: Made, field: str, value: object
) -> None:
    """Numbers below zero and endless topics have no encoding."""
    rewritten(damaged, "events", 1, lambda table: with_value(table, field, 3, lambda _: value))
    believe_files(damaged)
    where = f"main:36 stream {made.all[35].stream} field {field}"
    assert ("file_unreadable", where) in found(damaged)


def test_a_footer_that_is_no_text_is_a_finding(damaged: Path) -> None:
    """What the file says of its own columns is read as anything."""
    file = manifest_of(damaged).files[0]
    path = damaged / file.name
    whole = path.read_bytes()
    for put in (b"\x80", b"[", b'"'):
        place = whole.rindex(b'{"book":"')
        path.write_bytes(whole[:place] + put + whole[place + 1 :])
        believe_bytes(damaged, path, 0)
        assert "field_differs" in {code for code, _ in found(damaged)}


EXTREME: list[tuple[str, bytes, bytes]] = [
    ("coupon.claimed", b'"n":1', b'"n":99999999999999999999999999'),
    ("coupon.claimed", b'"face_minor":500', b'"face_minor":-9223372036854775809'),
    ("coupon.claimed", b'"currency":"CNY"', b'"currency":"\\u0000"'),
    ("coupon.claimed", b'"person":"', b'"person":"\xff'),
    ("coupon.claimed", b'{"at":"2026', b'{"at":"9999'),
    ("coupon.claimed", b'{"at":"2026', b'{"at":"0001'),
    ("coupon.claimed", b"{", b"[" * 50_000),
    ("coupon.redeemed", b'"order_total_minor":3', b'"order_total_minor":1e400'),
    ("coupon.redeemed", b'"discount_minor":500', b'"discount_minor":18446744073709551616'),
    ("campaign.drafted", b'"per_person_limit":1', b'"per_person_limit":-1'),
    ("campaign.drafted", b'"face_minor":500', b'"face_minor":0'),
    ("campaign.drafted", b'"valid_until":"2026', b'"valid_until":"9999'),
    ("campaign.funded", b'"quota":40', b'"quota":9999999999999999999999999'),
    ("coupon.expired", b'"to":"campaign"', b'"to":"elsewhere"'),
]


@pytest.mark.parametrize(("topic", "old", "new"), EXTREME)
@pytest.mark.parametrize("in_memory", [True, False])
def test_events_that_nobody_wrote_are_findings(
    topic: str,
    old: bytes,
    new: bytes,
    in_memory: bool,
    made: Made,
    tmp_path: Path,
    small_files: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of whoever has the log's key: extreme numbers, instants, texts and nestings."""
    if not in_memory:
        monkeypatch.setattr("campaigns.export_verification.IN_MEMORY", 0)
        monkeypatch.setattr("campaigns.export_window.ACCOUNTS_MAX", 2)
    one = next(one for one in made.all if one.topic == topic)
    changed = one._replace(state=one.state.replace(old, new, 1))
    assert changed != one
    wrong = [*made.all[: one.position - 1], changed, *made.all[one.position :]]
    exported(Made(wrong), tmp_path / "wrong")
    assert found(tmp_path / "wrong")


def test_a_rule_that_is_defeated_ends_the_judging_and_is_told(
    export: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever a rule raises is a finding with the position, and the hashes are still compared."""

    def defeated(self: object, event: object) -> None:
        raise ZeroDivisionError("nobody thought of it")

    monkeypatch.setattr("campaigns.judging.CampaignAudit._claimed", defeated)
    told, findings = verified(export)
    assert [(one.code, one.where) for one in findings] == [("event_unjudgeable", "main:5")]
    assert told is not None
    assert (told.judged, told.checkpoints) == (0, 31)


@st.composite
def mangling(draw: st.DrawFn, whole: bytes) -> bytes:
    """Return bytes that were changed in one of the ways of storage, transport and malice."""
    start = draw(st.integers(0, len(whole) - 1))
    size = draw(st.integers(0, min(64, len(whole) - start)))
    put = draw(st.binary(max_size=64))
    way = draw(st.sampled_from(["flip", "splice", "cut", "double", "move"]))
    if way == "flip":
        flipped = bytes([whole[start] ^ 1 << draw(st.integers(0, 7))])
        return whole[:start] + flipped + whole[start + 1 :]
    if way == "splice":
        return whole[:start] + put + whole[start + size :]
    if way == "cut":
        return whole[:start]
    if way == "double":
        return whole[:start] + whole[start - size if start > size else 0 :]
    return whole[start:] + whole[:start]


def test_a_process_that_dies_of_a_file_is_a_finding(
    export: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reader's death is told with the file's name, and the other files are gone on with."""
    monkeypatch.setenv("TIDEBOOK_TEST_DIE_OF", "events/000000000033")
    monkeypatch.setattr("campaigns.export_verification.prove_events", dying)
    codes = found_with_jobs(export)
    assert ("verifier_died", "main events/000000000033-000000000064.parquet") in codes
    assert all(code != "verifier_died" or "000033" in where for code, where in codes)


def found_with_jobs(where: Path) -> list[tuple[str, str]]:
    """Code and place of what a verification in two processes finds."""
    return [(one.code, one.where) for one in verified(where, jobs=1)[1]]


def dying(path: Path, *rest: Any) -> Any:
    """Prove a file in a process that one of them kills."""
    import signal

    if os.environ["TIDEBOOK_TEST_DIE_OF"] in str(path):
        os.kill(os.getpid(), signal.SIGKILL)
    for module_constant in ("EVENTS_PER_FILE", "EVENTS_PER_GROUP"):
        set_small(module_constant)
    return proving.prove_events(path, *rest)


def set_small(name: str) -> None:
    """Make files small in this process as well."""
    from ledger.exporting import form, reading, writing

    value = {"EVENTS_PER_FILE": 32, "EVENTS_PER_GROUP": 8}[name]
    for module in (form, reading, writing, proving):
        if hasattr(module, name):
            setattr(module, name, value)
    reading._GROUP_ROWS["events"] = 8
