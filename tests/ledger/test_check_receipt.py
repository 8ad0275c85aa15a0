"""The stand-alone checker: the RFC's signatures, every flipped byte, and one verdict with ours."""

from __future__ import annotations

import base64
import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from hypothesis import given, settings
from hypothesis import strategies as st

from campaigns.event_types import EVENT_TYPES
from ledger.merkle import MemoryTree, inclusion_proof, leaf_hash
from ledger.transparency import check_receipt as alone
from ledger.transparency.checkpoints import Checkpoint
from ledger.transparency.leaves import encode_entry
from ledger.transparency.notes import COSIGNATURE, ED25519, Note, Signer, Verifier, signed_note
from ledger.transparency.packing import file_of, pack, to_base45, unpack
from ledger.transparency.policies import PolicyFile, parse_policy
from ledger.transparency.proofs import Group, Policy, Proof, Refused
from ledger.transparency.receipts import attested, verify_receipt
from ledger.transparency.statements import (
    REFUSAL,
    Statement,
    signed_statement,
    statement_signer,
)
from ledger.transparency.texts import Malformed
from tests.ledger.test_merkle import unpack as hashes_of
from tests.ledger.test_merkle import vectors

ORIGIN = "ledger.example/main"
LOG = Signer(ORIGIN, ED25519, bytes(range(32)))
WITNESS = Signer("witness.example/w1", COSIGNATURE, bytes(range(1, 33)))
STATEMENTS = statement_signer(ORIGIN, bytes(range(2, 34)))
STATE = (
    '{"at":"2026-05-01T02:00:00Z","by":{"role":"merchant","id":"cafe"},"why":{"request":"r"},'
    '"campaign":"0f8fad5b-d9cb-5c1a-8a5f-3b1c2d3e4f50","person":"00112233445566778899aabbccddeeff",'
    '"merchant":"cafe","shop":"免税城","order":"o-1","order_total_minor":9000,'
    '"discount_minor":5000,"currency":"CNY"}'
).encode()
PROGRAM = Path(alone.__file__)


def entry_at(position: int) -> bytes:
    """The entry of a redemption."""
    stream = UUID(int=position)
    return encode_entry("main", position, stream, 2, "coupon.redeemed", STATE)


ENTRIES = [entry_at(position) for position in range(1, 12)]
TREE = MemoryTree(map(leaf_hash, ENTRIES))


def proof_at(position: int, size: int = 11) -> Proof:
    """The receipt of one of these events, cosigned."""
    head = Checkpoint(ORIGIN, size, TREE.root(size))
    note = signed_note(head.text, [LOG]).signed(WITNESS.cosign(head.text, 1_777_777_777))
    hashes = tuple(inclusion_proof(position - 1, size, TREE.read))
    return Proof(position - 1, hashes, note, ENTRIES[position - 1])


PROOF = proof_at(5)
RECEIPT = PROOF.encode()
WITHHELD = attested(PROOF, ["person"], STATEMENTS).encode()
TOLD = Statement(REFUSAL, {"book": "main", "caller": "tourist:00", "code": "sold_out"})
STATED = signed_statement(TOLD, STATEMENTS).encode()
KEYS = (LOG.verifier, WITNESS.verifier, STATEMENTS.verifier)
POLICY = Policy(ORIGIN, (KEYS[0],), (KEYS[1],), 1, (KEYS[2],))
TRUST = alone.Trust(
    (alone.parse_key(str(KEYS[0])),),
    (alone.parse_key(str(KEYS[1])),),
    1,
    (alone.parse_key(str(KEYS[2])),),
)


# --- Ed25519 ----------------------------------------------------------------------------------

RFC_8032 = [
    (
        "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        (
            "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701c"
            "f9b46bd25bf5f0595bbe24655141438e7a100b"
        ),
    ),
    (
        "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        (
            "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0"
            "f11d8c387b2eaeb4302aeeb00d291612bb0c00"
        ),
    ),
    (
        "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
        "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
        "af82",
        (
            "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f76098"
            "4dc6594a7c15e9716ed28dc027beceea1ec40a"
        ),
    ),
    (
        "833fe62409237b9d62ec77587520911e9a759cec1d19755b7da901b96dca3d42",
        "ec172b93ad5e563bf4932c70e1245034c35467ef2efd4d64ebf819683467e2bf",
        hashlib.sha512(b"abc").hexdigest(),
        (
            "dc2a4459e7369633a52b1bf277839a00201009a3efbf3ecb69bea2186c26b58909351fc9ac90b3ecfdfbc7c664"
            "31e0303dca179c138ac17ad9bef1177331a704"
        ),
    ),
]


@pytest.mark.parametrize(("seed", "public", "message", "signature"), RFC_8032)
def test_the_signatures_of_the_rfc_verify(
    seed: str, public: str, message: str, signature: str
) -> None:
    """And no other message has them."""
    key, told, made = map(bytes.fromhex, (public, message, signature))
    assert Ed25519PrivateKey.from_private_bytes(bytes.fromhex(seed)).sign(told) == made
    assert alone.ed25519(key, told, made)
    assert not alone.ed25519(key, told + b"\0", made)


SMALL = [
    "0100000000000000000000000000000000000000000000000000000000000000",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "0000000000000000000000000000000000000000000000000000000000000000",
    "0000000000000000000000000000000000000000000000000000000000000080",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
]
NOT_CANONICAL = [
    "0100000000000000000000000000000000000000000000000000000000000080",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "f0ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
]


@pytest.mark.parametrize("public", SMALL + NOT_CANONICAL)
def test_keys_that_would_verify_anything_are_no_keys(public: str) -> None:
    """The eight points of small order, and encodings beside the one form: here and in ours."""
    key = bytes.fromhex(public)
    point = alone.decompressed(key)
    assert (point is not None) == (public in SMALL)
    assert point is None or alone.is_small(point)
    for signature in (key + bytes(32), bytes.fromhex(SMALL[0]) + bytes(32)):
        assert not alone.ed25519(key, b"anything", signature)
    text = str(Verifier("log.example", ED25519, key))
    with pytest.raises(alone.Refused):
        alone.parse_key(text)
    with pytest.raises(Malformed):
        Verifier.parse(text)


def test_a_signature_has_one_form() -> None:
    """A scalar plus the group's order, another encoding, other lengths: refused."""
    message, key = b"one form", KEYS[0].public
    made = Ed25519PrivateKey.from_private_bytes(bytes(range(32))).sign(message)
    assert alone.ed25519(key, message, made)
    s = int.from_bytes(made[32:], "little")
    for changed in (s + alone.ORDER, s + 2 * alone.ORDER, 2**256 - 1, 0):
        assert not alone.ed25519(key, message, made[:32] + changed.to_bytes(32, "little"))
    assert not alone.ed25519(key, message, made[:-1])
    assert not alone.ed25519(key, message, made + b"\0")
    assert not alone.ed25519(key[:-1], message, made)
    beyond = (alone.P + 1).to_bytes(32, "little")
    assert not alone.ed25519(key, message, beyond + made[32:])


@settings(max_examples=60, deadline=None)
@given(st.binary(min_size=32, max_size=32), st.binary(max_size=200), st.integers(0, 95), st.data())
def test_the_verdict_on_a_signature_is_that_of_the_library(
    seed: bytes, message: bytes, at: int, data: st.DataObject
) -> None:
    """On good ones, and with a byte of key or signature changed."""
    signer = Ed25519PrivateKey.from_private_bytes(seed)
    changed = bytearray(signer.public_key().public_bytes_raw() + signer.sign(message))
    changed[at] ^= data.draw(st.sampled_from([0, 1, 128, 255]))
    public, signature = bytes(changed[:32]), bytes(changed[32:])
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, message)
        expected = True
    except InvalidSignature:
        expected = False
    assert alone.ed25519(public, message, signature) is expected


# --- one verdict ------------------------------------------------------------------------------


def verdicts(data: bytes) -> tuple[Any, Any]:
    """What the file and the package say; None where it does not hold."""
    try:
        found = alone.check(data, TRUST)
        here: Any = (found.told["position"], found.told["topic"], found.told.get("state"))
    except alone.Refused:
        here = None
    try:
        leaf = verify_receipt(file_of(data), POLICY).leaf
        ours: Any = (leaf.position, leaf.topic, leaf.state)
    except (Malformed, Refused):
        ours = None
    return here, ours


@pytest.mark.parametrize("data", [RECEIPT, WITHHELD, pack(RECEIPT).encode()])
def test_a_receipt_holds_in_all_its_forms(data: bytes) -> None:
    """As a file, with what may not be seen withheld, and as the text of a QR code."""
    here, ours = verdicts(data)
    assert here == ours
    assert here[:2] == (5, "coupon.redeemed")
    assert (b"00112233" in here[2]) == (data is not WITHHELD)


@pytest.mark.parametrize("data", [RECEIPT, WITHHELD, pack(RECEIPT).encode()], ids="fwq")
def test_no_flipped_bit_of_a_receipt_is_believed(data: bytes) -> None:
    """Of every byte, a bit: refused by both, or the same is said as before."""
    before = verdicts(data)[0]
    for at in range(len(data)):
        changed = bytearray(data)
        changed[at] ^= 1 << at % 8
        here, ours = verdicts(bytes(changed))
        assert here == ours, at
        assert here in (None, before), at


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_both_judge_meddled_receipts_alike(data: st.DataObject) -> None:
    """Cut, doubled, swapped, with other numbers and other events: one verdict, and never a lie."""
    start = data.draw(st.sampled_from([RECEIPT, WITHHELD, pack(RECEIPT).encode()]))
    lines = start.split(b"\n")
    kind = data.draw(st.sampled_from(["cut", "double", "swap", "bytes", "other"]))
    at, to = (data.draw(st.integers(0, len(lines) - 1)) for _ in range(2))
    if kind == "cut":
        del lines[at]
    elif kind == "double":
        lines.insert(at, lines[to])
    elif kind == "swap":
        lines[at], lines[to] = lines[to], lines[at]
    elif kind == "bytes":
        lines[at] = data.draw(st.binary(max_size=80)).replace(b"\n", b"")
    else:
        other = proof_at(data.draw(st.integers(1, 11)), data.draw(st.integers(11, 11)))
        lines[at] = (other.encode().split(b"\n") * 2)[at]
    here, ours = verdicts(b"\n".join(lines))
    assert here == ours
    assert here in {None, *(verdicts(one)[0] for one in (RECEIPT, WITHHELD))} or kind == "other"


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from(
        [b"", b"TBR1:", alone.HEADER.encode() + b"\n", RECEIPT[:300], b"tidebook-refusal/2\n"]
    ),
    st.one_of(st.binary(max_size=400), st.text("0123456789ABC%:\n ").map(str.encode)),
)
def test_nothing_makes_the_checker_crash(start: bytes, rest: bytes) -> None:
    """Whatever the bytes are, the answer is no."""
    for data in (start + rest, b"TBR1:" + to_base45(rest).encode()):
        with pytest.raises(alone.Refused):
            alone.check(data, TRUST)
        assert verdicts(data) == (None, None)


def test_a_bomb_is_not_unpacked() -> None:
    """What would unpack to more than a receipt may be is refused before it does."""
    import zlib

    text = "TBR1:" + to_base45(zlib.compress(bytes(50_000_000), 9))
    assert verdicts(text.encode()) == (None, None)


def test_the_tree_is_judged_as_the_published_cases_say() -> None:
    """Every published case of inclusion."""
    for case in vectors("inclusion"):
        verdict = alone.leads_to(
            case["leafIdx"],
            case["treeSize"],
            base64.b64decode(case["leafHash"]),
            hashes_of(case["proof"]),
            base64.b64decode(case["root"]),
        )
        assert verdict is not case["wantErr"], case["path"]


def test_nobody_is_believed_who_is_not_known() -> None:
    """Other keys, fewer witnesses, a witness's key as a log's: refused by both."""
    stranger = Signer(ORIGIN, ED25519, bytes(32))
    head = Checkpoint(ORIGIN, 11, TREE.root())
    forged = PROOF._replace(checkpoint=signed_note(head.text, [stranger]))
    alone_signed = PROOF._replace(checkpoint=signed_note(head.text, [LOG]))
    own_statement = attested(PROOF, ["person"], statement_signer(ORIGIN, bytes(32)))
    elsewhere = PROOF._replace(
        checkpoint=signed_note(Checkpoint("other/main", 11, TREE.root()).text, [LOG])
    )
    for proof in (forged, alone_signed, own_statement, elsewhere):
        assert verdicts(proof.encode()) == (None, None)


def test_a_signed_refusal_is_judged_by_the_key_of_statements() -> None:
    """And by no other key; a flipped byte spoils it."""
    assert alone.check(STATED, TRUST).told["code"] == "sold_out"
    assert alone.check(pack(STATED).encode(), TRUST).kind == "refusal"
    with pytest.raises(alone.Refused):
        alone.check(STATED, TRUST._replace(statements=TRUST.log))
    for at in range(len(STATED)):
        changed = bytearray(STATED)
        changed[at] ^= 1 << at % 8
        with pytest.raises(alone.Refused):
            alone.check(bytes(changed), TRUST)


def test_packing_gives_the_same_file_again() -> None:
    """Of receipts and notes; what is not in its one form is not packed."""
    for data in (RECEIPT, WITHHELD, STATED):
        assert unpack(pack(data)) == data
        assert alone.unpacked(pack(data)) == data
    assert len(pack(RECEIPT)) < len(RECEIPT)
    with pytest.raises(Malformed):
        pack(PROOF._replace(extra=None).encode())
    assert isinstance(PROOF.checkpoint, Note)


def test_base45_is_that_of_the_rfc() -> None:
    """RFC 9285's own examples."""
    for data, text in ((b"AB", "BB8"), (b"Hello!!", "%69 VD92EX0"), (b"base-45", "UJCLQE7W581")):
        assert to_base45(data) == text
        assert alone.from_base45(text) == data
    for wrong in ("GGW", "::", "A", "bb8"):
        with pytest.raises((alone.Refused, ValueError)):
            alone.from_base45(wrong)


# --- as a program -----------------------------------------------------------------------------


def run(*arguments: object) -> tuple[int, str, str]:
    """Run the file by itself, with nothing of ours to import."""
    done = subprocess.run(
        [sys.executable, "-I", str(PROGRAM), *map(str, arguments)],
        capture_output=True,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stdout.decode(), done.stderr.decode()


def test_the_file_runs_by_itself(tmp_path: Path) -> None:
    """It says in two languages what holds, and ends with 0, 1 or 2."""
    file = tmp_path / "a.tlog-proof"
    file.write_bytes(RECEIPT)
    keys = ("--log-key", KEYS[0], "--witness", KEYS[1])
    status, out, err = run(file, *keys)
    assert (status, err) == (0, "")
    for words in (
        "Event 5 of book main is in the log of 11 events, cosigned by witness.example/w1.",
        "优惠券已核销",
        "50.00 CNY",
    ):
        assert words in out
    file.write_bytes(RECEIPT.replace(b"index 4", b"index 3"))
    status, out, _ = run(file, *keys)
    assert (status, out.startswith("REFUSED")) == (1, True)
    told = json.loads(run(file, *keys, "--json")[1])
    assert told["holds"] is False
    assert run(file, "--log-key", "no key")[0] == 2
    assert run(tmp_path / "nothing", *keys)[0] == 2


def test_what_is_printed_does_nothing_to_a_terminal() -> None:
    """Controls in an event are shown as question marks."""
    state = b'{"reason":"\\u001b[2J\\u202eevil","n":1}'
    entry = encode_entry("main", 1, UUID(int=1), 1, "thing.done", state)
    head = Checkpoint(ORIGIN, 1, leaf_hash(entry))
    proof = Proof(0, (), signed_note(head.text, [LOG]), entry)
    found = alone.check(proof.encode(), TRUST._replace(witnesses=(), quorum=0))
    said = "\n".join([*alone.words(found, False), *alone.words(found, True)])
    assert "evil" in said
    assert all(c.isprintable() or c == "\n" for c in said)


def test_the_words_are_of_events_that_there_are() -> None:
    """No topic is named that the program does not know."""
    assert set(alone.TOPICS) <= EVENT_TYPES.topics


# --- policies as files ------------------------------------------------------------------------

OTHER = Signer("witness.example/w2", COSIGNATURE, bytes(range(3, 35)))
THIRD = Signer("witness.example/w3", COSIGNATURE, bytes(range(4, 36)))
LINES = (
    f"# whom to believe\n\n \tlog  {KEYS[0]} https://ledger.example \n"
    f"witness W1 {KEYS[1]}\nwitness W2 {OTHER.verifier} https://w2.example\n"
    f"witness \N{KELVIN SIGN} {THIRD.verifier}\n"
)


def by_policy(policy: bytes, data: bytes = RECEIPT) -> bool | None:
    """Whether both believe a receipt by a policy; None where both say that it is no policy."""
    try:
        trust: alone.Trust | None = alone.parse_policy(policy)
    except (alone.Refused, ValueError):
        trust = None
    try:
        known: PolicyFile | None = parse_policy(policy)
    except Malformed:
        known = None
    assert (trust is None) == (known is None), policy
    if trust is None or known is None:
        return None
    said = []
    for verify in (
        lambda: alone.check(data, trust),
        lambda: verify_receipt(data, known.of_log(ORIGIN)),
    ):
        try:
            said.append(bool(verify()))
        except (alone.Refused, Refused):
            said.append(False)
    assert said[0] == said[1], policy
    return said[0]


@pytest.mark.parametrize(
    ("rule", "holds"),
    [
        ("quorum W1", True),
        ("quorum W2", False),
        ("quorum none", True),
        ("group g any W1 W2\nquorum g", True),
        ("group g 1 W1 W2\nquorum g", True),
        ("group g all W1 W2\nquorum g", False),
        ("group g 2 W1 W2 \N{KELVIN SIGN}\nquorum g", False),
        ("group a any W1 W2\ngroup g all a\nquorum g", True),
        ("group a any W1 W2\ngroup g all a \N{KELVIN SIGN}\nquorum g", False),
        ("group a all W2\ngroup g any a W1\nquorum g", True),
        ("group g all W1 W2\nquorum W1", True),
    ],
)
def test_a_quorum_is_met_or_not(rule: str, holds: bool) -> None:
    """Of the receipt that W1 alone has cosigned, and of both when another has cosigned too."""
    policy = f"{LINES}{rule}\n".encode()
    assert by_policy(policy) is holds
    note = PROOF.checkpoint
    cosigned = note.signed(*(one.cosign(note.text, 1_777_777_778) for one in (OTHER, THIRD)))
    assert by_policy(policy, PROOF._replace(checkpoint=cosigned).encode()) is True
    bare = PROOF._replace(checkpoint=signed_note(note.text, [LOG])).encode()
    assert by_policy(policy, bare) is (rule == "quorum none")


@pytest.mark.parametrize(
    "rule",
    [
        "",
        "quorum W1\nquorum none",
        "quorum W9",
        "quorum",
        "quorum W1 W2",
        "quorum g\ngroup g any W1",
        "quorum K",
        "Quorum none",
        "quorum none\nfurther W1",
        "group none any W1\nquorum none",
        f"witness none {STATEMENTS.verifier}\nquorum none",
        "group g any none\nquorum g",
        "group g any\nquorum g",
        "group g 0 W1\nquorum g",
        "group g 01 W1\nquorum g",
        "group g 2 W1\nquorum g",
        "group g -1 W1\nquorum g",
        "group g \N{SUPERSCRIPT ONE} W1\nquorum g",
        "group g 1 g\nquorum g",
        "group W1 any W2\nquorum W1",
        "group g 2 W1 W1\nquorum g",
        "group a any W1\ngroup b any W1\nquorum a",
        f"witness W4 {KEYS[1]}\nquorum W1",
        f"witness W4 {Verifier('another.example', COSIGNATURE, KEYS[1].public)}\nquorum W1",
        f"witness W4 {KEYS[0]}\nquorum W1",
        f"log {KEYS[0]}\nquorum W1",
        f"log {KEYS[1]}\nquorum W1",
        f"log {KEYS[0]} u v\nquorum W1",
        "log\nquorum W1",
        "witness W4 no+key\nquorum W1",
        f"witness W4 {KEYS[1]}\N{NO-BREAK SPACE}\nquorum W1",
        "quorum W1\r",
        "quorum\vW1",
        "quorum\N{NO-BREAK SPACE}W1",
        "quorum W1\x7f",
        "quorum W1\n# \0",
        "quorum W1\n" + 70_000 * "#",
        "quorum W1\n" + "".join(f"group g{n} any x{n}\n" for n in range(3)),
    ],
)
def test_what_is_not_a_policy_is_none(rule: str) -> None:
    """Doubled, circular, misspelt, without its end, too large: by both, and nothing is skipped."""
    assert by_policy(f"{LINES}{rule}\n".encode()) is None


def test_a_policy_has_logs_and_an_end() -> None:
    """A file that was cut is no policy; a log that is not named is not believed."""
    assert by_policy(f"{LINES}quorum none".encode()) is None
    assert by_policy(b"quorum none\n") is None
    assert by_policy(b"") is None
    other = Signer("ledger.example/other", ED25519, bytes(range(5, 37))).verifier
    assert by_policy(f"log {other}\nquorum none\n".encode()) is False
    assert by_policy(f"log {other}\nlog {KEYS[0]}\nquorum none\n".encode()) is True
    many = [Signer("w", COSIGNATURE, bytes([n]) * 32).verifier for n in range(101)]
    lines = [f"witness n{n} {key}\n" for n, key in enumerate(many)]
    for most, holds in ((100, True), (101, None)):
        policy = f"log {KEYS[0]}\n{''.join(lines[:most])}quorum none\n"
        assert by_policy(policy.encode()) is holds


def test_the_file_is_run_with_a_policy(tmp_path: Path) -> None:
    """0 where the quorum has cosigned, 1 where not, 2 where it is none or has keys beside it."""
    file, policy = tmp_path / "receipt", tmp_path / "policy"
    file.write_bytes(RECEIPT)
    for rule, status in (("quorum W1", 0), ("quorum W2", 1), ("quorum W9", 2)):
        policy.write_text(f"{LINES}{rule}\n")
        assert run(file, "--policy", policy)[0] == status
    policy.write_text(f"{LINES}quorum W1\n")
    assert run(file, "--policy", policy, "--log-key", str(KEYS[0]))[0] == 2


def test_without_counting_a_policy_demands_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: what refuses above is the quorum."""
    policy = f"{LINES}quorum W2\n".encode()
    monkeypatch.setattr(alone, "witnessed", lambda *_: True)
    monkeypatch.setattr(Group, "has_witnessed", lambda *_: True)
    assert by_policy(policy) is True


def test_without_the_tree_a_changed_event_would_be_believed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The control: the flips above are caught by the inclusion proof and by the signatures."""
    changed = RECEIPT.replace(base64.b64encode(ENTRIES[4]), base64.b64encode(other_state(5)))
    assert verdicts(changed) == (None, None)
    monkeypatch.setattr(alone, "leads_to", lambda *_: True)
    assert b"999" in alone.check(changed, TRUST).told["state"]
    monkeypatch.setattr(alone, "ed25519", lambda *_: True)
    forged = PROOF._replace(checkpoint=signed_note(PROOF.checkpoint.text, [LOG]))
    unsigned = forged.encode().replace(b"11\n", b"12\n", 1)
    assert alone.check(unsigned, TRUST._replace(witnesses=(), quorum=0))


def other_state(position: int) -> bytes:
    """The entry of a redemption of another amount."""
    state = STATE.replace(b"5000", b"9990")
    return encode_entry("main", position, UUID(int=position), 2, "coupon.redeemed", state)
