"""The witness over HTTP, asked by a follower as in service: cosigned heads, and what when not."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import httpx
import pytest
import uvicorn

from api.transparency import begin_log, reached, witness_client
from api.witness import WitnessApp
from ledger.datastore import Datastore
from ledger.transparency import store
from ledger.transparency.checkpoints import Checkpoint, parse_checkpoint
from ledger.transparency.cosigning import WitnessAt
from ledger.transparency.follower import Follower, heads_elsewhere
from ledger.transparency.keys import SignerFiles
from ledger.transparency.notes import COSIGNATURE, Note, Signer, verified
from ledger.transparency.submissions import SUBMISSION_BYTES_MAX, encode_submission
from ledger.transparency.witnessing import LogsFile, Witness
from tests.conftest import free_port, wait_until
from tests.ledger.test_transparency_log import append

KEY = Signer("witness.example/w1", COSIGNATURE, bytes(range(1, 33)))
NOW = 1_700_000_000


class Served:
    """A witness behind HTTP in a thread, which can be ended and begun again."""

    def __init__(self, directory: Path, key: Signer = KEY) -> None:
        self.directory = directory
        self.key = key
        self.port = free_port()
        self.at = WitnessAt(key.verifier, f"http://127.0.0.1:{self.port}")
        self.logs = LogsFile(directory / "logs")
        self.begin()

    def begin(self) -> None:
        """Serve what the store has."""
        path = self.directory / "witness.db"
        self.witness = Witness(path, self.key, self.logs, lambda: NOW)
        config = uvicorn.Config(
            WitnessApp(self.witness), port=self.port, lifespan="off", ws="none", log_config=None
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, daemon=True)
        self._thread.start()
        wait_until(lambda: self._server.started)

    def end(self) -> None:
        """Stop serving."""
        self._server.should_exit = True
        self._thread.join(10)
        self.witness.close()


@pytest.fixture
def witness(tmp_path: Path) -> Iterator[Served]:
    """A running witness that knows no log yet."""
    served = Served(tmp_path / "witness")
    yield served
    served.end()


@pytest.fixture
def client() -> Iterator[httpx.Client]:
    """An HTTP client for witnesses."""
    with witness_client() as made:
        yield made


@pytest.fixture
def signer(tmp_path: Path, witness: Served) -> SignerFiles:
    """A log's keys, which the witness knows."""
    files = begin_log(tmp_path, "main", "ledger.example", bytes(range(64)))
    witness.logs.write([one.verifier for one in files.signers()])
    return files


def served_note(datastore: Datastore) -> Note | None:
    """The checkpoint that is served."""
    with datastore.transaction() as curs:
        return store.published(curs, "main")


def test_a_follower_serves_what_its_witness_cosigned(
    datastore: Datastore, witness: Served, client: httpx.Client, signer: SignerFiles
) -> None:
    """From the first head on, over a restart of the witness and of the follower."""
    follower = Follower(
        datastore, "main", "a", signer, witnesses=reached([witness.at], client), ttl_s=0
    )
    for count in (0, 3, 300):
        append(datastore, count)
        progress = follower.run_once()
        assert progress.published == progress.size
        note = served_note(datastore)
        assert note is not None
        keys = [signer.signers()[0].verifier, KEY.verifier]
        assert len(verified(note, keys)) == 2
    witness.end()
    witness.begin()
    append(datastore, 5)
    again = Follower(
        datastore, "main", "b", signer, witnesses=reached([witness.at], client), ttl_s=0
    )
    assert again.run_once().published == 308


def test_without_enough_witnesses_the_older_head_stays(
    datastore: Datastore, witness: Served, client: httpx.Client, signer: SignerFiles
) -> None:
    """The tree goes on meanwhile; once the witness is back, the head is served."""
    clock = [0.0]
    follower = Follower(
        datastore, "main", "a", signer, witnesses=reached([witness.at], client),
        monotonic=lambda: clock[0],
    )  # fmt: skip
    append(datastore, 3)
    follower.run_once()
    witness.end()
    append(datastore, 4)
    assert follower.run_once() == (7, 7, 3)
    note = served_note(datastore)
    assert note is not None
    assert Checkpoint.parse(note.text).size == 3
    witness.begin()
    assert follower.run_once() == (7, 7, 3)
    clock[0] += 60
    assert follower.run_once() == (7, 7, 7)


def test_a_witness_remembers_what_the_ledgers_machine_forgot(
    datastore: Datastore, witness: Served, client: httpx.Client,
    signer: SignerFiles,
) -> None:  # fmt: skip
    """Its last head is asked for at a start, and a store that lacks it is found out."""
    remote = reached([witness.at], client)
    append(datastore, 9)
    Follower(datastore, "main", "a", signer, witnesses=remote, ttl_s=0).run_once()
    signer.heads.path.unlink()
    found = heads_elsewhere(signer.head(), "ledger.example/main", remote)
    assert [one.size for one in found] == [9]
    assert heads_elsewhere(None, "another/log", remote) == []


def test_the_addresses_of_a_witness(witness: Served, signer: SignerFiles) -> None:
    """Two, each with its method; a body that is too large is not read."""
    base = witness.at.url
    origin = sha256(b"ledger.example/main").hexdigest()
    assert httpx.get(f"{base}/{origin}/checkpoint").status_code == 404
    checkpoint = Checkpoint("ledger.example/main", 0, bytes(32))
    note = Note(checkpoint.text, (signer.signers()[0].sign(checkpoint.text),))
    body = encode_submission(0, [], note.encode())
    assert httpx.post(f"{base}/add-checkpoint", content=body).status_code == 422
    assert httpx.post(f"{base}/add-checkpoint", content=b"nonsense").status_code == 400
    assert httpx.get(f"{base}/add-checkpoint").status_code == 405
    assert httpx.post(f"{base}/{origin}/checkpoint").status_code == 405
    assert httpx.get(f"{base}/").status_code == 404
    large = b"x" * (SUBMISSION_BYTES_MAX + 1)
    assert httpx.post(f"{base}/add-checkpoint", content=large).status_code == 413


def test_a_stale_submission_hears_the_size_as_the_specification_says(
    datastore: Datastore, witness: Served, client: httpx.Client, signer: SignerFiles
) -> None:
    """409 with the size and its own media type; the last head is there for monitors."""
    append(datastore, 4)
    remote = reached([witness.at], client)
    Follower(datastore, "main", "a", signer, witnesses=remote).run_once()
    note = served_note(datastore)
    assert note is not None
    reply = httpx.post(
        f"{witness.at.url}/add-checkpoint", content=encode_submission(0, [], note.encode())
    )
    assert (reply.status_code, reply.content) == (409, b"4\n")
    assert reply.headers["content-type"] == "text/x.tlog.size"
    origin = sha256(b"ledger.example/main").hexdigest()
    latest, checkpoint = parse_checkpoint(
        httpx.get(f"{witness.at.url}/{origin}/checkpoint").content
    )
    assert checkpoint.size == 4
    assert len(verified(latest, [KEY.verifier, signer.signers()[0].verifier])) == 2


def test_a_logs_file_that_is_none_makes_the_witness_unavailable(witness: Served) -> None:
    """503: the witness cosigns nothing, and says nothing about the caller's head."""
    (witness.directory / "logs").write_text("nonsense\n")
    checkpoint = Checkpoint("a", 0, bytes(32))
    note = Note(checkpoint.text, (KEY.cosign(checkpoint.text, 1),))
    body = encode_submission(0, [], note.encode())
    assert httpx.post(f"{witness.at.url}/add-checkpoint", content=body).status_code == 503
