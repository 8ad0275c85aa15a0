"""Checkpoints (C2SP tlog-checkpoint): the head of a log's tree, as the text of a signed note."""

from __future__ import annotations

from typing import NamedTuple

from ledger.transparency.notes import Note, parse_note
from ledger.transparency.texts import Malformed, hash_from_base64, parse_number, to_base64


class Checkpoint(NamedTuple):
    """A log's origin, how many leaves its tree has, and the tree's root.

    Extension lines are read, because other logs may have some; ours have none.
    """

    origin: str
    size: int
    root: bytes
    extensions: tuple[str, ...] = ()

    @classmethod
    def parse(cls, text: str) -> Checkpoint:
        """Read the text of a note as a checkpoint; raise `Malformed`."""
        if not text.endswith("\n"):
            raise Malformed("a checkpoint ends in a newline")
        lines = text[:-1].split("\n")
        if len(lines) < 3 or not all(lines):
            raise Malformed("a checkpoint is three lines or more, none of them empty")
        origin, size, root, *extensions = lines
        return cls(origin, parse_number(size), hash_from_base64(root), tuple(extensions))

    @property
    def text(self) -> str:
        """The text that is signed."""
        return "".join(
            f"{line}\n"
            for line in (self.origin, str(self.size), to_base64(self.root), *self.extensions)
        )


def parse_checkpoint(data: bytes) -> tuple[Note, Checkpoint]:
    """Return the note that the bytes are and the checkpoint that it says; nothing is believed."""
    note = parse_note(data)
    return note, Checkpoint.parse(note.text)
