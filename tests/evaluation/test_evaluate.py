"""Evaluation of real networks against scikit-learn; independence of batches and order; modes; refusals."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from sklearn.metrics import classification_report, confusion_matrix, log_loss, top_k_accuracy_score
from torch import Tensor, nn

from residuum.errors import DataError, DivergedError, WeightsError
from residuum.evaluation.evaluate import Scores, evaluate, evaluating, join, predict, score

CLASSES = tuple(str(digit) for digit in range(10))


class Batch(NamedTuple):
    images: Tensor
    labels: Tensor
    indices: NDArray[np.int64]


@pytest.fixture(scope="module")
def pictures() -> tuple[Tensor, Tensor]:
    digits = load_digits()
    return torch.tensor(digits.images[:403, None] / 16, dtype=torch.float32), torch.tensor(digits.target[:403])


@pytest.fixture(scope="module")
def model(pictures: tuple[Tensor, Tensor]) -> nn.Module:
    """A linear network, a few steps away from random: right on some pictures and wrong on others."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64), nn.Dropout(0.5), nn.Linear(64, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
    for _ in range(4):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(pictures[0]), pictures[1]).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return model


def batches(pictures: tuple[Tensor, Tensor], size: int, order: NDArray[np.int64] | None = None) -> Iterator[Batch]:
    images, labels = pictures
    order = np.arange(len(labels)) if order is None else order
    for start in range(0, len(order), size):
        part = order[start : start + size]
        yield Batch(images[part], labels[part], part)


def test_scores_agree_with_scikit_learn(model: nn.Module, pictures: tuple[Tensor, Tensor]) -> None:
    scores, predictions = evaluate(model, batches(pictures, 64), CLASSES)
    model.eval()
    with torch.no_grad():
        probs = torch.softmax(model(pictures[0]).double(), dim=1).numpy()
    labels, guess = pictures[1].numpy(), probs.argmax(axis=1)
    assert 30 < scores.top1 < 99, "the network must be right on some and wrong on others"
    assert scores.images == 403
    assert scores.top1 == pytest.approx(100 * (labels == guess).mean(), rel=1e-12)
    assert scores.top5 == pytest.approx(100 * top_k_accuracy_score(labels, probs, k=5), rel=1e-12)
    assert scores.loss == pytest.approx(log_loss(labels, probs), rel=1e-5)
    np.testing.assert_array_equal(scores.confusion, confusion_matrix(labels, guess))
    report = classification_report(labels, guess, output_dict=True, zero_division=0.0)
    for row in scores.classes:
        expected = report[row.name]
        assert row.images == expected["support"]
        assert row.precision == pytest.approx(100 * expected["precision"])
        assert row.recall == pytest.approx(100 * expected["recall"])
        assert row.f1 == pytest.approx(100 * expected["f1-score"])
    np.testing.assert_array_equal(predictions.top[:, 0], guess)
    np.testing.assert_allclose(predictions.probs[:, 0], probs.max(axis=1), rtol=1e-5)
    np.testing.assert_array_equal(predictions.indices, np.arange(403))


def test_order_does_not_change_a_bit(model: nn.Module, pictures: tuple[Tensor, Tensor]) -> None:
    # One picture a batch, so that the network's own arithmetic is the same and only the sums could differ.
    forward, _ = evaluate(model, batches(pictures, 1), CLASSES)
    shuffled = np.random.default_rng(0).permutation(403)
    assert evaluate(model, batches(pictures, 1, shuffled), CLASSES)[0].as_dict() == forward.as_dict()


def test_uneven_batches_weigh_pictures_not_batches(model: nn.Module, pictures: tuple[Tensor, Tensor]) -> None:
    whole, _ = evaluate(model, batches(pictures, 403), CLASSES)
    uneven, _ = evaluate(model, batches(pictures, 400), CLASSES)
    assert uneven.top1 == whole.top1
    assert uneven.loss == pytest.approx(whole.loss, rel=1e-6)


def test_processes_join_to_the_whole_and_count_nothing_twice(model: nn.Module, pictures: tuple[Tensor, Tensor]) -> None:
    parts = [predict(model, batches(pictures, 1, np.arange(rank, 403, 3)), CLASSES) for rank in range(3)]
    whole, _ = evaluate(model, batches(pictures, 1), CLASSES)
    assert score(join(parts), CLASSES).as_dict() == whole.as_dict()
    assert score(join([*parts, parts[0]]), CLASSES).as_dict() == whole.as_dict()


def test_each_module_returns_to_its_own_mode(model: nn.Module, pictures: tuple[Tensor, Tensor]) -> None:
    model.train()
    model[1].eval()  # type: ignore[index]  # a frozen norm
    former = [module.training for module in model.modules()]
    buffers = {name: value.clone() for name, value in model.named_buffers()}
    with evaluating(model):
        assert not any(module.training for module in model.modules())
    evaluate(model, batches(pictures, 200), CLASSES)
    with pytest.raises(ZeroDivisionError), evaluating(model):
        raise ZeroDivisionError
    assert [module.training for module in model.modules()] == former
    assert all(torch.equal(value, buffers[name]) for name, value in model.named_buffers())


def test_fewer_than_five_classes_and_an_absent_class() -> None:
    class Fixed(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images[:, 0, 0, :]

    logits = torch.tensor([[2.0, 1.0, 0.0], [0.0, 3.0, 0.0], [0.0, 3.0, 0.0]])
    batch = Batch(logits[:, None, None], torch.tensor([0, 0, 1]), np.arange(3))
    scores, predictions = evaluate(Fixed(), [batch], ("cat", "dog", "eel"))
    assert scores.top5 == 100.0
    assert predictions.top.shape == predictions.probs.shape == (3, 3)
    assert predictions.top[0].tolist() == [0, 1, 2]
    assert predictions.top[1].tolist() == [1, 0, 2], "of equal scores the lower class goes first"
    assert (scores.classes[2].images, scores.classes[2].precision, scores.classes[2].f1) == (0, 0.0, 0.0)
    assert np.isfinite(json.loads(json.dumps(scores.as_dict(), allow_nan=False))["ece"])


def test_scores_survive_json(model: nn.Module, pictures: tuple[Tensor, Tensor]) -> None:
    scores, _ = evaluate(model, batches(pictures, 128), CLASSES)
    stored = json.loads(json.dumps(scores.as_dict(), allow_nan=False))
    assert list(stored) == ["images", "top1", "top5", "loss", "ece", "classes", "confusion"]
    assert list(stored["classes"][0]) == ["name", "images", "precision", "recall", "f1"]
    again = Scores.from_dict(stored)
    assert again.as_dict() == scores.as_dict()
    assert again.confusion.dtype == np.int64


@pytest.mark.parametrize("broken", [{}, {"images": 3}, {"images": "many"}])
def test_malformed_scores_are_refused(broken: dict[str, object]) -> None:
    with pytest.raises(WeightsError, match="malformed"):
        Scores.from_dict(broken)


def test_autocast_is_entered_around_the_network(pictures: tuple[Tensor, Tensor], model: nn.Module) -> None:
    full, _ = evaluate(model, batches(pictures, 403), CLASSES)
    half, predictions = evaluate(model, batches(pictures, 403), CLASSES, lambda: torch.autocast("cpu", torch.bfloat16))
    assert half.loss != full.loss
    assert half.loss == pytest.approx(full.loss, rel=0.02)  # bfloat16 has 8 bits of precision
    assert predictions.probs.dtype == np.float64


def test_nothing_to_evaluate_is_an_error(model: nn.Module) -> None:
    with pytest.raises(DataError, match="no pictures") as raised:
        evaluate(model, [], CLASSES)
    assert raised.value.expected
    assert raised.value.hint


def test_other_classes_than_the_network_knows_are_refused(model: nn.Module, pictures: tuple[Tensor, Tensor]) -> None:
    with pytest.raises(DataError, match="2 classes"):
        evaluate(model, batches(pictures, 100), ("ant", "bee"))


def test_answers_that_are_not_finite_name_the_picture(pictures: tuple[Tensor, Tensor], model: nn.Module) -> None:
    images = pictures[0].clone()
    images[7] = torch.nan
    with pytest.raises(DivergedError, match="picture 7 "):
        evaluate(model, batches((images, pictures[1]), 50), CLASSES)
