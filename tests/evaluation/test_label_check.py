"""Labels that the nearest pictures speak against: planted ones are found by the vectors of a network."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.neighbors import NearestNeighbors

from residuum.data.sources import find
from residuum.errors import DataError
from residuum.evaluation.label_check import findings_of, neighbours_issues
from residuum.models import saved
from residuum.training.run import Run

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def mislabelled(class_folders: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, set[str]]:
    """The class folders with three pictures in wrong ones, and these."""
    folder = tmp_path_factory.mktemp("mislabelled") / "set"
    shutil.copytree(class_folders, folder)
    wrong = set()
    for number, (source, target) in enumerate((("2", "10"), ("10", "bee"), ("bee", "2"))):
        moved = folder / target / f"moved{number}.png"
        (folder / source / f"{number}.png").rename(moved)
        wrong.add(str(moved))
    return folder, wrong


def test_planted_labels_are_found(finished: Run, mislabelled: tuple[Path, set[str]]) -> None:
    folder, wrong = mislabelled
    parts = list(find(str(folder)).parts.values())
    network = saved.load(finished.folder / "best")
    heard: list[int] = []
    issues = neighbours_issues(network, parts, CPU, k=10, tell=heard.append)
    assert sum(heard) == 66
    assert wrong <= {issue.file for issue in issues}
    assert len(issues) <= 6
    homes = {"moved0.png": "2", "moved1.png": "10", "moved2.png": "bee"}
    for issue in issues:
        assert issue.label == Path(issue.file).parent.name
        if issue.file in wrong:
            assert issue.suggested == homes[Path(issue.file).name]
    (finding,) = findings_of(issues, parts, ", by name")
    assert finding.severity == "note"
    assert [parts[0].name(row) for row in finding.rows] == list(finding.files) == [issue.file for issue in issues]
    assert finding.remarks[issues[0].file].startswith(f"in {issues[0].label}, looks like {issues[0].suggested}, ")


def test_pictures_that_cannot_be_used_are_left_out_and_none_votes_for_itself(
    finished: Run, mislabelled: tuple[Path, set[str]]
) -> None:
    (images,) = find(str(mislabelled[0])).parts.values()
    network = saved.load(finished.folder / "best")
    issues = neighbours_issues(network, [images], CPU, k=1)
    unusable = frozenset(issue.index for issue in issues)
    assert unusable, "a picture's one neighbour may be of another class, unless it is itself"
    left = neighbours_issues(network, [images], CPU, k=1, unusable=unusable)
    assert unusable.isdisjoint(issue.index for issue in left)
    with pytest.raises(DataError, match="1 pictures that can be used have no neighbours"):
        neighbours_issues(network, [images], CPU, unusable=range(1, len(images)))


def test_one_neighbour_decides_as_scikit_learns_does(finished: Run, mislabelled: tuple[Path, set[str]]) -> None:
    """With one neighbour a class's threshold is the share of its pictures beside one of their own class."""
    from residuum.data.loading import EvalLoader
    from residuum.evaluation.embedding import embed_all
    from residuum.models.embedding import embedder

    (images,) = find(str(mislabelled[0])).parts.values()
    network = saved.load(finished.folder / "best")
    batches = EvalLoader(images, network.preprocessing, 16, device=CPU, channels_last=True)
    vectors = embed_all(embedder(network.model), batches).vectors
    _, nearest = NearestNeighbors(n_neighbors=2, metric="cosine").fit(vectors).kneighbors(vectors)
    other = np.where(nearest[:, 0] == np.arange(len(images)), nearest[:, 1], nearest[:, 0])
    apart = np.flatnonzero(images.labels[other] != images.labels)
    issues = neighbours_issues(network, [images], CPU, k=1)
    assert {issue.index for issue in issues} == set(apart.tolist())
