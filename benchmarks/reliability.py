"""Torture: what residuum promises of interrupted runs, tried many times, and counted in docs/results/reliability.csv.

    python benchmarks/reliability.py [WHAT ...] [--out FILE]      (by default all of it, in about a quarter of an hour)

Each line of the file is one promise: how often it was tried, how often it was kept, and by which versions on which
machine. The trials train a tiny network on synthetic pictures with everything switched on that is random:
augmentation, mixup, cutmix, drop-path, and an average of the weights.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
import trials_alone as alone
import trials_together as together
from measure import write
from trial import forked

Trial = Callable[[Path], Iterator[bool]]

TRIALS: dict[str, Trial] = {
    trial.__name__: trial
    for trial in (
        alone.resumes, alone.signals, alone.kills, alone.flips, alone.truncations, alone.full_disks, alone.read_only,
        alone.names, alone.memory, together.worlds, together.stops, together.lost, together.restarts,
    )
}  # fmt: skip


def main() -> None:
    """Runs the trials that are named, or all of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", metavar="WHAT", help=f"of {', '.join(TRIALS)}")
    parser.add_argument("--out", help="the CSV file (default: docs/results/reliability.csv)")
    arguments = parser.parse_args()
    failed = 0
    torch.set_num_threads(1)  # a pool of threads does not survive a fork
    for what in arguments.what or TRIALS:
        started = time.perf_counter()
        with tempfile.TemporaryDirectory(prefix="residuum-") as folder:
            kept = _tried(TRIALS[what], Path(folder))
        failed += not kept or not all(kept)
        write(
            str(Path(arguments.out).absolute()) if arguments.out else "reliability.csv",
            instead_of=("what",),
            what=what,
            promise=" ".join((TRIALS[what].__doc__ or "").split()),
            tried=len(kept),
            kept=sum(kept),
            seconds=round(time.perf_counter() - started, 1),
        )
    sys.exit(7 if failed else 0)


def _tried(trial: Trial, folder: Path) -> list[bool]:
    """Returns what came of a trial in a process of its own: one that has trained cannot be forked any more."""
    out = folder / "kept.json"
    process = forked(lambda: out.write_text(json.dumps(list(trial(folder)))), silent=False)
    os.waitpid(process, 0)
    return list(json.loads(out.read_text())) if out.exists() else []


if __name__ == "__main__":
    main()
