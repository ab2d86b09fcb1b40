"""The measurements of `residuum bench`: each measures what it says, on the paths that users have."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import PIL.Image
import pytest
import torch

from residuum.data.loading import TrainLoader
from residuum.deploy import bench, bench_startup
from residuum.deploy.bench import COLUMNS, Bench
from residuum.deploy.bench_inference import modes_of, opened
from residuum.deploy.bench_recipes import recipe_for_data, recipe_for_training
from residuum.deploy.photographs import HEIGHT, WIDTH, picture
from residuum.errors import ResourceError, UsageError
from residuum.models import create_model
from residuum.recipe import Recipe, ResizedCrop

CPU = torch.device("cpu")
TINY = {"model.width": 0.25, "data.img_size": 8, "data.resize_px": 8, "data.batch_size": 4}


@pytest.fixture(scope="module")
def trained() -> Bench:
    told: list[str] = []
    done = bench.train(changes=TINY, device="cpu", steps=3, turns=2, tell=told.append)
    assert told == ["step", "epoch", "loading", "loading", "epoch", "step", "step", "epoch", "loading"]
    return done


def test_training_is_measured_with_loading_and_without(trained: Bench) -> None:
    found = {arm.what: (arm.unit, arm.figure.count) for arm in trained.arms}
    assert found == {
        "step": ("images/s", 2), "epoch": ("images/s", 2), "loading": ("images/s", 2), "memory": ("MB", 1),
    }  # fmt: skip
    for arm in trained.arms:
        assert 0 < arm.figure.low <= arm.figure.median <= arm.figure.high
    assert trained.about["data"] == "synthetic:12x10x8"
    assert trained.about["model"] == "resnet20_cifar"
    assert trained.about["precision"] in ("fp32", "bf16")
    assert trained.notes[0] == "The pictures are random, and need no decoding."


def test_rows_have_every_column_and_go_through_a_table(trained: Bench) -> None:
    rows = trained.rows()
    assert all(list(row) == list(COLUMNS) for row in rows)
    assert all(row[column] != "" for row in rows for column in COLUMNS)
    file = io.StringIO()
    writer = csv.DictWriter(file, COLUMNS)
    writer.writerows(rows)
    assert len(file.getvalue().splitlines()) == len(rows)


def test_a_rate_counts_pictures_and_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 2.5])
    monkeypatch.setattr(bench, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    batch = bench.Batch(torch.zeros(5, 1), torch.zeros(5), np.arange(5), 0)
    assert bench.rate([batch] * 4, CPU) == 20 / 2.5


def test_loading_that_costs_much_is_remarked() -> None:
    def arm(what: str, rate: float) -> bench.Measured:
        return bench.Measured(what, "", "images/s", bench.Figure.of([rate]))

    assert list(bench._remarks_on_loading([arm("step", 100), arm("epoch", 75)])) == [
        "Loading costs 25 % of the speed of bare steps."
    ]
    assert list(bench._remarks_on_loading([arm("step", 100), arm("epoch", 95)])) == []


def test_the_recipe_is_the_one_of_training_without_what_is_not_its_speed() -> None:
    chosen, notes = recipe_for_training("resnet20_cifar10_fast", "digits", {"lr": 0.5}, 20)
    assert (chosen.data.source, chosen.optim.lr, chosen.augment.start_px) == ("digits", 0.01, 0)
    assert notes == ["The pictures are of 32 pixels throughout, as at the recipe's end."]
    assert (chosen.save_every_minutes, chosen.early_stop_epochs, chosen.model.weights) == (0, 0, "none")


def test_without_pictures_they_are_random_ones_of_the_networks_size() -> None:
    chosen, _ = recipe_for_training(None, None, {"model": "resnet50", "batch_size": 32}, 20)
    assert chosen.data.source == "synthetic:640x10x224"
    assert (chosen.model.name, chosen.data.img_size, chosen.data.val_fraction) == ("resnet50", 224, 0.0)
    large, _ = recipe_for_training("resnet50_imagenet_strong", None, {}, 20)
    assert large.data.source == "synthetic:2048x10x224"  # two batches, not 20 of 1,024 pictures


def test_loading_is_measured_by_the_recipe_that_is_meant() -> None:
    usual = recipe_for_data(None, "photos", {})
    assert (usual.data.img_size, usual.augment.crop, usual.augment.flip) == (224, ResizedCrop(), "random")
    assert usual.data.workers >= 1
    assert recipe_for_data(None, "cifar10", {}).name == "resnet20_cifar10_fast"
    assert recipe_for_data(None, "photos", {"workers": 3}).data.workers == 3
    assert recipe_for_data("digits", "photos", {}).data.img_size == 16


def test_loading_counts_each_core(class_folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("residuum.deploy.bench.cores", lambda: 4)
    done = bench.data(data=str(class_folders), changes={"img_size": 8, "batch_size": 8}, device="cpu", steps=2, turns=1)
    found = {arm.what: arm.figure.median for arm in done.arms}
    assert list(found) == ["training", "evaluation", "training, a core", "evaluation, a core"]
    assert found["training, a core"] == pytest.approx(found["training"] / 4)
    assert done.about["data"] == str(class_folders)


def test_loading_without_pictures_makes_photographs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("residuum.deploy.bench.PHOTOGRAPHS", 6)
    done = bench.data(changes={"img_size": 16, "batch_size": 2}, device="cpu", steps=2, turns=1)
    assert done.about["data"] == "6 photographs made for this"
    assert all(arm.figure.low > 0 for arm in done.arms)


def test_a_photograph_is_as_large_as_ones_of_a_camera() -> None:
    """ImageNet's files of 500 x 375 pixels have 110 kB on the average."""
    file = io.BytesIO()
    made = picture(np.random.default_rng(1), WIDTH, HEIGHT)
    assert made.size == (500, 375)
    made.save(file, "JPEG", quality=90)
    assert 40_000 < len(file.getvalue()) < 180_000
    assert np.array_equal(made, picture(np.random.default_rng(1), WIDTH, HEIGHT))


def test_a_loader_of_a_recipe_is_cut_short(class_folders: Path) -> None:
    training, evaluation = bench.loaders(recipe_for_data(None, str(class_folders), {"batch_size": 8}), CPU, 2)
    assert isinstance(training, TrainLoader)
    assert len(list(training.epoch(0))) == 2
    assert sum(len(batch.labels) for batch in evaluation) == 66


def test_inference_is_measured_in_every_mode() -> None:
    done = bench.infer("resnet20_cifar", batch_size=2, img_size=8, device="cpu", steps=2, turns=1)
    modes = [arm.what for arm in done.arms]
    assert modes[0] == "fp32"
    assert modes[-1] == "memory"
    assert (done.about["data"], done.about["img_size"]) == ("random", 8)


def test_every_mode_answers_nearly_as_float32_does() -> None:
    network = create_model("resnet20_cifar", num_classes=10).eval()
    images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    modes = modes_of(network, CPU)
    with torch.inference_mode():
        expected = network(images)
        for mode in modes.values():
            close = torch.nn.functional.cosine_similarity(mode.forward(images).float(), expected)
            assert float(close.min()) > 0.99


def test_with_pictures_it_says_how_far_the_modes_agree(finished: object, class_folders: Path) -> None:
    folder = finished.folder / "best"  # type: ignore[attr-defined]
    done = bench.infer(str(folder), data=str(class_folders), batch_size=16, device="cpu", steps=9, turns=1)
    agreed = [arm for arm in done.arms if arm.unit == "%"]
    assert len(agreed) == len([arm for arm in done.arms if arm.unit == "images/s"]) - 1
    assert all(arm.meaning == "of 66 pictures, the same answer as fp32" for arm in agreed)
    assert all(80 <= arm.figure.median <= 100 for arm in agreed)
    assert done.notes == ()


def test_a_bundle_keeps_its_size(finished: object) -> None:
    folder = str(finished.folder / "best")  # type: ignore[attr-defined]
    with pytest.raises(UsageError, match="is for pictures of 8 pixels, not 32"):
        opened(folder, CPU, 32)


def test_a_network_that_does_not_exist_is_refused() -> None:
    with pytest.raises(UsageError, match="Did you mean resnet50"):
        bench.infer("resnet5O", device="cpu")


def test_a_process_is_timed_until_what_is_awaited() -> None:
    words = ["-c", "import sys, time; print('step 1/2', file=sys.stderr, flush=True); time.sleep(60)"]
    assert 0 < bench_startup._seconds_until("step 1/", words) < 30


@pytest.mark.parametrize(
    ("awaited", "script"), [("step 1/", "pass"), (None, "raise SystemExit('it is broken')"), ("step 1/", "1 / 0")]
)
def test_a_process_that_does_not_do_it_is_an_error(awaited: str | None, script: str) -> None:
    with pytest.raises(ResourceError, match=r"ended with the code \d"):
        bench_startup._seconds_until(awaited, ["-c", script])


def test_a_processs_time_is_that_of_its_work() -> None:
    assert bench_startup.seconds(["-S", "-c", "import time; time.sleep(0.2)"]) > 0.2


@pytest.mark.slow
def test_a_run_is_timed_to_its_first_step() -> None:
    found = bench_startup.startup(device="cpu", turns=1)
    times = {arm.what: arm.figure.median for arm in found.arms}
    assert times["help"] < times["import torch"] < times["first step"]


def test_a_photo_is_a_jpeg_in_a_class_folder(tmp_path: Path) -> None:
    bench.photographs(tmp_path, 4, width=20, height=10)
    files = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.jpg"))
    assert files == ["ants/0.jpg", "ants/2.jpg", "bees/1.jpg", "bees/3.jpg"]
    with PIL.Image.open(tmp_path / files[0]) as opened_file:
        assert (opened_file.format, opened_file.size) == ("JPEG", (20, 10))


def test_a_recipe_of_ones_own_is_measured(tiny: Recipe) -> None:
    done = bench.train(tiny, device="cpu", steps=1, turns=1)
    assert done.about["recipe"] == "tiny"
    assert {arm.what for arm in done.arms} >= {"step", "epoch", "loading"}
