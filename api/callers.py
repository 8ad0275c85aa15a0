"""Callers: who calls, in which role, as a pseudonym.

The verified identity goes in and a keyed pseudonym comes out; nothing behind this module ever
sees the identity. Two tokens, devices or accounts of one identity are one person.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from dataclasses import dataclass
from typing import Final, Literal, get_args

from ledger.events import Actor

Role = Literal["tourist", "merchant", "operator", "auditor"]
ROLES: Final[tuple[Role, ...]] = get_args(Role)

PSEUDONYM_BYTES: Final = 16
MERCHANT: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True, slots=True)
class Caller:
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

    @classmethod
    def of(cls, role: Role, person: str, merchant: str | None = None) -> Caller:
        """Return the caller with this role; a merchant's caller names its merchant."""
        assert (merchant is not None) == (role == "merchant"), "merchants have a merchant"
        actor = Actor(role, merchant if merchant is not None else person)
        return cls(role, person, merchant, actor, f"{actor.role}:{actor.id}")


class Pseudonyms:
    """Turns verified identities into pseudonyms, with a key that is kept outside the database."""

    def __init__(self, key: bytes) -> None:
        self._mac = hmac.new(key, digestmod=hashlib.sha256)

    def of(self, identity: str) -> str:
        """Return the pseudonym of an identity: 32 hex digits of HMAC-SHA256."""
        mac = self._mac.copy()
        mac.update(identity.encode())
        return mac.digest()[:PSEUDONYM_BYTES].hex()
