"""Runs the goals of docs/speed.md against their peers, and writes docs/results/speed.csv.

    python benchmarks/against.py                              # all rows
    python benchmarks/against.py cifar-plain cifar-compiled   # some; their names: goals.py
    python benchmarks/against.py photos photos-cache --photos FOLDER        # photos of one's own, in class folders
    python benchmarks/against.py inference --bundle BUNDLE --photos FOLDER  # and how far the modes agree on them

Leave the machine alone meanwhile. The arms of a row are processes of their own that are measured in turns in one run; a
ratio is the median of the turns' ratios. Peers: pip install 'residuum[peers]'; a row whose peer is not there says so,
and the others go on. Then: python benchmarks/tables.py
"""

from __future__ import annotations

import argparse
import csv
import functools
import importlib.util
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from datetime import date
from importlib import metadata
from pathlib import Path

from arms import HERE, Arm, ArmError, told
from comparisons import GROUPS, OURS, PUBLISHED_BATCH, Size, Together, Words, make_cache
from goals import AGREEMENT, GOALS, goal

from residuum import software
from residuum.timing import Figure, Measure, in_turns, ratio

OUT = HERE.parent / "docs" / "results" / "speed.csv"
TRAINING = OUT.with_name("training.csv")
LIBRARIES = ("torch", "torchvision", "timm", "onnxruntime", "openvino")
COLUMNS = (
    "name", "unit", "ours", "ours_low", "ours_high", "peer", "peer_low", "peer_high", "ratio", "ratio_low",
    "ratio_high", "turns", "mode", "agreement", "top1", "date", "machine", "cores", "python", *LIBRARIES, "residuum",
    "commit",
)  # fmt: skip

_PUBLISHED_STEPS = 64_000


def main() -> int:
    """Measures the rows that are named, or all; returns 1 where one failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [each.name for each in GOALS]
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"of {', '.join(names)} (default: all)")
    parser.add_argument("--photos", metavar="FOLDER", help="photos in class folders (default: made for this)")
    parser.add_argument("--bundle", metavar="BUNDLE", help="a trained network, whose modes answer on --photos")
    parser.add_argument("--turns", type=int, default=0, metavar="N", help="how often each arm is measured (default: 5)")
    parser.add_argument("--quick", action="store_true", help="tiny networks, to see that it works; nothing is kept")
    parser.add_argument("--out", type=Path, metavar="CSV", help=f"the table (default: {OUT.name} under docs/results)")
    text = "what measure.py has written, for the row cifar-time (default: docs/results/training.csv)"
    parser.add_argument("--training", type=Path, metavar="CSV", default=TRAINING, help=text)
    arguments = parser.parse_args()
    if wrong := wrong_words(arguments, names):
        parser.error(wrong)
    size = Size(arguments.quick, arguments.turns or (1 if arguments.quick else 5), arguments.photos, arguments.bundle)
    out = arguments.out or (None if arguments.quick else OUT)
    failed = 0
    for together in GROUPS:
        rows = [name for name in together.rows if name in (arguments.rows or names)]
        rows = [name for name in rows if is_there(name, together)]
        if rows:
            try:
                failed |= compare(together, rows, size, out, arguments.training)
            except (ArmError, subprocess.SubprocessError, OSError) as error:
                failed = 1
                print(f"{', '.join(rows)}: not measured: {error}", flush=True)
    return failed


def wrong_words(arguments: argparse.Namespace, names: Sequence[str]) -> str:
    """Returns what is wrong with a command line; nothing where all of its words mean something."""
    rows, photos, bundle = {*(arguments.rows or names)}, arguments.photos, arguments.bundle
    answering = any(name.startswith("inference") for name in rows)
    if unknown := sorted(rows - {*names}):
        return f"no row is called {', '.join(unknown)}; there are {', '.join(names)}"
    if bundle and not photos:
        return "--bundle answers on photos: give them, too, with --photos FOLDER"
    if bundle and not answering:
        return "--bundle means nothing to these rows: it is for inference"
    if photos and not (bundle and answering) and not rows & {"photos", "photos-cache"}:
        return "--photos means nothing to these rows: it is for photos, photos-cache and, with --bundle, inference"
    if photos and not Path(photos).is_dir():
        return f"--photos {photos} is no folder; expected one with a folder of photos for each class"
    if bundle and not (Path(bundle) / "model.json").is_file():
        return f"--bundle {bundle} is no trained network; expected a folder such as runs/photos-1/best"
    return ""


def is_there(name: str, together: Together) -> bool:
    """Whether the libraries of a row's peer are installed; says so where not."""
    modules = together.needs.get(together.rows[name][1], ())
    missing = [module for module in modules if importlib.util.find_spec(module) is None]
    if missing:
        print(f"{name}: not measured: pip install 'residuum[peers]' ({', '.join(missing)} not installed)", flush=True)
    return not missing


def compare(together: Together, rows: Sequence[str], size: Size, out: Path | None, training: Path) -> int:
    """Measures some rows of a group in one run, and writes them; returns 1 where one of them could not be measured."""
    with tempfile.TemporaryDirectory(prefix="residuum-against-") as folder, ExitStack() as stack:
        wanted, every = rows, together.arms(size, Path(folder))
        if "photos-cache" in rows and not make_cache(Path(folder)):
            rows = [name for name in rows if name != "photos-cache"]
        used = {arm for name in rows for arm in together.rows[name]}
        chosen = {arm: how for arm, how in every.items() if arm in used or arm.split(":")[0] in used}
        measures = {arm: measure for arm, how in chosen.items() if (measure := begun(arm, how, size, stack))}
        lost = chosen.keys() - measures.keys()
        rows = [name for name in rows if not lost & {*together.rows[name]}]
        found = in_turns(measures, size.turns, tell=lambda arm: print(f"  {arm}", file=sys.stderr, flush=True))
    if rows == ["cifar-time"]:
        write_time(found["published"], out, training)
        return 0
    about = best_mode(found, size) if any(arm.startswith("ours: ") for arm in found) else {}
    best = about.pop("arm", "ours")
    for name in rows:
        ours, peer = (
            [value / together.shared_by for value in found[best if arm == "ours" else arm]]
            for arm in together.rows[name]
        )
        write(out, row_of(name, together.unit, ours, peer), about)
    return int(bool(lost) or len(rows) < len(wanted))


def begun(arm: str, how: Words | Measure, size: Size, stack: ExitStack) -> Measure | None:
    """Returns an arm that is ready; None where it does not begin, which is said."""
    if not isinstance(how, list):
        return how
    try:
        lasting = Arm(arm, how, settle_s=0.1 if size.quick else 1.0)
    except ArmError as error:
        print(f"not measured: {error}", flush=True)
        return None
    stack.callback(lasting.close)
    return lasting


def best_mode(found: Mapping[str, Sequence[float]], size: Size) -> dict[str, str]:
    """Returns the arm of the fastest mode whose answers agree with float32's, as far as that is known."""
    agreed = agreement_of(size)
    modes = {arm.removeprefix("ours: "): Figure.of(values).median for arm, values in found.items() if ":" in arm}
    exact = {mode: rate for mode, rate in modes.items() if mode == "fp32" or agreed.get(mode, AGREEMENT) >= AGREEMENT}
    best = max(exact, key=exact.__getitem__)
    known = 100.0 if best == "fp32" else agreed.get(best)
    return {"arm": f"ours: {best}", "mode": best, "agreement": "" if known is None else f"{known:.2f}"}


def agreement_of(size: Size) -> dict[str, float]:
    """Returns in percent how far each mode agrees with float32 on real photos; nothing where there are none."""
    if size.bundle is None or size.photos is None:
        return {}
    found: dict[str, float] = told([OURS, "agreement", "--model", size.bundle, "--data", size.photos])["agreement"]
    return found


def row_of(name: str, unit: str, ours: Sequence[float], peer: Sequence[float]) -> dict[str, object]:
    """Returns a row of what two arms have found, turn by turn."""
    figures = {"ours": Figure.of(ours), "peer": Figure.of(peer), "ratio": ratio(ours, peer)}
    row: dict[str, object] = {"name": name, "unit": unit, "turns": len(ours)}
    for what, figure in figures.items():
        row |= in_columns(what, figure.median, figure.low, figure.high)
    return row


def in_columns(what: str, median: float, low: float, high: float) -> dict[str, str]:
    """Returns a figure as three columns."""
    return {what: short(median), f"{what}_low": short(low), f"{what}_high": short(high)}


def write_time(rates: Sequence[float], out: Path | None, training: Path) -> None:
    """Writes how long the median run of the fast recipe takes here, against the published one's 64,000 steps.

    The row has the test accuracy too: where that is too low, the goal is missed, however fast the run was.
    """
    here = where()
    mine = {"recipe": "resnet20_cifar10_fast", "data": "cifar10", "part": "test"}
    mine |= {key: str(here[key]) for key in ("machine", "cores")}
    runs = [row for row in read(training) if mine.items() <= row.items()]
    if not runs:
        print("cifar-time: not measured: first python benchmarks/measure.py cifar --data SHARDS", flush=True)
        return
    top1 = Figure.of(float(run["top1"]) for run in runs)
    fast = Figure.of(float(run["train_seconds"]) for run in runs)
    slow = Figure.of(_PUBLISHED_STEPS * PUBLISHED_BATCH / rate for rate in rates)
    row: dict[str, object] = {"name": "cifar-time", "unit": "s", "turns": len(rates), "top1": f"{top1.median:.3f}"}
    row |= in_columns("ours", fast.median, fast.low, fast.high) | in_columns("peer", slow.median, slow.low, slow.high)
    row |= in_columns("ratio", fast.median / slow.median, fast.low / slow.high, fast.high / slow.low)
    write(out, row, {})


def short(value: float) -> str:
    """Returns a number to four digits."""
    return f"{float(f'{value:.4g}'):.10g}"


@functools.cache  # what is written on the way would make a checkout look changed
def where() -> dict[str, object]:
    """Returns date, machine and versions, for every row."""
    import torch

    from residuum import hardware

    about = hardware.describe(torch.device("cpu"))
    origin = software.origin()
    return {
        "date": date.today().isoformat(),
        "machine": about["device"],
        "cores": about["cores"],
        "python": about["python"],
        **{name: version_of(name) for name in LIBRARIES},
        "residuum": origin["version"],
        "commit": origin["commit"] or "",
    }


def version_of(name: str) -> str:
    """Returns the version of an installed library, or nothing."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def read(path: Path) -> list[dict[str, str]]:
    """Returns the rows of a table; none where there is none."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def write(out: Path | None, row: Mapping[str, object], about: Mapping[str, str]) -> None:
    """Shows a row, and puts it in the place of an older one of its name, in the order of the goals."""
    full = {**dict.fromkeys(COLUMNS, ""), **where(), **row, **about}
    wanted = goal(str(row["name"]))
    verdict = "" if wanted.ratio is None else ": met" if wanted.met_by(row) else ": missed"
    reached = f", {row['top1']} % of {wanted.top1:g} %" if wanted.top1 else ""
    print(f"{row['name']}: {row['ratio']} x (goal: {wanted.in_words()}){reached}{verdict}", flush=True)
    if out is None:
        return
    rows: dict[str, Mapping[str, object]] = {**{old["name"]: old for old in read(out)}, str(row["name"]): full}
    out.parent.mkdir(parents=True, exist_ok=True)
    aside = out.with_name(f".{out.name}.writing")
    with aside.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows[each.name] for each in GOALS if each.name in rows)
    aside.replace(out)


if __name__ == "__main__":
    sys.exit(main())
