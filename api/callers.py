"""Callers: who calls, in which role, as a pseudonym.

The verified identity goes in and a keyed pseudonym comes out; nothing behind this module ever
sees the identity. Two tokens, devices or accounts of one identity are one person.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from typing import Final, Literal, get_args

import msgspec

from ledger.events import Actor

Role = Literal["tourist", "merchant", "operator", "auditor"]
ROLES: Final[tuple[Role, ...]] = get_args(Role)

PSEUDONYM_BYTES: Final = 16
DEVICE_BYTES: Final = 8
PHONES: Final = b"tidebook phones 1"
"""What the pseudonym key is applied to for the key of telephones' pseudonyms."""
MERCHANT: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
PERSON: Final = re.compile(r"[0-9a-f]{32}")


class Caller(msgspec.Struct, frozen=True, gc=False):
    """A verified caller.

    `person` is the pseudonym of whoever holds the token. The actor is that person, except that a
    merchant's tills act as the merchant: a till must be able to repeat the request of another.
    """

    role: Role
    person: str
    merchant: str | None
    actor: Actor
    scope: str
    """Where this caller's idempotency keys live, apart from everybody else's."""
    session: bytes | None = None
    """The session's id, when the caller showed a session token."""
    device: str | None = None
    """A mark of the device that the session was begun on, in hex; it tells nothing but sameness."""

    @classmethod
    def of(
        cls,
        role: Role,
        person: str,
        merchant: str | None = None,
        session: bytes | None = None,
        device: str | None = None,
    ) -> Caller:
        """Return the caller with this role; a merchant's caller names its merchant."""
        assert (merchant is not None) == (role == "merchant"), "merchants have a merchant"
        acts_as = person if merchant is None else merchant
        return cls(
            role, person, merchant, Actor(role, acts_as), f"{role}:{acts_as}", session, device
        )


class Pseudonyms:
    """Turns verified identities into pseudonyms, with a key that is kept outside the database."""

    def __init__(self, key: bytes) -> None:
        self._mac = hmac.new(key, digestmod=hashlib.sha256)
        self._phones = hmac.digest(key, PHONES, "sha256")

    def of(self, identity: str) -> str:
        """Return the pseudonym of an identity: 32 hex digits of HMAC-SHA256."""
        return self._digest(identity.encode())[:PSEUDONYM_BYTES].hex()

    def device(self, name: str) -> bytes:
        """Return the mark of a device: 8 bytes that are the same whenever it names itself so."""
        return self._digest(b"device\0" + name.encode())[:DEVICE_BYTES]

    def telephone(self, draw: str, number: str) -> str:
        """Return the pseudonym of a telephone in one draw: elsewhere the number has another one."""
        told = f"{draw}\0{number}".encode()
        return hmac.digest(self._phones, told, "sha256")[:PSEUDONYM_BYTES].hex()

    def _digest(self, text: bytes) -> bytes:
        mac = self._mac.copy()
        mac.update(text)
        return mac.digest()
