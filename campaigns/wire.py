"""The wire to Valkey: calls of functions in order on one connection, each answered by a callback.

A client that awaits each call spends more on the waiting than Valkey does on the work. Here a
call is bytes written and a callback kept; answers come in order. Every call is answered exactly
once, in the event loop and never from inside `call`: with what Valkey returned, or with an error.
What the calls mean is not known here.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Callable
from hashlib import sha256
from importlib.resources import files
from typing import Any, Final, NamedTuple, Protocol

import hiredis
from redis.asyncio import ConnectionPool
from redis.asyncio.cluster import RedisCluster
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError, ResponseError

log = logging.getLogger(__name__)

Heard = Callable[[Any], None]
"""Takes the answer of a call: what Valkey returned, or an exception."""

PROBE_S: Final = 0.5
"""How often a lost Valkey is looked for."""

CALLS_OUT_MAX: Final = 10_000
"""Calls that may wait for an answer; a Valkey with more of them outstanding is away."""

_MISSING: Final = object()
_VERSION_MARK: Final = "@VERSION@"


class Away(Exception):
    """Valkey cannot be reached, or did not answer in time."""


class Library(NamedTuple):
    """A function library: its source, and the version that its names end with."""

    source: str
    version: str

    @classmethod
    def of(cls, template: str) -> Library:
        """Return the library whose version is a mark of its text.

        Programs of two versions each bring their own and disturb nobody.
        """
        version = sha256(template.encode()).hexdigest()[:8]
        return cls(template.replace(_VERSION_MARK, version), version)

    def function(self, name: str) -> str:
        """Return the name under which a function is registered."""
        return f"gate_{name}_{self.version}"


GATE_LIBRARY: Final = Library.of(files("campaigns").joinpath("gate.lua").read_text("utf-8"))


class Wire(Protocol):
    """A way to call functions of the library on the server that has a key."""

    @property
    def up(self) -> bool:
        """Whether calls are taken on now."""
        ...

    def call(self, function: str, key: str, argument: bytes, heard: Heard) -> None:
        """Call a function; `heard` is told what it returned, or `Away`, or another error."""
        ...

    async def start(self) -> None:
        """Connect, if somebody is there; otherwise look again and again."""
        ...

    async def close(self) -> None:
        """Answer what is out with `Away` and let go."""
        ...


def wire_to(
    url: str, library: Library = GATE_LIBRARY, *, timeout_s: float, cluster: bool = False
) -> Wire:
    """Return a wire to a server, or to all primaries of a cluster that it belongs to."""
    kind = ClusterWire if cluster else DirectWire
    return kind(url, library, timeout_s)


def function_is_missing(answer: object) -> bool:
    """Whether an error says that the library is not loaded."""
    return isinstance(answer, ResponseError) and "Function not found" in str(answer)


class DirectWire(asyncio.Protocol):
    """One connection to one server, spoken to directly. Belongs to one event loop."""

    def __init__(self, url: str, library: Library, timeout_s: float) -> None:
        self._library = library
        self._timeout_s = timeout_s
        self._pool: Any = ConnectionPool.from_url(
            url,
            protocol=2,
            socket_timeout=timeout_s,
            socket_connect_timeout=timeout_s,
            retry=Retry(NoBackoff(), 0),
        )
        self._load = _packed("FUNCTION", "LOAD", "REPLACE", library.source)
        self._prefixes: dict[tuple[str, str], bytes] = {}
        self._out: deque[tuple[Heard, bytes, float]] = deque()
        self._transport: Any = None
        self._kept: Any = None
        self._replies = _new_reader()
        self._watch: asyncio.TimerHandle | None = None
        self._probe: asyncio.Task[None] | None = None
        self._loop: Any = None
        self._closing = False

    @property
    def up(self) -> bool:
        """Whether there is a connection."""
        return self._transport is not None

    async def start(self) -> None:
        """Connect, if somebody is there; otherwise look again and again."""
        self._loop = asyncio.get_running_loop()
        try:
            await self._connect()
        except (RedisError, OSError, TimeoutError) as error:
            log.warning("the gate is away: %s", type(error).__name__)
            self._probe = self._loop.create_task(self._look_for_it())

    async def close(self) -> None:
        """Answer what is out with `Away` and let go."""
        self._closing = True
        if self._probe is not None:
            self._probe.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._probe
        self._lose(Away())

    def call(self, function: str, key: str, argument: bytes, heard: Heard) -> None:
        """Call a function; `heard` is told what it returned, or `Away`, or another error."""
        if self._transport is None or len(self._out) >= CALLS_OUT_MAX:
            self._loop.call_soon(heard, Away())
            return
        command = b"%b$%d\r\n%b\r\n" % (self._prefix(function, key), len(argument), argument)
        self._send(command, heard)

    def _prefix(self, function: str, key: str) -> bytes:
        prefix = self._prefixes.get((function, key))
        if prefix is None:
            if len(self._prefixes) > CALLS_OUT_MAX:
                self._prefixes.clear()
            packed = _packed("FCALL", self._library.function(function), "1", key)
            prefix = b"*5" + packed[2:]  # one more argument follows
            self._prefixes[function, key] = prefix
        return prefix

    def _send(self, command: bytes, heard: Heard) -> None:
        self._out.append((heard, command, self._loop.time()))
        self._transport.write(command)
        if self._watch is None:
            self._watch = self._loop.call_later(self._timeout_s, self._look_at_the_oldest)

    # --- the connection -----------------------------------------------------------------------

    async def _connect(self) -> None:
        """Let the client connect (TLS, password, database), then take its connection over."""
        connection = self._pool.make_connection()
        try:
            async with asyncio.timeout(self._timeout_s * 4):
                await connection.connect()
        except BaseException:
            await connection.disconnect(nowait=True)
            raise
        transport = connection._writer.transport  # noqa: SLF001 - it has no way to hand it over
        self._kept = (connection._reader, connection._writer)  # noqa: SLF001 - they close it else
        connection._reader = connection._writer = None  # noqa: SLF001
        self._replies = _new_reader()
        transport.set_protocol(self)
        self._transport = transport
        self._send(self._load, _note_loading)

    def _lose(self, error: Exception) -> None:
        """Give the connection up; everybody who waits hears of it soon."""
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
        transport, self._transport = self._transport, None
        if transport is not None:
            transport.abort()
            self._kept = None
            if not self._closing:
                log.warning("the gate is away: %s", type(error).__name__)
                self._probe = self._loop.create_task(self._look_for_it())
        out, self._out = self._out, deque()
        for heard, _, _ in out:
            self._loop.call_soon(heard, error)

    async def _look_for_it(self) -> None:
        while True:
            await asyncio.sleep(PROBE_S)
            with contextlib.suppress(RedisError, OSError, TimeoutError):
                await self._connect()
                log.warning("the gate is back")
                return

    def _look_at_the_oldest(self) -> None:
        """Give up a server that lets a call wait for too long: a late answer helps nobody."""
        self._watch = None
        if not self._out:
            return
        left_s = self._out[0][2] + self._timeout_s - self._loop.time()
        if left_s <= 0:
            self._lose(Away("no answer in time"))
        else:
            self._watch = self._loop.call_later(left_s, self._look_at_the_oldest)

    # --- asyncio.Protocol ---------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        """Hand each complete answer to whoever waits for it."""
        replies, out = self._replies, self._out
        try:
            replies.feed(data)
            while (answer := replies.gets()) is not _MISSING:
                if not out:
                    raise hiredis.ProtocolError("an answer without a question")
                heard, command, _ = out.popleft()
                if function_is_missing(answer) and heard is not _note_loading:
                    self._load_again(command, heard)
                else:
                    heard(answer)
        except hiredis.HiredisError as error:
            self._lose(Away(str(error)))

    def _load_again(self, command: bytes, heard: Heard) -> None:
        """The functions were flushed: load them and ask once more, once for each call."""
        self._send(self._load, _note_loading)

        def again(answer: Any) -> None:
            heard(Away("functions cannot be loaded") if function_is_missing(answer) else answer)

        self._out.append((again, b"", self._loop.time()))
        self._transport.write(command)

    def connection_lost(self, exc: Exception | None) -> None:
        """The server ended the connection."""
        if self._transport is not None:
            self._lose(Away(str(exc)))

    def eof_received(self) -> bool:
        """Close when the server does."""
        return False

    def pause_writing(self) -> None:
        """Go on: what is out is bounded, and by time."""

    def resume_writing(self) -> None:
        """Nothing was paused."""


def _new_reader() -> Any:
    """Return a reader whose errors are those of the client on a cluster."""
    return hiredis.Reader(notEnoughData=_MISSING, replyError=ResponseError)


def _packed(*words: str) -> bytes:
    command: Any = words  # the package's own type allows one word only
    packed: bytes = hiredis.pack_command(command)
    return packed


def _note_loading(answer: Any) -> None:
    if isinstance(answer, Exception):
        log.warning("the gate's functions cannot be loaded: %s", answer)


class ClusterWire:
    """Calls through redis-py's cluster client, which follows slots that move."""

    def __init__(self, url: str, library: Library, timeout_s: float) -> None:
        self._library = library
        self._timeout_s = timeout_s
        self._client: Any = RedisCluster.from_url(
            url,
            socket_timeout=timeout_s,
            socket_connect_timeout=timeout_s,
            retry=Retry(NoBackoff(), 1),
            require_full_coverage=False,
        )
        self._calls: set[asyncio.Task[None]] = set()
        self._probe: asyncio.Task[None] | None = None
        self._loop: Any = None
        self.up = False

    async def start(self) -> None:
        """Find the cluster and load the functions, or look for it again and again."""
        self._loop = asyncio.get_running_loop()
        try:
            await self._load()
        except (RedisError, OSError, TimeoutError) as error:
            log.warning("the gate is away: %s", type(error).__name__)
            self._probe = self._loop.create_task(self._look_for_it())

    async def close(self) -> None:
        """Answer what is out with `Away` and let go."""
        tasks = [*self._calls, *([self._probe] if self._probe else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._client.aclose()

    def call(self, function: str, key: str, argument: bytes, heard: Heard) -> None:
        """Call a function; `heard` is told what it returned, or `Away`, or another error."""
        if not self.up or len(self._calls) >= CALLS_OUT_MAX:
            self._loop.call_soon(heard, Away())
            return
        task = self._loop.create_task(self._call(function, key, argument, heard))
        self._calls.add(task)
        task.add_done_callback(self._calls.discard)

    async def _call(self, function: str, key: str, argument: bytes, heard: Heard) -> None:
        answer: Any = Away()
        try:
            async with asyncio.timeout(self._timeout_s):
                answer = await self._ask(function, key, argument)
        except ResponseError as error:
            answer = error
        except (RedisError, OSError, TimeoutError) as error:
            self._note_loss(error)
        finally:
            heard(answer)

    async def _ask(self, function: str, key: str, argument: bytes) -> Any:
        name = self._library.function(function)
        try:
            return await self._client.execute_command("FCALL", name, 1, key, argument)
        except ResponseError as error:
            if not function_is_missing(error):
                raise
        await self._load()
        return await self._client.execute_command("FCALL", name, 1, key, argument)

    async def _load(self) -> None:
        """Load the functions on every primary: a slot may move to any of them."""
        await self._client.initialize()
        await self._client.execute_command(
            "FUNCTION LOAD",
            "REPLACE",
            self._library.source,
            target_nodes=RedisCluster.PRIMARIES,
        )
        self.up = True

    def _note_loss(self, error: Exception) -> None:
        """One primary does not answer: calls go on, for the others do; look where its slots are."""
        log.warning("the gate did not answer: %s", type(error).__name__)
        if self._probe is None or self._probe.done():
            self._probe = self._loop.create_task(self._look_for_it())

    async def _look_for_it(self) -> None:
        while True:
            await asyncio.sleep(PROBE_S)
            with contextlib.suppress(RedisError, OSError, TimeoutError):
                async with asyncio.timeout(self._timeout_s * 4):
                    await self._load()
                return
