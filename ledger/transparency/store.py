"""What the database keeps of a log: its head, tiles, signed checkpoints and cosignatures.

The row of the head is lease, fence and tracking in one: whoever writes renews it by its own epoch
and from the size that it knows, in the transaction that writes. A follower that slept past its
time finds another epoch there. Tiles only grow, and a size has one root for ever.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Any, Final, NamedTuple

from ledger.transparency.notes import Note, Signature, Verifier, parse_note
from ledger.transparency.texts import Malformed
from ledger.transparency.tiles import TileReader

LEASE_TTL_S: Final = 15.0
"""How long a silent follower keeps others away: some times the longest round."""


class LogHeld(Exception):
    """Another follower holds the log."""


class LogLost(Exception):
    """The log was taken over; what its former holder had under way must not be committed."""


class LogHead(NamedTuple):
    """How many leaves a log has, and the fence of whoever holds it."""

    size: int
    epoch: int = 0


class Signed(NamedTuple):
    """A signed checkpoint as it is kept: without cosignatures."""

    size: int
    root: bytes
    note: bytes


_ACQUIRE: Final = """
INSERT INTO log_head AS l (book, epoch, holder, expires_at)
VALUES (%(book)s, 1, %(holder)s, clock_timestamp() + %(ttl)s)
ON CONFLICT (book) DO UPDATE
SET epoch = l.epoch + 1, holder = excluded.holder, expires_at = excluded.expires_at
WHERE l.holder = excluded.holder OR l.expires_at <= clock_timestamp()
RETURNING size, epoch
"""
_FENCE: Final = """
UPDATE log_head SET size = %(size)s, expires_at = clock_timestamp() + %(ttl)s
WHERE book = %(book)s AND epoch = %(epoch)s AND size = %(before)s
"""
_RELEASE: Final = "UPDATE log_head SET expires_at = '-infinity' WHERE book = %s AND epoch = %s"
_SIZE: Final = "SELECT size FROM log_head WHERE book = %s"
_TILES: Final = """
SELECT w.n, t.hashes FROM unnest(%s::int[], %s::bigint[]) WITH ORDINALITY AS w (level, number, n),
LATERAL (SELECT hashes FROM log_tile WHERE book = %s AND level = w.level AND number = w.number
    OFFSET 0) t
"""
_PUT_TILES: Final = """
INSERT INTO log_tile (book, level, number, hashes)
SELECT %s, level, number, hashes
FROM unnest(%s::int[], %s::bigint[], %s::bytea[]) AS w (level, number, hashes)
ON CONFLICT (book, level, number) DO UPDATE SET hashes = excluded.hashes
"""
_LAST_SIGNED: Final = (
    "SELECT size, root, note FROM log_checkpoint WHERE book = %s ORDER BY size DESC LIMIT 1"
)
_SIGNED_AT: Final = "SELECT size, root, note FROM log_checkpoint WHERE book = %s AND size = %s"
_SIGN: Final = "INSERT INTO log_checkpoint (book, size, root, note) VALUES (%s, %s, %s, %s)"
_COSIGN: Final = """
INSERT INTO log_cosignature (book, size, name, key_id, data) VALUES (%s, %s, %s, %s, %s)
ON CONFLICT DO NOTHING
"""
_COSIGNATURES: Final = (
    "SELECT name, key_id, data FROM log_cosignature WHERE book = %s AND size = %s"
    " ORDER BY name, key_id"
)
_PUBLISH: Final = """
UPDATE log_head SET published = %(note)s, published_size = %(size)s
WHERE book = %(book)s AND epoch = %(epoch)s AND coalesce(published_size, 0) <= %(size)s
"""
_PUBLISHED: Final = "SELECT published FROM log_head WHERE book = %s"
_KEY: Final = """
INSERT INTO log_key (book, verifier, since_size) VALUES (%s, %s, %s) ON CONFLICT DO NOTHING
"""
_KEYS: Final = "SELECT verifier FROM log_key WHERE book = %s ORDER BY since_size, verifier"


# --- who writes -------------------------------------------------------------------------------


def acquire(curs: Any, book: str, holder: str, ttl_s: float = LEASE_TTL_S) -> LogHead:
    """Take the log at the next epoch, when it is free, expired or this holder's own.

    Raises `LogHeld`.
    """
    ttl = timedelta(seconds=ttl_s)
    curs.execute(_ACQUIRE, {"book": book, "holder": holder, "ttl": ttl})
    row = curs.fetchone()
    if row is None:
        raise LogHeld(f"the log of book {book} is being written by another follower")
    return LogHead(*row)


def fence(curs: Any, book: str, head: LogHead, size: int, ttl_s: float = LEASE_TTL_S) -> LogHead:
    """Hold the log until this transaction ends, and move it from the head's size to another.

    Raises `LogLost` when somebody else has taken it over.
    """
    ttl = timedelta(seconds=ttl_s)
    values = {"book": book, "epoch": head.epoch, "before": head.size, "size": size, "ttl": ttl}
    curs.execute(_FENCE, values)
    if curs.rowcount != 1:
        raise LogLost(f"epoch {head.epoch} of the log of book {book} is over")
    return head._replace(size=size)


def release(curs: Any, book: str, head: LogHead) -> None:
    """Let the next follower in at once."""
    curs.execute(_RELEASE, (book, head.epoch))


# --- the tree ---------------------------------------------------------------------------------


def size_of(curs: Any, book: str) -> int:
    """Return how many leaves a log has."""
    curs.execute(_SIZE, (book,))
    row = curs.fetchone()
    return int(row[0]) if row else 0


def tile_reader(curs: Any, book: str) -> TileReader:
    """Return how tiles are read from the store; one that is missing raises `Malformed`."""

    def read(names: Sequence[tuple[int, int]]) -> list[bytes]:
        curs.execute(_TILES, ([level for level, _ in names], [number for _, number in names], book))
        found = {row[0]: bytes(row[1]) for row in curs.fetchall()}
        if len(found) != len(names):
            raise Malformed(f"the log of book {book} lacks a tile")
        return [found[place + 1] for place in range(len(names))]

    return read


def put_tiles(curs: Any, book: str, tiles: Mapping[tuple[int, int], bytes]) -> None:
    """Write tiles that are new or have grown."""
    if tiles:
        levels, numbers = zip(*tiles, strict=True)
        curs.execute(_PUT_TILES, (book, list(levels), list(numbers), list(tiles.values())))


# --- what was signed --------------------------------------------------------------------------


def last_signed(curs: Any, book: str) -> Signed | None:
    """Return the largest checkpoint that was signed."""
    curs.execute(_LAST_SIGNED, (book,))
    return _signed(curs.fetchone())


def signed_at(curs: Any, book: str, size: int) -> Signed | None:
    """Return the checkpoint that was signed of a size."""
    curs.execute(_SIGNED_AT, (book, size))
    return _signed(curs.fetchone())


def sign(curs: Any, book: str, signed: Signed) -> None:
    """Keep a signed checkpoint; the driver raises `UniqueViolation` where its size has one."""
    curs.execute(_SIGN, (book, *signed))


def cosign(curs: Any, book: str, size: int, signatures: Iterable[Signature]) -> None:
    """Keep cosignatures of a checkpoint."""
    for one in signatures:
        curs.execute(_COSIGN, (book, size, *one))


def cosignatures(curs: Any, book: str, size: int) -> list[Signature]:
    """Return the cosignatures of a checkpoint."""
    curs.execute(_COSIGNATURES, (book, size))
    return [Signature(name, bytes(key_id), bytes(data)) for name, key_id, data in curs.fetchall()]


def publish(curs: Any, book: str, head: LogHead, size: int, note: Note) -> None:
    """Make a checkpoint the one that is served; raise `LogLost` when it is not for us to say."""
    values = {"book": book, "epoch": head.epoch, "size": size, "note": note.encode()}
    curs.execute(_PUBLISH, values)
    if curs.rowcount != 1:
        raise LogLost(f"epoch {head.epoch} of the log of book {book} is over")


def published(curs: Any, book: str) -> Note | None:
    """Return the checkpoint that is served."""
    curs.execute(_PUBLISHED, (book,))
    row = curs.fetchone()
    return parse_note(bytes(row[0])) if row and row[0] is not None else None


def add_keys(curs: Any, book: str, keys: Iterable[Verifier], size: int) -> None:
    """Remember the keys that sign from a size on."""
    for key in keys:
        curs.execute(_KEY, (book, str(key), size))


def keys_of(curs: Any, book: str) -> list[Verifier]:
    """Return every key that has ever signed the log, oldest first."""
    curs.execute(_KEYS, (book,))
    return [Verifier.parse(text) for (text,) in curs.fetchall()]


def _signed(row: tuple[int, Any, Any] | None) -> Signed | None:
    return None if row is None else Signed(row[0], bytes(row[1]), bytes(row[2]))
