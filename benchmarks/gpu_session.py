"""What the parts of benchmarks/gpu.py share: the device, the time that is left, rows, pictures and the clock."""

from __future__ import annotations

import csv
import gc
import hashlib
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cache, cached_property
from pathlib import Path

import torch

from residuum import hardware, software
from residuum.data.parquet import shards_of
from residuum.errors import DataError
from residuum.recipe import Recipe, override

COLUMNS = (
    "part", "what", "seed", "value", "unit", "low", "high", "goal", "met", "note", "changes",
    "seconds", "date", "machine", "cores", "torch", "cuda", "residuum", "commit",
)  # fmt: skip

Row = dict[str, str]

CIFAR10_TRAIN = 50_000


@dataclass
class Session:
    """One call of one part: on which device, with which pictures, how long, and where its rows go.

    `tiny` makes everything small enough for a CPU and a few seconds. `cache` keeps shards, runs and whatever else a
    later call goes on with: one on the same machine, with the same versions and changes.
    """

    device: torch.device
    out: Path
    cache: Path
    part: str = ""
    limit_s: float = 540.0
    seeds: int | None = None
    held_out: int = 0
    compiles: bool = True
    tiny: bool = False
    changes: Mapping[str, str] = field(default_factory=dict)
    started: float = field(default_factory=time.perf_counter)

    @property
    def left_s(self) -> float:
        """The seconds that are left of the part's limit."""
        return self.limit_s - (time.perf_counter() - self.started)

    @property
    def changed(self) -> str:
        """What --set changes, as a word of a row."""
        return " ".join(f"{key}={value}" for key, value in sorted(self.changes.items())) or "as it is"

    @cached_property
    def here(self) -> Row:
        """Of which part, where, by which software and with what changed this measures: only rows that agree are one
        measurement. A commit counts with and without files that were changed since, for rows are written meanwhile."""
        about = hardware.describe(self.device)
        versions = about["versions"]
        assert isinstance(versions, dict)
        changes = [f"{key}={value}" for key, value in sorted(self.changes.items())]
        changes += [f"held-out={self.held_out}"] * bool(self.held_out) + ["no-compile"] * (not self.compiles)
        return {
            "part": self.part,
            "changes": " ".join(changes),
            "machine": str(about["device"]),
            "cores": str(about["cores"]),
            "torch": str(versions["torch"]),
            "cuda": torch.version.cuda or "",
            **_software(),
        }

    def say(self, text: str) -> None:
        """Prints what is being done, with the seconds since the part began."""
        print(f"[{self.part} {time.perf_counter() - self.started:6.1f} s] {text}", flush=True)

    def row(self, what: str, value: float, unit: str, **more: object) -> None:
        """Appends a row to the CSV at once, so that a call that is cut loses nothing, and says it."""
        row: dict[str, object] = {
            **self.here,
            "what": what,
            "value": f"{value:.6g}",
            "unit": unit,
            "seconds": f"{time.perf_counter() - self.started:.1f}",
            "date": datetime.now(UTC).date().isoformat(),
            **{key: f"{value:.6g}" if isinstance(value, float) else value for key, value in more.items()},
        }
        _with_all_columns(self.out)
        with self.out.open("a", newline="", encoding="utf-8") as file:
            csv.DictWriter(file, COLUMNS, restval="").writerow(row)
        extra = "  ".join(
            f"{key} {row[key]}" for key in ("seed", "low", "high", "goal", "met", "note") if row.get(key, "") != ""
        )
        self.say(f"{what}: {row['value']} {unit}  {extra}".rstrip())

    def goal(self, what: str, value: float, unit: str, goal: float, *, at_most: bool = False, note: str = "") -> None:
        """A row with the goal that the value is held to."""
        met = value <= goal if at_most else value >= goal
        words = f"at most {goal:g}" if at_most else f"at least {goal:g}"
        self.row(what, value, unit, goal=words, met="yes" if met else "no", note=note)

    def rows(self, what: str) -> list[Row]:
        """The rows of `what` that are there, of this call and of earlier ones that measured the same."""
        wanted = {"what": what, **self.here}
        return [row for row in read(self.out) if all(_clean(row.get(key)) == _clean(wanted[key]) for key in wanted)]

    def run_folder(self, wanted: Recipe) -> Path:
        """Where a run of a recipe lies: apart from those of other recipes, seeds, machines and versions."""
        here = {key: _clean(value) for key, value in self.here.items()}
        digest = hashlib.sha256(f"{replace(wanted, seed=0)} {sorted(here.items())}".encode()).hexdigest()
        return self.cache / "runs" / f"{self.part}-{wanted.seed}-{digest[:12]}"

    def recipe(self, recipe: Recipe, **more: object) -> Recipe:
        """Returns the recipe on the session's pictures, with what the command line changes; small if `tiny`."""
        changes: dict[str, object] = {**more}
        if self.held_out:
            changes["data.val_fraction"] = self.held_out / CIFAR10_TRAIN
        changes |= self.changes
        if self.tiny:
            changes |= {
                "data.source": "synthetic:60x3x8", "img_size": 8, "data.resize_px": 8, "batch_size": 16,
                "model.width": 0.0625 if recipe.model.name.startswith("swift") else 0.25, "epochs": 2,
                "data.val_fraction": 0.2, "data.test_fraction": 0.2, "log_every_steps": 2, "augment.start_px": 0,
            }  # fmt: skip
        return override(recipe, changes)

    def has_cifar10(self) -> bool:
        """Whether all shards of CIFAR-10 are in the cache; says which are."""
        if self.tiny:
            return True
        folder = self.cache / "cifar10"
        try:
            names = [shard.name for shard in shards_of(folder)]
        except DataError as error:
            self.say(f"CIFAR-10 is not complete: {error.what}")
            return False
        complete = {"train", "test"} <= {name.split("-")[0] for name in names}
        if not complete:
            self.say(
                f"CIFAR-10 is not there: of it {folder} holds {', '.join(names) or 'nothing'}. Give --data FOLDER."
            )
        return complete


def gather(data: Path, cache: Path) -> list[str]:
    """Copies the Parquet shards of CIFAR-10 in `data` to the cache, beside those of earlier calls; returns their names.

    Of a set that is too large to be brought along at once, each call may bring a shard.
    """
    folder = cache / "cifar10"
    folder.mkdir(parents=True, exist_ok=True)
    for shard in sorted(data.glob("*.parquet")):
        if not (folder / shard.name).exists():
            aside = folder / f".{shard.name}"
            shutil.copyfile(shard, aside)
            aside.replace(folder / shard.name)
    return sorted(file.name for file in folder.glob("*.parquet"))


def _with_all_columns(path: Path) -> None:
    """Begins a table that is not there, and gives an older one the columns that it lacks."""
    rows = read(path)
    if rows and tuple(rows[0]) == COLUMNS:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.writing")
    with aside.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, restval="")
        writer.writeheader()
        writer.writerows(rows)
    aside.replace(path)


def _clean(value: str | None) -> str:
    """Returns a value of a row; of a commit without the word that files were changed since."""
    return (value or "").removesuffix("-dirty")


@cache
def _software() -> Row:
    """Which residuum measures, asked once: what is written on the way would make a checkout look changed."""
    origin = software.origin()
    return {"residuum": origin["version"] or "", "commit": origin["commit"] or ""}


def read(path: Path) -> list[Row]:
    """Returns the rows of a CSV file; none where there is no file."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def wait_for(device: torch.device) -> None:
    """Waits until the device has done all that it was asked for."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds_of(device: torch.device, work: Callable[[], object], times: int = 1) -> float:
    """Returns how long `work` takes, the mean of so many times in a row."""
    wait_for(device)
    began = time.perf_counter()
    for _ in range(times):
        work()
    wait_for(device)
    return (time.perf_counter() - began) / times


def interleaved(
    session: Session, arms: Mapping[str, Callable[[], object]], *, rounds: int, times: int, warm_up: int = 3
) -> dict[str, list[float]]:
    """Returns the seconds of each arm in each round, after a warm-up; the arms take turns, and their order rotates.

    It ends early, after a whole round, where the session's time is up. An arm that fails is left out, and said.
    """
    found: dict[str, list[float]] = {}
    for name, work in arms.items():
        session.say(f"warming up {name}")
        try:
            seconds_of(session.device, work, warm_up)
        except (RuntimeError, AssertionError) as error:
            session.say(f"{name} does not run here and is left out: {type(error).__name__}: {str(error)[:300]}")
        else:
            found[name] = []
    names = list(found)
    for number in range(rounds):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            found[name].append(seconds_of(session.device, arms[name], times))
        if session.left_s < 0:
            session.say(f"the time is up after {number + 1} of {rounds} rounds")
            break
    return found


def spread(values: list[float]) -> dict[str, float]:
    """Returns the least and the largest, for a row."""
    return {"low": min(values), "high": max(values)}


def median(values: list[float]) -> float:
    """Returns the median."""
    return statistics.median(values)


@contextmanager
def as_torch_comes() -> Iterator[None]:
    """What others write runs with torch's own number formats in float32, not with those that residuum has set."""
    conv, matmul = torch.backends.cudnn.conv, torch.backends.cuda.matmul
    ours = conv.fp32_precision, matmul.fp32_precision
    conv.fp32_precision, matmul.fp32_precision = _AS_IT_COMES
    try:
        yield
    finally:
        conv.fp32_precision, matmul.fp32_precision = ours


_AS_IT_COMES = torch.backends.cudnn.conv.fp32_precision, torch.backends.cuda.matmul.fp32_precision


@contextmanager
def scratch() -> Iterator[Path]:
    """A folder that is gone afterwards; what a part has left on the device goes too."""
    with tempfile.TemporaryDirectory(prefix="residuum-gpu-") as folder:
        yield Path(folder)
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
