"""k-nearest-neighbour accuracy of a network's vectors: scikit-learn's."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.model_selection import LeaveOneOut, cross_val_predict
from sklearn.neighbors import KNeighborsClassifier

from residuum.data.loading import EvalLoader
from residuum.data.sets import ImageSet
from residuum.data.sources import open_single
from residuum.errors import DataError, UsageError
from residuum.evaluation.embedding import embed_all
from residuum.evaluation.knn import evaluate_knn
from residuum.models import saved
from residuum.models.embedding import embedder
from residuum.training.run import Run


@pytest.fixture(scope="module")
def best(finished: Run) -> Path:
    return finished.folder / "best"


def oracle(k: int) -> KNeighborsClassifier:
    return KNeighborsClassifier(
        n_neighbors=k, metric="cosine", algorithm="brute", weights=lambda distance: np.exp((1 - distance) / 0.07)
    )


def vectors_of(best: Path, images: ImageSet, stage: int | None = None) -> np.ndarray:
    trained = saved.load(best)
    loader = EvalLoader(images, trained.preprocessing, 50, device=torch.device("cpu"), channels_last=True)
    return embed_all(embedder(trained.model, stage), loader).vectors


@pytest.mark.parametrize(("k", "stage"), [(1, None), (5, None), (5, 1)])
def test_held_out_pictures_are_classified_as_scikit_learn_does(
    k: int, stage: int | None, best: Path, finished: Run
) -> None:
    done = evaluate_knn(best, k=k, stage=stage, device="cpu", batch_size=16)
    parts = finished.parts
    assert parts.test is not None
    fitted = oracle(k).fit(vectors_of(best, parts.train, stage), parts.train.labels)
    vectors = vectors_of(best, parts.test, stage)
    assert done.predictions.top[:, 0].tolist() == fitted.predict(vectors).tolist()
    assert done.scores.top1 == pytest.approx(100 * fitted.score(vectors, parts.test.labels))
    assert done.knn is not None
    assert (done.knn.k, done.knn.known, done.knn.stage) == (k, len(parts.train), stage or 3)
    assert "part test" in done.what


def test_an_undivided_set_is_scored_leaving_one_out_and_may_have_other_classes(
    best: Path, class_folders: Path, tmp_path: Path
) -> None:
    shutil.copytree(class_folders / "2", tmp_path / "set" / "dark")
    shutil.copytree(class_folders / "bee", tmp_path / "set" / "bright")
    done = evaluate_knn(best, str(tmp_path / "set"), k=3, device="cpu")
    images = open_single(str(tmp_path / "set"), None, None)
    said = cross_val_predict(oracle(3), vectors_of(best, images), images.labels, cv=LeaveOneOut())
    assert done.predictions.top[:, 0].tolist() == said.tolist()
    assert [score.name for score in done.scores.classes] == ["bright", "dark"]


def test_a_part_votes_for_another(best: Path, class_folders: Path, tmp_path: Path) -> None:
    for part in ("train", "val"):
        shutil.copytree(class_folders, tmp_path / "set" / part)
    copied = evaluate_knn(best, str(tmp_path / "set"), k=1, device="cpu")
    assert copied.scores.top1 == 100  # each finds its copy
    apart = evaluate_knn(best, str(tmp_path / "set"), "train", k=1, device="cpu")
    assert apart.scores.top1 < 100


def test_more_neighbours_than_pictures_are_all_of_them(best: Path, finished: Run) -> None:
    done = evaluate_knn(best, k=10_000, device="cpu")
    assert done.knn is not None
    assert done.knn.k == len(finished.parts.train)


def test_what_cannot_be_is_refused(best: Path, tmp_path: Path, class_folders: Path) -> None:
    for wrong in ({"k": 0}, {"temperature": 0.0}, {"batch_size": 0}, {"stage": 9}):
        with pytest.raises(UsageError):
            evaluate_knn(best, device="cpu", **wrong)
    shutil.copytree(class_folders, tmp_path / "set" / "test")
    with pytest.raises(DataError, match="no training pictures"):
        evaluate_knn(best, str(tmp_path / "set"), device="cpu")


def test_processes_are_refused(best: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (
        ("WORLD_SIZE", "2"),
        ("RANK", "0"),
        ("LOCAL_RANK", "0"),
        ("MASTER_ADDR", "127.0.0.1"),
        ("MASTER_PORT", "1"),
    ):
        monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match="2 processes"):
        evaluate_knn(best, device="cpu")
