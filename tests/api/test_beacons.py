"""Sources of the public beacon: nodes over real HTTP, and files of recorded values.

Goal: a value is believed only where enough sources tell it and nobody tells another one; whatever
else a source does, it is silent, and soon. Method: a server of these tests answers as nodes do, and
as no node should.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from api import beacons
from api.beacons import ANSWER_BYTES_MAX, Beacons
from campaigns.draws.beacon import Beacon, BeaconDoubled
from campaigns.draws.terms import QUICKNET

ROUND = 4_242
SIGNATURE = b"s" * 48


def document(number: int = ROUND, signature: bytes = SIGNATURE) -> bytes:
    """What a drand node answers."""
    randomness = sha256(signature).hexdigest()
    return json.dumps(
        {"round": number, "randomness": randomness, "signature": signature.hex()}
    ).encode()


Answer = Callable[[BaseHTTPRequestHandler], None]


def answered(body: bytes, status: int = 200, **headers: str) -> Answer:
    """An answer of these bytes."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name, value)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    return answer


def drips(handler: BaseHTTPRequestHandler) -> None:
    """Never end, and never be silent for long."""
    handler.send_response(200)
    handler.end_headers()
    pause = threading.Event()
    while not pause.wait(0.05):
        handler.wfile.write(b" ")
        handler.wfile.flush()


class Node:
    """A node whose answers are set by path; it remembers what it was asked."""

    def __init__(self) -> None:
        self.answers: dict[str, Answer] = {}
        self.asked: list[str] = []
        node = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                node.asked.append(self.path)
                with suppress(OSError):  # whoever asked has hung up
                    node.answers.get(self.path, answered(b"{}", 404))(self)

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def says(self, answer: Answer, chain: str = "/{chain}") -> str:
        """Set what is answered about the round; return the source."""
        path = f"{chain}/public/{{round}}"
        self.answers[path.format(chain=QUICKNET.hash, round=ROUND)] = answer
        return self.url + path


@pytest.fixture
def node() -> Iterator[Node]:
    """A node on a port of its own."""
    node = Node()
    serving = threading.Thread(target=node.server.serve_forever, args=(0.05,))
    serving.start()
    yield node
    node.server.shutdown()
    serving.join()
    node.server.server_close()


def value(*sources: str, least: int = 1) -> Beacon | None:
    """What these sources tell together."""
    return Beacons(sources, least).value(QUICKNET, ROUND)


def test_a_node_is_asked_for_the_round_that_was_announced(node: Node) -> None:
    """By the chain's hash and the round's number, once."""
    assert value(node.says(answered(document()))) == Beacon(ROUND, SIGNATURE)
    assert node.asked == [f"/{QUICKNET.hash}/public/{ROUND}"]


ODD: dict[str, Answer] = {
    "has no value yet": answered(b'{"error": "too early"}', 425),
    "is broken": answered(document(), 500),
    "sends elsewhere": answered(b"", 302, Location="/elsewhere/public/1"),
    "answers about another round": answered(document(ROUND + 1)),
    "says a hash that is none of it": answered(document().replace(b'"7373', b'"7374')),
    "answers no JSON": answered(b"<html>"),
    "answers too much": answered(document() + b" " * ANSWER_BYTES_MAX),
    "never ends": drips,
}


@pytest.mark.parametrize("odd", ODD)
def test_a_node_that_is_odd_is_silent(
    node: Node, monkeypatch: pytest.MonkeyPatch, odd: str
) -> None:
    """Nothing is believed of it, and whoever else speaks is heard."""
    monkeypatch.setattr(beacons, "FETCH_TIMEOUT_S", 0.5 if odd == "never ends" else 5.0)
    node.answers["/elsewhere/public/1"] = answered(document())
    source = node.says(ODD[odd])
    assert value(source) is None
    assert "/elsewhere/public/1" not in node.asked
    good = node.says(answered(document()), chain="/good")
    assert value(source, good) == Beacon(ROUND, SIGNATURE)


@pytest.mark.parametrize("address", ["http://127.0.0.1:1/{round}", "http://[/{round}", "http://"])
def test_a_node_that_nobody_reaches_is_silent(address: str) -> None:
    """Nobody listens there, or it is no address."""
    assert value(address) is None


def test_as_many_as_were_wanted_must_speak(node: Node, tmp_path: Path) -> None:
    """One of two is too few; a file of recorded values is as good as a node."""
    recorded = tmp_path / "beacons.jsonl"
    source = node.says(answered(document()))
    assert value(source, str(recorded), least=2) is None
    recorded.write_bytes(document(ROUND - 1) + b"\n" + document() + b"\n")
    assert value(source, str(recorded), least=2) == Beacon(ROUND, SIGNATURE)


def test_a_node_and_a_file_that_disagree_stop_the_draw(node: Node, tmp_path: Path) -> None:
    """Whatever `least` says: there must be one value."""
    recorded = tmp_path / "beacons.jsonl"
    recorded.write_bytes(document(signature=b"t" * 48))
    with pytest.raises(BeaconDoubled, match=f"two values for round {ROUND}"):
        value(node.says(answered(document())), str(recorded))
