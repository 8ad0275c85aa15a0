"""Logs: one JSON object a line, on standard output.

What may be logged is listed here by name. Identities, pseudonyms, tokens, addresses, ids of
things and bodies are not on the list, and the message of an unexpected error is not logged at
all, because it may quote any of them: its type and its place in the code are.
"""

from __future__ import annotations

import asyncio
import atexit
import itertools
import logging
import re
import secrets
import threading
import time
import traceback
from collections.abc import MutableMapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Final, TextIO

import msgspec
import structlog

_REQUEST_ID: Final = re.compile(rb"[A-Za-z0-9][A-Za-z0-9._-]{7,63}")
_LEVELS: Final = {"debug": 10, "info": 20, "warning": 30, "error": 40}
_encode: Final = msgspec.json.Encoder().encode

FRAMES_MAX: Final = 30
HELD_S: Final = 0.25
"""Longest time for which lines about requests are held, to be written together."""
HELD_LINES_MAX: Final = 1_000

_PROCESS: Final = secrets.token_hex(6)
_numbers: Final = itertools.count(1)


def request_id(sent: bytes | None) -> str:
    """Return the caller's request id when it is a sane one, a new one otherwise.

    A run of digits is not sane: it may be somebody's telephone number.
    """
    if sent is not None and _REQUEST_ID.fullmatch(sent) and not sent.isdigit():
        return sent.decode("ascii")
    return f"{_PROCESS}-{next(_numbers):x}"


class AccessKind(msgspec.Struct, frozen=True, kw_only=True):
    """What is logged about a call and has few values: the calls of a rush share one or two kinds.

    Beside it a line has its `timestamp`, `level`, `event`, `request_id` and `ms`, and nothing else.
    """

    method: str
    route: str
    status: int
    code: str | None
    role: str | None


_Access = tuple[int, str, bytes, float]
"""A line that is not written yet: when (ns since 1970), request id, kind, seconds."""


class Log:
    """Where lines go. Lines about requests are held for a moment; all others go out at once.

    A write for each request would cost more than the request's own logic does in a rush.
    """

    def __init__(self, stream: TextIO, level: str) -> None:
        self.level = _LEVELS[level]
        self._stream = stream
        self._held: list[bytes | _Access] = []
        self._lock = threading.Lock()
        self._flush_is_due = False
        atexit.register(self.flush)

    def access(self, request_id: str, kind: bytes, seconds: float) -> None:
        """Log a call that was answered; `kind` comes from `access_kind`. Called in an event loop.

        The line is put into words when it is written, with many others.
        """
        if self.level > logging.INFO:
            return
        self._held.append((time.time_ns(), request_id, kind, seconds))
        if len(self._held) >= HELD_LINES_MAX:
            self.flush()
        elif not self._flush_is_due:
            self._flush_is_due = True
            asyncio.get_running_loop().call_later(HELD_S, self.flush)

    def msg(self, line: bytes) -> None:
        """Write a line now, after those that are held."""
        self._held.append(line)
        self.flush()

    debug = info = warning = error = critical = msg

    def flush(self) -> None:
        """Write what is held."""
        with self._lock:
            self._flush_is_due = False
            held, self._held = self._held, []
            if held and not self._stream.closed:
                lines = [_in_words(each) if isinstance(each, tuple) else each for each in held]
                self._stream.buffer.write(b"\n".join(lines) + b"\n")
                self._stream.buffer.flush()


def configure(level: str, stream: TextIO) -> Log:
    """Send this process's logs, and those of its libraries, to `stream`; return where they go."""
    log = Log(stream, level)
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _as_json_line,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(log.level),
        logger_factory=lambda *_: log,
        cache_logger_on_first_use=False,
    )
    logging.basicConfig(level=log.level, handlers=[_JsonHandler(log)], force=True)
    for chatty in ("httpx", "httpcore", "asyncio"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    return log


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


@lru_cache(maxsize=4_096)
def access_kind(method: str, route: str, status: int, code: str | None, role: str | None) -> bytes:
    """Return a kind of access line for `Log.access`: its members as they will be written."""
    kind = AccessKind(method=method, route=route, status=status, code=code, role=role)
    return _encode(kind)[1:-1]


def _in_words(line: _Access) -> bytes:
    """Return a line about a call. A request id has no character that JSON would escape."""
    at_ns, request_id, kind, seconds = line
    return b'{"timestamp":"%b","level":"info","event":"request","request_id":"%b",%b,"ms":%.2f}' % (
        _millisecond(at_ns // 1_000_000),
        request_id.encode(),
        kind,
        seconds * 1_000,
    )


@lru_cache(maxsize=1_024)
def _millisecond(ms: int) -> bytes:
    """The lines of a batch fall into few milliseconds."""
    seconds, rest = divmod(ms, 1_000)
    return f"{_second(seconds)}.{rest:03}Z".encode()


def _now() -> str:
    seconds, ns = divmod(time.time_ns(), 1_000_000_000)
    return f"{_second(seconds)}.{ns // 1_000_000:03}Z"


@lru_cache(maxsize=4)
def _second(seconds: int) -> str:
    """The lines of a rush fall into few seconds."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def _as_json_line(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> bytes:
    return _encode(event)


class _JsonHandler(logging.Handler):
    """Writes what libraries log through the standard library, in the same form."""

    def __init__(self, log: Log) -> None:
        super().__init__()
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record."""
        line: dict[str, Any] = {
            "timestamp": _now(),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            "logger": record.name,
        }
        if record.exc_info and record.exc_info[1]:
            line |= fault(record.exc_info[1])
        self._log.msg(_encode(line))
