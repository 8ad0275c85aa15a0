"""The vault: which pseudonym an identity has, and under which key a person's particulars are.

In a ledger of `vault` pseudonyms a person is sixteen random bytes, and only a row that is wrapped
by an epoch key says whose: without the row nobody can link them, whatever else they know. In a
ledger of `keyed` pseudonyms a person is a keyed hash of the identity, and only whoever was erased
and comes back gets a row. A person on the list of the erased has no key here, whatever rows there
are. Every method works in the caller's transaction.
"""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from typing import Any, Final, Literal, NamedTuple, TypeVar

from api.vault.keyring import KeyDestroyed, Keyring
from api.vault.sealing import KEY_BYTES, NONCE_BYTES, unwrap, wrap

T = TypeVar("T")

Mode = Literal["keyed", "vault"]

TAGS: Final = b"tidebook persons' tags 1"
"""What the pseudonym key is applied to for the key of identities' tags."""

PERSON_BYTES: Final = 16
LINKS_AT_ONCE: Final = 10_000

_LOCK: Final = 0x7469_6465_7661  # held by all who wrap, alone by whoever destroys

_SUPPRESSED: Final = """
SELECT until FROM tidebook.person_suppression WHERE tag = %s AND until > now()
"""
_LINK: Final = "SELECT epoch, sealed FROM tidebook.person_link WHERE tag = %s"
_KEY: Final = "SELECT epoch, sealed FROM tidebook.person_key WHERE person = %s"
_CAME_BACK: Final = "SELECT person FROM tidebook.person_key WHERE person = ANY (%s)"
_SOME_LINKS: Final = """
SELECT tag, epoch, sealed FROM tidebook.person_link WHERE tag > %s ORDER BY tag LIMIT %s
"""
_DROP_LINK: Final = "DELETE FROM tidebook.person_link WHERE tag = %s"
_ADD_LINK: Final = """
INSERT INTO tidebook.person_link (tag, epoch, sealed) VALUES (%s, %s, %s)
ON CONFLICT (tag) DO NOTHING
"""
_ADD_KEY: Final = """
INSERT INTO tidebook.person_key (person, epoch, sealed) VALUES (%s, %s, %s)
ON CONFLICT (person) DO NOTHING
"""
_SUPPRESS: Final = """
INSERT INTO tidebook.person_suppression (tag, until) VALUES (%s, %s)
ON CONFLICT (tag) DO UPDATE SET until = greatest(person_suppression.until, excluded.until)
"""
_FORGET: Final = "DELETE FROM tidebook.person_suppression WHERE until <= now()"
_OLD_KEYS: Final = """
SELECT person, epoch, sealed FROM tidebook.person_key WHERE epoch < %s LIMIT %s FOR UPDATE
"""
_OLD_LINKS: Final = """
SELECT tag, epoch, sealed FROM tidebook.person_link WHERE epoch < %s LIMIT %s FOR UPDATE
"""
_REWRAP_KEY: Final = "UPDATE tidebook.person_key SET epoch = %s, sealed = %s WHERE person = %s"
_REWRAP_LINK: Final = "UPDATE tidebook.person_link SET epoch = %s, sealed = %s WHERE tag = %s"


class Erased(Exception):
    """Whoever has this identity was erased and cannot sign in before `until`, if that is known."""

    def __init__(self, until: datetime | None) -> None:
        super().__init__("erased")
        self.until = until


class _Row(NamedTuple):
    epoch: int
    sealed: bytes


class Vault:
    """The rows about persons, through the keyring that opens them."""

    def __init__(
        self,
        keyring: Keyring,
        pseudonym_key: bytes,
        mode: Mode,
        new_bytes: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        self.keyring = keyring
        self.mode = mode
        self._tags = hmac.digest(pseudonym_key, TAGS, "sha256")
        self._new_bytes = new_bytes

    def needs_no_row(self, keyed: str) -> bool:
        """Whether an identity's keyed pseudonym is its person, so that nobody need be asked."""
        return self.mode == "keyed" and not self.keyring.is_erased(keyed)

    def resolve(self, cursor: Any, keyed: str) -> str:
        """Return the person of an identity, by its keyed pseudonym; raise `Erased`."""
        if self.needs_no_row(keyed):
            return keyed
        tag = self._tag(keyed)
        cursor.execute(_SUPPRESSED, (tag,))
        found = cursor.fetchone()
        if found is not None:
            raise Erased(found[0])
        person = self._linked(cursor, tag) or self._newcomer(cursor, tag)
        if self.keyring.is_erased(person):
            raise Erased(None)  # a row that should be gone: the eraser removes it again
        return person

    def look_up(self, cursor: Any, keyed: str) -> str | None:
        """Return the person of an identity, None where nobody is known by it now."""
        if self.needs_no_row(keyed):
            return keyed
        person = self._linked(cursor, self._tag(keyed))
        return None if person is None or self.keyring.is_erased(person) else person

    def key(self, cursor: Any, person: str) -> bytes | None:
        """Return a person's key; None when there never was one or it was destroyed."""
        if self.keyring.is_erased(person):
            return None
        row = self._opened(cursor, _KEY, person, person.encode())
        return None if row is None else row[:KEY_BYTES]

    def made_key(self, cursor: Any, person: str) -> bytes | None:
        """Return a person's key, making it where there is none; None for the erased."""
        found = self.key(cursor, person)
        if found is not None:
            return found
        self._lock(cursor, shared=True)
        if self.keyring.is_erased(person):
            return None
        self._add_key(cursor, person, self._tag(person))
        return self.key(cursor, person)

    def destroy(self, cursor: Any, person: str, until: datetime | None) -> None:
        """Remove all rows of a person; keep the tag of the identity until `until`.

        The person is on the list of the erased already: from that moment no key was given out.
        """
        assert self.keyring.is_erased(person), "the list comes first"
        self._lock(cursor, shared=False)
        tag = self._tag_of(cursor, person)
        for one in self.links(cursor, person) if tag is None else [tag]:
            cursor.execute(_DROP_LINK, (one,))
            if until is not None:
                cursor.execute(_SUPPRESS, (one, until))
        cursor.execute("DELETE FROM tidebook.person_key WHERE person = %s", (person,))

    def links(self, cursor: Any, person: str) -> list[bytes]:
        """Return the tags of the identities that a row links with a person, key or no key.

        A row of a key says whose it is; for these all links are opened: seconds for a million.
        """
        found, last, secret = [], b"", bytes.fromhex(person)
        while True:
            cursor.execute(_SOME_LINKS, (last, LINKS_AT_ONCE))
            rows = cursor.fetchall()
            for tag, epoch, sealed in rows:
                last = bytes(tag)
                with suppress(KeyDestroyed):
                    if unwrap(self.keyring.key(epoch), bytes(sealed), last) == secret:
                        found.append(last)
            if len(rows) < LINKS_AT_ONCE:
                return found

    def has_rows(self, cursor: Any, person: str) -> bool:
        """Whether the database has a key of this person, wrapped as it may be."""
        cursor.execute(_KEY, (person,))
        return cursor.fetchone() is not None

    def came_back(self, cursor: Any) -> set[str]:
        """Return who is on the list of the erased and has a row: a backup brought it back."""
        cursor.execute(_CAME_BACK, (sorted(self.keyring.erased()),))
        return {person for (person,) in cursor.fetchall()}

    def forget_tags(self, cursor: Any) -> int:
        """Remove the tags whose time is over; return how many."""
        cursor.execute(_FORGET)
        return int(cursor.rowcount)

    # --- rotation -----------------------------------------------------------------------------

    def begin_epoch(self, cursor: Any) -> int:
        """Begin a new epoch; whoever wraps after this transaction wraps with its key."""
        epoch = self.keyring.begin()
        self._lock(cursor, shared=False)  # waits for all who still wrap with the one before
        return epoch

    def rewrap(self, cursor: Any, epoch: int, limit: int) -> int:
        """Wrap some rows of earlier epochs anew; return how many, 0 when none is left.

        A row whose epoch's key is destroyed came back with a backup; it is removed, unread. So is
        a link of somebody on the list of the erased.
        """
        cursor.execute(_OLD_KEYS, (epoch, limit))
        keys = cursor.fetchall()
        for person, old, sealed in keys:
            table = (_REWRAP_KEY, "DELETE FROM tidebook.person_key WHERE person = %s")
            self._rewrap(cursor, table, _Row(old, bytes(sealed)), epoch, person, person.encode())
        cursor.execute(_OLD_LINKS, (epoch, limit))
        links = cursor.fetchall()
        for tag, old, sealed in links:
            table = (_REWRAP_LINK, _DROP_LINK)
            self._rewrap(cursor, table, _Row(old, bytes(sealed)), epoch, tag, bytes(tag))
        return len(keys) + len(links)

    def _rewrap(
        self,
        cursor: Any,
        statements: tuple[str, str],
        row: _Row,
        epoch: int,
        name: object,
        bound: bytes,
    ) -> None:
        update, delete = statements
        try:
            secret: bytes | None = unwrap(self.keyring.key(row.epoch), row.sealed, bound)
        except KeyDestroyed:
            secret = None
        is_link = delete == _DROP_LINK
        if secret is None or (is_link and self.keyring.is_erased(secret.hex())):
            cursor.execute(delete, (name,))
            return
        cursor.execute(update, (epoch, self._wrapped(epoch, secret, bound), name))

    # --- rows ---------------------------------------------------------------------------------

    def _linked(self, cursor: Any, tag: bytes) -> str | None:
        person = self._opened(cursor, _LINK, tag, tag)
        return None if person is None else person.hex()

    def _newcomer(self, cursor: Any, tag: bytes) -> str:
        """Return a new person for an identity, or the one that somebody else has made meanwhile."""
        self._lock(cursor, shared=True)
        person = self._new_bytes(PERSON_BYTES)
        epoch = self.keyring.current()
        cursor.execute(_ADD_LINK, (tag, epoch, self._wrapped(epoch, person, tag)))
        if cursor.rowcount:
            self._add_key(cursor, person.hex(), tag)
            return person.hex()
        found = self._linked(cursor, tag)
        if found is None:  # a row that came back with a backup, from an epoch that was destroyed
            raise Erased(None)
        return found

    def _add_key(self, cursor: Any, person: str, tag: bytes) -> None:
        epoch = self.keyring.current()
        secret = self._new_bytes(KEY_BYTES) + tag
        cursor.execute(_ADD_KEY, (person, epoch, self._wrapped(epoch, secret, person.encode())))

    def _opened(self, cursor: Any, query: str, name: object, bound: bytes) -> bytes | None:
        """Return the secret of a row, None when there is no row or its key is destroyed.

        A row may be wrapped anew between reading it and reading its key: then it is read again.
        """
        for _ in range(2):
            cursor.execute(query, (name,))
            found = cursor.fetchone()
            if found is None:
                return None
            try:
                return unwrap(self.keyring.key(found[0]), bytes(found[1]), bound)
            except KeyDestroyed:
                continue
        return None

    def _tag_of(self, cursor: Any, person: str) -> bytes | None:
        """Return the tag of a person's identity, None where nothing says it any more."""
        row = self._opened(cursor, _KEY, person, person.encode())
        if row is not None:
            return row[KEY_BYTES:]
        return self._tag(person) if self.mode == "keyed" else None

    def _tag(self, keyed: str) -> bytes:
        return hmac.digest(self._tags, keyed.encode(), "sha256")

    def _wrapped(self, epoch: int, secret: bytes, bound: bytes) -> bytes:
        return wrap(self.keyring.key(epoch), self._new_bytes(NONCE_BYTES), secret, bound)

    def _lock(self, cursor: Any, *, shared: bool) -> None:
        kind = "_shared" if shared else ""
        cursor.execute(f"SELECT pg_advisory_xact_lock{kind}(%s)", (_LOCK,))
