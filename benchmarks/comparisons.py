"""The rows of benchmarks/against.py: which arms they need, and which of these are measured in one run."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from arms import HERE, ArmError, environment, once, told

from residuum.deploy.bench_startup import seconds, seconds_to_first_step
from residuum.deploy.photographs import photographs
from residuum.threads import cores
from residuum.timing import Measure

OURS, PEERS = str(HERE / "ours.py"), HERE / "peers"
PUBLISHED_BATCH = 128

_PHOTOS = 2_000  # at least; the same ones again where there are fewer
_CACHE_PX = 256

Words = list[str]


@dataclass(frozen=True)
class Size:
    """How much is measured: in full, or just enough to see that it works."""

    quick: bool
    turns: int
    photos: str | None = None
    bundle: str | None = None

    def flags(self, **full: int) -> Words:
        """Returns flags with their full values, or tiny ones."""
        tiny = {"steps": 2, "batch_size": 4, "img_size": 32, "pictures": 64}
        chosen = {name: min(value, tiny.get(name, value)) if self.quick else value for name, value in full.items()}
        return [word for name, value in chosen.items() for word in (f"--{name.replace('_', '-')}", str(value))]

    @property
    def compiler(self) -> Words:
        """Returns the flag that compiles; quickly by not compiling."""
        return ["--compile", "eager" if self.quick else "inductor"]


@dataclass(frozen=True)
class Together:
    """Rows whose arms are measured in one run: of each row, the arm that is ours and the peer's.

    What is measured is told in `unit`, after it was divided by `shared_by`. `needs` are the modules of an arm.
    """

    rows: Mapping[str, tuple[str, str]]
    arms: Callable[[Size, Path], Mapping[str, Words | Measure]]
    unit: str = "images/s"
    shared_by: int = 1
    needs: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def cifar(size: Size, _: Path) -> dict[str, Words | Measure]:
    """ResNet-20 on pictures of CIFAR's size, augmentation included."""
    how = size.flags(pictures=50_000, batch_size=128, steps=60)
    plain = str(PEERS / "plain_cifar.py")
    return {
        "ours": [OURS, "epoch", *how],
        "plain": [plain, *how],
        "compiled": [plain, *how, "--channels-last", *size.compiler],
        "product": [OURS, "product", *size.flags(batch_size=128, steps=60)],
    }


def network(model: str, steps: int, size: Size, _: Path) -> dict[str, Words | Measure]:
    """Training steps of one network on pictures that are ready."""
    how = size.flags(batch_size=32, img_size=224, steps=steps)
    timm = [str(PEERS / "plain_imagenet.py"), "timm", model, *how]
    return {
        "ours": [OURS, "step", "--model", model, *how],
        "eager": timm,
        "compiled": [*timm, "--bf16", "--channels-last", *size.compiler],
    }


def answers(size: Size, _: Path) -> dict[str, Words | Measure]:
    """ResNet-50's answers in all of our modes, and in other engines."""
    model = "resnet18" if size.quick else "resnet50"
    how = ["--model", model, *size.flags(batch_size=32, img_size=224, steps=10)]
    modes = told([OURS, "modes"])["modes"]
    peer = str(PEERS / "plain_inference.py")
    return {
        **{f"ours: {mode}": [OURS, "inference", "--mode", mode, *how] for mode in modes},
        **{engine: [peer, engine, *how] for engine in ("eager", "onnxruntime", "openvino")},
    }


def pictures(size: Size, place: Path) -> dict[str, Words | Measure]:
    """Photos to augmented batches, by all cores."""
    folder = place / "photos"
    least = 8 if size.quick else _PHOTOS
    if size.photos is None:
        photographs(folder, least)
    else:
        repeat(Path(size.photos), folder, least)
    how = [*size.flags(img_size=224, batch_size=64), "--workers", str(cores())]
    return {
        "ours": [OURS, "photos", "--data", str(folder), *how],
        "torchvision": [str(PEERS / "plain_photos.py"), str(folder), *how],
        "cache": [OURS, "photos", "--data", str(place / "cache"), *how],
    }


def beginnings(_size: Size, _: Path) -> dict[str, Words | Measure]:
    """How long programs take to begin."""
    return {
        "first step": seconds_to_first_step,
        "help": partial(seconds, ["-m", "residuum", "--help"]),
        "import timm": partial(seconds, ["-c", "import timm"]),
    }


def peaks(size: Size, _: Path) -> dict[str, Words | Measure]:
    """The most memory of a process that takes one step."""
    model = "resnet18" if size.quick else "resnet50"
    how = [*size.flags(batch_size=32, img_size=224), "--steps", "1", "--memory"]
    peer = [str(PEERS / "plain_imagenet.py"), "torchvision", model, *how]
    return {"ours": partial(once, [OURS, "step", "--model", model, *how]), "torchvision": partial(once, peer)}


def published(size: Size, _: Path) -> dict[str, Words | Measure]:
    """`resnet20_cifar10_2015` as it is: float32."""
    how = size.flags(pictures=50_000, batch_size=PUBLISHED_BATCH, steps=60)
    return {"published": [OURS, "epoch", "--precision", "fp32", *how]}


def repeat(source: Path, folder: Path, least: int) -> None:
    """Links the JPEG files of class folders into `folder`, again and again until there are enough of them."""
    files = sorted(file for file in source.rglob("*") if file.suffix.lower() in (".jpg", ".jpeg"))
    if not files:
        raise ArmError(f"there is no JPEG file in {source}")
    for number in range(-(-least // len(files))):
        for file in files:
            target = folder / file.parent.name / f"{number}-{file.name}"
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(file, target)
            except OSError:  # another disk
                shutil.copyfile(file, target)


def make_cache(place: Path) -> bool:
    """Makes a cache of the photos by the command that users have; says so where it has none."""
    words = ["-m", "residuum", "cache", str(place / "photos"), "--out", str(place / "cache"), "--px", str(_CACHE_PX)]
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, env=environment())
    if done.returncode != 0:
        reason = next(iter(done.stderr.strip().splitlines()), f"residuum cache ended with {done.returncode}")
        print(f"photos-cache: not measured: {reason}", flush=True)
    return done.returncode == 0


TIMM = {"eager": ("timm",), "compiled": ("timm",)}
GROUPS = (
    Together(
        {
            "cifar-plain": ("ours", "plain"),
            "cifar-compiled": ("ours", "compiled"),
            "cifar-product": ("ours", "product"),
        },
        cifar,
    ),
    Together(
        {"resnet18-eager": ("ours", "eager"), "resnet18-compiled": ("ours", "compiled")},
        partial(network, "resnet18", 5),
        needs=TIMM,
    ),
    Together(
        {"resnet50-eager": ("ours", "eager"), "resnet50-compiled": ("ours", "compiled")},
        partial(network, "resnet50", 3),
        needs=TIMM,
    ),
    Together(
        {
            "inference": ("ours", "eager"),
            "inference-onnxruntime": ("ours", "onnxruntime"),
            "inference-openvino": ("ours", "openvino"),
        },
        answers,
        needs={
            "eager": ("timm",),
            "onnxruntime": ("timm", "onnx", "onnxscript", "onnxruntime"),
            "openvino": ("timm", "openvino"),
        },
    ),
    Together(
        {"photos": ("ours", "torchvision"), "photos-cache": ("cache", "torchvision")},
        pictures,
        unit="images/s a core",
        shared_by=cores(),
    ),
    Together(
        {"first-step": ("first step", "import timm"), "help": ("help", "import timm")},
        beginnings,
        unit="s",
        needs={"import timm": ("timm",)},
    ),
    Together({"memory": ("ours", "torchvision")}, peaks, unit="MB"),
    Together({"cifar-time": ("published", "published")}, published, unit="s"),
)
