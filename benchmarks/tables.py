"""Writes the tables of README.md and docs/transfer.md from docs/results/, where the benchmarks leave their figures.

python benchmarks/tables.py          # writes them
python benchmarks/tables.py --check  # exits 1 where one is stale
"""

from __future__ import annotations

import csv
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "docs" / "results"
BEGIN, END = "<!-- results: written by benchmarks/tables.py -->", "<!-- end of results -->"
TRANSFER_BEGIN, TRANSFER_END = "<!-- transfer: written by benchmarks/tables.py -->", "<!-- end of transfer -->"
LABELS_BEGIN, LABELS_END = "<!-- labels: written by benchmarks/tables.py -->", "<!-- end of labels -->"

Row = dict[str, str]


def main() -> int:
    """Writes or checks the tables."""
    stale = 0
    for file, with_table in ((ROOT / "README.md", with_results), (ROOT / "docs" / "transfer.md", with_transfer)):
        old = file.read_text(encoding="utf-8")
        new = with_table(old)
        if "--check" not in sys.argv[1:]:
            file.write_text(new, encoding="utf-8")
        elif new != old:
            print(f"{file.name} is stale: run python benchmarks/tables.py")
            stale = 1
    return stale


def with_results(readme: str) -> str:
    """Returns README's text with the table between its two marks written anew."""
    lines = [
        "| what | measured | goal | machine, date |",
        "|---|---|---|---|",
        *_training(),
        *_memory(),
        *_startup(),
        *_vectors(),
    ]
    return _between(readme, BEGIN, lines, END)


def with_transfer(text: str) -> str:
    """Returns the text of docs/transfer.md with its tables written anew: a row for each set, a column for each arm; and
    that of several labels."""
    rows = read("transfer.csv")
    arms = list(dict.fromkeys(row["arm"] for row in rows))
    lines = [f"| set | network | pictures: training, test | {' | '.join(arms)} | seeds | machine, date |"]
    lines += [f"|---|---|---|{'---|' * len(arms)}---|---|"]
    for name, model in dict.fromkeys((row["set"], row["model"]) for row in rows):
        own = [row for row in rows if (row["set"], row["model"]) == (name, model)]
        cells = [_mean_and_spread([float(row["top1"]) for row in own if row["arm"] == arm]) for arm in arms]
        seeds = len({row["seed"] for row in own})
        images = f"{own[0]['train_images']}, {own[0]['test_images']}"
        lines.append(f"| {name} | {model} | {images} | {' | '.join(cells)} | {seeds} | {_where(own[-1])} |")
    text = _between(text, TRANSFER_BEGIN, lines if rows else [], TRANSFER_END)
    return _between(text, LABELS_BEGIN, list(_labels()), LABELS_END)


def _labels() -> Iterator[str]:
    """Yields the table of pictures that may have several classes: a row for each arm."""
    rows = read("multilabel.csv")
    if rows:
        head = "mAP | AP of the rarest | F1, mean of classes | the same at 0.5 | all answers right"
        yield f"| digits | {head} | seeds | machine, date |"
        yield f"|---|{'---|' * 7}"
    for arm in dict.fromkeys(row["arm"] for row in rows):
        own = [row for row in rows if row["arm"] == arm]
        keys = ("map", "rarest_ap", "macro_f1", "macro_f1_at_half", "subset_accuracy")
        cells = [_mean_and_spread([float(row[key]) for row in own]) for key in keys]
        yield f"| {arm} | {' | '.join(cells)} | {len(own)} | {_where(own[-1])} |"


def _mean_and_spread(top1: list[float]) -> str:
    spread = statistics.stdev(top1) if len(top1) > 1 else 0.0
    return f"{statistics.fmean(top1):.2f} % ± {spread:.2f}"


def _between(text: str, begin: str, lines: list[str], end: str) -> str:
    """Returns the text with `lines` between its two marks."""
    before, rest = text.split(begin)
    _, after = rest.split(end)
    return "\n".join([f"{before}{begin}", *lines, f"{end}{after}"])


def read(name: str) -> list[Row]:
    """Returns the rows of a table under docs/results/; none where it was not measured yet."""
    path = RESULTS / name
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


_FORMER_NAMES = {"photos_scratch": "photos"}
"""What a recipe was called when its figures were measured."""

_GOALS = {
    "digits": ("98.5 %, 60 s", "test accuracy, handwritten digits, `residuum train`"),
    "resnet20_cifar10_fast": ("91.25 %, 20 min", "test accuracy, CIFAR-10, `resnet20_cifar10_fast`"),
    "photos_scratch": (
        "about 70 % is what scratch gives",
        "accuracy on the validation ants and bees (which also chose the epoch), `photos_scratch`",
    ),
}


def _training() -> Iterator[str]:
    rows = read("training.csv")
    for recipe, (goal, what) in _GOALS.items():
        runs = [row for row in rows if row["recipe"] in (recipe, _FORMER_NAMES.get(recipe))]
        if not runs:
            continue
        top1 = [float(row["top1"]) for row in runs]
        seconds = statistics.median(float(row["train_seconds"]) for row in runs)
        took = f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.1f} min"
        seeds = "1 seed" if len(runs) == 1 else f"{len(runs)} seeds"
        measured = f"{statistics.median(top1):.2f} % ({min(top1):.2f} to {max(top1):.2f}, {seeds}), {took}"
        yield f"| {what} | {measured} | {goal} | {_where(runs[-1])} |"


def _memory() -> Iterator[str]:
    words = {
        "million_files": ("a set of 1,000,000 files, peak memory of the process", "peak_mb", "under 500 MB"),
        "resnet1202_step": ("one update of ResNet-1202, 128 pictures in float32, peak memory", "peak_mb", "24 GB"),
        "ten_epochs_files": ("memory gained in ten epochs over a folder of photos", "growth_over_10_epochs_mb", "flat"),
        "ten_epochs_resident": ("memory gained in ten epochs over a resident set", "growth_over_10_epochs_mb", "flat"),
    }
    latest = {row["what"]: row for row in read("memory.csv")}
    for what, row in latest.items():
        text, key, goal = words[what]
        yield f"| {text} | {float(row[key]):.0f} MB | {goal} | {_where(row)} |"


def _startup() -> Iterator[str]:
    for row in read("startup.csv")[-1:]:
        times = f"{float(row['help_ms']):.0f} ms against {float(row['import_torch_ms']):.0f} ms"
        yield f"| `residuum --help` against `import torch` | {row['ratio']} x faster ({times}) | 10 x | {_where(row)} |"


def _vectors() -> Iterator[str]:
    for row in _latest(read("knn.csv"), "model"):
        what = f"CIFAR-10 by the {row['k']} nearest neighbours of {row['model']}'s vectors, against its classifier"
        measured = f"{float(row['knn_top1']):.2f} % against {float(row['classifier_top1']):.2f} %"
        yield f"| {what} | {measured} | within 0.7 points | {_where(row)} |"
    for row in _latest(read("embedding.csv"), "model"):
        speed = f"{int(row['bare_per_s']):,} pictures/s"
        measured = f"{row['memory_percent']} % in memory, {row['png_percent']} % as PNG (of {speed})"
        what = f"`residuum embed`, {int(row['pictures']):,} pictures of 32 px, {row['model']}, against the bare network"
        yield f"| {what} | {measured} | 90 % | {_where(row)} |"
    for row in _latest(read("search.csv"), "kind"):
        what = f"exact search among {int(row['vectors']):,} vectors of {row['dim']}, {row['kind']}"
        measured = f"{float(row['median_ms']):.0f} ms (all in float32: {float(row['full_precision_ms']):.0f} ms)"
        yield f"| {what} | {measured} | under 100 ms | {_where(row)} |"


def _latest(rows: list[Row], key: str) -> list[Row]:
    """Returns the last row of each kind."""
    return list({row[key]: row for row in rows}.values())


def _where(row: Row) -> str:
    return f"{row['machine']}, {row['cores']} cores, {row['date']}"


if __name__ == "__main__":
    sys.exit(main())
