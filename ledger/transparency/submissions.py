"""What a log hands to a witness (C2SP tlog-witness, add-checkpoint), as bytes and as a value."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from ledger.transparency.checkpoints import Checkpoint, parse_checkpoint
from ledger.transparency.notes import Note
from ledger.transparency.proofs import HASHES_MAX
from ledger.transparency.texts import Malformed, hash_from_base64, parse_number, to_base64

SUBMISSION_BYTES_MAX: Final = 256 << 10
SIZE_TYPE: Final = "text/x.tlog.size"


class Submission(NamedTuple):
    """A checkpoint for a witness, and the proof that it extends the one that the witness knows."""

    old_size: int
    proof: tuple[bytes, ...]
    note: Note
    checkpoint: Checkpoint


def encode_submission(old_size: int, proof: Sequence[bytes], checkpoint: bytes) -> bytes:
    """Return the body of an add-checkpoint request."""
    lines = [f"old {old_size}", *map(to_base64, proof), "", ""]
    return "\n".join(lines).encode() + checkpoint


def parse_submission(body: bytes) -> Submission:
    """Return what the body of an add-checkpoint request says; raise `Malformed`."""
    if len(body) > SUBMISSION_BYTES_MAX:
        raise Malformed(f"a submission has at most {SUBMISSION_BYTES_MAX} bytes")
    head, gap, rest = body.partition(b"\n\n")
    try:
        lines = head.decode("ascii").split("\n")
    except UnicodeDecodeError:
        raise Malformed("the lines before the checkpoint are ASCII") from None
    if not gap or not lines[0].startswith("old "):
        raise Malformed("a submission is an old size, a proof, an empty line and a checkpoint")
    if len(lines) - 1 > HASHES_MAX:
        raise Malformed(f"a proof has at most {HASHES_MAX} hashes")
    old_size = parse_number(lines[0].removeprefix("old "))
    proof = tuple(map(hash_from_base64, lines[1:]))
    note, checkpoint = parse_checkpoint(rest)
    return Submission(old_size, proof, note, checkpoint)
