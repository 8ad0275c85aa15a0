"""`make profile`: where the server's time goes in a rush, seen from outside by py-spy.

    python -m loadtest.profiling --seconds 8 --out build/profile

It writes `flames.svg` (a flame graph to click through) and `top.txt`: the functions that were at
work themselves, each with its share of the server's CPU time for one claim, and what the other
processes cost beside it. Looking costs the server a few per cent, so no rate is taken from here. It
must never look at a server that it did not start.
"""

from __future__ import annotations

import argparse
import math
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from loadtest.contenders import CREATED, outcome_of
from loadtest.ours import CLAIMS_PER_S_MAX, Tidebook
from loadtest.people import tourists
from loadtest.stage import claim_requests

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from loadtest.contenders import Outcome

PEOPLE: Final = 10_000
SAMPLES_PER_S: Final = 200
ROWS: Final = 40
FORMATS: Final = {"raw": "stacks.txt", "flamegraph": "flames.svg"}

_FRAME: Final = re.compile(r"^(?P<name>.+) \((?P<file>[^()]*?)(?::\d+)?\)$")
_THREAD: Final = re.compile(r"^(?:process|thread) ")
_HERE: Final = f"{Path(__file__).parents[1]}/"
_PACKAGES: Final = re.compile(r"^.*/(?:site-packages|lib/python\d\.\d+)/")


class Row(NamedTuple):
    """One function or file: the share of the samples in which it was at work itself."""

    what: str
    share: float


def stacks(lines: Iterable[str]) -> Iterator[tuple[list[str], int]]:
    """What py-spy wrote: the frames from the outermost in, and how often they were seen."""
    for line in lines:
        stack, _, count = line.strip().rpartition(" ")
        if stack:
            frames = [frame for frame in stack.split(";") if not _THREAD.match(frame)]
            yield frames, int(count)


def top(lines: Iterable[str]) -> tuple[list[Row], list[Row], int]:
    """The functions and the files that were at work themselves, most of all first."""
    functions: Counter[str] = Counter()
    files: Counter[str] = Counter()
    for frames, count in stacks(lines):
        if not frames:
            continue
        name, file = _place(frames[-1])
        functions[f"{name} ({file})"] += count
        files[file] += count
    total = functions.total()
    return _rows(functions, total), _rows(files, total), total


def _rows(counts: Counter[str], total: int) -> list[Row]:
    return [Row(what, count / total) for what, count in counts.most_common()]


def _place(frame: str) -> tuple[str, str]:
    """A frame's function and its file, as the project or the package calls it."""
    found = _FRAME.match(frame)
    if found is None:
        return frame, "native code"
    return found["name"], _PACKAGES.sub("", found["file"]).removeprefix(_HERE)


def text(lines: Iterable[str], cpu_us: dict[str, float], cores: int) -> str:
    """The list as a page of text."""
    functions, files, total = top(lines)
    server_us, sum_us = cpu_us.get("server", 0.0), sum(cpu_us.values())
    limit_per_s = cores * 1e6 / sum_us if sum_us else 0.0
    written = [
        f"{total:,} samples of the server's busy threads, {server_us:.1f} µs of its CPU a claim.",
        "",
        "CPU time of one claim in µs, process by process:",
        *(f"{used:10.1f}  {name}" for name, used in cpu_us.items()),
        f"{sum_us:10.1f}  all; {cores} cores with nothing else to do: {limit_per_s:,.0f} claims/s",
    ]
    for title, rows in (("function", functions), ("file", files)):
        written += ["", f"{'µs a claim':>10}  {'share':>6}  {title} (at work itself)"]
        written += [
            f"{row.share * server_us:10.2f}  {row.share:6.1%}  {row.what}" for row in rows[:ROWS]
        ]
    return "\n".join([*written, ""])


def rush(tidebook: Tidebook, tokens: Sequence[str], seconds: float) -> Outcome:
    """Everybody claims from one campaign after the other, for so long."""
    count = math.ceil(CLAIMS_PER_S_MAX * seconds / len(tokens))
    campaigns = [tidebook.open_campaign() for _ in range(count)]
    requests = list(claim_requests(tidebook.url, campaigns, tokens))
    return outcome_of(tidebook.drive(requests, seconds), CREATED)


def watched(
    tidebook: Tidebook, tokens: Sequence[str], seconds: float, argv: Sequence[str]
) -> Outcome:
    """A rush with py-spy looking on from before its start to after its end."""
    options = ["--pid", str(tidebook.server_pid), "--subprocesses", "--nonblocking"]
    options += ["--rate", str(SAMPLES_PER_S), "--threads"]
    with subprocess.Popen(  # noqa: S603 - a command line of our own
        [str(Path(sys.executable).with_name("py-spy")), "record", *options, *argv],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as spy:
        outcome = rush(tidebook, tokens, seconds)
        _, said = spy.communicate(timeout=120)
        if spy.returncode:
            raise NotPermitted(said.strip()[-1000:])
    return outcome


class NotPermitted(Exception):
    """py-spy could not look; mostly the system allows it to administrators only."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Profile a rush and write what was seen."""
    options = _parser().parse_args(arguments)
    out: Path = options.out
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="tidebook-profile-") as directory:
        home = Path(directory)
        home.chmod(0o711)  # PostgreSQL runs under another account when we are root
        with Tidebook.started(home, options.workers) as tidebook:
            tokens = tourists(tidebook.url, (f"person {n}" for n in range(options.people)))
            rush(tidebook, tokens, 1.0)
            plain = rush(tidebook, tokens, options.seconds)
            for form, name in FORMATS.items():
                argv = ["--format", form, "--output", str(out / name)]
                argv += ["--duration", str(math.ceil(options.seconds))]
                argv += ["--native"] if options.native else []
                try:
                    watched(tidebook, tokens, options.seconds, argv)
                except NotPermitted as reason:
                    print(f"py-spy could not look at the server: {reason}", file=sys.stderr)
                    return 1
    with (out / FORMATS["raw"]).open() as lines:
        written = text(lines, plain.cpu_us, len(os.sched_getaffinity(0)))
    (out / "top.txt").write_text(written)
    print(written)
    print(f"Written to {out}/: flames.svg, top.txt, stacks.txt")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m loadtest.profiling",
        description="Run a claim rush with py-spy looking at the server; write a flame graph and "
        "a list of where its CPU time goes. Needs the right to look at processes (ptrace).",
    )
    parser.add_argument("--seconds", type=float, default=8.0, help="length of a rush (default 8)")
    parser.add_argument("--workers", type=int, default=2, help="server processes (default 2)")
    parser.add_argument("--people", type=int, default=PEOPLE, help="who take part")
    parser.add_argument("--native", action="store_true", help="look into C code as well (slower)")
    parser.add_argument(
        "--out", type=Path, default=Path("build/profile"), metavar="FOLDER", help="where to write"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
