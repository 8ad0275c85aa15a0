"""Measure the verification of a long export: `make bench-export`.

A made-up book is exported first, then verified by a fresh process, so that time and memory are its
own; beside it stands what the machine takes for the least that any verifier must do: read the
columns, hash leaves and nodes, decode JSON. Nothing here is part of the service.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

import msgspec

from campaigns.coupon import CouponClaimed
from campaigns.export_synthetic import Synthetic
from campaigns.export_verification import verify_export
from ledger.exporting.form import MANIFEST, Manifest
from ledger.exporting.reading import ExportFile
from ledger.exporting.writing import write_export
from ledger.merkle import parent_hashes
from ledger.verification import Finding

EVENTS: Final = 10_000_000
GOAL_PER_S: Final = 200_000


def main(arguments: list[str] | None = None) -> int:
    """Write the export, verify it, and tell what it took."""
    parser = argparse.ArgumentParser(description="Measure the verification of a long export.")
    parser.add_argument("--events", type=int, default=EVENTS)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--folder", type=Path, default=Path("build/bench-export"))
    parser.add_argument("--step", choices=["make", "verify", "floor"], help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    folder = options.folder / str(options.events)
    if options.step is not None:
        steps: dict[str, Callable[[], dict[str, Any]]] = {
            "make": lambda: make(folder, options.events),
            "verify": lambda: verify(folder, options.jobs),
            "floor": lambda: floor(folder),
        }
        say(json.dumps(steps[options.step]()))
        return 0
    told = {"events": options.events, "jobs": options.jobs, "goal_events_per_core_s": GOAL_PER_S}
    for step in ("make", "verify", "floor"):
        told |= _in_a_process(step, options)
    for name, value in told.items():
        say(f"{name:32} {value:,}" if isinstance(value, int) else f"{name:32} {value}")
    (options.folder / "bench-export.json").write_text(json.dumps(told, indent=2) + "\n")
    return 0 if told["findings"] == 0 else 1


def make(folder: Path, events: int) -> dict[str, Any]:
    """Write the export, unless there is one of this length."""
    if (folder / MANIFEST).exists():
        return {}
    started = time.process_time()
    rehearsal = Synthetic(events)
    for _ in rehearsal.entries(0, events):
        pass
    made = time.process_time() - started
    started = time.process_time()
    manifest = write_export(folder, Synthetic(events), rehearsal.end())
    written = time.process_time() - started - made
    return {
        "export_bytes": sum(one.bytes for one in manifest.files),
        "write_us_per_event": round(written / events * 1e6, 2),
        "write_peak_mb": _peak_mb(resource.RUSAGE_SELF),
    }


def verify(folder: Path, jobs: int) -> dict[str, Any]:
    """Verify the export."""
    findings: list[Finding] = []
    started = time.monotonic()
    told = verify_export(folder, jobs=jobs, on_finding=findings.append)
    wall = time.monotonic() - started
    events = told.judged if told is not None else 0
    cpu = sum(map(_cpu_s, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)))
    return {
        "judged": events,
        "roots": told.checkpoints if told is not None else 0,
        "findings": len(findings),
        "verify_wall_s": round(wall, 1),
        "verify_cpu_s": round(cpu, 1),
        "judging_cpu_s": round(_cpu_s(resource.RUSAGE_SELF), 1),
        "proving_cpu_s": round(_cpu_s(resource.RUSAGE_CHILDREN), 1),
        "events_per_s": round(events / wall),
        "events_per_core_s": round(events / cpu),
        "judging_peak_mb": _peak_mb(resource.RUSAGE_SELF),
        "proving_peak_mb": _peak_mb(resource.RUSAGE_CHILDREN),
    }


def floor(folder: Path) -> dict[str, Any]:
    """Measure the least that any verifier does, each of it alone, on one file of the export."""
    manifest = Manifest.parse((folder / MANIFEST).read_bytes())
    said = next(one for one in manifest.files if one.kind == "events")
    file = ExportFile(folder / said.name, said)
    started = time.process_time()
    groups = [file.events(number) for number in range(file.groups)]
    read = time.process_time() - started
    states = [state for group in groups for state in group.states]
    started = time.process_time()
    leaves = [sha256(state).digest() for state in states]
    hashed = time.process_time() - started
    started = time.process_time()
    while len(leaves) > 1:
        leaves = parent_hashes(leaves)
    nodes = time.process_time() - started
    claims = [s for g in groups for t, s in zip(g.topics, g.states, strict=True) if "claimed" in t]
    decode = msgspec.json.Decoder(CouponClaimed).decode
    header = b'{"originator_id":"%b","originator_version":1,' % (b"0" * 32)
    started = time.process_time()
    for state in claims:
        decode(header + state[1:])
    decoded = time.process_time() - started
    floor_us = (read + hashed + nodes) / len(states) * 1e6 + decoded / len(claims) * 1e6
    return {
        "floor_read_us": round(read / len(states) * 1e6, 2),
        "floor_leaf_us": round(hashed / len(states) * 1e6, 2),
        "floor_node_us": round(nodes / len(states) * 1e6, 2),
        "floor_decode_us": round(decoded / len(claims) * 1e6, 2),
        "floor_events_per_core_s": round(1e6 / floor_us),
    }


def say(line: str) -> None:
    """Print a line."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _in_a_process(step: str, options: argparse.Namespace) -> dict[str, Any]:
    command = [sys.executable, "-m", "campaigns.export_measuring", "--step", step]
    command += ["--events", str(options.events), "--jobs", str(options.jobs)]
    command += ["--folder", str(options.folder)]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True)  # noqa: S603 - our own
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def _cpu_s(who: int) -> float:
    used = resource.getrusage(who)
    return used.ru_utime + used.ru_stime


def _peak_mb(who: int) -> int:
    return resource.getrusage(who).ru_maxrss >> 10


if __name__ == "__main__":
    sys.exit(main())
