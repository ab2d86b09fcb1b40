"""Measures what README and docs claim, and writes it into docs/results/ with machine, versions, seed and date.

    python benchmarks/measure.py digits [--seeds 3]
    python benchmarks/measure.py cifar --data SHARDS [--seeds 3]     # to 91.25 %, ResNet-20
    python benchmarks/measure.py cifar94 --data SHARDS [--seeds 3]   # to 94 %, Swift ResNet-7
    python benchmarks/measure.py photos|photos_probe|photos_scratch --data FOLDER [--seeds 3]
    python benchmarks/measure.py memory
    python benchmarks/measure.py resnet1202
    python benchmarks/measure.py startup [--runs 15]

Leave the machine alone while it measures times. Every figure is of a whole process, such as `residuum train`.
A training that is repeated with its seed, on the same set and machine, takes the place of the older one.
"""

from __future__ import annotations

import argparse
import csv
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import torch

from residuum import hardware
from residuum.data.class_names import CLASS_NAMES

RESULTS = Path(__file__).resolve().parent.parent / "docs" / "results"
_PHOTOS = ("photos", "photos_probe", "photos_scratch")
_RECIPES = {"cifar": "resnet20_cifar10_fast", "cifar94": "swift_resnet7_cifar10_fast"}
_SHIFTED = ("swift_resnet7_cifar10_fast",)
"""Recipes whose networks are scored by the mean over each picture, mirrored and moved a little, as by their source."""
_PICTURES_OF = {"cifar10": 60_000, "cifar100": 60_000}


def main() -> None:
    """Measures what the first argument names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("digits", *_RECIPES, *_PHOTOS, "memory", "resnet1202", "startup"))
    parser.add_argument("--data")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--runs", type=int, default=15)
    arguments = parser.parse_args()
    if arguments.what == "startup":
        startup(arguments.runs)
    elif arguments.what == "memory":
        memory()
    elif arguments.what == "resnet1202":
        peak("resnet1202_step", _RESNET1202)
    else:
        recipe = _RECIPES.get(arguments.what, arguments.what)
        for seed in range(arguments.first_seed, arguments.first_seed + arguments.seeds):
            training(recipe, arguments.data, seed)


def training(recipe: str, data: str | None, seed: int) -> None:
    """Trains once from the command line and writes accuracy and seconds, of the training and of the whole command; both
    with what looking at several views takes, where a recipe is scored by them."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "residuum", "train", "--recipe", recipe, "--seed", str(seed), "--json", "-q"]
        command += ["--out", f"{folder}/run", *(["--data", data] if data else [])]
        started = time.perf_counter()
        said = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        whole = time.perf_counter() - started
        result = json.loads(said)
        environment = json.loads(Path(folder, "run", "env.json").read_text())
        pictures = json.loads(Path(folder, "run", "data.json").read_text())
        if recipe in _SHIFTED:
            started = time.perf_counter()
            command = [sys.executable, "-m", "residuum", "evaluate", f"{folder}/run/best", "--views", "shift"]
            command += ["--precision", environment["precision"], "--json"]
            said = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            looked = time.perf_counter() - started
            result |= {"top1": json.loads(said)["top1"], "seconds": result["seconds"] + looked}
            whole += looked
    write(
        "training.csv",
        instead_of=("recipe", "data", "seed", "machine", "cores"),
        recipe=recipe,
        data=kind_of_set(pictures),
        seed=seed,
        part=result["part"],
        images=result["images"],
        views="shift" if recipe in _SHIFTED else "one",
        top1=round(result["top1"], 3),
        train_seconds=round(result["seconds"], 1),
        command_seconds=round(whole, 1),
        precision=environment["precision"],
    )


def kind_of_set(pictures: Mapping[str, Any]) -> str:
    """Returns the set that a run's data.json is of: wherever its files lie, one that is known by name if all of
    it is there and has that one's classes; else the name of its folder."""
    count = sum(sum(classes.values()) for classes in pictures["counts"].values())
    for name, whole in _PICTURES_OF.items():
        if tuple(pictures["classes"]) == CLASS_NAMES[name] and count == whole:
            return name
    return Path(pictures["source"]).absolute().name


def startup(runs: int) -> None:
    """Times `residuum --help` against `python -c "import torch"`, in turn; writes medians and their ratio."""
    arms = {"help": ["-m", "residuum", "--help"], "import_torch": ["-c", "import torch"]}
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    for turn in range(runs + 1):
        for name, arguments in arms.items():
            started = time.perf_counter()
            subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
            if turn:  # the first turn warms the file cache
                seconds[name].append(time.perf_counter() - started)
    middle = {name: statistics.median(values) for name, values in seconds.items()}
    write(
        "startup.csv",
        runs=runs,
        help_ms=round(1000 * middle["help"], 1),
        import_torch_ms=round(1000 * middle["import_torch"], 1),
        ratio=round(middle["import_torch"] / middle["help"], 1),
    )


def memory() -> None:
    """Writes the peak memory of a set of a million files, and resident memory after each of ten epochs."""
    for what, script in (("million_files", _MILLION), ("ten_epochs_files", _FILES), ("ten_epochs_resident", _RESIDENT)):
        peak(what, script)


def peak(what: str, script: str) -> None:
    """Runs a script in a process of its own and writes the figures that it prints as JSON in its last line."""
    said = subprocess.run([sys.executable, "-c", script], check=True, stdout=subprocess.PIPE, text=True).stdout
    write("memory.csv", what=what, **json.loads(said.splitlines()[-1]))


_RSS = """
import json, os, tempfile
from pathlib import Path
def rss_mb():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6
def peak_mb():  # of this process alone: ru_maxrss would begin with its parent's
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024 / 1e6
"""

_MILLION = (
    _RSS
    + """
from residuum.data import folders
images = folders.synthetic(1_000_000)
assert len(images) == 1_000_000 and images.name(999_999)
print(json.dumps({"entries": len(images), "after_mb": round(rss_mb(), 1), "peak_mb": round(peak_mb(), 1)}))
"""
)

_EPOCHS = """
import numpy, torch
from residuum import memory, recipe
from residuum.data.loading import TrainLoader
from residuum.data.sources import open_parts
from residuum.imaging import Preprocessing
memory.keep_freed()
data = recipe.Data(source, img_size=side, resize_px=side, batch_size=64, val_fraction=0.0)
parts = open_parts(data)
look = Preprocessing("RGB", side, side, "bilinear", (0.5,) * 3, (0.5,) * 3)
augment = recipe.Augment(crop=crop, flip="random")
loader = TrainLoader(parts.train, data, augment, look, seed=0, device=torch.device("cpu"), channels_last=True)
after = []
for epoch in range(11):
    for batch in loader.epoch(epoch):
        pass
    after.append(round(rss_mb(), 1))
growth = after[-1] - after[1]
print(json.dumps({"entries": len(parts.train), "after_mb": after[-1], "peak_mb": round(peak_mb(), 1),
                  "growth_over_10_epochs_mb": round(growth, 1)}))
"""

_FILES = (
    _RSS
    + """
from PIL import Image
import numpy
from residuum import recipe
folder = tempfile.TemporaryDirectory()
source, side, crop = folder.name, 96, recipe.ResizedCrop()
draw = numpy.random.default_rng(0)
for label in "ab":
    Path(source, label).mkdir()
    for number in range(400):
        pixels = draw.integers(0, 256, (160, 200, 3), dtype=numpy.uint8)
        Image.fromarray(pixels).save(Path(source, label, f"{number}.jpg"))
"""
    + _EPOCHS
)

_RESIDENT = (
    _RSS + 'from residuum import recipe\nsource, side, crop = "synthetic:20000x10x32", 32, recipe.PadCrop()\n' + _EPOCHS
)


_RESNET1202 = (
    _RSS
    + """
import torch
from residuum import recipe
from residuum.models import create_model
from residuum.training import optim
batch = 128
model = create_model("resnet1202_cifar", checkpoint_activations=True).to(memory_format=torch.channels_last)
optimizer = optim.build(recipe.Sgd(), model)
images = torch.randn(batch, 3, 32, 32).contiguous(memory_format=torch.channels_last)
torch.nn.functional.cross_entropy(model(images), torch.arange(batch) % 10).backward()
optimizer.step()
print(json.dumps({"entries": batch, "after_mb": round(rss_mb(), 1), "peak_mb": round(peak_mb(), 1)}))
"""
)


def write(name: str, *, instead_of: Sequence[str] = (), **row: object) -> None:
    """Appends a row to a table under docs/results/, and shows it; rows that agree with it in all of `instead_of` go."""
    about = hardware.describe(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    versions = about["versions"]
    assert isinstance(versions, dict)
    row |= {
        "date": date.today().isoformat(),
        "machine": about["device"],
        "cores": about["cores"],
        "torch": versions["torch"],
        "residuum": versions.get("residuum", "source"),
    }
    path = RESULTS / name
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [old for old in _read(path) if not instead_of or any(old[key] != str(row[key]) for key in instead_of)]
    columns = list(dict.fromkeys([*(rows[0] if rows else ()), *row]))
    aside = path.with_name(f".{path.name}.writing")
    with aside.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows([*rows, row])
    aside.replace(path)
    print(json.dumps(row), flush=True)


def _read(path: Path) -> Sequence[dict[str, str]]:
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


if __name__ == "__main__":
    main()
