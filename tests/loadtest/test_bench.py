"""The benchmark runs from the first server to the report, and leaves nothing behind."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from loadtest import report


def test_a_short_benchmark_writes_a_whole_report(tmp_path: Path) -> None:
    """One short run of two contenders: both measured, compared, and every server gone."""
    path = tmp_path / "bench.json"
    options = ["--quick", "--runs", "1", "--seconds", "0.2", "--workers", "1"]
    options += ["--only", "constant", "stock"]
    with tempfile.TemporaryDirectory(prefix="tidebook-test-") as own:
        Path(own).chmod(0o711)  # PostgreSQL runs under another account when we are root
        done = subprocess.run(
            [sys.executable, "-m", "loadtest.bench", *options, "--json", path],
            env={**os.environ, "TMPDIR": own},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        left = list(Path(own).iterdir())
    assert done.returncode == 0, done.stdout + done.stderr
    assert left == []
    result = report.read(path)
    constant, stock = result.measurement("constant"), result.measurement("stock")
    assert constant.ratio is not None
    assert constant.ratio.to == "stock"
    assert stock.median > 0
    assert stock.latency is not None
    assert set(stock.peak_memory_bytes) == set(stock.cpu_us) == {"server", "postgres"}
    assert result.postgres["fsync"] == "on"
    assert "stock recorder" in done.stdout
