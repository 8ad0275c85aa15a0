"""Proofs that travel (C2SP tlog-proof): an entry's number, its inclusion proof and a checkpoint.

Together with the entry and the keys of a policy a proof can be judged without any network. What it
carries beside (`extra`) is covered by no signature.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Final, NamedTuple

from ledger.merkle import verify_inclusion
from ledger.transparency.checkpoints import Checkpoint, parse_checkpoint
from ledger.transparency.notes import (
    BadSignature,
    Note,
    Signature,
    Untrusted,
    Verifier,
    verified,
)
from ledger.transparency.texts import (
    Malformed,
    from_base64,
    hash_from_base64,
    parse_number,
    to_base64,
)

HEADER: Final = "c2sp.org/tlog-proof@v1"
PROOF_BYTES_MAX: Final = 2 << 20
HASHES_MAX: Final = 63
"""A proof about sizes below 2^63 never has more."""


class Group(NamedTuple):
    """Witnesses and groups of them, of which so many must have cosigned (C2SP tlog-policy)."""

    needed: int
    members: tuple[Verifier | Group, ...]

    def has_witnessed(self, cosigners: Collection[tuple[str, bytes]]) -> bool:
        """Whether enough have, by names and ids of the keys that cosigned."""
        witnessed = sum(
            one.has_witnessed(cosigners)
            if isinstance(one, Group)
            else (one.name, one.key_id) in cosigners
            for one in self.members
        )
        return witnessed >= self.needed


class Policy(NamedTuple):
    """Whom to believe: the keys of the log, so many of these witnesses, and who signs statements.

    A quorum is a number of witnesses, or a group of them that must have cosigned.
    The last ones are asked only where a receipt withholds the event's own bytes.
    """

    origin: str
    log: tuple[Verifier, ...]
    witnesses: tuple[Verifier, ...] = ()
    quorum: int | Group = 0
    statements: tuple[Verifier, ...] = ()


class Proof(NamedTuple):
    """That an entry is number `number` of the log at the size of a checkpoint."""

    number: int
    hashes: tuple[bytes, ...]
    checkpoint: Note
    extra: bytes | None = None

    def encode(self) -> bytes:
        """Return the proof's bytes."""
        extra = [] if self.extra is None else [f"extra {to_base64(self.extra)}"]
        lines = [HEADER, *extra, f"index {self.number}", *map(to_base64, self.hashes), "", ""]
        return "\n".join(lines).encode() + self.checkpoint.encode()


class Refused(Exception):
    """A proof does not hold; says why."""


def parse_proof(data: bytes) -> Proof:
    """Return the proof that the bytes are; raise `Malformed`. Nothing is believed by it."""
    if len(data) > PROOF_BYTES_MAX:
        raise Malformed(f"a proof has at most {PROOF_BYTES_MAX} bytes")
    head, gap, checkpoint = data.partition(b"\n\n")
    if not gap:
        raise Malformed("a proof ends in an empty line and a checkpoint")
    try:
        lines = head.decode("ascii").split("\n")
    except UnicodeDecodeError:
        raise Malformed("the lines of a proof are ASCII") from None
    if lines.pop(0) != HEADER:
        raise Malformed(f"a proof begins with {HEADER}")
    extra = None
    if lines and lines[0].startswith("extra "):
        extra = from_base64(lines.pop(0).removeprefix("extra "))
    if not lines or not lines[0].startswith("index "):
        raise Malformed("a proof names the index of its entry")
    number = parse_number(lines.pop(0).removeprefix("index "))
    if len(lines) > HASHES_MAX:
        raise Malformed(f"a proof has at most {HASHES_MAX} hashes")
    note, _ = parse_checkpoint(checkpoint)
    return Proof(number, tuple(map(hash_from_base64, lines)), note, extra)


def believed(note: Note, policy: Policy) -> tuple[Checkpoint, tuple[Signature, ...]]:
    """Return a checkpoint that a policy believes, with its witnesses' cosignatures.

    Raises `Malformed` and `Refused`.
    """
    checkpoint = Checkpoint.parse(note.text)
    if checkpoint.origin != policy.origin:
        raise Refused(f"the checkpoint is one of {checkpoint.origin[:80]!r}")
    try:
        verified(note, policy.log)
    except (Untrusted, BadSignature) as error:
        raise Refused(f"the log: {error}") from error
    cosignatures: tuple[Signature, ...] = ()
    try:
        cosignatures = verified(note, policy.witnesses)
    except Untrusted:
        pass
    except BadSignature as error:
        raise Refused(f"a witness: {error}") from error
    if isinstance(policy.quorum, Group):
        if not policy.quorum.has_witnessed({(one.name, one.key_id) for one in cosignatures}):
            raise Refused("the quorum of the policy has not cosigned")
    elif len({one.name for one in cosignatures}) < policy.quorum:
        raise Refused(f"fewer than {policy.quorum} of the witnesses that are known have cosigned")
    return checkpoint, cosignatures


def verify_proof(
    proof: Proof, leaf: bytes, policy: Policy
) -> tuple[Checkpoint, tuple[Signature, ...]]:
    """Return the checkpoint that a proof shows a leaf hash under, with its cosignatures.

    Raises `Malformed` and `Refused`.
    """
    checkpoint, cosignatures = believed(proof.checkpoint, policy)
    if not holds(proof.number, checkpoint, leaf, proof.hashes):
        raise Refused("the inclusion proof does not lead to the root of the checkpoint")
    return checkpoint, cosignatures


def holds(number: int, checkpoint: Checkpoint, leaf: bytes, hashes: Sequence[bytes]) -> bool:
    """Whether hashes lead from a leaf to a checkpoint's root."""
    return verify_inclusion(number, checkpoint.size, leaf, hashes, checkpoint.root)
