"""Labels that the nearest pictures speak against: planted ones are found by the vectors of a network."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from sklearn.neighbors import NearestNeighbors

from residuum.data.loading import EvalLoader
from residuum.data.sets import ImageSet
from residuum.data.sources import find
from residuum.errors import DataError
from residuum.evaluation.embedding import embed_all
from residuum.evaluation.label_check import findings_of, neighbours_issues
from residuum.imaging import Preprocessing
from residuum.models import create_model
from residuum.models.embedding import embedder
from residuum.models.saved import Saved

CPU = torch.device("cpu")
COLOURS = {"blue": (40, 40, 180), "green": (40, 170, 40), "red": (190, 40, 40)}


@pytest.fixture(scope="module")
def network() -> Saved:
    """A network that was trained on nothing: colours reach its vectors all the same."""
    torch.manual_seed(0)
    model = create_model("resnet20_cifar", num_classes=2, width=0.5).eval()
    return Saved(model, ("x", "y"), Preprocessing("RGB", 12, 12, "bilinear", (0.5,) * 3, (0.25,) * 3), {})


@pytest.fixture(scope="module")
def mislabelled(tmp_path_factory: pytest.TempPathFactory) -> ImageSet:
    """Noise around three colours, 14 pictures of each, the first of each in the folder of the next."""
    folder = tmp_path_factory.mktemp("mislabelled")
    noise = np.random.default_rng(0)
    names = list(COLOURS)
    for name in names:
        (folder / name).mkdir()
    for place, name in enumerate(names):
        for number in range(14):
            pixels = np.clip(np.array(COLOURS[name]) + noise.integers(-25, 26, (12, 12, 3)), 0, 255).astype(np.uint8)
            home = name if number else names[(place + 1) % 3]
            PIL.Image.fromarray(pixels).save(folder / home / f"{name}{number}.png")
    return find(str(folder)).parts["train"]


def test_planted_labels_are_found(network: Saved, mislabelled: ImageSet) -> None:
    heard: list[int] = []
    issues = neighbours_issues(network, [mislabelled], CPU, k=10, tell=heard.append)
    assert sum(heard) == 42
    assert {Path(issue.file).name: (issue.label, issue.suggested) for issue in issues} == {
        "blue0.png": ("green", "blue"),
        "green0.png": ("red", "green"),
        "red0.png": ("blue", "red"),
    }
    (finding,) = findings_of(issues, [mislabelled], ", by name")
    assert finding.severity == "note"
    assert [mislabelled.name(row) for row in finding.rows] == list(finding.files) == [issue.file for issue in issues]
    assert finding.remarks[issues[0].file].startswith(f"in {issues[0].label}, looks like {issues[0].suggested}, ")
    assert finding.what.endswith("their own, by name.")
    assert findings_of([], [mislabelled], "") == []


def test_pictures_that_cannot_be_used_are_left_out(network: Saved, mislabelled: ImageSet) -> None:
    unusable = frozenset(issue.index for issue in neighbours_issues(network, [mislabelled], CPU, k=10))
    assert neighbours_issues(network, [mislabelled], CPU, k=10, unusable=unusable) == []
    issues = neighbours_issues(network, [mislabelled, mislabelled], CPU, k=1, unusable={3, 45})
    assert all(issue.index != 3 for issue in issues)
    with pytest.raises(DataError, match="1 pictures that can be used have no neighbours"):
        neighbours_issues(network, [mislabelled], CPU, unusable=range(1, len(mislabelled)))


def test_one_neighbour_decides_as_scikit_learns_does(network: Saved, mislabelled: ImageSet) -> None:
    """A picture's own label never votes; the only neighbour is as sure as can be."""
    batches = EvalLoader(mislabelled, network.preprocessing, 16, device=CPU, channels_last=True)
    vectors = embed_all(embedder(network.model), batches).vectors
    _, nearest = NearestNeighbors(n_neighbors=2, metric="cosine").fit(vectors).kneighbors(vectors)
    other = np.where(nearest[:, 0] == np.arange(len(mislabelled)), nearest[:, 1], nearest[:, 0])
    apart = np.flatnonzero(mislabelled.labels[other] != mislabelled.labels)
    issues = neighbours_issues(network, [mislabelled], CPU, k=1)
    assert {issue.index for issue in issues} == set(apart.tolist()) != set()
    assert {(issue.prob, issue.label_prob) for issue in issues} == {(1.0, 0.0)}
