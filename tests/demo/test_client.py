"""The demo's HTTP client, against real sockets, and its estimate of the time left."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from api.demo.client import Client, Reply, Request, Unanswered
from api.demo.pace import Pace

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

Answer = Callable[[int, bytes], bytes | None]
"""From the number of the request and its bytes to the reply; None closes the connection."""

GET = Request("GET", "/", (("Accept", "application/json"),))


def http(status: str, body: bytes = b"{}", *headers: str) -> bytes:
    """The bytes of a reply."""
    lines = [f"HTTP/1.1 {status}", f"content-length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


@asynccontextmanager
async def serving(answer: Answer) -> AsyncIterator[int]:
    """A server on a free port that replies with what `answer` says."""
    count = 0

    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal count
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                count += 1
                reply = answer(count, head)
                if reply is None:
                    return
                for at in range(0, len(reply), 7):  # in pieces, as networks do
                    writer.write(reply[at : at + 7])
                    await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(converse, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


def asked(answer: Answer, ask: Callable[[Client], Awaitable[Reply]]) -> Reply:
    """The reply that `ask` gets from a server that answers so."""

    async def run() -> Reply:
        async with (
            serving(answer) as port,
            Client("127.0.0.1", port, connections=4, patience_s=2.0) as client,
        ):
            return await ask(client)

    return asyncio.run(run())


def test_a_reply_has_status_headers_and_body() -> None:
    """Header names match whatever their case."""
    reply = asked(
        lambda _n, _head: http("201 Created", b'{"a": 1}', "Tidebook-Position: main:7"),
        lambda client: client.ask(GET),
    )
    assert (reply.status, reply.json()) == (201, {"a": 1})
    assert reply.header("tidebook-position") == "main:7"
    assert reply.header("idempotency-replayed") is None


@pytest.mark.parametrize(
    "first",
    [
        http("503 Busy", b"{}", "Retry-After: 0"),
        http("429 Slow down"),
        http("409 Conflict", b'{"code": "idempotency_in_flight"}'),
        http("500 Broken"),
        None,
    ],
    ids=["overloaded", "limited", "in-flight", "fault", "cut"],
)
def test_an_unknown_outcome_is_asked_for_again_with_the_same_bytes(first: bytes | None) -> None:
    """So that the idempotency key resolves it."""
    seen: list[bytes] = []

    def answer(count: int, head: bytes) -> bytes | None:
        seen.append(head)
        return first if count == 1 else http("200 OK")

    assert asked(answer, lambda client: client.ask(GET)).status == 200
    assert len(seen) == 2
    assert seen[0] == seen[1]


def test_a_refusal_is_final() -> None:
    """A conflict with a reason of its own is the answer."""
    reply = asked(
        lambda _n, _head: http("409 Conflict", b'{"code": "already_redeemed"}'),
        lambda client: client.ask(GET),
    )
    assert (reply.status, reply.code) == (409, "already_redeemed")


def test_patience_ends() -> None:
    """A server that never gives a final answer stops the demo with its last words."""
    with pytest.raises(Unanswered, match=r"GET /: 503"):
        asked(
            lambda _n, _head: http("503 Busy", b"{}", "Retry-After: 1"),
            lambda client: client.ask(GET),
        )


def test_a_connection_that_the_server_closes_is_not_used_again() -> None:
    """It says so with the reply."""

    async def twice(client: Client) -> Reply:
        await client.ask(GET)
        return await client.ask(GET)

    reply = asked(lambda _n, _head: http("200 OK", b"{}", "Connection: close"), twice)
    assert reply.status == 200


def test_many_items_are_asked_at_once_and_each_exactly_once() -> None:
    """The number of connections bounds what is in flight."""
    running = most = 0
    done: list[int] = []

    async def ask(number: int) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)
        running -= 1
        done.append(number)

    async def run() -> None:
        async with Client("127.0.0.1", 1, connections=8) as client:
            await client.ask_all(range(100), ask)

    asyncio.run(run())
    assert sorted(done) == list(range(100))
    assert most == 8


def test_the_time_left_is_counted_for_each_kind_by_its_own_cost() -> None:
    """Ten claims at 0.1 s and ten redemptions at 2 s are 21 s."""
    pace = Pace({"claim": 20, "redeem": 11})
    assert pace.left_s() is None
    pace.record("claim", 10, 1.0)
    pace.record("redeem", 1, 2.0)
    assert pace.left_s() == pytest.approx(21.0)


def test_a_kind_not_seen_yet_is_taken_to_cost_the_average() -> None:
    """Better than nothing, and better than zero."""
    pace = Pace({"claim": 10, "redeem": 5})
    pace.record("claim", 10, 20.0)
    assert pace.left_s() == pytest.approx(10.0)
