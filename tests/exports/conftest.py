"""A made-up book of 150 events, exported in small files: no database is needed here."""

from __future__ import annotations

from pathlib import Path

import pytest

from campaigns.export_synthetic import Synthetic
from tests.exports.made import Made, exported, small_files

__all__ = ["small_files"]

EVENTS = 150


@pytest.fixture(scope="session")
def made() -> Made:
    """A book of three campaigns: claims, redemptions, refunds, expiries."""
    return Made(Synthetic(EVENTS, claims=40, block=8).entries(0, EVENTS))


@pytest.fixture
def export(made: Made, tmp_path: Path, small_files: None) -> Path:
    """Its export."""
    exported(made, tmp_path / "main")
    return tmp_path / "main"
