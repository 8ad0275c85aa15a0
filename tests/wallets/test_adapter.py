"""The adapter to a wallet operator that lies, dawdles, floods or is somebody else (S43, S52).

Goal: whatever comes back, the adapter either has an answer to this very question or knows nothing.
Method: a bare TCP server that writes any bytes it is told to.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from api.settings import Settings
from api.wallets.adapter import ANSWER_MAX, HttpOperator, _check_page
from api.wallets.signing import HEADER, Signer
from campaigns.wallets.instructions import place_of
from campaigns.wallets.port import (
    Instruction,
    OperatorAway,
    Outcome,
    OutcomeUnknown,
    WalletNames,
)

KEY = b"the key that both of us know, 32"
ASKED = Instruction(
    number="main:7", wallet="0123456789abcdef", kind="credit", amount_minor=500, currency="CNY"
)
GOOD = {
    **msgspec.structs.asdict(ASKED),
    "outcome": "done",
    "code": None,
    "entry": 1,
}

T = TypeVar("T")
Answering = Callable[[str], bytes]


def http(status: int, body: bytes, mac: str | None, extra: str = "") -> bytes:
    """An answer as bytes."""
    lines = f"HTTP/1.1 {status} X\r\ncontent-length: {len(body)}\r\n{extra}"
    return lines.encode() + (f"{HEADER}: {mac}\r\n" if mac else "").encode() + b"\r\n" + body


def signed(status: int, document: object) -> Answering:
    """An answer that is signed for its question."""
    body = document if isinstance(document, bytes) else msgspec.json.encode(document)
    return lambda question: http(status, body, Signer(KEY).answer(question, status, body))


def asked(
    answering: Answering,
    ask: Callable[[HttpOperator], Coroutine[Any, Any, T]],
    timeout_s: float = 5.0,
) -> T:
    """Ask a server that answers like this, whatever is asked."""

    async def main() -> T:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: Liar(answering), "127.0.0.1", 0)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        operator = HttpOperator("sandbox", url, KEY, timeout_s=timeout_s)
        try:
            return await ask(operator)
        finally:
            await operator.hang_up()
            server.close()
            await asyncio.sleep(0.01)  # let both ends see the end of the connection

    return asyncio.run(main())


class Liar(asyncio.Protocol):
    """One connection of that server: any answer to a question, dripping where it is marked."""

    def __init__(self, answering: Answering) -> None:
        self.answering = answering
        self.read = b""
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def connection_lost(self, _error: Exception | None) -> None:
        self.transport = None

    def data_received(self, data: bytes) -> None:
        """Answer once the question is whole, in a segment or two."""
        self.read += data
        head, end, body = self.read.partition(b"\r\n\r\n")
        fields = dict(
            line.split(": ", 1) for line in head.decode().split("\r\n")[1:] if ": " in line
        )
        if not end or len(body) < int(fields["content-length"]):
            return
        answer = self.answering(fields[HEADER])
        assert self.transport is not None
        if answer.startswith(b"DRIP"):
            self.drip(answer[4:])
        elif answer:
            self.transport.write(answer)
        else:
            self.transport.close()

    def drip(self, answer: bytes) -> None:
        """Write byte after byte."""
        if self.transport is not None and answer:
            self.transport.write(answer[:1])
            asyncio.get_running_loop().call_later(0.02, self.drip, answer[1:])


def instruct(answering: Answering, **how: Any) -> Outcome:
    """Ask for the one instruction."""
    return asked(answering, lambda operator: operator.instruct(ASKED), **how)


def test_a_good_answer_is_believed() -> None:
    """Done and refused, each with the status that belongs to it."""
    assert instruct(signed(201, GOOD)) == Outcome(ASKED)
    refused = GOOD | {"outcome": "refused", "code": "wallet_closed", "entry": None}
    assert instruct(signed(409, refused)) == Outcome(ASKED, "wallet_closed")
    assert instruct(signed(422, {"code": "number_reused"})) == Outcome(ASKED, "number_reused")


SENSELESS: dict[str, Answering] = {
    "nothing": lambda _: b"",
    "no HTTP": lambda _: b"SSH-2.0-hello\r\n",
    "half an answer": lambda question: signed(201, GOOD)(question)[:-5],
    "not signed": lambda _: http(201, msgspec.json.encode(GOOD), None),
    "signed with another key": lambda question: http(
        201,
        msgspec.json.encode(GOOD),
        Signer(b"x" * 32).answer(question, 201, msgspec.json.encode(GOOD)),
    ),
    "signed for another question": lambda _: signed(201, GOOD)("v1 1 nonce mac"),
    "signed for another status": lambda question: signed(201, GOOD)(question).replace(
        b"201", b"409", 1
    ),
    "another number": signed(201, GOOD | {"number": "main:8"}),
    "another wallet": signed(201, GOOD | {"wallet": "f" * 16}),
    "another amount": signed(201, GOOD | {"amount_minor": 501}),
    "another kind": signed(201, GOOD | {"kind": "debit"}),
    "another currency": signed(201, GOOD | {"currency": "USD"}),
    "an amount as text": signed(201, GOOD | {"amount_minor": "500"}),
    "an amount as a fraction": signed(201, GOOD | {"amount_minor": 500.5}),
    "a huge amount": signed(201, GOOD | {"amount_minor": 10**30}),
    "refused, with status 201": signed(201, GOOD | {"outcome": "refused", "code": "no"}),
    "done, with a code": signed(201, GOOD | {"code": "wallet_closed"}),
    "refused, without a code": signed(409, GOOD | {"outcome": "refused"}),
    "done, with status 409": signed(409, GOOD),
    "a code that is no code": signed(409, GOOD | {"outcome": "refused", "code": "<b>"}),
    "another outcome": signed(201, GOOD | {"outcome": "maybe"}),
    "a field less": signed(201, {k: v for k, v in GOOD.items() if k != "number"}),
    "a list": signed(201, [GOOD]),
    "no JSON": signed(201, b"done"),
    "deep JSON": signed(201, b"[" * 10_000),
    "a long answer": signed(201, b" " * (ANSWER_MAX + 1)),
    "a server error": signed(500, {"code": "failed"}),
    "unavailable": signed(503, b""),
    "unauthenticated": signed(401, {"code": "unauthenticated"}),
    "another 422": signed(422, {"code": "malformed"}),
    "a redirect": lambda question: http(
        302, b"", Signer(KEY).answer(question, 302, b""), "location: http://127.0.0.1:1/\r\n"
    ),
    "endless headers": lambda _: b"HTTP/1.1 201 X\r\n" + b"a: b\r\n" * 10_000,
}


@pytest.mark.parametrize("name", SENSELESS)
def test_a_senseless_answer_leaves_it_unknown(name: str) -> None:
    """Neither done nor refused: unknown."""
    with pytest.raises(OutcomeUnknown):
        instruct(SENSELESS[name], timeout_s=1.0)


def test_an_answer_must_be_whole_in_time() -> None:
    """One byte after the other is cut off at the time for all of it."""
    started = time.monotonic()
    with pytest.raises(OutcomeUnknown, match="in time"):
        instruct(lambda question: b"DRIP" + signed(201, GOOD)(question), timeout_s=0.3)
    assert time.monotonic() - started < 3


def test_nobody_there_is_away() -> None:
    """Where nothing was sent, that is known."""

    async def main() -> None:
        await HttpOperator("sandbox", "http://127.0.0.1:9", KEY, timeout_s=1.0).instruct(ASKED)

    with pytest.raises(OperatorAway):
        asyncio.run(main())


@given(st.binary(max_size=200), st.sampled_from([200, 201, 404, 409, 422]))
def test_whatever_is_signed_is_parsed_or_unknown(body: bytes, status: int) -> None:
    """Any bytes under a good signature: an outcome of this instruction, or nothing is known."""
    from api.wallets import adapter, wire

    try:
        outcome = adapter._outcome(wire.Reply(status, {}, body))
    except OutcomeUnknown:
        return
    assert outcome.instruction.amount_minor > 0


@pytest.mark.parametrize(
    ("places", "after", "following"),
    [
        ([3, 2], 0, None),
        ([1, 1], 0, None),
        ([5], 5, None),
        ([1, 2], 0, 1),
        ([], 0, 7),
        ([1] * 4, 0, 1),
    ],
    ids=str,
)
def test_a_page_that_could_go_on_for_ever_is_not_believed(
    places: list[int], after: int, following: int | None
) -> None:
    """Lines in order, behind the cursor, and a next cursor that is the last of them."""
    with pytest.raises(OutcomeUnknown):
        _check_page(places, after, 3, following)


@pytest.mark.parametrize(
    "url",
    [
        "http://operator.example",
        "ftp://127.0.0.1",
        "https://user:secret@operator.example",
        "https://operator.example?x=1",
        "https://",
        "http://127.0.0.1.example",
        "https://operator.example:99999",
        "file:///etc/passwd",
    ],
)
def test_a_url_is_refused(url: str) -> None:
    """Money is not asked for in the clear, and an address is nothing but an address."""
    with pytest.raises(ValidationError):
        Settings(wallet_operator_url=url)


def test_urls_that_are_taken() -> None:
    """TLS anywhere, the loopback address without it."""
    for url in ("https://operator.example/api", "http://127.0.0.1:8090", "http://localhost:1"):
        assert Settings(wallet_operator_url=url).wallet_operator_url == url


def test_a_wallet_names_nobody() -> None:
    """The same person has another wallet at another operator and under another key."""
    person = "ab" * 16
    names = {
        WalletNames(KEY, "one").of(person),
        WalletNames(KEY, "two").of(person),
        WalletNames(b"x" * 32, "one").of(person),
    }
    assert len(names) == 3
    assert not any(person in name for name in names)


@pytest.mark.parametrize("number", ["main", "main:", "main:x", "main:01", "main:-1", "main:１"])
def test_a_number_of_nobodys_is_none_of_ours(number: str) -> None:
    """Only a book and a position as they are written."""
    assert place_of(number) is None
    assert place_of("main:12") == ("main", 12)
