"""Asking witnesses: what a log says to each of them, and what it believes of their answers.

A witness that does not answer is left alone for a while; nobody waits for it. What it returns is
believed only when its own key verifies it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final, NamedTuple, Protocol

from ledger.merkle import HashReader, consistency_proof
from ledger.transparency.checkpoints import Checkpoint
from ledger.transparency.notes import (
    COSIGNATURE,
    BadSignature,
    Note,
    Signature,
    Untrusted,
    Verifier,
    parse_signatures,
    verified,
)
from ledger.transparency.submissions import encode_submission
from ledger.transparency.texts import Malformed, parse_number

REST_S: Final = 5.0
OK: Final = 200
STALE: Final = 409

_log = logging.getLogger("tidebook.log")


class Unreachable(Exception):
    """A witness did not answer."""


class Witness(Protocol):
    """A witness, wherever it is."""

    @property
    def verifier(self) -> Verifier:
        """The key of its cosignatures."""
        ...

    def add_checkpoint(self, body: bytes) -> tuple[int, bytes]:
        """Hand in a submission; return status and body. Raises `Unreachable`."""
        ...

    def latest(self, origin: str) -> Note | None:
        """Return the last checkpoint of a log that it cosigned. Raises `Unreachable`."""
        ...


class WitnessAt(NamedTuple):
    """A witness whose cosignatures are asked for: its key, and where it is."""

    verifier: Verifier
    url: str

    def __str__(self) -> str:
        return f"{self.verifier} {self.url}"

    @classmethod
    def parse(cls, text: str) -> WitnessAt:
        """Read `KEY URL`; raise `Malformed`."""
        key, space, url = text.strip().partition(" ")
        if not space or not url.startswith(("http://", "https://")) or " " in url:
            raise Malformed("a witness is its verifier key, a space, and its http(s) address")
        verifier = Verifier.parse(key)
        if verifier.kind != COSIGNATURE:
            raise Malformed(f"the key of {verifier.name} is not one for cosignatures")
        return cls(verifier, url.rstrip("/"))


class Cosigner:
    """A witness as its log sees it: which size it has cosigned, and whether it is worth asking."""

    def __init__(self, witness: Witness, monotonic: Callable[[], float]) -> None:
        self.witness = witness
        self._monotonic = monotonic
        self._known = 0
        self._rests_until = float("-inf")

    @property
    def name(self) -> str:
        """The name of its key."""
        return self.witness.verifier.name

    def cosign(self, note: Note, checkpoint: Checkpoint, read: HashReader) -> Signature | None:
        """Return the witness's cosignature of a checkpoint, None when there is none to be had."""
        if self._monotonic() < self._rests_until:
            return None
        try:
            return self._ask(note, checkpoint, read)
        except (Unreachable, Malformed, Untrusted, BadSignature) as error:
            self._rest(str(error))
            return None

    def _ask(self, note: Note, checkpoint: Checkpoint, read: HashReader) -> Signature | None:
        for _ in range(2):
            if self._known > checkpoint.size:
                self._rest(f"it has cosigned {self._known} leaves, more than {checkpoint.size}")
                self._known = 0
                return None
            proof = consistency_proof(self._known, checkpoint.size, read) if self._known else []
            body = encode_submission(self._known, proof, note.encode())
            status, answer = self.witness.add_checkpoint(body)
            if status == OK:
                return self._believe(note, checkpoint, answer)
            if status != STALE:
                self._rest(f"it answers {status}")
                return None
            self._known = parse_number(answer.decode("ascii", "replace").removesuffix("\n"))
        return None

    def _believe(self, note: Note, checkpoint: Checkpoint, answer: bytes) -> Signature:
        lines = parse_signatures(answer.decode("utf-8", "replace"))
        found = verified(Note(note.text, lines), [self.witness.verifier])
        self._known = checkpoint.size
        return found[0]

    def _rest(self, why: str) -> None:
        _log.warning("witness %s does not cosign: %s", self.name, why)
        self._rests_until = self._monotonic() + REST_S
