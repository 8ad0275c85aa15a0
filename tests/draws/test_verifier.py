"""The stand-alone verifier: it accepts what was drawn and refuses everything else.

Goal: nobody can change a bundle unseen, and nothing in one can make the verifier fail otherwise
than by saying no.
Method: it is run as people run it, with an isolated interpreter; then every byte of every file is
changed, dropped and doubled, and every field of the manifest is replaced, removed and added to.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from campaigns.draws import verify_draw
from campaigns.draws.bundle import proof_document, write_bundle
from campaigns.draws.listing import EntryList
from campaigns.draws.verify_draw import Refused, canonical, check_bundle, check_proof
from tests.draws.drawn import SEED, SIGNATURE, draw_bundle, entry, told

FILES = ("draw.json", "list.bin", "withdrawn.bin", "results.csv")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small draw with everything in it: withdrawals, tiers, runners-up, two turns."""
    return draw_bundle(tmp_path_factory.mktemp("draw"))


def answer(folder: Path) -> str:
    """What the verifier says of a bundle, without starting an interpreter for it."""
    try:
        check_bundle(folder)
    except (Refused, ValueError, OSError, RecursionError, MemoryError) as error:
        return f"REFUSED: {error}"
    return "OK"


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run the copy that lies in a bundle, with nothing but the standard library."""
    return subprocess.run(
        [sys.executable, "-I", "-S", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )


def test_it_stands_alone(bundle: Path, tmp_path: Path) -> None:
    """The copy in the bundle needs nothing beside it, and says who was drawn."""
    copy = shutil.copytree(bundle, tmp_path / "elsewhere")
    announcement = json.loads((bundle / "draw.json").read_bytes())["announcement"]
    digest = sha256(canonical(announcement)).hexdigest()
    rows = (bundle / "results.csv").read_text().splitlines()
    leaf = rows[1].split(",")[2]
    found = run(copy / "verify_draw.py", copy, "--announced", digest, "--entry", leaf)
    assert found.returncode == 0, found.stdout + found.stderr
    assert found.stdout.endswith("OK\n")
    assert "was drawn, rank 0, tier 1" in found.stdout
    assert digest in found.stdout


def test_another_announcement_is_refused(bundle: Path) -> None:
    """Whoever knows what was announced cannot be shown another draw, however well made."""
    found = run(bundle / "verify_draw.py", bundle, "--announced", "0" * 64)
    assert (found.returncode, found.stdout) == (1, "REFUSED: this is not what was announced\n")


def test_it_tells_what_became_of_an_entry(bundle: Path) -> None:
    """Drawn, moved up, runner-up, not drawn, not there."""
    rows = [line.split(",") for line in (bundle / "results.csv").read_text().splitlines()[1:]]
    said = [verify_draw.what_became_of(bundle, row[2]) for row in rows]
    assert said == [
        "was drawn, rank 0, tier 1",
        "was drawn, rank 1, tier 2",
        "was drawn, rank 2, tier 2",
        "moved up in turn 1, rank 3, tier 1",
        "moved up in turn 1, rank 4, tier 2",
        "moved up in turn 2, rank 5, tier 2",
    ]
    drawn = {row[2] for row in rows}
    left = next(number for number in range(12) if entry(number).hex() not in drawn)
    became = verify_draw.what_became_of(bundle, entry(left).hex())
    assert became == f"in the list, number {left}; not drawn"
    assert verify_draw.what_became_of(bundle, "00" * 20) == "not in the list"


@pytest.mark.parametrize(
    ("entries", "withdrawn", "tiers", "runners_up", "moves"),
    [
        (0, [], [(5, 1)], 2, []),
        (1, [], [(5, 1)], 2, []),
        (1, [0], [(5, 1)], 0, []),
        (5, [], [(2, 9), (3, 1)], 0, []),
        (6, [], [(2, 9), (3, 1)], 4, [(1, 0)]),
        (100, range(0, 100, 3), [(10, 20_000)], 10, [(4,), (2,)]),
    ],
)
def test_draws_of_all_shapes_are_accepted(
    tmp_path: Path,
    entries: int,
    withdrawn: list[int],
    tiers: list[tuple[int, int]],
    runners_up: int,
    moves: list[tuple[int, ...]],
) -> None:
    """Nobody, few, everybody, with and without those who withdrew and moved up."""
    folder = draw_bundle(tmp_path, entries, withdrawn, tiers, runners_up, moves)
    assert answer(folder) == "OK"


# --- mutations ------------------------------------------------------------------------------------


def changes_of(data: bytes) -> Iterator[tuple[str, bytes]]:
    """Every byte changed in three ways, dropped and doubled; the whole cut and added to."""
    for at in range(len(data)):
        for flip in (0x01, 0x20, 0x80):
            yield f"{at} ^ {flip}", data[:at] + bytes([data[at] ^ flip]) + data[at + 1 :]
        yield f"{at} dropped", data[:at] + data[at + 1 :]
        yield f"{at} doubled", data[: at + 1] + data[at:]
    for more in (b"\0", b"\n", b" ", data):
        if data + more != data:
            yield f"+ {more[:8]!r}", data + more
    yield "emptied", b"" if data else b"\0"


@pytest.mark.parametrize("name", FILES)
def test_no_byte_can_be_changed(bundle: Path, tmp_path: Path, name: str) -> None:
    """Each change of one byte, anywhere, is refused."""
    folder = shutil.copytree(bundle, tmp_path / "mutated")
    original = (folder / name).read_bytes()
    accepted = []
    for what, changed in changes_of(original):
        if changed != original:
            (folder / name).write_bytes(changed)
            if answer(folder) == "OK":
                accepted.append(what)
    assert not accepted


@pytest.mark.parametrize("name", FILES)
def test_no_file_can_be_missing(bundle: Path, tmp_path: Path, name: str) -> None:
    """A bundle without one of its files is none."""
    folder = shutil.copytree(bundle, tmp_path / "mutated")
    (folder / name).unlink()
    assert answer(folder) != "OK"


def test_nothing_can_be_added(bundle: Path, tmp_path: Path) -> None:
    """A file that is no part of a bundle could pass for one."""
    folder = shutil.copytree(bundle, tmp_path / "mutated")
    (folder / "winners.txt").write_text("me")
    assert answer(folder) != "OK"


ODD: tuple[Any, ...] = (None, True, -1, 0, 1, 2**70, 1.5, "", "x", "0" * 64, [], {}, [[]], "ÿ")


def places_in(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every value inside a JSON value."""
    if path:
        yield path
    if isinstance(value, dict | list):
        for name, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from places_in(item, (*path, name))


def mutants(manifest: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every value replaced by odd ones and neighbours, removed, and with a twin beside it."""
    for path in places_in(manifest):
        for replacement in (*ODD, *_near(_at(manifest, path))):
            fresh = json.loads(json.dumps(manifest))
            _at(fresh, path[:-1])[path[-1]] = replacement
            yield f"{path} = {replacement!r}", fresh
        fresh = json.loads(json.dumps(manifest))
        del _at(fresh, path[:-1])[path[-1]]
        yield f"{path} removed", fresh
        inner = _at(manifest, path)
        if isinstance(inner, dict):
            fresh = json.loads(json.dumps(manifest))
            _at(fresh, path)["more"] = 0
            yield f"{path} with more", fresh
        if isinstance(inner, list):
            fresh = json.loads(json.dumps(manifest))
            _at(fresh, path).append(inner[0] if inner else 0)
            yield f"{path} longer", fresh


def _at(value: Any, path: tuple[Any, ...]) -> Any:
    for name in path:
        value = value[name]
    return value


def _near(value: Any) -> list[Any]:
    match value:
        case bool():
            return [not value]
        case int():
            return [value + 1, value - 1, float(value), str(value)]
        case str():
            return [value.upper(), value + "0", value[:-1], value[::-1], value + "\n"]
        case list():
            return [value[::-1], value[1:], value * 2]
        case _:
            return []


def test_no_field_can_be_changed(bundle: Path, tmp_path: Path) -> None:
    """Each value of the manifest, replaced, removed, added to or doubled, is refused."""
    folder = shutil.copytree(bundle, tmp_path / "mutated")
    manifest = json.loads((folder / "draw.json").read_bytes())
    original, tried, accepted = canonical(manifest), 0, []
    for what, mutant in mutants(manifest):
        written = canonical(mutant)
        if written == original:
            continue
        tried += 1
        (folder / "draw.json").write_bytes(written)
        if answer(folder) == "OK":
            accepted.append(what)
    assert not accepted
    assert tried > 500


@pytest.mark.parametrize(
    "hostile",
    [
        b"[" * 100_000,
        b'{"announcement":' * 50_000,
        b"9" * 5_000,
        b"NaN\n",
        b"\xff\xfe",
        b'{"announcement":1,"announcement":2}\n',
    ],
)
def test_a_hostile_manifest_is_refused(bundle: Path, tmp_path: Path, hostile: bytes) -> None:
    """Whatever stands there, the answer is no, and not a traceback."""
    folder = shutil.copytree(bundle, tmp_path / "mutated")
    (folder / "draw.json").write_bytes(hostile)
    found = run(folder / "verify_draw.py", folder)
    assert found.returncode == 1
    assert found.stdout.startswith("REFUSED: ")
    assert not found.stderr


def test_a_seed_that_was_chosen_later_is_refused(tmp_path: Path) -> None:
    """A bundle that is made of another seed breaks the commitment."""
    with EntryList(tmp_path / "list") as listed:
        listed.add(map(entry, range(12)))
        facts = told(listed.facts(), [(3, 1)], 0)
        write_bundle(tmp_path / "b", facts, b"x" * 32, SIGNATURE, listed, [(3,)])
    assert answer(tmp_path / "b") == "REFUSED: not the seed that was committed to"


def test_a_bundle_of_another_list_is_not_what_was_announced(bundle: Path, tmp_path: Path) -> None:
    """A whole other draw is consistent in itself; the published digest tells it apart."""
    other = draw_bundle(tmp_path, entries=13)
    announcement = json.loads((bundle / "draw.json").read_bytes())["announcement"]
    assert answer(other) == "OK"
    with pytest.raises(Refused, match="announced"):
        check_bundle(other, sha256(canonical(announcement)).hexdigest())


Break = Callable[[pytest.MonkeyPatch], None]


def _plant_any_list(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(verify_draw, "check_list", lambda *_: {3, 7})


def _plant_loose_json(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(verify_draw, "parsed", json.loads)


@pytest.mark.parametrize(("plant", "name"), [(_plant_any_list, 1), (_plant_loose_json, 0)])
def test_a_verifier_that_looks_away_is_found_out(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plant: Break, name: int
) -> None:
    """Control: without one of its checks some change of a byte is accepted."""
    folder = shutil.copytree(bundle, tmp_path / "mutated")
    plant(monkeypatch)
    original = (folder / FILES[name]).read_bytes()
    answers = set()
    for _, changed in changes_of(original):
        (folder / FILES[name]).write_bytes(changed)
        answers.add(answer(folder))
    assert "OK" in answers


# --- «I was in the draw» --------------------------------------------------------------------------


@pytest.fixture
def listed(tmp_path: Path) -> Iterator[EntryList]:
    """A list of 37 entries."""
    with EntryList(tmp_path / "list") as made:
        made.add(map(entry, range(37)))
        made.keep()
        yield made


def test_every_entry_has_a_proof(listed: EntryList, tmp_path: Path) -> None:
    """Each shows by a few hashes that it was in the list of the published root."""
    for index in range(37):
        found = check_proof(proof_document(listed, index, 37))
        assert found["leaf"] == entry(index).hex()
        assert found["root"] == listed.facts().root
    (tmp_path / "proof.json").write_bytes(proof_document(listed, 5, 37))
    shown = run(verify_draw.__file__, "--proof", tmp_path / "proof.json")
    assert shown.returncode == 0
    assert shown.stdout.endswith("OK\n")


def test_no_proof_can_be_changed(listed: EntryList) -> None:
    """Each change of one byte of a proof is refused."""
    original = proof_document(listed, 36, 37)
    for what, changed in changes_of(original):
        with pytest.raises((Refused, ValueError)):
            raise AssertionError(f"{what}: {check_proof(changed)}")


def test_the_seed_of_these_tests_is_committed_to(bundle: Path) -> None:
    """What the mutations start from is a draw that is right."""
    assert answer(bundle) == "OK"
    shown = json.loads((bundle / "draw.json").read_bytes())["disclosure"]
    assert shown["seed"] == SEED.hex()
