"""Fenced leases: one writer at a time for a read model's book, and a late one cannot commit.

A lease has an epoch that grows whenever it changes hands. Every transaction that writes rows
first renews the lease by its own epoch; that locks the lease's row until commit. A holder that
slept past its time and was replaced finds another epoch there and is refused, whatever it has
read before. Expiry only says when somebody else may take over; it protects nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any, Final

LEASE_TTL_S: Final = 15.0
"""How long a silent holder keeps others away: some times the longest batch."""

Clock = Callable[[], datetime]


class LeaseHeld(Exception):
    """Somebody else holds the lease."""

    def __init__(self, name: str, book: str, holder: str) -> None:
        super().__init__(f"{name} of book {book} is being written by {holder}")
        self.holder = holder


class LeaseLost(Exception):
    """The lease was taken over; what its former holder had under way must not be committed."""

    def __init__(self, name: str, book: str, epoch: int | None) -> None:
        super().__init__(f"epoch {epoch} of the lease on {name} of book {book} is over")
        self.epoch = epoch


_ACQUIRE: Final = """
INSERT INTO rm_lease.lease AS l (name, book, holder, expires_at)
VALUES (%(name)s, %(book)s, %(holder)s, coalesce(%(now)s, clock_timestamp()) + %(ttl)s)
ON CONFLICT (name, book) DO UPDATE
SET epoch = l.epoch + 1, holder = excluded.holder, expires_at = excluded.expires_at
WHERE %(seize)s OR l.holder = excluded.holder
    OR l.expires_at <= coalesce(%(now)s, clock_timestamp())
RETURNING epoch
"""

_FENCE: Final = """
UPDATE rm_lease.lease
SET expires_at = coalesce(%(now)s, clock_timestamp()) + %(ttl)s
WHERE name = %(name)s AND book = %(book)s AND epoch = %(epoch)s
"""

_RELEASE: Final = """
UPDATE rm_lease.lease SET expires_at = '-infinity'
WHERE name = %(name)s AND book = %(book)s AND epoch = %(epoch)s
"""

_REVOKE: Final = """
UPDATE rm_lease.lease SET epoch = epoch + 1, expires_at = '-infinity'
WHERE (name, book) IN (
    SELECT name, book FROM rm_lease.lease WHERE name = %s ORDER BY book FOR UPDATE
)
"""


class Lease:
    """One holder's claim to a named lease of a book. A holder's name must be its own.

    `clock` judges expiry; without one it is the database's.
    """

    def __init__(
        self,
        name: str,
        book: str,
        holder: str,
        *,
        ttl_s: float = LEASE_TTL_S,
        clock: Clock | None = None,
    ) -> None:
        self.name = name
        self.book = book
        self.holder = holder
        self.epoch: int | None = None
        self._ttl = timedelta(seconds=ttl_s)
        self._clock = clock

    def acquire(self, curs: Any, *, seize: bool = False) -> int:
        """Take the lease at the next epoch, when it is free, expired or this holder's own.

        Raises `LeaseHeld`, unless it is to be seized from whoever holds it.
        """
        curs.execute(_ACQUIRE, {**self._parameters(), "seize": seize})
        row = curs.fetchone()
        if row is None:
            self.epoch = None
            raise LeaseHeld(self.name, self.book, self._present_holder(curs))
        self.epoch = row[0]
        return row[0]  # type: ignore[no-any-return]

    def fence(self, curs: Any) -> None:
        """Hold the lease until this transaction ends, and renew it; raise `LeaseLost`."""
        curs.execute(_FENCE, self._parameters())
        if curs.rowcount != 1:
            epoch, self.epoch = self.epoch, None
            raise LeaseLost(self.name, self.book, epoch)

    def release(self, curs: Any) -> None:
        """Let the next holder in at once."""
        curs.execute(_RELEASE, self._parameters())
        self.epoch = None

    def _parameters(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "book": self.book,
            "holder": self.holder,
            "epoch": self.epoch,
            "ttl": self._ttl,
            "now": self._clock() if self._clock is not None else None,
        }

    def _present_holder(self, curs: Any) -> str:
        curs.execute(
            "SELECT holder FROM rm_lease.lease WHERE name = %s AND book = %s",
            (self.name, self.book),
        )
        row = curs.fetchone()
        return row[0] if row else "nobody"


def revoke_all(curs: Any, name: str) -> None:
    """End every holder's epoch of a name, in all books; the next in line may take over at once."""
    curs.execute(_REVOKE, (name,))
