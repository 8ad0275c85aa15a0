"""The log over HTTP: what anybody's tools read, how long it may be kept, and a start that looks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from api.transparency import begin_log
from ledger.merkle import leaf_hashes, root_of, verify_inclusion
from ledger.transparency import guard
from ledger.transparency.checkpoints import Checkpoint, parse_checkpoint
from ledger.transparency.follower import Follower
from ledger.transparency.keys import SignerFiles
from ledger.transparency.leaves import decode_entry
from ledger.transparency.notes import Verifier, signed_note, verified
from ledger.transparency.proofs import Policy
from ledger.transparency.receipts import verify_receipt
from ledger.transparency.tiles import Tile, entries_in, hashes_in
from tests.api.conftest import MakeApp
from tests.api.harness import App


@pytest.fixture
def signer(app: App) -> SignerFiles:
    """The keys of the book's log."""
    return begin_log(app.settings.home, "main", "ledger.example", bytes(range(64)))


def follow(app: App, signer: SignerFiles, holder: str = "test") -> Checkpoint:
    """Bring the log up to the book."""
    Follower(app.datastore, "main", holder, signer, ttl_s=0).run_once()
    return Checkpoint.parse(app.get("/log/main/checkpoint").text.split("\n\n")[0] + "\n")


def test_anybody_reads_the_log_and_auditors_its_entries(app: App, signer: SignerFiles) -> None:
    """Checkpoint, tile and entries belong together, and the entries are the stored events."""
    app.claimed(app.open_campaign())
    checkpoint = follow(app, signer)
    told = app.get("/log/main").json()
    assert told["origin"] == checkpoint.origin == "ledger.example/main"
    assert told["published"] == told["size"] == checkpoint.size == app.events()
    reply = app.get("/log/main/checkpoint")
    assert reply.headers["content-type"] == "text/plain; charset=utf-8"
    assert reply.headers["cache-control"] == "public, max-age=1"
    note, _ = parse_checkpoint(reply.content)
    assert verified(note, [Verifier.parse(key) for key in told["keys"]])
    path = Tile(0, 0, checkpoint.size).path
    tile = app.get(f"/log/main/{path}")
    assert tile.headers["content-type"] == "application/octet-stream"
    assert tile.headers["cache-control"] == "public, max-age=31536000, immutable"
    assert root_of(hashes_in(tile.content)) == checkpoint.root
    entries = app.get(f"/log/main/{path.replace('/0/', '/entries/')}", token=app.token("auditor"))
    assert entries.headers["cache-control"] == "private, max-age=31536000, immutable"
    assert entries.headers["content-encoding"] == "gzip"
    found = entries_in(entries.content)
    assert leaf_hashes(found) == hashes_in(tile.content)
    stored = app.get("/v1/books/main/events", token=app.token("auditor")).json()["items"]
    leaves = [decode_entry(entry) for entry in found]
    assert [leaf.topic for leaf in leaves] == [event["topic"] for event in stored]
    assert [leaf.position for leaf in leaves] == [event["position"] for event in stored]
    assert verify_inclusion(0, 1, leaf_hashes(found)[0], [], leaf_hashes(found)[0])


def test_what_is_not_in_the_served_tree_is_not_there(app: App, signer: SignerFiles) -> None:
    """Wider tiles, further ones, other levels, other paths: 404, and nobody keeps that."""
    assert app.get("/log/main").status_code == 404
    app.open_campaign()
    size = follow(app, signer).size
    app.open_campaign()
    for path in (
        Tile(0, 0, size + 1).path, Tile(0, 0).path, Tile(0, 1, 1).path, Tile(1, 0, 1).path,
        "tile/64/000", "tile/0/0", f"tile/0/000.p/0{size}", "tile/x/000", "tile/0/x000/000",
    ):  # fmt: skip
        reply = app.get(f"/log/main/{path}")
        assert reply.status_code == 404, path
        assert reply.headers["cache-control"] == "no-store"
    assert app.get(f"/log/main/{Tile(0, 0, 1).path}").status_code == 200
    assert app.get("/log/other/checkpoint").status_code == 404


def test_an_auditor_gets_receipts(app: App, signer: SignerFiles) -> None:
    """Of events under the head that is served; of the next one soon, of none that is not there."""
    app.open_campaign()
    size = follow(app, signer).size
    app.open_campaign()
    auditor = app.token("auditor")
    reply = app.get(f"/v1/books/main/events/{size}/receipt", token=auditor)
    assert reply.headers["content-type"] == "text/plain; charset=utf-8"
    policy = Policy("ledger.example/main", tuple(one.verifier for one in signer.signers()))
    assert verify_receipt(reply.content, policy).leaf.position == size
    soon = app.get(f"/v1/books/main/events/{size + 1}/receipt", token=auditor)
    assert (soon.status_code, soon.json()["code"]) == (503, "behind")
    for place in ("0", "-1", "x", str(app.events() + 1), "9" * 30):
        assert app.get(f"/v1/books/main/events/{place}/receipt", token=auditor).status_code == 404


def test_nobody_asks_for_hashes_too_fast(make_app: MakeApp) -> None:
    """Without a token it is the address that is paced."""
    app = make_app(rate_staff_per_s=0.001, rate_staff_burst=2)
    codes = [app.get("/log/main/checkpoint").status_code for _ in range(3)]
    assert codes == [404, 404, 429]


def test_a_service_on_an_older_copy_reads_and_does_not_write(
    app: App, make_app: MakeApp, signer: SignerFiles
) -> None:
    """The head that was signed is beyond the book: every write is 503, and surely not done."""
    campaign = app.open_campaign()
    size = follow(app, signer).size
    beyond = Checkpoint("ledger.example/main", size + 10, bytes(32))
    signer.keep(signed_note(beyond.text, signer.signers()))
    late = make_app()
    reply = late.claim(campaign)
    assert (reply.status_code, reply.json()["code"]) == (503, "store_unavailable")
    assert late.get("/v1/books/main/head", token=late.token("auditor")).is_success
    assert app.claim(campaign).status_code == 503
    assert app.events() == size


def test_a_service_goes_on_when_the_right_store_is_back(
    app: App, make_app: MakeApp, signer: SignerFiles
) -> None:
    """The follower, who knows what was signed, sets the book going again."""
    campaign = app.open_campaign()
    follow(app, signer)
    with app.datastore.transaction() as cursor:
        guard.halt(cursor, "main", "was restored from an older copy")
    assert app.claim(campaign).status_code == 503
    ready = app.get("/readyz", admin=True).json()
    assert (ready["status"], ready["books"][0]["served"]) == ("degraded", app.events())
    assert ready["books"][0]["halted"] == "was restored from an older copy"
    again = make_app()
    assert again.claim(campaign).status_code == 503
    follow(app, signer, "another")
    assert app.claim(campaign).status_code == 201


def test_a_log_has_a_name_that_nobody_else_has(tmp_path: Path) -> None:
    """Where none is set; it is made once."""
    names = set()
    for number in range(2):
        home = tmp_path / str(number)
        random: Any = bytes([number]) * 64
        files = begin_log(home, "main", None, random)
        again = begin_log(home, "main", "other", bytes(64))
        assert again.signers()[0].verifier == files.signers()[0].verifier
        names.add(files.signers()[0].verifier.name)
    assert len(names) == 2
