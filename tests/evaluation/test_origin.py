"""A set that was trained on is known again: by another path, from another folder, as a copy under another name."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from residuum import bundle
from residuum.data import sources
from residuum.data.cache_writer import write
from residuum.errors import DataError, UsageError
from residuum.evaluation.calibrate import calibrate
from residuum.evaluation.knn import evaluate_knn
from residuum.evaluation.origin import same_source, source_of, trained_on
from residuum.evaluation.trained import Evaluation, evaluate_in_full
from residuum.models import saved
from residuum.recipe import Recipe
from residuum.training.run import Run
from residuum.training.train import train


@pytest.fixture(scope="module")
def home(class_folders: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the set `photos` in it."""
    folder = tmp_path_factory.mktemp("home")
    shutil.copytree(class_folders, folder / "photos")
    return folder


@pytest.fixture(scope="module")
def run(tiny: Recipe, home: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run on `photos`, called so in its folder."""
    out = tmp_path_factory.mktemp("runs") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        patch.setattr("residuum.training.summary.write_summary", lambda *_: None)
        return train(replace(tiny, epochs=1), data="photos", out=out, device="cpu")


@pytest.fixture(scope="module")
def best(run: Run) -> Path:
    return run.folder / "best"


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Another folder, in which the commands are given."""
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    return tmp_path / "elsewhere"


def scored(best: Path, data: str | None, split: str | None = None) -> Evaluation:
    return evaluate_in_full(
        best, data, split, precision="fp32", batch_size=32, device="cpu", workers=1, on_bad_image="error"
    )


def names(done: Evaluation) -> list[str]:
    return [Path(done.images.name(at)).name for at in range(len(done.images))]


def held_out(run: Run) -> list[str]:
    assert run.parts.test is not None
    return [Path(run.parts.test.name(at)).name for at in range(len(run.parts.test))]


def test_by_another_path_it_is_the_same_set(run: Run, best: Path, home: Path, elsewhere: Path) -> None:
    (elsewhere / "link").symlink_to(home / "photos")
    for data in (str(home / "photos"), f"{home}/photos/", "link", "../elsewhere/link"):
        assert trained_on(saved.load(best).card, data)
        done = scored(best, data)
        assert names(done) == held_out(run)
        assert done.what == f"{data}, part test as in training"


def test_a_copy_under_another_name_is_the_same_set(run: Run, best: Path, home: Path, elsewhere: Path) -> None:
    shutil.copytree(home / "photos", elsewhere / "renamed")
    assert names(scored(best, "renamed")) == held_out(run)
    with pytest.raises(UsageError, match="was trained on the part 'train'"):
        calibrate(best, "renamed", "train", out=elsewhere / "out", device="cpu")
    done = calibrate(best, "renamed", out=elsewhere / "out", device="cpu")
    assert done.calibration.found["images"] == len(run.parts.val or ())
    votes = evaluate_knn(best, "renamed", k=3, device="cpu")
    assert votes.knn is not None
    assert votes.knn.known == len(run.parts.train)


def test_other_pictures_are_another_set(best: Path, home: Path, elsewhere: Path) -> None:
    """One picture less, and nothing is known of how it overlaps: it is scored whole, as it was asked for."""
    shutil.copytree(home / "photos", elsewhere / "photos")
    (elsewhere / "photos" / "2" / "0.png").unlink()
    assert not trained_on(saved.load(best).card, "photos")  # although the recipe calls its own set so
    done = scored(best, "photos")
    assert (len(done.images), done.what) == (65, "photos")


def test_a_cache_of_a_copy_is_the_same_set(run: Run, best: Path, home: Path, elsewhere: Path) -> None:
    shutil.copytree(home / "photos", elsewhere / "renamed")
    write("renamed", elsewhere / "cache", px=16)
    assert trained_on(saved.load(best).card, str(elsewhere / "cache"))
    shutil.rmtree(elsewhere / "renamed")
    assert len(scored(best, "cache").images) == len(held_out(run))


def test_without_a_name_it_is_the_set_where_it_was(run: Run, best: Path, home: Path, elsewhere: Path) -> None:
    assert source_of(saved.load(best)) == str(home / "photos")
    done = scored(best, None)
    assert names(done) == held_out(run)
    assert done.what == f"{home / 'photos'}, part test as in training"
    shutil.copytree(home / "photos" / "2", elsewhere / "photos" / "2")  # another one that is called so here
    assert names(scored(best, None)) == held_out(run)


def test_a_set_that_went_along_is_found_under_its_name(
    run: Run, best: Path, home: Path, elsewhere: Path, tmp_path: Path
) -> None:
    tensors, card = bundle.read(best)
    card["data"]["place"] = str(tmp_path / "gone" / "photos")
    bundle.write(tmp_path / "moved", tensors, card)
    with pytest.raises(DataError, match="no image set at 'photos'"):
        scored(tmp_path / "moved", None)
    shutil.copytree(home / "photos", elsewhere / "photos")
    assert names(scored(tmp_path / "moved", None)) == held_out(run)
    (elsewhere / "photos" / "2" / "0.png").unlink()
    with pytest.raises(DataError, match="has other pictures now"):
        scored(tmp_path / "moved", "photos")


def test_no_picture_is_opened_to_know_a_set(
    best: Path, home: Path, elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(home / "photos", elsewhere / "renamed")
    network = saved.load(best)
    for room in ("residuum.imaging.open_picture", "residuum.data.sources.resident_exact"):
        monkeypatch.setattr(room, lambda *_, **__: pytest.fail("a picture was opened"))
    assert trained_on(network.card, "renamed")
    assert not trained_on(network.card, str(elsewhere))
    assert not trained_on(network.card, "nowhere")


def test_pictures_that_are_left_out_are_pictures_of_the_set(
    tiny: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Small pictures of one size are decoded when the set is opened; what is skipped then is called by its name."""
    import PIL.Image

    monkeypatch.setattr("residuum.training.summary.write_summary", lambda *_: None)
    random = np.random.default_rng(0)
    for at in range(60):
        (tmp_path / "set" / "ab"[at % 2]).mkdir(parents=True, exist_ok=True)
        pixels = random.integers(0, 255, (8, 8, 3), dtype=np.uint8)
        PIL.Image.fromarray(pixels).save(tmp_path / "set" / "ab"[at % 2] / f"{at}.png")
    (tmp_path / "set" / "a" / "2.png").write_bytes(b"")
    wanted = replace(tiny, epochs=1, data=replace(tiny.data, on_bad_image="skip"))
    run = train(wanted, data=str(tmp_path / "set"), out=tmp_path / "run", device="cpu")
    (tmp_path / "set").rename(tmp_path / "renamed")
    assert len(run.skipped) == 1
    assert trained_on(saved.load(run.folder / "best").card, str(tmp_path / "renamed"))


@pytest.mark.parametrize("source", ["digits", "cifar10", "synthetic:60x3x8"])
def test_a_name_is_no_path(source: str, elsewhere: Path) -> None:
    (elsewhere / source).mkdir()
    assert same_source(source, source)
    assert not same_source(source, str(elsewhere / source))
    assert not same_source("synthetic:60x3x8", "synthetic:61x3x8")


def test_the_current_folder_is_a_set_too(run: Run, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home / "photos")
    wanted = replace(run.recipe.data, source=".")
    ours, theirs = sources.names_of(wanted), sources.names_of(replace(wanted, source=str(home / "photos")))
    assert ours == theirs == run.parts.record["names"]
    assert sources.open_parts(wanted).record["place"] == str(home / "photos")
