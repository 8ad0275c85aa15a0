"""The witness: cosigns what extends what it has cosigned, one at a time, and never forgets."""

from __future__ import annotations

import os
import signal
import sqlite3
from collections.abc import Callable, Iterator
from hashlib import sha256
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from ledger.merkle import EMPTY_ROOT, MemoryTree, consistency_proof, leaf_hashes
from ledger.transparency.checkpoints import Checkpoint, parse_checkpoint
from ledger.transparency.notes import (
    COSIGNATURE,
    ED25519,
    Note,
    Signer,
    parse_signatures,
    signed_note,
    verified,
)
from ledger.transparency.submissions import SIZE_TYPE, encode_submission
from ledger.transparency.witnessing import Answer, LogsFile, UnreadableLogs, Witness

ORIGIN = "ledger.example/main"
LOG = Signer(ORIGIN, ED25519, bytes(range(32)))
IMPOSTOR = Signer(ORIGIN, ED25519, bytes(range(5, 37)))
WITNESS = Signer("witness.example/w1", COSIGNATURE, bytes(range(1, 33)))
TREE = MemoryTree(leaf_hashes(b"%d" % number for number in range(40)))
FORK = MemoryTree(leaf_hashes(b"other %d" % number for number in range(40)))
NOW = 1_700_000_000

Make = Callable[..., Witness]


def submission(
    old: int, size: int, tree: MemoryTree = TREE, signer: Signer = LOG, **other: Any
) -> bytes:
    """A submission of a tree at a size, with the right proof unless another is given."""
    proof = consistency_proof(old, size, tree.read) if 0 < old <= size else []
    checkpoint = Checkpoint(other.get("origin", ORIGIN), size, other.get("root", tree.root(size)))
    note = signed_note(checkpoint.text, [signer])
    return encode_submission(old, other.get("proof", proof), note.encode())


def cosigned(answer: Answer, checkpoint: Checkpoint) -> bool:
    """Whether an answer is a cosignature of a checkpoint that holds."""
    if answer.status != 200:
        return False
    note = Note(checkpoint.text, parse_signatures(answer.body.decode()))
    (one,) = verified(note, [WITNESS.verifier])
    return one.timestamp == NOW


def head(size: int, tree: MemoryTree = TREE) -> Checkpoint:
    """The checkpoint of a tree at a size."""
    return Checkpoint(ORIGIN, size, tree.root(size))


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    """Open the witness's store, any number of times: `make(now=…)`."""
    opened: list[Witness] = []

    def made(now: Callable[[], int] = lambda: NOW, **how: Any) -> Witness:
        one = Witness(tmp_path / "witness.db", WITNESS, lambda: [LOG.verifier], now, **how)
        opened.append(one)
        return one

    yield made
    for one in opened:
        one.close()


def test_heads_that_extend_the_known_one_are_cosigned(make: Make) -> None:
    """From nothing, from size to size, and the same once more."""
    one = make()
    for old, size in ((0, 0), (0, 3), (3, 3), (3, 20), (20, 40)):
        answer = one.add_checkpoint(submission(old, size))
        assert cosigned(answer, head(size)), (old, size, answer)


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (404, submission(5, 8, origin="another/log")),
        (403, submission(5, 8, signer=IMPOSTOR)),
        (400, submission(9, 8)),
        (400, b"old five\n\n"),
        (400, b""),
        (409, submission(4, 8)),
        (409, submission(0, 8)),
        (422, submission(5, 8, FORK)),
        (422, submission(5, 5, FORK)),
        (422, submission(5, 8, proof=[])),
        (422, submission(5, 5, proof=[bytes(32)])),
        (422, submission(5, 8, proof=[bytes(32)] * 63)),
        (400, submission(5, 8, proof=[bytes(32)] * 64)),
    ],
)
def test_what_is_refused_has_its_status(make: Make, status: int, body: bytes) -> None:
    """As the specification says, and nothing is remembered of it."""
    one = make()
    one.add_checkpoint(submission(0, 5))
    answer = one.add_checkpoint(body)
    assert answer.status == status, answer
    if status == 409:
        assert answer.body == b"5\n"
        assert answer.content_type == SIZE_TYPE
    assert cosigned(one.add_checkpoint(submission(5, 6)), head(6))


def test_the_first_head_has_no_proof_and_an_empty_tree_its_root(make: Make) -> None:
    """A proof from size 0, or another root of size 0, is 422."""
    one = make()
    assert one.add_checkpoint(submission(0, 5, proof=[bytes(32)])).status == 422
    assert one.add_checkpoint(submission(0, 0, root=bytes(32))).status == 422
    assert cosigned(one.add_checkpoint(submission(0, 0)), Checkpoint(ORIGIN, 0, EMPTY_ROOT))
    assert one.add_checkpoint(submission(0, 5)).status == 200
    assert one.add_checkpoint(submission(0, 0)).status == 409


def test_a_known_keys_bad_signature_is_forbidden_beside_a_good_one(make: Make) -> None:
    """Such a note is malformed, whoever else has signed it; unknown keys are passed over."""
    note = signed_note(head(5).text, [LOG])
    other = Signer(ORIGIN, ED25519, bytes(32)).sign(head(5).text)
    assert (
        make().add_checkpoint(encode_submission(0, [], note.signed(other).encode())).status == 200
    )
    spoiled = Note(note.text, (note.signatures[0]._replace(data=bytes(64)),))
    assert make().add_checkpoint(encode_submission(0, [], spoiled.encode())).status == 403


def test_the_last_head_is_shown_with_both_signatures(make: Make) -> None:
    """To monitors, under the hash of the origin; a log that was never cosigned is not there."""
    name = sha256(ORIGIN.encode()).hexdigest()
    one = make()
    assert one.latest(name).status == 404
    one.add_checkpoint(submission(0, 5))
    one.add_checkpoint(submission(5, 9))
    note, checkpoint = parse_checkpoint(one.latest(name).body)
    assert checkpoint == head(9)
    assert len(verified(note, [LOG.verifier, WITNESS.verifier])) == 2


def test_a_witness_that_starts_again_remembers(make: Make) -> None:
    """What was cosigned is on the disk."""
    one = make()
    one.add_checkpoint(submission(0, 5))
    one.close()
    assert make().add_checkpoint(submission(0, 4, FORK)).status == 409


def test_two_forked_heads_at_once_get_one_cosignature(make: Make) -> None:
    """While one is being cosigned, another that extends the same head finds the store taken."""
    make().add_checkpoint(submission(0, 5))
    other = make(busy_s=0.0)
    meanwhile: list[type[Exception]] = []

    def now() -> int:
        try:
            other.add_checkpoint(submission(5, 8))
        except sqlite3.OperationalError as error:
            meanwhile.append(type(error))
        return NOW

    assert cosigned(make(now).add_checkpoint(submission(5, 9)), head(9))
    assert meanwhile == [sqlite3.OperationalError]
    assert other.add_checkpoint(submission(5, 8)).body == b"9\n"


def _submit_fork(path: Path, number: int, answers: Any) -> None:
    """In a process of its own: extend the known head by a leaf that nobody else has."""
    witness = Witness(path, WITNESS, lambda: [LOG.verifier], lambda: NOW)
    answers.put(witness.add_checkpoint(submission(5, 6, forked_at(5, number))).status)
    witness.close()


def _die_signing(path: Path) -> None:
    """In a process of its own: be killed after the check and before anything is kept."""

    def now() -> int:
        os.kill(os.getpid(), signal.SIGKILL)
        return NOW

    Witness(path, WITNESS, lambda: [LOG.verifier], now).add_checkpoint(submission(5, 9))


def forked_at(size: int, number: int) -> MemoryTree:
    """A tree that is the known one up to a size and has a leaf of its own behind it."""
    return MemoryTree(leaf_hashes([*(b"%d" % each for each in range(size)), b"fork %d" % number]))


def test_of_several_processes_one_extends_the_head(make: Make, tmp_path: Path) -> None:
    """With one store, at the same time, each with a fork of its own."""
    make().add_checkpoint(submission(0, 5))
    spawn = get_context("spawn")
    answers = spawn.Queue()
    processes = [
        spawn.Process(target=_submit_fork, args=(tmp_path / "witness.db", number, answers))
        for number in range(4)
    ]
    for process in processes:
        process.start()
    assert sorted(answers.get(timeout=60) for _ in processes) == [200, 409, 409, 409]
    for process in processes:
        process.join(60)


def test_a_witness_that_is_killed_between_check_and_keeping_has_signed_nothing(
    make: Make, tmp_path: Path
) -> None:
    """It left no lock behind, and knows the head of before; another fork may still come first."""
    make().add_checkpoint(submission(0, 5))
    process = get_context("spawn").Process(target=_die_signing, args=(tmp_path / "witness.db",))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    assert cosigned(make().add_checkpoint(submission(5, 8)), head(8))


def test_without_the_transaction_both_forks_would_be_cosigned(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: read, then write, with nothing in between to stop the other one."""
    forked = MemoryTree([*leaf_hashes(b"%d" % n for n in range(5)), *leaf_hashes([b"x"] * 9)])
    make().add_checkpoint(submission(0, 5))
    monkeypatch.setattr(Witness, "_transaction", lambda one: _Unguarded(one))  # noqa: PLW0108 - a class binds no self
    other = make(busy_s=0.0)
    answers: list[Answer] = []

    def now() -> int:
        answers.append(other.add_checkpoint(submission(5, 9, forked)))
        return NOW

    answers.append(make(now).add_checkpoint(submission(5, 9)))
    assert cosigned(answers[0], head(9, forked))
    assert cosigned(answers[1], head(9))


class _Unguarded:
    """A transaction that is none: every statement commits by itself."""

    def __init__(self, witness: Witness) -> None:
        self.cursor = witness._connection.cursor()

    def __enter__(self) -> sqlite3.Cursor:
        return self.cursor

    def __exit__(self, *_: object) -> None:
        self.cursor.close()


def test_the_file_of_logs_is_read_when_it_changes(tmp_path: Path) -> None:
    """Comments and empty lines are passed over; what is no key is said so."""
    logs = LogsFile(tmp_path / "witness" / "logs")
    assert logs() == []
    logs.write([LOG.verifier])
    assert logs() == [LOG.verifier]
    logs.write([LOG.verifier, WITNESS.verifier])
    assert len(logs()) == 2
    (tmp_path / "witness" / "logs").write_text(f"# ours\n\n{LOG.verifier}\nnot a key\n")
    with pytest.raises(UnreadableLogs):
        logs()


class Forks(RuleBasedStateMachine):
    """Submissions of two trees that share a beginning, in any order: what is cosigned is a line."""

    def __init__(self) -> None:
        super().__init__()
        shared = leaf_hashes(b"%d" % number for number in range(7))
        self.trees = [
            MemoryTree([*shared, *leaf_hashes(b"%d %d" % (which, n) for n in range(9))])
            for which in range(2)
        ]
        self.directory = TemporaryDirectory()
        path = Path(self.directory.name) / "witness.db"
        self.witness = Witness(path, WITNESS, lambda: [LOG.verifier], lambda: NOW)
        self.cosigned: list[Checkpoint] = []

    @rule(
        which=st.integers(0, 1),
        old=st.integers(0, 16),
        size=st.integers(0, 16),
        honest=st.booleans(),
    )
    def submit(self, which: int, old: int, size: int, honest: bool) -> None:
        """Somebody with the log's key submits something."""
        if honest and self.cosigned:
            old = self.cosigned[-1].size
        tree = self.trees[which]
        if self.witness.add_checkpoint(submission(old, size, tree)).status == 200:
            self.cosigned.append(head(size, tree))

    def teardown(self) -> None:
        """Forget it all."""
        self.witness.close()
        self.directory.cleanup()

    @invariant()
    def every_cosigned_head_extends_the_one_before(self) -> None:
        """There is a tree that has had all of them, in their order."""
        sizes = [one.size for one in self.cosigned]
        assert sizes == sorted(sizes)
        assert any(all(one == head(one.size, tree) for one in self.cosigned) for tree in self.trees)


TestForks = Forks.TestCase
TestForks.settings = settings(max_examples=15, stateful_step_count=20, deadline=None)
