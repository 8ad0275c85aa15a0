"""Proving that files are those of a log: every leaf hashed again, every signed root made again.

One file is proved at a time and from itself alone, so that several processes can share the work;
the roots are put together from what they return. Findings name the position, the stream and the
field wherever these can still be told. Nothing here knows what an event means.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple
from uuid import UUID

import numpy as np

from ledger.exporting.form import EVENTS_PER_GROUP, File
from ledger.exporting.reading import ExportFile, Group, Unreadable, digest_of
from ledger.merkle import HASH_BYTES, CompactRange, parent_hashes
from ledger.transparency.checkpoints import Checkpoint
from ledger.transparency.leaves import leaf_hashes_of
from ledger.transparency.notes import BadSignature, Note, Untrusted, Verifier, parse_note, verified
from ledger.transparency.store import Signed
from ledger.transparency.texts import Malformed
from ledger.verification import Finding

EXPORT_CODES: Final[dict[str, str]] = {
    "manifest_broken": "the manifest of an export is one, in its one form, and says what is there",
    "manifest_unsigned": "the note beside the manifest is of it, and a key of the log signed it",
    "file_missing": "every file that the manifest names is there",
    "file_differs": "every file has the bytes that the manifest has the digest of",
    "file_unreadable": "every file can be read, and has the columns and rows of its form",
    "field_differs": "every column has the values that the manifest has the digest of",
    "book_differs": "every event of an export is of its book",
    "position_differs": "positions are 1, 2, 3, … from file to file",
    "instant_differs": "the column `recorded_at` is the instant that the event has",
    "checkpoint_order": "checkpoints are in order of size, each in the file of its size",
    "checkpoint_missing": "the last checkpoint of an export is of all its events",
    "not_cosigned": "as many witnesses as are asked for have cosigned the last checkpoint",
    "event_unjudgeable": "no event makes the judging of the rules stop",
    "verifier_died": "no file makes the verifier stop",
}
"""Finding → the rule that it breaks. Leaves, roots and signatures are as in the log."""

FINDINGS_MAX: Final = 1_000
"""Findings of one file that are told one by one."""


class Part(NamedTuple):
    """The hashes of the complete subtrees that make up the leaves from `begin` to `end`."""

    begin: int
    end: int
    hashes: tuple[bytes, ...]


class Proved(NamedTuple):
    """What a file of events is: the parts of its tree in order, and what was found.

    `cuts` are the parts from the beginning of a row group up to a size that was asked for.
    `readable` says whether every row can be read again.
    """

    parts: list[Part]
    cuts: list[Part]
    findings: list[Finding]
    readable: bool
    differs: bool = False


class Keys(NamedTuple):
    """Who is believed: the keys of the log, those of witnesses, and how many must have cosigned."""

    log: tuple[Verifier, ...]
    witnesses: tuple[Verifier, ...] = ()
    quorum: int = 0


# --- events -----------------------------------------------------------------------------------


def prove_events(path: Path, said: File, book: str, sizes: Sequence[int]) -> Proved:
    """Hash a file of events again; return the parts of the tree, and those up to each of `sizes`.

    `sizes` lie within the file, in order. It never raises because of what the file is.
    """
    findings = list(check_file(path, said, book))
    differs = any(one.code in {"file_differs", "field_differs"} for one in findings)
    if any(one.code == "file_missing" for one in findings):
        return Proved([], [], findings, readable=False)
    try:
        file = ExportFile(path, said, checksums=not differs)
    except Unreadable as why:
        return Proved([], [], [*findings, _unreadable(said, book, why)], readable=False)
    parts, cuts = [], []
    unproved: list[tuple[int, bytes, bytes, bytes]] = []
    wanted = list(sizes)
    readable = True
    for number in range(file.groups):
        try:
            group = file.events(number)
        except Unreadable as why:
            readable = False
            findings.append(_unreadable(said, book, file.lost(number, str(why)) or why))
            continue
        first, last = file.span(number)
        findings += _place_findings(group, book, first)
        leaves = leaf_hashes_of(book, group.columns)
        if b"".join(leaves) != group.leaves:
            unproved += _differing(group, leaves)
        here = [size for size in wanted if first - 1 < size <= last]
        whole, *some = _parts(first - 1, leaves, [last, *here])
        parts.append(whole)
        cuts += some
        del findings[FINDINGS_MAX:], unproved[FINDINGS_MAX:]
    if differs:
        findings += _fields_differing(file, said, book, unproved)
        findings += _pages_damaged(path, said, book) if readable else []
    fields = [one.where.rpartition(" ")[2] for one in findings if one.code == "field_differs"]
    findings += [_leaf_finding(book, one, fields) for one in unproved]
    return Proved(parts, cuts, findings, readable, differs)


def check_file(path: Path, said: File, book: str) -> Iterator[Finding]:
    """Yield what is wrong with a file as a whole: that it is not there, or has other bytes."""
    where = f"{book} {said.name}"
    try:
        size = path.stat().st_size
        if not path.is_file() or path.is_symlink():
            yield Finding("file_missing", where, "a file", "something else")
            return
        digest = digest_of(path)
    except OSError as error:
        yield Finding("file_missing", where, "a file", error.strerror or "none")
        return
    if (size, digest) != (said.bytes, said.sha256):
        expected = f"{said.bytes} bytes of SHA-256 {said.sha256}"
        yield Finding("file_differs", where, expected, f"{size} bytes of SHA-256 {digest}")
        return
    try:
        columns = ExportFile(path, said).columns()
    except Unreadable:
        return  # it is told by whoever reads the file
    if columns != said.columns:
        yield Finding("field_differs", f"{where} columns", str(columns), str(said.columns))


def _unreadable(said: File, book: str, why: Unreadable) -> Finding:
    is_one = why.first == why.last
    where = f"{book}:{why.first}" if is_one else f"{book}:{why.first} to {book}:{why.last}"
    stream = "" if why.stream is None else f" stream {UUID(bytes=why.stream)}"
    where = f"{where}{stream} field {why.field or 'unknown'}"
    return Finding("file_unreadable", where, f"rows of {said.name}", str(why))


def _place_findings(group: Group, book: str, first: int) -> Iterator[Finding]:
    expected = range(first, first + len(group))
    if not np.array_equal(group.columns.positions, np.arange(first, first + len(group))):
        for place, (right, found) in enumerate(zip(expected, group.positions, strict=True)):
            if right != found:
                stream = UUID(bytes=group.streams[place])
                where = f"{book}:{right} stream {stream} field position"
                yield Finding("position_differs", where, str(right), str(found))
    if group.book_names != {book}:
        for right, found_book in zip(expected, group.books, strict=True):
            if found_book != book:
                where = f"{book}:{right} field book"
                yield Finding("book_differs", where, book, found_book)


def _differing(group: Group, leaves: Sequence[bytes]) -> Iterable[tuple[int, bytes, bytes, bytes]]:
    for place, made in enumerate(leaves):
        kept = group.leaves[place * HASH_BYTES : (place + 1) * HASH_BYTES]
        if made != kept:
            yield group.positions[place], group.streams[place], kept, made


def _leaf_finding(
    book: str, one: tuple[int, bytes, bytes, bytes], fields: Sequence[str]
) -> Finding:
    position, stream, kept, made = one
    named = ", ".join(fields) or "of those that are hashed"
    where = f"{book}:{position} stream {UUID(bytes=stream)} field {named}"
    return Finding("leaf_differs", where, kept.hex(), made.hex())


def _fields_differing(
    file: ExportFile, said: File, book: str, unproved: Sequence[tuple[int, bytes, bytes, bytes]]
) -> Iterator[Finding]:
    """Say which columns have other values than the manifest says, for the leaves to be named by."""
    positions = sorted(one[0] for one in unproved) or [said.first, said.last]
    for name, digest in file.digests().items():
        if digest != said.columns[name]:
            where = f"{book}:{positions[0]} to {book}:{positions[-1]} field {name}"
            yield Finding("field_differs", where, said.columns[name], digest)


def _pages_damaged(path: Path, said: File, book: str) -> Iterator[Finding]:
    """Say which columns of which rows have pages that are not those that were written."""
    try:
        file = ExportFile(path, said)
    except Unreadable:
        return
    for number in range(file.groups):
        if why := file.lost(number, "a page has another checksum"):
            yield _unreadable(said, book, why)


def _parts(begin: int, leaves: Sequence[bytes], ends: Sequence[int]) -> list[Part]:
    """Return the parts of a row group from its beginning up to each of some ends.

    It begins where a subtree of its full width does, so that the parts are found among the hashes
    of its levels.
    """
    assert begin % EVENTS_PER_GROUP == 0, "a row group begins where a subtree does"
    levels: list[Sequence[bytes]] = [leaves]
    while len(levels[-1]) > 1:
        levels.append(parent_hashes(levels[-1]))
    return [_part(begin, end, levels) for end in ends]


def _part(begin: int, end: int, levels: Sequence[Sequence[bytes]]) -> Part:
    hashes = []
    count, at = end - begin, 0
    for level in range(count.bit_length() - 1, -1, -1):
        if count >> level & 1:
            hashes.append(levels[level][at >> level])
            at += 1 << level
    return Part(begin, end, tuple(hashes))


# --- checkpoints ------------------------------------------------------------------------------


def read_checkpoints(path: Path, said: File, book: str) -> tuple[list[Signed], list[Finding]]:
    """Return the checkpoints of a file in order, as far as they can be read, and what was found."""
    findings = list(check_file(path, said, book))
    if any(one.code == "file_missing" for one in findings):
        return [], findings
    signed: list[Signed] = []
    try:
        signed = list(ExportFile(path, said, checksums=not findings).signed())
    except Unreadable as why:
        findings.append(_unreadable(said, book, why))
        return [], findings
    least = said.first if said.first > 1 else 0
    for one in signed:
        if not least <= one.size <= said.last:
            where = f"{book} at size {one.size} field size"
            findings.append(
                Finding("checkpoint_order", where, f"{least} to {said.last}", str(one.size))
            )
        least = one.size + 1
    return [one for one in signed if 0 <= one.size <= said.last], findings


def check_signed(book: str, origin: str, one: Signed, keys: Keys) -> Iterator[Finding]:
    """Yield what is wrong with a checkpoint: its text, the log's signature, cosignatures."""
    where = f"{book} at size {one.size}"
    try:
        note = parse_note(one.note)
        said = Checkpoint.parse(note.text)
        verified(note, keys.log)
        if keys.witnesses:
            _cosigned(note, keys)
    except (Malformed, Untrusted, BadSignature) as error:
        expected = "a checkpoint signed by the log"
        yield Finding("signature_broken", f"{where} field note", expected, str(error))
        return
    for name, expected_value, found in (
        ("origin", origin, said.origin),
        ("size", str(one.size), str(said.size)),
        ("root", one.root.hex(), said.root.hex()),
    ):
        if expected_value != found:
            yield Finding("signature_broken", f"{where} field {name}", expected_value, found)


def check_cosigned(book: str, one: Signed, keys: Keys) -> Iterator[Finding]:
    """Yield that the last checkpoint has fewer cosignatures than are asked for."""
    try:
        found = _cosigned(parse_note(one.note), keys)
    except (Malformed, BadSignature):
        return  # told already
    if found < keys.quorum:
        where = f"{book} at size {one.size} field note"
        yield Finding("not_cosigned", where, f"{keys.quorum} witnesses", str(found))


def _cosigned(note: Note, keys: Keys) -> int:
    try:
        return len({one.name for one in verified(note, keys.witnesses)})
    except Untrusted:
        return 0


class Roots:
    """The roots of a log at the sizes of its checkpoints, from the parts that files were hashed to.

    Parts come in order; where one is missing nothing can be said of any root from there on.
    """

    def __init__(self, book: str) -> None:
        self.findings: list[Finding] = []
        self.tree = CompactRange()
        self.compared = 0
        self._book = book

    def add(self, proved: Proved, signed: Sequence[Signed]) -> None:
        """Compare the checkpoints of a file with its parts, which continue those before."""
        roots = {one.size: one for one in signed}
        if 0 in roots and self.tree.end == 0:
            self._compare(Part(0, 0, ()), roots[0])
        cuts = iter(proved.cuts)
        cut = next(cuts, None)
        for part in proved.parts:
            if part.begin != self.tree.end:
                return
            while cut is not None and cut.begin == part.begin:
                self._compare(cut, roots.get(cut.end))
                cut = next(cuts, None)
            self.tree.merge(CompactRange(*part))

    def _compare(self, cut: Part, signed: Signed | None) -> None:
        if signed is None:
            return
        tree = CompactRange(0, self.tree.end, self.tree.hashes)
        tree.merge(CompactRange(*cut))
        self.compared += 1
        root = tree.root()
        if root != signed.root:
            where = f"{self._book} at size {signed.size} field root"
            self.findings.append(Finding("root_differs", where, signed.root.hex(), root.hex()))
