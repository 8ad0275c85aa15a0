"""Measure a draw from a long list: `make bench-draw`.

The list is made first, as it would have grown while people registered. The draw is then held by a
fresh process, so that its time and memory are its own. Nothing here is part of the service.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

from campaigns.draws import verify_draw
from campaigns.draws.bundle import write_bundle
from campaigns.draws.listing import EntryList
from campaigns.draws.method import draw_key, ranked, result_leaves
from campaigns.draws.terms import QUICKNET
from ledger.merkle import MemoryTree, inclusion_proof

ENTRIES: Final = 33_000_000
WINNERS: Final = 100_000
RUNNERS_UP: Final = 10_000
WITHDRAWN_EVERY: Final = 500
"""One entry of so many was taken back."""

STEP: Final = 250_000
SEED: Final = sha256(b"measured").digest()
SIGNATURE: Final = b"s" * 48


def main(arguments: list[str] | None = None) -> int:
    """Make the list, hold the draw, and tell what it took."""
    parser = argparse.ArgumentParser(description="Measure a draw from a long list.")
    parser.add_argument("--entries", type=int, default=ENTRIES)
    parser.add_argument("--winners", type=int, default=WINNERS)
    parser.add_argument("--folder", type=Path, default=Path("build/bench-draw"))
    parser.add_argument("--verify", action="store_true", help="let the verifier check it as well")
    parser.add_argument("--step", choices=["draw"], help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.step == "draw":
        say(json.dumps(draw(options.folder, options.winners)))
        return 0
    made = make(options.folder, options.entries)
    say(f"list of {options.entries:,} entries: {made:.0f} s of CPU time to make, as it grows")
    command = [sys.executable, "-m", "campaigns.draws.measuring", "--step", "draw"]
    command += ["--folder", str(options.folder), "--winners", str(options.winners)]
    found = subprocess.run(command, capture_output=True, check=True)  # noqa: S603 - our own program
    told = json.loads(found.stdout)
    for name, value in told.items():
        say(f"{name:24} {value:,}" if isinstance(value, int) else f"{name:24} {value}")
    return verify(options.folder, options.winners) if options.verify else 0


def make(folder: Path, entries: int) -> float:
    """Make the list, or go on with one that is there; return the CPU time that it took."""
    began = time.process_time()
    with EntryList(folder) as listed:
        for first in range(listed.mark.entries, entries, STEP):
            last = min(first + STEP, entries)
            listed.add(_leaves(first, last))
            listed.take_back(range(first, last, WITHDRAWN_EVERY))
            listed.keep()
            progress(last, entries)
        assert listed.mark.entries == entries, "the folder holds a list of another length"
    return time.process_time() - began


def draw(folder: Path, winners: int) -> dict[str, Any]:
    """Hold the draw from the list that is there; return what it took."""
    began, cpu = time.perf_counter(), time.process_time()
    with EntryList(folder) as listed:
        told = _told(listed, winners)
        key = draw_key(verify_draw.canonical(told), SEED, sha256(SIGNATURE).digest())
        gone = frozenset(listed.withdrawn())
        ranks = ranked(key, listed.mark.entries, gone, winners + RUNNERS_UP)
        entries = listed.leaves_at(ranks)
    tree = MemoryTree(result_leaves(ranks))
    root = tree.root().hex()
    took, cpu_took = time.perf_counter() - began, time.process_time() - cpu
    proved = time.process_time()
    for rank in range(0, winners, 100):
        inclusion_proof(rank, len(ranks), tree.read)
    return {
        "entries": listed.mark.entries,
        "withdrawn": len(gone),
        "drawn": len(entries),
        "root of results": root,
        "wall_s": f"{took:.2f}",
        "cpu_s": f"{cpu_took:.2f}",
        "proof of a rank, us": f"{(time.process_time() - proved) / (winners / 100) * 1e6:.0f}",
        "peak memory, bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


def verify(folder: Path, winners: int) -> int:
    """Write the bundle and let the stand-alone verifier check it; return what that says."""
    bundle = folder / "bundle"
    with EntryList(folder) as listed:
        write_bundle(bundle, _told(listed, winners), SEED, SIGNATURE, listed, [(winners,)])
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-I", str(bundle / "verify_draw.py"), str(bundle)]
    found = subprocess.run(command, capture_output=True, check=False)  # noqa: S603 - our own program
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    say(found.stdout.decode().rstrip())
    say(f"looked at in {after.ru_utime - before.ru_utime:.0f} s of CPU time")
    return found.returncode


def _told(listed: EntryList, winners: int) -> dict[str, Any]:
    return {
        "format": verify_draw.FORMAT,
        "campaign": "cmp_main_" + 32 * "0",
        "name": "measured",
        "register_from": "2026-04-01T00:00:00Z",
        "register_until": "2026-04-30T00:00:00Z",
        "draw_at": "2026-05-01T00:00:00Z",
        "beacon": {
            "chain": QUICKNET.hash,
            "genesis": QUICKNET.genesis,
            "period_s": QUICKNET.period_s,
            "round": QUICKNET.round_at(verify_draw.instant("2026-05-01T00:00:00Z")),
        },
        "seed_commitment": sha256(SEED).hexdigest(),
        "tiers": [{"amount_minor": 20_000, "winners": winners}],
        "currency": "CNY",
        "runners_up": RUNNERS_UP,
        "claim_s": 86_400,
        "list": listed.facts()._asdict(),
    }


def _leaves(first: int, last: int) -> Iterator[bytes]:
    for number in range(first, last):
        yield sha256(number.to_bytes(8, "big")).digest()[:16] + b"\0\0\0\1"


def progress(done: int, of: int) -> None:
    """Show how far it is, on a terminal."""
    if sys.stderr.isatty():
        sys.stderr.write(f"\r{done:,} of {of:,}")
        sys.stderr.flush()


def say(line: str) -> None:
    """Print a line."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
