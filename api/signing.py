"""Signed statements: what a person was refused, in words that can be shown to anybody.

Ed25519 gives one signature for one statement, so that a replayed refusal is equal byte for byte.
"""

from __future__ import annotations

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey


class Signer:
    """Signs with one key, whose public half is published."""

    def __init__(self, seed: bytes) -> None:
        self._key = Ed25519PrivateKey.from_private_bytes(seed)
        self.public = self._key.public_key().public_bytes_raw().hex()

    def sign(self, statement: bytes) -> bytes:
        """Return the signature over a statement's bytes."""
        return self._key.sign(statement)
