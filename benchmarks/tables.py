"""Writes the tables of README.md and of pages under docs/ from docs/results/, where the benchmarks leave their figures.

python benchmarks/tables.py          # writes them
python benchmarks/tables.py --check  # exits 1 where one is stale
"""

from __future__ import annotations

import csv
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path

from goals import AGREEMENT, GOALS, MINUTES_HIGH, STRETCH_MINUTES_HIGH, TOP1_HIGH, Goal

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "docs" / "results"
TRANSFER = ROOT / "docs" / "transfer.md"
BEGIN, END = "<!-- results: written by benchmarks/tables.py -->", "<!-- end of results -->"
TRANSFER_BEGIN, TRANSFER_END = "<!-- transfer: written by benchmarks/tables.py -->", "<!-- end of transfer -->"
SPEED_BEGIN, SPEED_END = "<!-- speed: written by benchmarks/tables.py -->", "<!-- end of speed -->"
CALIBRATION_BEGIN = "<!-- calibration: written by benchmarks/tables.py -->"
CALIBRATION_END = "<!-- end of calibration -->"
MULTILABEL_BEGIN = "<!-- multilabel: written by benchmarks/tables.py -->"
MULTILABEL_END = "<!-- end of multilabel -->"
LABELS_BEGIN, LABELS_END = "<!-- labels: written by benchmarks/tables.py -->", "<!-- end of labels -->"

Row = dict[str, str]


def main() -> int:
    """Writes or checks the tables."""
    stale = 0
    for file, with_tables in (
        (ROOT / "README.md", (with_results,)),
        (TRANSFER, (with_transfer, with_labels, with_multilabel)),
        (ROOT / "docs" / "speed.md", (with_speed,)),
        (ROOT / "docs" / "calibration.md", (with_calibration,)),
    ):
        old = new = file.read_text(encoding="utf-8")
        for with_table in with_tables:
            new = with_table(new)
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
        *_calibration(),
    ]
    return _between(readme, BEGIN, lines, END)


def with_transfer(text: str) -> str:
    """Returns the text of docs/transfer.md with its table written anew: a row for each set, a column for each arm."""
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
    return _between(text, TRANSFER_BEGIN, lines if rows else [], TRANSFER_END)


def with_multilabel(text: str) -> str:
    """Returns the text of docs/transfer.md with its table of several labels written anew: a row for each arm."""
    rows = read("multilabel.csv")
    head = "mAP | AP of the rarest | F1, mean of classes | the same at 0.5 | all answers right"
    lines = [f"| digits | {head} | seeds | machine, date |", f"|---|{'---|' * 7}"]
    for arm in dict.fromkeys(row["arm"] for row in rows):
        own = [row for row in rows if row["arm"] == arm]
        keys = ("map", "rarest_ap", "macro_f1", "macro_f1_at_half", "subset_accuracy")
        cells = [_mean_and_spread([float(row[key]) for row in own]) for key in keys]
        lines.append(f"| {arm} | {' | '.join(cells)} | {len(own)} | {_where(own[-1])} |")
    return _between(text, MULTILABEL_BEGIN, lines if rows else [], MULTILABEL_END)


def with_speed(text: str) -> str:
    """Returns the text of docs/speed.md with its table written anew: a row for each goal, measured or not."""
    rows = {row["name"]: row for row in read("speed.csv")}
    lines = ["| what | against | goal | measured | ours | peer | verdict | machine, date |", f"|{8 * '---|'}"]
    lines += [_compared(goal, rows.get(goal.name)) for goal in GOALS]
    lines += [_to_94_percent()]
    return _between(text, SPEED_BEGIN, lines, SPEED_END)


def _compared(goal: Goal, row: Row | None) -> str:
    what = goal.what + (f" ({goal.note})" if goal.note else "")
    if row is None:
        return f"| {what} | {goal.peer} | {goal.in_words()} | not measured | | | | |"
    measured = f"{row['ratio']} x ({row['ratio_low']} to {row['ratio_high']}, {_counted(int(row['turns']), 'turn')})"
    if row["mode"]:
        measured += f", {row['mode']}"
    if row.get("top1"):
        measured += f", {float(row['top1']):g} % reached"
    sides = f"{row['ours']} {row['unit']} | {row['peer']} {row['unit']}"
    start = f"| {what} | {goal.peer} | {goal.in_words()} | {measured} | {sides}"
    return f"{start} | {_verdict(goal, row)} | {_where(row)} |"


def _verdict(goal: Goal, row: Row) -> str:
    if goal.ratio is None:
        return ""
    if not goal.met_by(row):
        return "missed"
    reached = "met, and the stretch" if goal.stretch is not None and float(row["ratio"]) >= goal.stretch else "met"
    if row["mode"] and not row["agreement"]:
        return f"{reached} in speed; whether the answers agree was not measured"
    return reached + (f"; {row['agreement']} % of the answers agree ({AGREEMENT} % wanted)" if row["mode"] else "")


def _to_94_percent() -> str:
    """Returns the row of the fastest recipe whose median run reaches 94 % on CIFAR-10; where none does, of the best."""
    goal = f"under {MINUTES_HIGH} min (stretch {STRETCH_MINUTES_HIGH} min)"
    what = f"| time to {TOP1_HIGH:g} % on CIFAR-10 with a net whose every stage adds identity shortcuts | - | {goal} |"
    runs: dict[str, list[Row]] = {}
    for row in read("training.csv"):
        if row["data"] == "cifar10" and row["part"] == "test":
            runs.setdefault(row["recipe"], []).append(row)
    if not runs:
        return f"{what} not measured | | | | |"
    runs = {recipe: _alike(rows) for recipe, rows in runs.items()}
    minutes = {recipe: _median(rows, "train_seconds") / 60 for recipe, rows in runs.items()}
    top1 = {recipe: _median(rows, "top1") for recipe, rows in runs.items()}
    reached = [recipe for recipe in runs if top1[recipe] >= TOP1_HIGH]
    best = min(reached, key=minutes.__getitem__) if reached else max(runs, key=top1.__getitem__)
    verdict = "met" if reached and minutes[best] < MINUTES_HIGH else "missed"
    verdict += ", and the stretch" if verdict == "met" and minutes[best] < STRETCH_MINUTES_HIGH else ""
    own = [float(row["top1"]) for row in runs[best]]
    accuracy = f"{top1[best]:.2f} % ({min(own):.2f} to {max(own):.2f}, {_counted(len(own), 'seed')})"
    return f"{what} {minutes[best]:.1f} min, `{best}`: {accuracy} | | | {verdict} | {_where(runs[best][-1])} |"


def _median(rows: list[Row], key: str) -> float:
    return statistics.median(float(row[key]) for row in rows)


def _alike(rows: list[Row]) -> list[Row]:
    """Returns the rows of the same set, part, views and machine as the latest: a median is of nothing else."""
    keys = ("data", "part", "views", "machine", "cores")
    return [row for row in rows if all(row[key] == rows[-1][key] for key in keys)]


def _counted(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def with_calibration(text: str) -> str:
    """Returns the text of docs/calibration.md with its table written anew: a row for each network."""
    rows = list({(row["model"], row["data"]): row for row in read("calibration.csv")}.values())
    lines = [
        "| network | accuracy | temperature | calibration error: without, with | loss: without, with "
        "| 99 % right on the surest | answered by `auto`, right of these | pictures | machine, date |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        error = f"{float(row['ece_without']):.2f} %, {_within(row, 'ece')}"
        loss = f"{float(row['loss_without']):.3f}, {float(row['loss']):.3f}"
        auto = f"{float(row['answered_auto']):.1f} %, {float(row['accuracy_auto']):.2f} %"
        lines.append(
            f"| {row['model']} | {float(row['top1']):.2f} % | {float(row['temperature']):.3f} | {error} | {loss} "
            f"| {_within(row, 'coverage_at_99')} | {auto} | {int(row['images']):,} | {_where(row)} |"
        )
    return _between(text, CALIBRATION_BEGIN, lines if rows else [], CALIBRATION_END)


def _within(row: Row, key: str) -> str:
    """The mean over the seeds, and the lowest and the highest."""
    mean, low, high = (float(row[f"{key}{suffix}"]) for suffix in ("", "_min", "_max"))
    return f"{mean:.2f} % ({low:.2f} to {high:.2f})"


def with_labels(text: str) -> str:
    """Returns the text of docs/transfer.md with its table of wrong labels written anew: a row a way and share."""
    rows = read("labels.csv")
    lines = ["| way | wrong labels | found, of these | wrong, of what is found | seeds | machine, date |"]
    lines += ["|---|---|---|---|---|---|"]
    for way, share in dict.fromkeys((row["way"], row["flipped"]) for row in rows):
        own = [row for row in rows if (row["way"], row["flipped"]) == (way, share)]
        recall, precision = (_mean_and_spread([float(row[key]) for row in own]) for key in ("recall", "precision"))
        planted = f"{own[0]['planted']} ({100 * float(share):g} %)"
        lines.append(f"| {way} | {planted} | {recall} | {precision} | {len(own)} | {_where(own[-1])} |")
    return _between(text, LABELS_BEGIN, lines if rows else [], LABELS_END)


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


_GOALS = {
    "digits": ("98.5 %, 60 s", "test accuracy, handwritten digits, `residuum train`"),
    "resnet20_cifar10_fast": ("91.25 %, 20 min", "test accuracy, CIFAR-10, `resnet20_cifar10_fast`"),
    "swift_resnet7_cifar10_fast": (
        "94 %, 20 min",
        "test accuracy, CIFAR-10, `swift_resnet7_cifar10_fast`, by ten views of a picture (`--views shift`)",
    ),
    "photos_scratch": (
        "about 70 % is what scratch gives",
        "accuracy on the validation ants and bees (which also chose the epoch), `photos_scratch`",
    ),
}


def _training() -> Iterator[str]:
    rows = read("training.csv")
    for recipe, (goal, what) in _GOALS.items():
        runs = [row for row in rows if row["recipe"] == recipe]
        if not runs:
            continue
        runs = _alike(runs)
        top1 = [float(row["top1"]) for row in runs]
        seconds = _median(runs, "train_seconds")
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


def _calibration() -> Iterator[str]:
    for row in _latest(read("calibration.csv"), "model"):
        pictures = f"CIFAR-10's {row['part']} pictures, each half judged by the other's"
        what = f"calibration error with a temperature, {row['model']} on {pictures}"
        measured = f"{_within(row, 'ece')}, without it {float(row['ece_without']):.2f} %"
        yield f"| {what} | {measured} | under 1 % | {_where(row)} |"


def _latest(rows: list[Row], key: str) -> list[Row]:
    """Returns the last row of each kind."""
    return list({row[key]: row for row in rows}.values())


def _where(row: Row) -> str:
    return f"{row['machine']}, {row['cores']} cores, {row['date']}"


if __name__ == "__main__":
    sys.exit(main())
