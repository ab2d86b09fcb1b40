"""Measures residuum on one CUDA GPU, and writes docs/results/gpu.csv row by row.

    python benchmarks/gpu.py                               # all parts, each within its --seconds
    python benchmarks/gpu.py check                         # the device; captured steps against plain ones
    python benchmarks/gpu.py resnet50 | fp16 | resume      # these need no pictures
    python benchmarks/gpu.py gather --data FOLDER          # brings shards of CIFAR-10, one call after the other
    python benchmarks/gpu.py recipe2015 | cifar94 | cifar96 [--data FOLDER] [--seeds N]
    python benchmarks/gpu.py cifar94 --held-out 5000 --seeds 4 --set epochs=8 --set optim.lr=0.2
    python benchmarks/gpu.py table                         # the rows as a table in Markdown
    python benchmarks/gpu.py selftest                      # every part on the CPU, tiny, in seconds

A part goes on where an earlier call stopped: what has a row is not measured again, and a run that was begun lies in
--cache. Only rows and runs of the same machine, versions, commit and changes count; others stay where they are. Without
a CUDA device nothing is measured. Hyper-parameters are chosen with --held-out, on training pictures, by the parts that
train on them.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path

import gpu_checks
import gpu_cifar
import gpu_resnet50
import torch
from gpu_session import CIFAR10_TRAIN, Session, gather, read

from residuum import compiling, hardware
from residuum.errors import ResiduumError, UsageError

RESULTS = Path(__file__).resolve().parent.parent / "docs" / "results" / "gpu.csv"

_OWN = ("seed", "capture")
"""Recipe keys that the parts set from seed to seed, whatever the recipe says."""

PARTS: Mapping[str, Callable[[Session], None]] = {
    name: part for parts in (gpu_checks.PARTS, gpu_resnet50.PARTS, gpu_cifar.PARTS) for name, part in parts.items()
}


def main(words: list[str] | None = None) -> int:
    """Runs the parts that are named; returns the exit code."""
    arguments = _parser().parse_args(words)
    try:
        return _run(arguments)
    except ResiduumError as error:
        print(f"Error: {error}", file=sys.stderr)
        return error.exit_code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}, gather, table, selftest")
    parser.add_argument("--data", type=Path, help="a folder with Parquet shards of CIFAR-10, all or some of them")
    parser.add_argument("--cache", type=Path, help="what later calls go on with (default: ~/.cache/residuum)")
    parser.add_argument("--out", type=Path, default=RESULTS, help="the CSV file (default: docs/results/gpu.csv)")
    parser.add_argument("--seconds", type=float, default=540, help="the time limit of each part (default: 540)")
    parser.add_argument("--seeds", type=int, help="how many seeds (default: 5, 40 and 16)")
    parser.add_argument("--held-out", type=int, default=0, help="score on so many training pictures instead")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="changes the part's recipe")
    parser.add_argument("--no-compile", action="store_true", help="leave out everything that torch compiles")
    return parser


def _run(arguments: argparse.Namespace) -> int:
    names: list[str] = arguments.parts or list(PARTS)
    unknown = [name for name in names if name not in (*PARTS, "gather", "table", "selftest")]
    if unknown:
        raise UsageError(f"There is no part {unknown[0]!r}.", expected=f"Expected some of {', '.join(PARTS)}.")
    changes = _changes(arguments.set)
    _refuse_unheard(arguments, names)
    if "table" in names:
        print("\n".join(table(arguments.out)))
        return 0
    if "selftest" in names:
        return selftest()
    cache = arguments.cache or Path(os.environ.get("RESIDUUM_CACHE") or Path.home() / ".cache" / "residuum")
    os.environ["RESIDUUM_CACHE"] = str(cache)
    if arguments.data is not None:
        print(f"{cache / 'cifar10'} holds {', '.join(gather(arguments.data, cache)) or 'no shards'}", flush=True)
    if names == ["gather"]:
        return 0
    if not torch.cuda.is_available():
        print("There is no CUDA device here: nothing is measured.")
        return 0
    device = hardware.choose_device("cuda")
    hardware.take(device)
    compiling.keep_compiled_code()
    torch.backends.cudnn.benchmark = True  # as scripts do, timm's too: the fastest kernels for shapes that stay
    code = 0
    for name in names:
        session = Session(
            device=device,
            out=arguments.out,
            cache=cache,
            part=name,
            limit_s=arguments.seconds,
            seeds=arguments.seeds,
            held_out=arguments.held_out,
            compiles=not arguments.no_compile,
            changes=changes,
        )
        code = max(code, _part(session))
    return code


def _refuse_unheard(arguments: argparse.Namespace, names: list[str]) -> None:
    """Refuses what a part would not take notice of.

    Raises:
        UsageError: --held-out or --set with parts that train on no pictures, or as many held out as there are not.
    """
    deaf = [name for name in names if name not in gpu_cifar.PARTS]
    option = "--held-out" if arguments.held_out else "--set" if arguments.set else ""
    if option and deaf:
        raise UsageError(
            f"{option} means nothing to {', '.join(deaf)}.",
            expected=f"Expected it with some of {', '.join(gpu_cifar.PARTS)}.",
            hint="For example: cifar94 --held-out 5000 --seeds 4 --set optim.lr=0.2",
        )
    if not 0 <= arguments.held_out < CIFAR10_TRAIN:
        raise UsageError(
            f"--held-out {arguments.held_out} leaves nothing to train on, or holds nothing out.",
            expected=f"Expected a number from 1 to {CIFAR10_TRAIN - 1}.",
            hint="For example: --held-out 5000",
        )


def _part(session: Session) -> int:
    """Runs a part of the session; returns its exit code. One that fails does not keep the next from running."""
    session.say((PARTS[session.part].__doc__ or "").partition("\n\n")[0].replace("\n    ", " "))
    try:
        PARTS[session.part](session)
    except ResiduumError as error:
        session.say(f"Error: {error}")
        return error.exit_code
    except RuntimeError:
        traceback.print_exc()
        return 1
    session.say("done")
    return 0


def _changes(words: list[str]) -> dict[str, str]:
    """Returns recipe keys and values.

    Raises:
        UsageError: a word is not KEY=VALUE, or the key is one that the parts themselves set.
    """
    for word in words:
        if "=" not in word:
            raise UsageError(
                f"--set {word} changes nothing.", expected="Expected KEY=VALUE.", hint="--set optim.lr=0.05"
            )
        if word.split("=")[0] in _OWN:
            raise UsageError(
                f"--set {word} is not for you to say here: the parts set it.",
                expected=f"Expected another key than {', '.join(_OWN)}.",
                hint="Give the number of seeds with --seeds N.",
            )
    return dict(word.split("=", maxsplit=1) for word in words)


def selftest() -> int:
    """Runs every part on the CPU, with tiny nets and sets, captured steps being called; returns the exit code."""
    began = time.perf_counter()
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory(prefix="residuum-gpu-") as folder:
        out = Path(folder, "gpu.csv")
        codes = {name: _part(tiny(name, Path(folder), out)) for name in PARTS}
        table(out)
        rows = len(read(out))
    failed = [name for name, code in codes.items() if code]
    words = f"Failed: {', '.join(failed)}." if failed else f"All {len(codes)} parts ran"
    print(f"{words} on the CPU, in {time.perf_counter() - began:.0f} s, with {rows} rows.")
    return max(codes.values())


def tiny(name: str, folder: Path, out: Path) -> Session:
    """Returns a session of a part on the CPU, in seconds."""
    return Session(torch.device("cpu"), out, folder / "cache", name, seeds=2, compiles=False, tiny=True)


def table(path: Path) -> list[str]:
    """Returns the rows that are not of single seeds, the latest of each machine and change, as lines of Markdown."""
    rows = [row for row in read(path) if not row["seed"]]
    latest = {(row["part"], row["what"], row["changes"], row["machine"], row["cores"]): row for row in rows}
    lines = ["| part | what | measured | goal | met | machine, date |", "|---|---|---|---|---|---|"]
    for row in latest.values():
        span = f" ({row['low']} to {row['high']})" if row["low"] else ""
        note = f"; {row['note']}" if row["note"] else ""
        measured = f"{row['value']} {row['unit']}".strip() + span + note
        where = f"{row['machine']}, {row['date']}"
        what = row["what"] + (f" ({row['changes']})" if row["changes"] else "")
        lines.append(f"| {row['part']} | {what} | {measured} | {row['goal']} | {row['met']} | {where} |")
    return lines


if __name__ == "__main__":
    sys.exit(main())
