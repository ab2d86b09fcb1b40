"""Bundles made reliable: what is chosen, on which pictures, what it is worth, and that nothing is overwritten."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.special import log_softmax, softmax
from torch import Tensor, nn

import residuum
from residuum import bundle
from residuum.calibration import Calibration
from residuum.data.sources import open_single
from residuum.distributed import World
from residuum.errors import DataError, UsageError, WeightsError
from residuum.evaluation import metrics
from residuum.evaluation.calibrate import Collected, calibrate, collect, cross_fitted, fit, halves, in_words
from residuum.evaluation.temperature import fit_temperature
from residuum.models import saved
from residuum.models.convert import convert
from residuum.training.run import Run


class Batch(NamedTuple):
    images: Tensor
    labels: Tensor
    indices: NDArray[np.int64]


@pytest.fixture(scope="module")
def too_sure() -> Collected:
    """The logits of a network that is three times as sure as it should be, and what was right."""
    random = np.random.default_rng(0)
    true = random.normal(size=(4000, 6)) * 2
    cumulated = softmax(true, axis=1).cumsum(axis=1)
    labels = (cumulated < random.random((4000, 1))).sum(axis=1).clip(max=5)
    return Collected(np.arange(4000), (3 * true).astype(np.float32), labels)


def ece(collected: Collected, temperatures: float | NDArray[np.float64]) -> float:
    probs = softmax(collected.logits.astype(np.float64) / np.reshape(temperatures, (-1, 1)), axis=1)
    correct = collected.logits.argmax(axis=1) == collected.labels
    return 100 * metrics.calibration_error(metrics.calibration_bins(probs.max(axis=1), correct))


def test_what_is_found_is_worth_what_is_said(too_sure: Collected) -> None:
    found = fit(too_sure, "auto")
    assert found.temperature == pytest.approx(3, rel=0.05)
    facts = found.found
    assert facts["images"] == 4000
    assert facts["ece"] == pytest.approx(ece(too_sure, found.temperature))
    assert facts["uncalibrated"]["ece"] == pytest.approx(ece(too_sure, 1.0))
    log_probs = log_softmax(too_sure.logits.astype(np.float64), axis=1)
    assert facts["uncalibrated"]["loss"] == pytest.approx(-log_probs[np.arange(4000), too_sure.labels].mean())
    assert facts["ece"] < 2.5 < 10 < facts["uncalibrated"]["ece"]
    confidence = softmax(too_sure.logits.astype(np.float64) / found.temperature, axis=1).max(axis=1)
    assert found.unknown_below is not None
    answered = confidence >= found.unknown_below
    assert facts["coverage"] == pytest.approx(100 * answered.mean())
    assert 95 <= facts["coverage"] < 95.1
    right = too_sure.logits.argmax(axis=1) == too_sure.labels
    assert facts["accuracy"] == pytest.approx(100 * right[answered].mean())
    json.dumps(found.as_dict(), allow_nan=False)


def test_no_picture_judges_the_temperature_that_it_chose(too_sure: Collected) -> None:
    first = halves(4000)
    assert first.sum() == 2000
    temperatures = cross_fitted(too_sure)
    for half in (first, ~first):
        alone = fit_temperature(too_sure.logits[~half], too_sure.labels[~half])
        assert set(temperatures[half]) == {alone}
    assert len(set(temperatures)) == 2
    assert fit(too_sure).found["cross_fitted"]["ece"] == pytest.approx(ece(too_sure, temperatures))
    assert (halves(4000, seed=1) != first).any()


@pytest.mark.parametrize(("wanted", "below"), [("none", None), (0.25, 0.25), (0, 0.0)])
def test_a_threshold_may_be_given(too_sure: Collected, wanted: float, below: float | None) -> None:
    found = fit(too_sure, wanted)
    assert found.unknown_below == below
    assert ("coverage" in found.found) == (below is not None)


def test_a_few_pictures_choose_nothing_and_that_is_said(too_sure: Collected) -> None:
    few = Collected(*(column[:20] for column in (too_sure.indices, too_sure.logits, too_sure.labels)))
    found = fit(few, "auto")
    assert found.temperature == 1.0
    assert "cross_fitted" not in found.found
    assert "too few to choose a temperature: it stays at 1" in in_words(found, "20 validation pictures")
    assert found.found["coverage"] == 95.0
    enough = in_words(fit(too_sure, "auto"), "4,000 validation pictures")
    assert enough.startswith("Temperature ")
    assert "chosen on 4,000 validation pictures" in enough
    assert "Unknown below a probability of" in enough


def test_processes_collect_the_same_and_count_nothing_twice() -> None:
    model, random = nn.Linear(3, 4), torch.Generator().manual_seed(0)
    images, labels = torch.randn(10, 3, generator=random), torch.arange(10) % 4

    def batches(rows: list[int]) -> list[Batch]:
        return [Batch(images[row : row + 1], labels[row : row + 1], np.array([row])) for row in rows]

    class Two(World):
        def gather(self, item: object) -> list[object]:  # type: ignore[override]
            return [item, other]

    other: object = [
        Collected(batch.indices, model(batch.images).detach().numpy(), batch.labels.numpy())
        for batch in batches([1, 3, 4, 5])
    ]
    whole = collect(model, batches(list(range(10))), 4)
    shared = collect(model, batches([9, 8, 7, 6, 5, 4, 2, 0]), 4, world=Two())
    np.testing.assert_array_equal(shared.logits, whole.logits)
    np.testing.assert_array_equal(shared.labels, labels.numpy())
    with pytest.raises(DataError, match="no pictures"):
        collect(model, [], 4)
    with pytest.raises(DataError, match="3 classes"):
        collect(model, batches([0]), 3)


@pytest.fixture(scope="module")
def calibrated(finished: Run, class_folders: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The finished run's bundle, calibrated on all its pictures under other names, so that none is left out."""
    copy = tmp_path_factory.mktemp("elsewhere") / "pictures"
    for kind in class_folders.iterdir():
        (copy / kind.name).mkdir(parents=True)
        for file in kind.iterdir():
            (copy / kind.name / f"new-{file.name}").symlink_to(file)
    out = tmp_path_factory.mktemp("calibrated") / "new" / "bundle"
    done = calibrate(finished.folder / "best", str(copy), out=out, unknown_below="auto", device="cpu", batch_size=7)
    assert (done.folder, done.skipped, done.what) == (out, {}, str(copy))
    return out


def test_a_bundle_is_written_again_with_all_that_it_was(finished: Run, calibrated: Path) -> None:
    before, after = bundle.read(finished.folder / "best"), bundle.read(calibrated)
    assert before[0].keys() == after[0].keys()
    assert all((before[0][name] == after[0][name]).all() for name in before[0])
    assert {key: value for key, value in after[1].items() if key != "calibration"} == {
        key: value for key, value in before[1].items() if key != "calibration"
    }
    found = saved.load(calibrated).calibration
    assert found.temperature != 1.0
    assert found.found["images"] == 66
    assert found.found["uncalibrated"]["loss"] > found.found["loss"]


def test_predictions_and_scores_have_the_temperature(finished: Run, calibrated: Path, class_folders: Path) -> None:
    files = sorted(str(file) for file in class_folders.rglob("*.png"))
    plain = residuum.load(finished.folder / "best", device="cpu").predict(files, top=3)
    new = residuum.load(calibrated, device="cpu", unknown_below="none").predict(files, top=3)
    found = saved.load(calibrated).calibration
    losses = []
    for file, one, other in zip(files, plain, new, strict=True):
        assert [guess.label for guess in one.top] == [guess.label for guess in other.top]  # the order stays
        powers = np.array([guess.prob for guess in one.top]) ** (1 / found.temperature)
        assert [guess.prob for guess in other.top] == pytest.approx(list(powers / powers.sum()), abs=1e-5)
        losses.append(-np.log({guess.label: guess.prob for guess in other.top}[Path(file).parent.name]))
    assert np.mean(losses) == pytest.approx(found.found["loss"], abs=1e-5)
    scores = residuum.evaluate(calibrated, device="cpu")
    own = residuum.evaluate(finished.folder / "best", device="cpu")
    assert (scores.top1, scores.confusion.tolist()) == (own.top1, own.confusion.tolist())
    assert scores.loss != own.loss


def test_a_bundle_without_it_still_loads(finished: Run, tmp_path: Path) -> None:
    tensors, card = bundle.read(finished.folder / "best")
    bundle.write(tmp_path / "old", tensors, {key: value for key, value in card.items() if key != "calibration"})
    assert saved.load(tmp_path / "old").calibration == Calibration()
    bundle.write(tmp_path / "odd", tensors, {**card, "calibration": {"temperature": "warm"}})
    with pytest.raises(WeightsError, match="temperature"):
        saved.load(tmp_path / "odd")


def test_nothing_is_overwritten(finished: Run, calibrated: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for out in (finished.folder / "best", calibrated, tmp_path / "file", finished.folder):
        before = sorted((path, path.stat().st_mtime_ns) for path in finished.folder.rglob("*"))
        with pytest.raises(UsageError, match="There is something at") as caught:
            calibrate(finished.folder / "best", out=out, device="cpu")
        assert str(out) in caught.value.what
        assert sorted((path, path.stat().st_mtime_ns) for path in finished.folder.rglob("*")) == before


def test_the_part_that_training_held_out_is_taken_and_none_that_it_learnt(finished: Run, tmp_path: Path) -> None:
    best = finished.folder / "best"
    done = calibrate(best, out=tmp_path / "own", device="cpu")
    assert "part val as in training" in done.what
    assert done.calibration.found["images"] == len(finished.parts.val or ())
    for words in ({"split": "train"}, {"split": "Training", "data": finished.recipe.data.source}):
        with pytest.raises(UsageError, match="was trained on the part"):
            calibrate(best, **words, out=tmp_path / "no", device="cpu")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="unknown_below"):
        calibrate(best, out=tmp_path / "no", device="cpu", unknown_below=2.0)
    with pytest.raises(DataError):
        calibrate(best, str(tmp_path / "nowhere"), out=tmp_path / "no", device="cpu")
    with pytest.raises(WeightsError):
        calibrate(tmp_path, out=tmp_path / "no", device="cpu")
    assert not (tmp_path / "no").exists()


def test_a_set_whose_cache_it_was_trained_on_is_its_own_though_the_cache_is_gone(
    finished: Run, class_folders: Path, tmp_path: Path
) -> None:
    tensors, card = bundle.read(finished.folder / "best")
    del card["format"]
    card["data"] |= {"source": str(tmp_path / "gone"), "made_of": {"source": str(class_folders)}}
    bundle.write(tmp_path / "best", tensors, card)
    with pytest.raises(UsageError, match="was trained on the part"):
        calibrate(tmp_path / "best", str(class_folders), "train", out=tmp_path / "no", device="cpu")
    done = calibrate(tmp_path / "best", str(class_folders), out=tmp_path / "own", device="cpu")
    assert done.calibration.found["images"] == len(finished.parts.val or ())


def test_the_validation_part_of_another_set_comes_first(finished: Run, class_folders: Path, tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    for part in ("train", "test", "val"):
        (tmp_path / "set" / part).symlink_to(class_folders)
    best = finished.folder / "best"
    assert calibrate(best, str(tmp_path / "set"), out=tmp_path / "a", device="cpu").what.endswith("part val")
    (tmp_path / "set" / "val").unlink()
    assert calibrate(best, str(tmp_path / "set"), out=tmp_path / "b", device="cpu").what.endswith("part test")


def test_a_bar_in_the_name_of_a_class_is_a_letter(finished: Run, class_folders: Path, tmp_path: Path) -> None:
    """As in `evaluate`: such a network was trained on a table that was read so, and tables are read so for it."""
    tensors, card = bundle.read(finished.folder / "best")
    card = {key: value for key, value in card.items() if key != "format"} | {"classes": ["2", "10", "bee|wasp"]}
    bundle.write(tmp_path / "other", tensors, card)
    files = sorted(class_folders.glob("bee/*"))[:2] + sorted(class_folders.glob("2/*"))[:2]
    lines = [f"{file},{'bee|wasp' if file.parent.name == 'bee' else '2'}" for file in files]
    (tmp_path / "table.csv").write_text("\n".join(["path,label", *lines]) + "\n", "utf-8")
    done = calibrate(tmp_path / "other", str(tmp_path / "table.csv"), out=tmp_path / "out", device="cpu")
    assert done.calibration.found["images"] == 4


def test_what_was_measured_on_cifar10_is_under_one_percent() -> None:
    table = Path(__file__).parents[2] / "docs" / "results" / "calibration.csv"
    with table.open(newline="", encoding="utf-8") as file:
        rows = {row["model"]: row for row in csv.DictReader(file)}
    assert rows.keys() == {"resnet20_cifar", "resnet56_cifar"}
    for row in rows.values():
        assert float(row["ece_max"]) < 1 < float(row["ece_without"])
        assert int(row["images"]) == 10_000
        assert 0 < float(row["coverage_at_99"]) < 100


@pytest.mark.slow
@pytest.mark.data
def test_others_resnet20_is_as_sure_as_it_is_right_on_cifar10(data_folder: Path, tmp_path: Path) -> None:
    classes = open_single(str(data_folder / "cifar10"), "test", None).classes
    convert(data_folder / "weights" / "resnet20-12fca82f.th", "resnet20_cifar", tmp_path / "a", classes)
    found = calibrate(tmp_path / "a", str(data_folder / "cifar10"), "test", out=tmp_path / "b", device="cpu")
    facts = found.calibration.found
    assert facts["top1"] == pytest.approx(91.73, abs=0.02)
    assert facts["cross_fitted"]["ece"] < 1 < 5 < facts["uncalibrated"]["ece"]
