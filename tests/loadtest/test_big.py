"""A campaign is filled with claims that verification cannot tell from real ones."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from uuid import UUID, uuid5

import msgspec
import pytest

from ledger.appending import request_id
from loadtest.big import FULL_CAMPAIGN, PLACES, Result
from loadtest.filling import Mould, NotAsExpected, Stored

CAMPAIGN = UUID("0192f0a1-7a51-7c3e-9d3a-000000000001")
PERSON = "0123456789abcdef" * 2
KEY = "a-key-1"


def model(person: str = PERSON, key: str = KEY) -> Stored:
    """A claim as the service stores it."""
    state = {
        "at": "2026-11-23T10:00:00.123456Z",
        "by": {"role": "tourist", "id": person},
        "why": {"request": "req-0001", "key": key, "fingerprint": "ab" * 32},
        "campaign": str(CAMPAIGN),
        "person": person,
        "n": 1,
        "face_minor": 5000,
    }
    return Stored(
        "main",
        7,
        uuid5(CAMPAIGN, f"{person}:1"),
        1,
        "coupon.claimed",
        json.dumps(state).encode(),
        UUID(bytes=request_id(f"tourist:{person}", key)),
    )


def test_every_row_is_another_claim() -> None:
    """People, coupons, keys and requests differ; ids are what the service would make of them."""
    rows = b"".join(Mould(model()).rows(8, 0, 50))
    people = {rows[at + 10 : at + 42] for at in _places(rows, b'"person": ')}
    assert len(people) == 50
    for person in people:
        assert uuid5(CAMPAIGN, f"{person.decode()}:1").bytes in rows
    assert rows.count(b'"at": "2026-11-23T10:00:00.123456Z"') == 50


def _places(data: bytes, word: bytes) -> list[int]:
    found, at = [], data.find(word)
    while at >= 0:
        found.append(at + 1)
        at = data.find(word, at + 1)
    return found


@pytest.mark.parametrize(
    "other", [model()._replace(stream=UUID(int=1)), model()._replace(request=UUID(int=1))]
)
def test_a_service_that_makes_other_ids_is_not_copied(other: Stored) -> None:
    """What is derived for the model must come out as the service stored it."""
    with pytest.raises(NotAsExpected):
        Mould(other)


@pytest.mark.slow
def test_a_filled_store_verifies_and_takes_claims(tmp_path: Path) -> None:
    """The whole command on a small scale: filled, measured, verified, and nothing left behind."""
    path = tmp_path / "big.json"
    options = ["--coupons", "500", "--runs", "1", "--seconds", "0.2", "--people", "40"]
    with tempfile.TemporaryDirectory(prefix="tidebook-test-") as own:
        Path(own).chmod(0o711)  # PostgreSQL runs under another account when we are root
        done = subprocess.run(
            [sys.executable, "-m", "loadtest.big", *options, "--workers", "1", "--json", path],
            env={**os.environ, "TMPDIR": own},
            capture_output=True,
            text=True,
            timeout=250,
            check=False,
        )
        assert list(Path(own).iterdir()) == []
    assert done.returncode == 0, done.stdout + done.stderr
    result = msgspec.json.decode(path.read_bytes(), type=Result)
    assert (result.coupons, result.findings) == (500, [])
    assert [place.name for place in result.places] == list(PLACES)
    full = next(place for place in result.places if place.name == FULL_CAMPAIGN)
    assert full.claims_per_s[0] > 0
    assert full.wal_bytes[0] > 0
    assert full.wal_bytes_after_checkpoint is not None
    assert {"event", "event_pkey", "event_request", "coupon"} <= set(result.disk_bytes_per_claim)
    journal = next(one for one in result.rebuilds if one.projection == "journal")
    assert journal.events >= 500
    assert set(journal.cpu_us) == {"projections", "postgres"}
    assert journal.events_per_core_s == pytest.approx(1e6 / sum(journal.cpu_us.values()))
    assert "rebuilds from" in done.stdout
