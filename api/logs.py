"""Logs: one JSON object a line, on standard output.

What may be logged is listed here by name. Identities, pseudonyms, tokens, addresses, ids of
things and bodies are not on the list, and the message of an unexpected error is not logged at
all, because it may quote any of them: its type and its place in the code are.
"""

from __future__ import annotations

import logging
import re
import sys
import traceback
from collections.abc import MutableMapping
from typing import Any, BinaryIO, Final, TextIO
from uuid import uuid4

import msgspec
import structlog

_REQUEST_ID: Final = re.compile(rb"[A-Za-z0-9][A-Za-z0-9._-]{7,63}")
_LEVELS: Final = {"debug": 10, "info": 20, "warning": 30, "error": 40}
_encode = msgspec.json.Encoder().encode

FRAMES_MAX: Final = 30


def request_id(sent: bytes | None) -> str:
    """Return the caller's request id when it is a sane one, a new one otherwise."""
    if sent is not None and _REQUEST_ID.fullmatch(sent) and not sent.isdigit():
        return sent.decode("ascii")
    return uuid4().hex


def configure(level: str, stream: TextIO | None = None) -> None:
    """Send this process's logs, and those of its libraries, to `stream` as JSON lines."""
    out = (stream or sys.stdout).buffer
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _as_json_line,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
        logger_factory=structlog.BytesLoggerFactory(file=out),
        cache_logger_on_first_use=True,
    )
    handler = _JsonHandler(out)
    logging.basicConfig(level=_LEVELS[level], handlers=[handler], force=True)
    for chatty in ("httpx", "httpcore", "asyncio"):
        logging.getLogger(chatty).setLevel(logging.WARNING)


def fault(error: BaseException) -> dict[str, Any]:
    """Return what may be logged about an unexpected error: its type and where it came from."""
    frames = traceback.extract_tb(error.__traceback__)[-FRAMES_MAX:]
    return {
        "error": f"{type(error).__module__}.{type(error).__qualname__}",
        "cause": type(error.__cause__).__qualname__ if error.__cause__ else None,
        "where": [f"{_module(f.filename)}:{f.lineno} {f.name}" for f in frames],
    }


def _module(filename: str) -> str:
    """A file's last two path elements: enough to find it, nothing about the machine."""
    return "/".join(filename.rsplit("/", 2)[-2:])


def _as_json_line(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> bytes:
    return _encode(event)


class _JsonHandler(logging.Handler):
    """Writes what libraries log through the standard library, in the same form."""

    def __init__(self, out: BinaryIO) -> None:
        super().__init__()
        self._out = structlog.BytesLogger(out)

    def emit(self, record: logging.LogRecord) -> None:
        line: dict[str, Any] = {
            "event": record.getMessage(),
            "logger": record.name,
            "level": record.levelname.lower(),
            "timestamp": structlog.processors.TimeStamper(fmt="iso", utc=True)(None, "", {})[
                "timestamp"
            ],
        }
        if record.exc_info and record.exc_info[1]:
            line |= fault(record.exc_info[1])
        self._out.msg(_encode(line))
