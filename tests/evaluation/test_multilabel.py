"""Scores of pictures that may have several classes, against scikit-learn; views, votes, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.metrics import accuracy_score, average_precision_score, f1_score, log_loss, precision_recall_fscore_support
from torch import Tensor, nn

from residuum.distributed import World
from residuum.errors import DataError, DivergedError
from residuum.evaluation import multilabel, neighbours
from residuum.evaluation.multilabel import evaluate
from residuum.evaluation.multilabel_report import draw_classes
from residuum.evaluation.views import Averaged, Part, Views
from residuum.imaging import Preprocessing

CLASSES = ("a", "b", "c", "d")
THRESHOLDS = (0.5, 0.3, 0.62, 0.45)


class Batch(NamedTuple):
    images: Tensor
    labels: Tensor
    indices: NDArray[np.int64]


@pytest.fixture(scope="module")
def pictures() -> tuple[Tensor, Tensor]:
    """Numbers, and labels that a linear network half knows."""
    random = torch.Generator().manual_seed(0)
    images = torch.randn(131, 6, generator=random)
    return images, (images[:, :4] + torch.randn(131, 4, generator=random) > 0.4).float()


@pytest.fixture(scope="module")
def model() -> nn.Module:
    network = nn.Linear(6, 4)
    with torch.no_grad():
        network.weight.copy_(2 * torch.eye(4, 6))
        network.bias.fill_(-0.5)
    return network


def batches(pictures: tuple[Tensor, Tensor], size: int) -> Iterator[Batch]:
    for at in np.array_split(np.arange(len(pictures[0])), max(1, len(pictures[0]) // size)):
        yield Batch(pictures[0][at], pictures[1][at], at)


def test_scores_agree_with_scikit_learn(model: nn.Module, pictures: tuple[Tensor, Tensor]) -> None:
    scores, predictions = evaluate(model, batches(pictures, 16), CLASSES, thresholds=THRESHOLDS)
    truth = pictures[1].numpy().astype(int)
    with torch.no_grad():
        probs = torch.sigmoid(model(pictures[0]).double()).numpy()
    said = (probs >= THRESHOLDS).astype(int)
    assert scores.images == 131
    assert 50 < scores.map < 99, "the network must be right on some and wrong on others"
    assert scores.map == pytest.approx(100 * average_precision_score(truth, probs, average="macro"), rel=1e-12)
    assert scores.macro_f1 == pytest.approx(100 * f1_score(truth, said, average="macro"), rel=1e-12)
    assert scores.micro_f1 == pytest.approx(100 * f1_score(truth, said, average="micro"), rel=1e-12)
    assert scores.subset_accuracy == pytest.approx(100 * accuracy_score(truth, said), rel=1e-12)
    losses = [log_loss(truth[:, k], probs[:, k]) for k in range(4)]
    assert scores.loss == pytest.approx(np.mean(losses), rel=1e-6)
    each = precision_recall_fscore_support(truth, said)
    for k, row in enumerate(scores.classes):
        assert (row.name, row.threshold) == (CLASSES[k], THRESHOLDS[k])
        assert row.ap == pytest.approx(100 * average_precision_score(truth[:, k], probs[:, k]), rel=1e-12)
        found = (row.precision / 100, row.recall / 100, row.f1 / 100, row.images)
        assert found == pytest.approx(tuple(values[k] for values in each))
    np.testing.assert_allclose(predictions.probs, probs, rtol=1e-5)
    assert predictions.labels.astype(int).tolist() == truth.tolist()
    assert scores.monitored == scores.map
    assert json.loads(json.dumps(scores.as_dict()))["map"] == scores.map


def test_thresholds_are_chosen_for_f1(model: nn.Module, pictures: tuple[Tensor, Tensor]) -> None:
    chosen, predictions = evaluate(model, batches(pictures, 16), CLASSES)
    halves, _ = evaluate(model, batches(pictures, 16), CLASSES, thresholds=(0.5,) * 4)
    truth, probs = predictions.labels, predictions.probs
    for k, (best, half) in enumerate(zip(chosen.classes, halves.classes, strict=True)):
        every = [f1_score(truth[:, k], probs[:, k] >= threshold) for threshold in np.unique(probs[:, k])]
        assert best.f1 == pytest.approx(100 * max(every))
        assert best.f1 >= half.f1
        assert best.ap == half.ap
    assert chosen.macro_f1 > halves.macro_f1
    again = multilabel.score(predictions, CLASSES, chosen.thresholds)
    assert again == chosen


def test_neither_batches_nor_processes_nor_modes_change_a_score(
    model: nn.Module, pictures: tuple[Tensor, Tensor]
) -> None:
    whole, _ = evaluate(model, batches(pictures, 131), CLASSES)
    model.train()
    parts, _ = evaluate(model, batches(pictures, 7), CLASSES)
    assert model.training
    assert parts.map == pytest.approx(whole.map, rel=1e-9)
    own = list(batches(pictures, 16))

    class Pair(World):
        def gather(self, value: Any) -> list[Any]:
            other = evaluate(model, own[1::2], CLASSES)[1]
            return [value, [other, value[0]]]  # the other process holds one of our batches too

    both, predictions = evaluate(model, own[::2], CLASSES, world=Pair(rank=0, size=2))
    assert predictions.indices.tolist() == list(range(131))
    assert both.map == pytest.approx(whole.map, rel=1e-9)


def test_a_class_that_no_picture_has_is_left_out_of_the_mean() -> None:
    logits = np.array([[1.0, -1.0, 2.0], [-1.0, 1.0, 1.0], [2.0, 0.0, -3.0]])
    labels = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 0]], bool)
    scores = multilabel.score(multilabel.answers(np.arange(3), labels, logits), CLASSES[:3])
    assert [row.ap for row in scores.classes] == [50.0, 100.0, None]
    assert scores.map == 75
    assert scores.classes[2].threshold == 0.5
    assert scores.classes[2].f1 == 0
    json.dumps(scores.as_dict(), allow_nan=False)
    nothing = multilabel.score(multilabel.answers(np.arange(3), np.zeros((3, 3), bool), logits), CLASSES[:3])
    assert nothing.map == 0
    assert draw_classes(nothing).startswith(b"\x89PNG")


def test_sure_answers_stay_ranked_and_finite() -> None:
    logits = np.array([[900.0], [800.0], [-800.0]])
    found = multilabel.answers(np.arange(3), np.array([[True], [False], [False]]), logits)
    assert found.probs.tolist() == [[1.0], [1.0], [0.0]]
    assert found.losses.tolist() == [0.0, 800.0, 0.0]
    assert multilabel.score(found, ("a",)).map == 100  # by logits, which differ where probabilities round to one


def test_the_surest_wrong_answers_come_first() -> None:
    probs = np.array([[0.9, 0.6], [0.2, 0.4], [0.01, 0.55], [0.7, 0.2]])
    labels = np.array([[0, 0], [1, 0], [1, 0], [1, 0]], bool)
    found = multilabel.answers(np.arange(4), labels, np.log(probs / (1 - probs)))
    assert found.confident_mistakes((0.5, 0.5), 9) == [(2, 0), (0, 0), (1, 0)]
    assert found.confident_mistakes((0.5, 0.5), 1) == [(2, 0)]
    assert found.confident_mistakes((0.1, 0.95), 9) == [(2, 0), (0, 0)]


def test_what_cannot_be_scored_is_refused(model: nn.Module, pictures: tuple[Tensor, Tensor]) -> None:
    with pytest.raises(DataError, match="no pictures"):
        evaluate(model, [], CLASSES)
    with pytest.raises(DataError, match="3 classes"):
        evaluate(model, batches(pictures, 16), CLASSES[:3])
    with pytest.raises(DivergedError):
        evaluate(model, [Batch(torch.full((2, 6), torch.nan), torch.zeros(2, 4), np.arange(2))], CLASSES)


def test_views_and_networks_are_averaged_as_probabilities() -> None:
    class Plain(nn.Module):
        def __init__(self, factor: float) -> None:
            super().__init__()
            self.factor = factor

        def forward(self, images: Tensor) -> Tensor:
            return self.factor * images.flatten(1)

    look = Preprocessing("L", 2, 2, "bilinear", (0.5,), (0.5,))
    images = 4 * torch.randn(5, 1, 2, 2, generator=torch.Generator().manual_seed(1))
    views = Views(5, 1, {look: [Part(images, torch.arange(5), torch.zeros(5, dtype=torch.int64))]})
    networks = [(Plain(1.0), look), (Plain(-3.0), look)]
    answer = Averaged(networks, "ten", several=True)(views)
    each = [torch.sigmoid(f * x.flatten(1).double()) for f in (1.0, -3.0) for x in (images, images.flip(-1))]
    torch.testing.assert_close(torch.sigmoid(answer), torch.stack(each).mean(0))
    sure = Averaged(networks, "one", several=True)(
        Views(5, 1, {look: [views.parts[look][0]._replace(images=1e4 * images)]})
    )
    assert torch.isfinite(sure).all()
    torch.testing.assert_close(Averaged(networks[:1], "one", several=True)(views), images.flatten(1).double())


def test_neighbours_vote_on_every_class() -> None:
    random = np.random.default_rng(0)
    known, asked = (neighbours.unit(random.normal(size=(n, 8)).astype(np.float32)) for n in (40, 9))
    found = neighbours.nearest(asked, known, 5)
    several = (random.random((40, 3)) < 0.4).astype(np.uint8)
    shares = neighbours.votes(found, several, 3)
    for k in range(3):  # a question with two answers is what the plain vote knows
        yes = neighbours.votes(found, several[:, k].astype(np.int64), 2)[:, 1]
        np.testing.assert_allclose(shares[:, k], yes, rtol=1e-12)
