"""The sandbox operator by itself: numbers, balances, cursors, keys, and its disk."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from api.sandbox.running import in_thread
from api.wallets.signing import HEADER, SKEW_S, Signer

KEY = b"the key that both of us know, 32"
WALLET = "0123456789abcdef0123456789abcdef"


class Counter:
    """Somebody at the counter who has the key; bytes in, bytes out."""

    def __init__(self, url: str, key: bytes = KEY) -> None:
        self.url = url
        self.signer = Signer(key)

    def ask(self, method: str, target: str, body: Any = None, **how: Any) -> httpx.Response:
        """Ask with a MAC of now, or of `at`."""
        content = b"" if body is None else msgspec.json.encode(body)
        at = int(how.get("at", time.time()))
        header = self.signer.question(method, target, content, at, how.get("nonce", "n" * 16))
        return self.send(method, target, content, {HEADER: header})

    def send(
        self, method: str, target: str, content: bytes = b"", headers: dict[str, str] | None = None
    ) -> httpx.Response:
        """Send what is given; without certificates, which take longer to read than all the rest."""
        with httpx.Client(verify=False, trust_env=False, timeout=20) as client:
            return client.request(method, self.url + target, content=content, headers=headers)

    def instruct(self, number: str, kind: str, amount: int, wallet: str = WALLET) -> httpx.Response:
        """Credit or debit."""
        body = {"wallet": wallet, "kind": kind, "amount_minor": amount, "currency": "CNY"}
        return self.ask("PUT", f"/v1/instructions/{number}", body)

    def balance(self) -> int:
        """What is in the wallet."""
        found: int = self.ask("GET", f"/v1/wallets/{WALLET}").json()["balance_minor"]
        return found


@pytest.fixture
def counter(tmp_path: Path) -> Iterator[Counter]:
    """An operator with one open wallet."""
    with in_thread(tmp_path / "store.sqlite", KEY) as (_, url):
        made = Counter(url)
        assert made.ask("PUT", f"/v1/wallets/{WALLET}", {"currency": "CNY"}).status_code == 200
        yield made


def test_a_number_is_answered_alike_byte_for_byte(counter: Counter) -> None:
    """The first answer is the answer for ever, also to a look-up, also a refusal."""
    done = counter.instruct("main:1", "credit", 500)
    refused = counter.instruct("main:2", "debit", 900)
    assert (done.status_code, refused.status_code) == (201, 409)
    counter.instruct("main:3", "credit", 10_000)  # there would be enough by now
    for first, number, kind, amount in (
        (done, "main:1", "credit", 500),
        (refused, "main:2", "debit", 900),
    ):
        again = counter.instruct(number, kind, amount)
        found = counter.ask("GET", f"/v1/instructions/{number}")
        assert again.content == found.content == first.content
        assert again.status_code == found.status_code == first.status_code
    assert counter.balance() == 10_500


@pytest.mark.parametrize(
    "changes", [{"kind": "debit"}, {"amount": 501}, {"wallet": "f" * 32}], ids=str
)
def test_a_number_is_good_for_one_content(counter: Counter, changes: dict[str, Any]) -> None:
    """Anything else under it is 422 and changes nothing."""
    first = counter.instruct("main:1", "credit", 500)
    wanted: dict[str, Any] = {"number": "main:1", "kind": "credit", "amount": 500, **changes}
    other = counter.instruct(**wanted)
    assert (other.status_code, other.json()) == (422, {"code": "number_reused"})
    assert counter.balance() == 500
    assert counter.instruct("main:1", "credit", 500).content == first.content


def test_fifty_at_once_are_one(counter: Counter) -> None:
    """Copies of one call that arrive together move the money once."""
    with ThreadPoolExecutor(10) as pool:
        answers = list(pool.map(lambda _: counter.instruct("main:1", "credit", 7), range(50)))
    assert {answer.content for answer in answers} == {answers[0].content}
    assert counter.balance() == 7


def test_a_balance_is_never_negative(counter: Counter) -> None:
    """Twenty debits of which five are covered: five are done, whatever their order."""
    counter.instruct("main:1", "credit", 50)
    with ThreadPoolExecutor(10) as pool:
        answers = list(pool.map(lambda n: counter.instruct(f"d:{n}", "debit", 10), range(20)))
    assert sorted(answer.status_code for answer in answers) == [201] * 5 + [409] * 15
    assert counter.balance() == 0


def test_the_table_refuses_a_negative_balance(counter: Counter, tmp_path: Path) -> None:
    """Control: even with the check gone from the code, the file does not take it."""
    with sqlite3.connect(tmp_path / "store.sqlite") as db, pytest.raises(sqlite3.IntegrityError):
        db.execute("UPDATE wallet SET balance_minor = -1")
    db.close()


def test_a_closed_wallet_takes_and_gives_nothing(counter: Counter) -> None:
    """Closing takes the rest out, is final, and twice is once."""
    counter.instruct("main:1", "credit", 500)
    closed = counter.ask("POST", f"/v1/wallets/{WALLET}/closing", {})
    assert closed.json()["state"] == "closed"
    assert counter.ask("POST", f"/v1/wallets/{WALLET}/closing", {}).content == closed.content
    for kind in ("credit", "debit"):
        assert counter.instruct(f"x:{kind}", kind, 1).json()["code"] == "wallet_closed"
    opened = counter.ask("PUT", f"/v1/wallets/{WALLET}", {"currency": "CNY"})
    assert opened.json()["state"] == "closed"
    lines = counter.ask("GET", "/v1/statement").json()["items"]
    assert [(line["kind"], line["balance_minor"]) for line in lines] == [
        ("credit", 500),
        ("closing", 0),
    ]


def test_a_statement_is_read_page_by_page(counter: Counter) -> None:
    """Every line once, in order, while lines are added; a wallet's own lines alone as well."""
    other = "f" * 32
    counter.ask("PUT", f"/v1/wallets/{other}", {"currency": "CNY"})
    for n in range(10):
        counter.instruct(f"main:{n}", "credit", 1, other if n % 3 else WALLET)
    numbers: list[str] = []
    after: int | None = 0
    while after is not None:
        page = counter.ask("GET", f"/v1/statement?after={after}&limit=3").json()
        numbers += [line["number"] for line in page["items"]]
        if after == 0:
            counter.instruct("main:10", "credit", 1)
        after = page["next"]
    assert numbers == [f"main:{n}" for n in range(11)]
    own = counter.ask("GET", f"/v1/statement?wallet={WALLET}").json()["items"]
    assert [line["number"] for line in own] == ["main:0", "main:3", "main:6", "main:9", "main:10"]
    first = counter.ask("GET", "/v1/wallets?limit=1").json()
    assert first["next"] == first["items"][0]["wallet"] == WALLET


@pytest.mark.parametrize("how", ["other key", "old", "no MAC", "other body", "other address"])
def test_nobody_is_answered_without_the_key(counter: Counter, how: str) -> None:
    """A question that is not signed, not for this address, body or time is 401 and does nothing."""
    target = "/v1/instructions/main:1"
    body = {"wallet": WALLET, "kind": "credit", "amount_minor": 1, "currency": "CNY"}
    if how == "other key":
        reply = Counter(counter.url, b"x" * 32).instruct("main:1", "credit", 1)
    elif how == "old":
        reply = counter.ask("PUT", target, body, at=time.time() - SKEW_S - 5)
    else:
        content = msgspec.json.encode(body)
        header = counter.signer.question("PUT", target, content, int(time.time()), "n" * 16)
        reply = counter.send(
            "PUT",
            target + "2" if how == "other address" else target,
            content + b" " if how == "other body" else content,
            {} if how == "no MAC" else {HEADER: header},
        )
    assert (reply.status_code, reply.json()) == (401, {"code": "unauthenticated"})
    assert counter.balance() == 0


@pytest.mark.parametrize(
    ("method", "target", "body"),
    [
        ("PUT", "/v1/instructions/main:1", {"wallet": WALLET, "kind": "credit"}),
        ("PUT", "/v1/instructions/main:1", [1]),
        ("PUT", "/v1/instructions/" + "x" * 65, {}),
        ("PUT", f"/v1/wallets/{WALLET}", {"currency": "fen"}),
        ("PUT", "/v1/wallets/a", {"currency": "CNY"}),
        ("GET", "/v1/statement?limit=1001", None),
        ("GET", "/v1/statement?limit=many", None),
        ("GET", "/v1/statement?after=-x", None),
        ("POST", "/control/faults", [{"fault": "explode"}]),
        ("POST", "/control/faults", [{"fault": "delay", "calls": 0}]),
        ("POST", "/control/faults", [{"fault": "delay", "seconds": 1e9}]),
    ],
    ids=str,
)
def test_a_malformed_call_is_refused(
    counter: Counter, method: str, target: str, body: object
) -> None:
    """422, and nothing is done."""
    reply = counter.ask(method, target, body)
    assert (reply.status_code, reply.json()) == (422, {"code": "malformed"})


def test_what_is_not_there_is_404_and_noise_is_400(counter: Counter) -> None:
    """An address of nobody's; bytes that are no HTTP; a body beyond the bound."""
    assert counter.ask("GET", "/v2/wallets").status_code == 404
    assert counter.send("GET", "/healthz").json() == {"status": "ok"}
    assert counter.ask("PUT", "/v1/instructions/m:1", "x" * 40_000).status_code == 413
    import socket

    host, port = counter.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as raw:
        raw.sendall(b"\x16\x03\x01 hello\r\n\r\n")
        assert raw.recv(100).startswith(b"HTTP/1.1 400")


def test_it_goes_on_with_what_it_had(tmp_path: Path) -> None:
    """After a restart the same number has the same answer."""
    with in_thread(tmp_path / "store.sqlite", KEY) as (_, url):
        counter = Counter(url)
        counter.ask("PUT", f"/v1/wallets/{WALLET}", {"currency": "CNY"})
        first = counter.instruct("main:1", "credit", 5)
    with in_thread(tmp_path / "store.sqlite", KEY) as (_, url):
        again = Counter(url).instruct("main:1", "credit", 5)
        assert again.content == first.content
        assert Counter(url).balance() == 5


def test_it_writes_through_to_the_disk(tmp_path: Path) -> None:
    """Its connection waits for the disk at each commit."""
    from api.sandbox.store import _opened

    db = _opened(tmp_path / "store.sqlite")
    assert db.execute("PRAGMA synchronous").fetchone() == (2,)
    assert db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    db.close()
