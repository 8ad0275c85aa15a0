"""Sessions: sign in once with a token of the issuer, then call with a short-lived token of ours.

A session token says who calls and until when, under a MAC with a key that only this service's
servers have; checking one costs a few microseconds and asks nobody. Nothing in a token is looked
at before its MAC was checked. A session token never begins another session: whoever wants one
shows a token of the issuer again.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import time
from collections.abc import Callable
from secrets import token_bytes
from struct import Struct
from typing import Any, Final, NamedTuple

from api.callers import ROLES, Caller
from api.errors import RETRY_SOON, Problem, unauthenticated
from api.macs import MAC_CHARS, MacKey, from_base64url, to_base64url

REVOCATION_S: Final = 60.0
"""A revoked session or a suspended caller is refused everywhere within this time."""
POLL_S: Final = 5.0
"""How often a server reads what was revoked."""
KNOWN_MAX: Final = 8_192
"""Tokens that are known by their bytes, in one half of the memory: some megabytes."""
SUBJECTS_MAX: Final = 1_000_000
"""Revocations that a server reads at once; a session's vanish with its end."""

_PREFIX: Final = b"tbs1."
_BEARER: Final = b"Bearer " + _PREFIX
_LOOSE: Final = re.compile(rb"[Bb][Ee][Aa][Rr][Ee][Rr] +(tbs1\.[!-~]*) *")
_KEY_ID_CHARS: Final = 6
_KEY_ID: Final = slice(len(_BEARER), len(_BEARER) + _KEY_ID_CHARS)
_SIGNED: Final = slice(len(b"Bearer "), -MAC_CHARS)
_CONTENT: Final = slice(_KEY_ID.stop + 1, -MAC_CHARS - 1)
_MAC: Final = slice(-MAC_CHARS, None)
_FIXED: Final = Struct(">BI16s16s8s")
"""Role, end in seconds since 1970, session, person, device; a merchant's id follows."""
_FIXED_BYTES: Final = _FIXED.size
_unpack: Final = _FIXED.unpack_from
_NO_DEVICE: Final = bytes(8)
_SUBJECT: Final = "session:"

_READ: Final = "SELECT subject FROM revocation WHERE until > now() LIMIT %s"
_DROP_PAST: Final = "DELETE FROM revocation WHERE until < now()"
_REVOKE: Final = """
INSERT INTO revocation (subject, until) VALUES (%s, to_timestamp(%s))
ON CONFLICT (subject) DO UPDATE SET until = greatest(revocation.until, excluded.until)
"""
_SUSPEND: Final = """
INSERT INTO revocation (subject, until) VALUES (%s, 'infinity')
ON CONFLICT (subject) DO UPDATE SET until = excluded.until
"""
_LET_GO: Final = """
INSERT INTO revocation (subject, until) VALUES (%s, to_timestamp(%s))
ON CONFLICT (subject) DO UPDATE SET until = excluded.until
"""
_LIFT: Final = "DELETE FROM revocation WHERE subject = %s"


class Session(NamedTuple):
    """A session as it is handed out."""

    token: str
    ends_at: int
    """Seconds since 1970, whole."""


class SessionKey(MacKey):
    """A key of session tokens with the name by which tokens say that it is theirs."""

    __slots__ = ("id",)

    def __init__(self, secret: bytes) -> None:
        super().__init__(secret)
        name = hashlib.sha256(b"tidebook session key" + secret).digest()
        self.id = to_base64url(name)[:_KEY_ID_CHARS]


class Revocations:
    """What may no longer call, as last read from the database."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.sessions: frozenset[bytes] = frozenset()
        self.scopes: frozenset[str] = frozenset()
        self.believed_until = float("-inf")
        """By the clock of this object; what was read longer ago than that is not believed."""

    @property
    def stale(self) -> bool:
        """Whether a revocation could have gone unnoticed for longer than is promised."""
        return self._clock() > self.believed_until

    def read(self, cursor: Any) -> None:
        """Read everything anew; what is said here counts from before the reading began."""
        asked_at = self._clock()
        cursor.execute(_READ, (SUBJECTS_MAX,))
        subjects = [subject for (subject,) in cursor.fetchall()]
        self.sessions = frozenset(
            bytes.fromhex(subject.removeprefix(_SUBJECT))
            for subject in subjects
            if subject.startswith(_SUBJECT)
        )
        self.scopes = frozenset(each for each in subjects if not each.startswith(_SUBJECT))
        self.believed_until = asked_at + REVOCATION_S - POLL_S

    def note(self, session: bytes) -> None:
        """Refuse a session here at once, without waiting to read about it."""
        self.sessions |= {session}

    def note_scope(self, scope: str) -> None:
        """Refuse a caller here at once."""
        self.scopes |= {scope}


def revoke(cursor: Any, session: bytes, until: float) -> None:
    """End a session on every server; `until` is when it would have ended anyway."""
    cursor.execute(_DROP_PAST)
    cursor.execute(_REVOKE, (_SUBJECT + session.hex(), until))


def suspend(cursor: Any, scope: str) -> None:
    """Refuse every call of a scope, such as `merchant:tea-house`, until it is lifted."""
    cursor.execute(_SUSPEND, (scope,))


def let_go(cursor: Any, scope: str, until: float) -> None:
    """Refuse the calls of a scope until an instant only, when none of them has a token any more."""
    cursor.execute(_DROP_PAST)
    cursor.execute(_LET_GO, (scope, until))


def lift(cursor: Any, scope: str) -> bool:
    """Take a suspension back; return whether there was one."""
    cursor.execute(_LIFT, (scope,))
    return bool(cursor.rowcount)


class Sessions:
    """Makes session tokens and tells whom one names.

    Tokens are made with the first key; the others are those that were first before, so that a
    change of key ends nobody's session.
    """

    def __init__(
        self,
        secrets: tuple[bytes, ...],
        lifetime_s: int,
        now: Callable[[], float],
        *,
        revocations: Revocations | None = None,
        new_id: Callable[[], bytes] = lambda: token_bytes(16),
    ) -> None:
        keys = [SessionKey(secret) for secret in secrets]
        self._key = keys[0]
        self._keys = {key.id: key for key in reversed(keys)}
        self._lifetime_s = lifetime_s
        self._now = now
        self._new_id = new_id
        self._known: dict[bytes, tuple[Caller, int]] = {}
        self._older: dict[bytes, tuple[Caller, int]] = {}
        """Whom a header names whose MAC was compared, and when that session ends."""
        self.revocations = revocations or Revocations()

    def begin(self, caller: Caller, device: bytes | None = None, until: float = 2**32) -> Session:
        """Return a new session of a caller; it ends by `until`, when the issuer's token does."""
        ends_at = int(min(self._now() + self._lifetime_s, until))
        content = _FIXED.pack(
            ROLES.index(caller.role),
            ends_at,
            self._new_id(),
            bytes.fromhex(caller.person),
            device or _NO_DEVICE,
        )
        content += (caller.merchant or "").encode()
        signed = _PREFIX + self._key.id + b"." + to_base64url(content) + b"."
        return Session((signed + self._key.mac(signed)).decode(), ends_at)

    def caller(self, authorization: bytes) -> Caller:
        """Return whom a header with a session token names, or raise `unauthenticated`."""
        known = self._known.get(authorization) or self._older.get(authorization)
        caller, ends_at = known or self._read(authorization)
        if self._now() >= ends_at:
            raise unauthenticated("The session has ended; sign in again.")
        if caller.session in self.revocations.sessions:
            raise unauthenticated("The session was ended by its owner.")
        return caller

    def remember(self, authorization: bytes) -> None:
        """Know this header by its bytes from now on: whoever sent it will do so again.

        It is checked like any other, and forgotten when thousands of others came.
        """
        if authorization in self._known or not authorization.startswith(_BEARER):
            return
        if len(self._known) >= KNOWN_MAX:
            self._known, self._older = {}, self._known
        self._known[authorization] = self._read(authorization)

    def _read(self, authorization: bytes) -> tuple[Caller, int]:
        """Return whom a header names once its MAC was compared, and when the session ends."""
        key = self._keys.get(authorization[_KEY_ID])
        if key is None or not hmac.compare_digest(
            key.mac(authorization[_SIGNED]), authorization[_MAC]
        ):
            raise unauthenticated("The session token is not one of this service.")
        content = from_base64url(authorization[_CONTENT])
        role, ends_at, session, person, device = _unpack(content)
        merchant = content[_FIXED_BYTES:].decode() or None
        mark = None if device == _NO_DEVICE else device.hex()
        return Caller.of(ROLES[role], person.hex(), merchant, session, mark), ends_at

    def require_standing(self, caller: Caller) -> None:
        """Raise unless nothing speaks against a caller who showed a good token of any kind."""
        revocations = self.revocations
        if revocations.stale:
            raise Problem(
                "store_unavailable",
                "Whether this caller is suspended cannot be looked up now; nothing was done.",
                headers=RETRY_SOON,
            )
        if caller.scope in revocations.scopes:
            raise Problem("suspended", "Calls of this caller are not taken at present.")


def session_header(authorization: bytes) -> bytes | None:
    """Return the header in its plain form when it holds a session token, else None."""
    if authorization.startswith(_BEARER):
        return authorization
    found = _LOOSE.fullmatch(authorization)
    return b"Bearer " + found[1] if found is not None else None
