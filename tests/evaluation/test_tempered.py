"""Scores with temperatures: those of scikit-learn with the probabilities worked out here, alone and together."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.special import log_softmax, softmax
from sklearn.metrics import log_loss
from torch import Tensor, nn

import residuum
from residuum import bundle
from residuum.evaluation.coverage import ACCURACIES
from residuum.evaluation.evaluate import evaluate
from residuum.evaluation.tempered import Tempered, evaluate_both
from residuum.evaluation.trained import evaluate_in_full
from residuum.training.run import Run

CLASSES = ("a", "b", "c", "d")


class Batch(NamedTuple):
    images: Tensor
    labels: Tensor
    indices: NDArray[np.int64]


@pytest.fixture(scope="module")
def batch() -> Batch:
    random = torch.Generator().manual_seed(0)
    logits = 4 * torch.randn(400, 4, generator=random)
    labels = torch.where(torch.rand(400, generator=random) < 0.8, logits.argmax(1), torch.arange(400) % 4)
    return Batch(logits, labels, np.arange(400))


@pytest.mark.parametrize("temperature", [0.4, 1.0, 2.5])
def test_one_network(batch: Batch, temperature: float) -> None:
    plain, said = evaluate(nn.Identity(), [batch], CLASSES)
    scores, predictions, told = evaluate_both(Tempered(nn.Identity(), temperature), [batch], CLASSES, unknown_below=0.7)
    probs = softmax(batch.images.double().numpy() / temperature, axis=1)
    assert scores.loss == pytest.approx(
        -log_softmax(batch.images.double().numpy() / temperature, axis=1)[np.arange(400), batch.labels].mean()
    )
    assert (scores.top1, scores.top5, scores.confusion.tolist()) == (plain.top1, plain.top5, plain.confusion.tolist())
    np.testing.assert_array_equal(predictions.top, said.top)
    np.testing.assert_allclose(predictions.probs[:, 0], probs.max(axis=1), rtol=1e-12)
    assert told.uncalibrated.as_dict() == plain.as_dict()
    assert told.tempered == (temperature != 1)
    answered = probs.max(axis=1) >= 0.7
    assert told.chosen == pytest.approx((0.7, answered.mean(), predictions.correct[answered].mean()))


def test_what_is_told_is_json_and_what_it_says_is_so(batch: Batch) -> None:
    _, predictions, told = evaluate_both(Tempered(nn.Identity(), 2.0), [batch], CLASSES)
    said = told.as_dict()
    assert json.loads(json.dumps(said, allow_nan=False)) == said
    assert list(said) == ["calibration", "coverage"]
    coverage = said["coverage"]
    assert isinstance(coverage, dict)
    assert (coverage["unknown_below"], coverage["answered"]) == (None, 100.0)
    assert coverage["accuracy"] == pytest.approx(100 * predictions.correct.mean())
    assert [row["accuracy"] for row in coverage["at_accuracy"]] == [100 * accuracy for accuracy in ACCURACIES]
    for row in coverage["at_accuracy"]:
        if row["threshold"] is None:
            assert row["coverage"] == 0
            continue
        answered = predictions.probs[:, 0] >= row["threshold"]
        assert row["coverage"] == pytest.approx(100 * answered.mean())
        assert predictions.correct[answered].mean() >= row["accuracy"] / 100 - 1e-9


@pytest.fixture(scope="module")
def warm(finished: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The finished run's bundle with a temperature and a threshold, and with other weights in its classifier."""
    tensors, card = bundle.read(finished.folder / "best")
    folder = tmp_path_factory.mktemp("warm") / "best"
    found = {"temperature": 2.0, "unknown_below": 0.5, "found": {}}
    changed = tensors | {"head.fc.weight": -3 * tensors["head.fc.weight"]}
    bundle.write(folder, changed, {**card, "calibration": found})
    return folder


def probs_of(folder: Path, names: list[str], classes: tuple[str, ...]) -> NDArray[np.float64]:
    answers = residuum.load(folder, device="cpu", unknown_below="none").predict(names, top=len(classes))
    return np.array([[{g.label: g.prob for g in answer.top}[name] for name in classes] for answer in answers])


def test_each_network_of_an_ensemble_has_its_own(finished: Run, warm: Path) -> None:
    assert finished.result is not None
    images, best = finished.result.images, finished.folder / "best"
    names = [images.name(index) for index in range(len(images))]
    mean = (probs_of(best, names, images.classes) + probs_of(warm, names, images.classes)) / 2
    done = evaluate_in_full(
        warm, None, None, ensemble=[best], precision="fp32", batch_size=7, device="cpu", workers=1,
        on_bad_image="error",
    )  # fmt: skip
    assert done.scores.loss == pytest.approx(log_loss(images.labels, mean), abs=1e-5)
    assert done.scores.top1 == pytest.approx(100 * np.mean(mean.argmax(axis=1) == images.labels))
    assert done.reliance is not None
    assert done.reliance.temperatures == (2.0, 1.0)
    assert done.reliance.chosen is not None
    assert done.reliance.chosen.threshold == 0.5  # the first one's
    assert done.reliance.chosen.coverage == pytest.approx(np.mean(mean.max(axis=1) >= 0.5))
    assert done.reliance.uncalibrated.loss != pytest.approx(done.scores.loss, rel=1e-4)


def test_views_of_one_network_have_its_temperature_each(warm: Path) -> None:
    tensors, card = bundle.read(warm)
    cold = warm.parent / "cold"
    bundle.write(cold, tensors, {key: value for key, value in card.items() if key != "calibration"})
    warm_done, cold_done = (
        evaluate_in_full(
            folder, None, None, kind="ten", precision="fp32", batch_size=64, device="cpu", workers=1,
            on_bad_image="error",
        )
        for folder in (warm, cold)
    )  # fmt: skip
    assert warm_done.reliance is not None
    assert warm_done.reliance.uncalibrated.as_dict() == cold_done.scores.as_dict()
    assert warm_done.scores.loss != cold_done.scores.loss


def test_explanations_have_it_too(warm: Path, class_folders: Path) -> None:
    predictor = residuum.load(warm, device="cpu")
    file = sorted(class_folders.rglob("*.png"))[0]
    prediction, explanation = predictor.predict(file), predictor.explain(file)
    assert explanation.label == prediction.top[0].label
    assert explanation.prob == pytest.approx(prediction.prob, abs=1e-6)
