"""The formats of logs: what others wrote is read, ours is read back, and nothing else is."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.merkle import (
    EMPTY_ROOT,
    MemoryTree,
    Node,
    consistency_proof,
    inclusion_proof,
    leaf_hashes,
)
from ledger.transparency.checkpoints import Checkpoint, parse_checkpoint
from ledger.transparency.notes import (
    COSIGNATURE,
    ED25519,
    SIGNATURES_MAX,
    BadSignature,
    Note,
    Signer,
    Untrusted,
    Verifier,
    parse_note,
    parse_signatures,
    signed_note,
    verified,
)
from ledger.transparency.proofs import (
    Policy,
    Proof,
    Refused,
    parse_proof,
    verify_proof,
)
from ledger.transparency.submissions import encode_submission, parse_submission
from ledger.transparency.texts import Malformed, from_base64, parse_number
from ledger.transparency.tiles import (
    Tile,
    TileBuilder,
    edge_of,
    encode_bundle,
    entries_in,
    hashes_in,
    reader_of,
    tiles_of,
)

LOG = Signer("ledger.example/main", ED25519, bytes(range(32)))
WITNESS = Signer("witness.example/w1", COSIGNATURE, bytes(range(1, 33)))
OTHER = Signer("witness.example/w2", COSIGNATURE, bytes(range(2, 34)))
LEAVES = leaf_hashes(b"%d" % number for number in range(700))
TREE = MemoryTree(LEAVES)
HEAD = Checkpoint("ledger.example/main", 700, TREE.root())


def cosigned() -> Note:
    """A checkpoint with the signatures of the log and of a witness."""
    note = signed_note(HEAD.text, [LOG])
    return note.signed(WITNESS.cosign(HEAD.text, 1_679_315_147))


# --- notes ------------------------------------------------------------------------------------


def test_a_note_that_somebody_else_signed_is_verified() -> None:
    """The example of the signed-note specification: vkey, text and signature."""
    key = Verifier.parse("example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k")
    note = parse_note(
        b"This is an example message.\n\n"
        b"\xe2\x80\x94 example.com/foo Uw2QOkn8srV1yJGh2VYRlL1Tnagv1YEq6TfXppzi2ONncAlTgK7Ztg1ER"
        b"YNZXsYjOBH3mFXmRKuwHjG1Yu72IneyaQM=\n"
    )
    assert verified(note, [key]) == note.signatures
    assert str(key).startswith("example.com/foo+530d903a+A")


def test_a_signature_is_the_one_that_rfc_8032_gives() -> None:
    """The first test vector of Ed25519, as a key with a name and a kind."""
    seed = bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
    public = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"
    key = Signer("a", ED25519, seed)
    assert key.verifier.public.hex() == public
    assert key.verifier.key_id == sha256(b"a\n\x01" + bytes.fromhex(public)).digest()[:4]
    assert key.sign("").data.hex().startswith("e5564300c360ac729086e2cc806e828a84877f1eb8e5d974")


def test_what_is_signed_is_read_back_and_verified() -> None:
    """A note with two signatures, byte for byte."""
    note = cosigned()
    assert parse_note(note.encode()) == note
    both = verified(note, [LOG.verifier, WITNESS.verifier, OTHER.verifier])
    assert [one.name for one in both] == [LOG.verifier.name, WITNESS.verifier.name]
    assert both[1].timestamp == 1_679_315_147


def test_a_cosignature_covers_the_time() -> None:
    """Another time under the same signature does not hold, nor does the time zero."""
    one = WITNESS.cosign(HEAD.text, 1_679_315_147)
    later = one._replace(data=(1_679_315_148).to_bytes(8) + one.data[8:])
    for wrong in (later, one._replace(data=bytes(8) + one.data[8:])):
        with pytest.raises(BadSignature):
            verified(Note(HEAD.text, (wrong,)), [WITNESS.verifier])


def test_the_kind_of_a_key_tells_its_signatures_apart() -> None:
    """The same bytes as a key for notes and as one for cosignatures have other ids."""
    twin = Verifier(WITNESS.verifier.name, ED25519, WITNESS.verifier.public)
    assert twin.key_id != WITNESS.verifier.key_id
    with pytest.raises(Untrusted):
        verified(Note(HEAD.text, (WITNESS.cosign(HEAD.text, 1),)), [twin])


def test_a_bad_signature_of_a_known_key_spoils_the_note() -> None:
    """Although another known key's signature holds; those of unknown keys do not matter."""
    note = cosigned()
    spoiled = note.signed(note.signatures[1]._replace(data=bytes(72)))
    assert verified(spoiled, [LOG.verifier]) == note.signatures[:1]
    with pytest.raises(BadSignature):
        verified(spoiled, [LOG.verifier, WITNESS.verifier])


def test_keys_that_collide_are_told_apart_by_what_verifies() -> None:
    """An attacker may choose a key with the same name and id; its owner is still believed."""
    fake = Verifier(LOG.verifier.name, ED25519, bytes(32))
    assert verified(cosigned(), [fake, LOG.verifier])
    with pytest.raises(Untrusted):
        verified(cosigned(), [fake])


def test_keys_are_written_and_read_back() -> None:
    """Both kinds, public and secret; a secret key is not in its repr."""
    for key in (LOG, WITNESS):
        assert Verifier.parse(str(key.verifier)) == key.verifier
        assert Signer.parse(key.secret_text()).verifier == key.verifier
        assert key.secret_text().split("+")[-1] not in repr(key)


@pytest.mark.parametrize("text", [str(LOG.verifier), LOG.secret_text()])
def test_no_part_and_no_change_of_a_key_is_a_key(text: str) -> None:
    """Every cut and every changed character is refused, or is another key of another name."""
    parse: Callable[[str], Any] = Signer.parse if text.startswith("PRIVATE") else Verifier.parse
    for start in range(len(text)):
        for end in range(start, len(text) + 1):
            if (start, end) != (0, len(text)):
                with pytest.raises(Malformed):
                    parse(text[start:end])
    for at, char in enumerate(text):
        with pytest.raises(Malformed):
            parse(text[:at] + chr(ord(char) + 1) + text[at + 1 :])


MESSAGE = cosigned().encode()


@given(st.integers(0, len(MESSAGE) - 1), st.integers(1, 255))
def test_no_changed_byte_of_a_note_is_believed(at: int, change: int) -> None:
    """A byte changed anywhere is malformed, no longer signed, or in a name nobody trusts."""
    data = bytearray(MESSAGE)
    data[at] ^= change
    try:
        note = parse_note(bytes(data))
        signed = verified(note, [LOG.verifier, WITNESS.verifier])
    except (Malformed, Untrusted, BadSignature):
        return
    assert len(signed) == 1
    assert note.text == HEAD.text


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\n",
        b"text\n\n",
        b"text\n\n\n",
        MESSAGE[:-1],
        MESSAGE + b"\n",
        MESSAGE + b"more\n",
        MESSAGE.replace(b"\n", b"\r\n"),
        MESSAGE.replace(b"main", b"ma\x00n"),
        MESSAGE.replace(b"main", b"ma\xffn"),
        MESSAGE.replace("\N{EM DASH}".encode(), b"-"),
        MESSAGE.replace(b" ledger", b"  ledger"),
        MESSAGE.replace(b"=\n", b"\n"),
        b"text\n\n\xe2\x80\x94 a AAAA\n",
        b"text\n\n\xe2\x80\x94 a+b AAAAAAAA\n",
        "text\n\n— a\u00a0b AAAAAAAA\n".encode(),
        "text\n\n— a AAAAAAA=\n— a AAAAAAB=\n".encode(),
        b"text\n\n" + b"\xe2\x80\x94 a AAAAAAAA\n" * (SIGNATURES_MAX + 1),
        b"x" * (1 << 20) + MESSAGE,
    ],
)
def test_what_is_no_note_is_malformed(data: bytes) -> None:
    """Missing lines, controls, other dashes, names with spaces, base64 that is not canonical."""
    with pytest.raises(Malformed):
        parse_note(data)


PARSERS: list[Callable[[bytes], Any]] = [
    parse_note,
    parse_checkpoint,
    parse_proof,
    parse_submission,
    entries_in,
    hashes_in,
    lambda data: Checkpoint.parse(data.decode("utf-8", "replace")),
    lambda data: parse_signatures(data.decode("utf-8", "replace")),
    lambda data: Verifier.parse(data.decode("utf-8", "replace")),
    lambda data: Signer.parse(data.decode("utf-8", "replace")),
    lambda data: Tile.parse(data.decode("utf-8", "replace")),
    lambda data: parse_number(data.decode("utf-8", "replace")),
    lambda data: from_base64(data.decode("utf-8", "replace")),
]
SAMPLES = [
    MESSAGE,
    Proof(3, tuple(LEAVES[:4]), cosigned(), b"more").encode(),
    encode_submission(5, LEAVES[:3], MESSAGE),
    str(LOG.verifier).encode(),
    LOG.secret_text().encode(),
    b"tile/0/x001/234.p/7",
    encode_bundle([b"one", b"two"]),
]


@given(st.sampled_from(PARSERS), st.data())
def test_no_bytes_crash_a_parser(parse: Callable[[bytes], Any], data: st.DataObject) -> None:
    """Noise, and samples with noise in them: a value or `Malformed`."""
    noise = data.draw(st.binary(max_size=80))
    sample = data.draw(st.sampled_from(SAMPLES))
    at = data.draw(st.integers(0, len(sample)))
    cut = data.draw(st.integers(0, 20))
    for text in (noise, sample[:at] + noise + sample[at + cut :]):
        try:
            parse(text)
        except Malformed:
            continue


# --- checkpoints ------------------------------------------------------------------------------


def test_a_checkpoint_is_three_lines_and_more() -> None:
    """Origin, size and root in base64; extension lines are kept."""
    assert HEAD.text.startswith("ledger.example/main\n700\n")
    assert Checkpoint.parse(HEAD.text + "more\n") == HEAD._replace(extensions=("more",))
    assert Checkpoint.parse(HEAD.text) == HEAD
    assert Checkpoint("log", 0, EMPTY_ROOT).text == (
        "log\n0\n47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=\n"
    )


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("700", "0700"),
        ("700", "+700"),
        ("700", "-1"),
        ("700", ""),
        ("700", "7_0"),
        ("700", "\u0667"),
        ("700", str(2**63)),
        ("ledger.example/main\n", "\n"),
        ("=\n", "\n"),
        ("=\n", "==\n"),
        ("=\n", "="),
    ],
)
def test_what_is_no_checkpoint_is_malformed(old: str, new: str) -> None:
    """Numbers have one form, hashes are 32 bytes in base64, and no line is empty."""
    with pytest.raises(Malformed):
        Checkpoint.parse(HEAD.text.replace(old, new))


# --- tiles ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tile", "path"),
    [
        (Tile(0, 1_234_067), "tile/0/x001/x234/067"),
        (Tile(0, 0), "tile/0/000"),
        (Tile(63, 1_000, 255), "tile/63/x001/000.p/255"),
        (Tile(None, 999, 1), "tile/entries/999.p/1"),
    ],
)
def test_a_tile_has_one_path(tile: Tile, path: str) -> None:
    """Groups of three digits, all but the last with an x; the width when it is partial."""
    assert tile.path == path
    assert Tile.parse(path) == tile


@pytest.mark.parametrize(
    "path",
    [
        "tile/0/0",
        "tile/0/0000",
        "tile/00/000",
        "tile/64/000",
        "tile/-1/000",
        "tile/0/x000/001",
        "tile/0/001/002",
        "tile/0/x1/002",
        "tile/0/000.p/0",
        "tile/0/000.p/256",
        "tile/0/000.p/01",
        "tile/0/000.p/",
        "tile/0/000/",
        "tile/entry/000",
        "tile/0/x999/x999/x999/x999/x999/x999/999",
        "tile/0/\u0661\u0662\u0663",
        "tiles/0/000",
        "tile/0",
        "tile/0/000\n",
    ],
)
def test_no_other_path_is_a_tiles(path: str) -> None:
    """Every tile has one address only."""
    with pytest.raises(Malformed):
        Tile.parse(path)


def test_the_tiles_of_a_tree_are_those_of_the_specifications_example() -> None:
    """70,000 leaves: 273 full tiles and one of 112, one full and one of 17, one of 1."""
    widths = [(tile.level, tile.width) for tile in tiles_of(70_000)]
    assert widths.count((0, 256)) == 273
    assert widths[273:] == [(0, 112), (1, 256), (1, 17), (2, 1)]
    assert list(tiles_of(256)) == [Tile(0, 0), Tile(1, 0, 1)]
    assert list(tiles_of(257, since=256)) == [Tile(0, 1, 1)]
    assert [tile.width for tile in edge_of(70_000)] == [112, 17, 1]
    assert Tile(1, 1, 17).is_in(70_000)
    assert not Tile(1, 1, 18).is_in(70_000)


@given(st.lists(st.integers(0, 300), max_size=6))
def test_tiles_that_grow_hold_the_tree(steps: list[int]) -> None:
    """Built in whatever steps, taken up again from its edge each time, it has the same root."""
    kept: dict[tuple[int, int], bytes] = {}
    size = 0
    for step in steps:
        edge = {
            t.level: kept[t.level, t.number]
            for t in edge_of(size)
            if t.level is not None and t.width
        }
        builder = TileBuilder(size, edge)
        leaves = LEAVES[size : size + step]
        builder.extend(leaves)
        size += len(leaves)
        changed = builder.take_changed()
        assert set(changed) == {(t.level, t.number) for t in tiles_of(size, size - len(leaves))}
        kept.update(changed)
        assert builder.root() == TREE.root(size)
        assert not builder.take_changed()
    for tile in tiles_of(size):
        assert tile.level is not None
        assert len(kept[tile.level, tile.number]) == 32 * tile.width
    read = reader_of(lambda names: [kept[name] for name in names])
    for other in {1, size // 2, size} - {0}:
        if other <= size:
            proof = consistency_proof(other, size, read)
            assert proof == consistency_proof(other, size, TREE.read)
            assert inclusion_proof(other - 1, size, read) == inclusion_proof(
                other - 1, size, TREE.read
            )


def test_a_tile_that_is_too_narrow_is_not_read_past() -> None:
    """A subtree whose hashes are not all there has no hash."""
    with pytest.raises(Malformed):
        reader_of(lambda names: [LEAVES[0]])([Node(1, 0)])
    with pytest.raises(Malformed):
        TileBuilder(3, {0: LEAVES[0]})


def test_bundles_are_read_back() -> None:
    """Entries of any length up to 65,535 bytes, empty ones too."""
    entries = [b"", b"one", bytes(65_535)]
    assert entries_in(encode_bundle(entries)) == entries
    for wrong in (b"", b"\x00", b"\x00\x02a", encode_bundle([b""] * 257)):
        with pytest.raises(Malformed):
            entries_in(wrong)


# --- proofs and submissions -------------------------------------------------------------------

POLICY = Policy(HEAD.origin, (LOG.verifier,), (WITNESS.verifier, OTHER.verifier), 1)
PROOF = Proof(123, tuple(inclusion_proof(123, 700, TREE.read)), cosigned())


def test_a_proof_is_read_back_and_holds() -> None:
    """With and without extra bytes, for its entry and for no other."""
    for proof in (PROOF, PROOF._replace(extra=b"context")):
        assert parse_proof(proof.encode()) == proof
        assert verify_proof(proof, LEAVES[123], POLICY)[0] == HEAD
    with pytest.raises(Refused):
        verify_proof(PROOF, LEAVES[124], POLICY)


@pytest.mark.parametrize(
    "policy",
    [
        POLICY._replace(origin="another"),
        POLICY._replace(log=(OTHER.verifier,)),
        POLICY._replace(quorum=2),
        POLICY._replace(witnesses=(OTHER.verifier,)),
    ],
)
def test_a_proof_is_refused_by_whom_it_does_not_convince(policy: Policy) -> None:
    """Another origin, another log's key, more witnesses than have cosigned."""
    with pytest.raises(Refused):
        verify_proof(PROOF, LEAVES[123], policy)


ENCODED = PROOF.encode()


@given(st.integers(0, len(ENCODED) - 1), st.integers(1, 255))
def test_no_changed_byte_of_a_proof_is_believed(at: int, change: int) -> None:
    """It is malformed or refused, wherever the byte is."""
    data = bytearray(ENCODED)
    data[at] ^= change
    with pytest.raises((Malformed, Refused)):
        verify_proof(parse_proof(bytes(data)), LEAVES[123], POLICY)


def test_a_submission_is_read_back() -> None:
    """Old size, proof and checkpoint; without a proof as well."""
    proof = consistency_proof(600, 700, TREE.read)
    found = parse_submission(encode_submission(600, proof, MESSAGE))
    assert found.old_size == 600
    assert list(found.proof) == proof
    assert found.note.encode() == MESSAGE
    assert found.checkpoint == HEAD
    assert parse_submission(encode_submission(0, [], MESSAGE)).proof == ()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        MESSAGE,
        b"old 01\n\n" + MESSAGE,
        b"old 1\n" + MESSAGE,
        b"old 1\nAAAA\n\n" + MESSAGE,
        b"new 1\n\n" + MESSAGE,
        b"old 1 \n\n" + MESSAGE,
        b"old \xff\n\n" + MESSAGE,
        encode_submission(5, LEAVES[:64], MESSAGE),
        encode_submission(5, [], b"text\n\n\xe2\x80\x94 a AAAAAAAA\n"),
    ],
)
def test_what_is_no_submission_is_malformed(body: bytes) -> None:
    """Another first line, too many hashes, hashes of another length, no checkpoint."""
    with pytest.raises(Malformed):
        parse_submission(body)
