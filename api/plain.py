"""Plain requests: which bytes are read without an HTTP parser, and what they say.

A claim in a rush is one small POST in one segment, written in the simplest way that HTTP has. Only
that is read here, in a few microseconds; for anything else the answer is None, and httptools reads
the same bytes from their start. Nothing may ever be read differently here and there: where the two
could disagree (repeated or folded headers, bare line feeds, escapes, transfer codings, upgrades,
versions, lengths that are not digits), the request is not plain.
"""

from __future__ import annotations

import re
from time import perf_counter
from typing import Final

HEAD_BYTES_MAX: Final = 8 * 1024
BODY_BYTES_MAX: Final = 8 * 1024
"""Larger requests are none of a rush; the parser has limits of its own for them."""

_VERSION: Final = b" HTTP/1.1"
_PRINTABLE: Final = bytes(range(0x20, 0x7F))
_PATH: Final = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~/"
_TOKEN: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,64}")
_NOT_PLAIN: Final = frozenset(
    {b"expect", b"proxy-connection", b"te", b"trailer", b"transfer-encoding", b"upgrade"}
)
"""These change how the connection or the body is to be understood."""

NAMES_MAX: Final = 256
_names: Final[dict[bytes, bytes]] = {}
"""Header names seen before as they were spelt, in lower case; bounded, for callers choose them."""


class LaneCall:
    """One plain POST: its path, its headers by lower-case name, its body, and whose it is."""

    __slots__ = ("address", "body", "headers", "path", "started")

    def __init__(
        self, path: bytes, headers: dict[bytes, bytes], body: bytes, address: str | None
    ) -> None:
        self.path = path
        self.headers = headers
        self.body = body
        self.address = address
        """The network address of the other end of the connection, which may be a proxy's."""
        self.started = perf_counter()


def plain_call(data: bytes, address: str | None = None) -> LaneCall | None:
    """Return the call that `data` is, exactly and wholly; None when it is not a plain one."""
    end = data.find(b"\r\n\r\n", 0, HEAD_BYTES_MAX)
    if end < 0 or not data.startswith(b"POST /"):
        return None
    lines = data[: end + 2].split(b"\r\n")
    headers = _headers(lines) if _is_tidy(data[: end + 2], len(lines) - 1) else None
    body = data[end + 4 :]
    if headers is None or not _is_long_as(headers.get(b"content-length"), body):
        return None
    path = lines[0][5:-9]
    if not lines[0].endswith(_VERSION) or path.translate(None, _PATH):
        return None
    return LaneCall(path, headers, body, address)


def _is_tidy(head: bytes, lines: int) -> bool:
    """Whether there are printable characters and line ends only, and no spaces around values."""
    return (
        head.translate(None, _PRINTABLE) == b"\r\n" * lines
        and b":  " not in head
        and b" \r\n" not in head
    )


def _is_long_as(length: bytes | None, body: bytes) -> bool:
    if length is None:
        return not body
    return length.isdigit() and len(length) <= 4 and int(length) == len(body) <= BODY_BYTES_MAX


def _headers(lines: list[bytes]) -> dict[bytes, bytes] | None:
    """Return the headers by name; `lines` has the request line first and nothing last."""
    headers = {}
    for line in lines[1:-1]:
        name, colon, value = line.partition(b": ")
        lower = _names.get(name) or _learned(name)
        if lower is None or not colon:
            return None
        headers[lower] = value
    if len(headers) != len(lines) - 2:
        return None
    return headers if headers.get(b"connection", b"keep-alive") in _KEEP_ALIVE else None


_KEEP_ALIVE: Final = frozenset({b"keep-alive", b"Keep-Alive"})


def _learned(name: bytes) -> bytes | None:
    """Return a header name in lower case, if it is one that leaves a request plain."""
    lower = name.lower()
    if not _TOKEN.fullmatch(name) or lower in _NOT_PLAIN:
        return None
    if len(_names) < NAMES_MAX:
        _names[name] = lower
    return lower
