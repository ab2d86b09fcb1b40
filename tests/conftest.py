"""Fixtures that several rooms share."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import PIL.Image
import pytest

from residuum.recipe import Augment, Data, Model, OneCycle, PadCrop, Recipe, Sgd

if TYPE_CHECKING:
    from residuum.training.run import Run

SCRIPTS = Path(__file__).parent.parent / "benchmarks"

# One test process a core: threads of several processes that share cores spend their time waiting for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The folder of real pictures that RESIDUUM_DATA names; the test is skipped where it names none."""
    named = os.environ.get("RESIDUUM_DATA")
    if not named:
        pytest.skip("RESIDUUM_DATA is not set: there are no real pictures to test on")
    folder = Path(named).resolve()
    if not folder.is_dir():
        pytest.fail(f"RESIDUUM_DATA names {folder}, which is not a folder")
    return folder


@pytest.fixture
def benchmarks(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Imports a module of benchmarks/, where they find each other."""
    monkeypatch.syspath_prepend(str(SCRIPTS))
    yield importlib.import_module
    for name in [name for name, module in sys.modules.items() if _is_script(module)]:
        del sys.modules[name]


def _is_script(module: object) -> bool:
    return str(getattr(module, "__file__", None) or "").startswith(f"{SCRIPTS}{os.sep}")


@pytest.fixture(scope="session")
def tiny() -> Recipe:
    """A recipe of three epochs of six updates in well under a second, with nearly everything switched on."""
    return Recipe(
        name="tiny",
        epochs=3,
        precision="fp32",
        average_decay=0.9,
        label_smoothing=0.1,
        accumulate=2,
        log_every_steps=2,
        model=Model("resnet20_cifar", width=0.25, drop_path=0.2),
        data=Data(
            "synthetic:96x3x8",
            img_size=8,
            resize_px=8,
            batch_size=8,
            eval_batch_size=32,
            val_fraction=0.25,
            test_fraction=0.25,
        ),
        augment=Augment(crop=PadCrop(px=1), flip="random", rotate=5.0, erasing=0.3, mixup=0.2, cutmix=0.5),
        optim=Sgd(lr=0.05, nesterov=True, clip_norm=1.0),
        schedule=OneCycle(),
    )


@pytest.fixture(scope="session")
def class_folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 66 pictures of different sizes in the class folders 2, 10 and bee: noise, each class around its own
    grey."""
    folder = tmp_path_factory.mktemp("pictures")
    random = np.random.default_rng(0)
    for name, grey in (("2", 40), ("10", 120), ("bee", 200)):
        (folder / name).mkdir()
        for number in range(22):
            size = (int(random.integers(9, 14)), int(random.integers(9, 14)), 3)
            pixels = np.clip(grey + random.integers(-55, 56, size), 0, 255).astype(np.uint8)
            PIL.Image.fromarray(pixels).save(folder / name / f"{number}.png")
    return folder


@pytest.fixture
def without_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spares a run the second that its drawings and its report take."""
    monkeypatch.setattr("residuum.training.summary.write_summary", lambda *_: None)


@pytest.fixture(scope="session")
def finished(tiny: Recipe, class_folders: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The tiny recipe's run on the class folders, from its first step to its report."""
    from residuum.training.train import train  # imports torch, which many tests do not need

    folder = tmp_path_factory.mktemp("runs") / "finished"
    return train(tiny, data=str(class_folders), out=folder, device="cpu")
