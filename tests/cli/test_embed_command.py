"""`residuum embed`: its flags, its file, and pictures that cannot be used."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from speaking import Say, Trained, every_file

import residuum
from residuum import imaging
from residuum.models.embedding import embedder


def feed(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content)))


def by_hand(bundle: Path, file: Path) -> np.ndarray:
    """The vector of a picture, by way of the predictor's network."""
    predictor = residuum.load(bundle, device="cpu")
    pixels = imaging.prepare(imaging.open_picture(file), predictor.preprocessing)
    images = torch.from_numpy(imaging.normalise(pixels[None], predictor.preprocessing))
    with torch.no_grad():
        found: np.ndarray = embedder(predictor.model)(images)[0].numpy()
    return found


def test_a_row_a_picture_in_natural_order(trained: Trained, pictures: Path, say: Say, tmp_path: Path) -> None:
    out = tmp_path / "v.parquet"
    said = say("embed", trained.bundle, pictures / "class1", pictures / "class0" / "2.png", "--out", out, "-b", "3")
    assert said.code == 0
    assert said.out == f"5 vectors of 64 numbers, of resnet20_cifar, stage 3, in {out}\n"
    rows = pq.read_table(out).to_pydict()
    files = [*(pictures / "class1" / f"{number}.png" for number in range(4)), pictures / "class0" / "2.png"]
    assert rows["file"] == [str(file) for file in files]
    assert rows["label"] == rows["error"] == [None] * 5
    for file, vector in zip(files, rows["vector"], strict=True):
        np.testing.assert_allclose(vector, by_hand(trained.bundle, file), rtol=1e-4, atol=1e-5)
    assert every_file(tmp_path).keys() == {"v.parquet"}


def test_a_set_goes_along_with_its_classes(trained: Trained, pictures: Path, say: Say, tmp_path: Path) -> None:
    out = tmp_path / "v.parquet"
    words = [pictures / "class0" / "1.png", "--data", pictures, "--out", out]
    said = say("embed", trained.bundle, *words, "--json", "-q")
    assert (said.code, said.err) == (0, "")
    assert list(said.json) == ["out", "pictures", "vectors", "dim", "stage", "pooled", "fingerprint", "errors"]
    assert (said.json["pictures"], said.json["vectors"], said.json["errors"]) == (13, 13, {})
    rows = pq.read_table(out).to_pydict()
    assert rows["label"] == [None, *(f"class{kind}" for kind in range(3) for _ in range(4))]
    assert rows["vector"][0] == pytest.approx(rows["vector"][2], abs=1e-5)


@pytest.mark.parametrize(("words", "dim"), [(["--stage", "1"], 16), (["--no-pool"], 256), (["--stage", "2"], 32)])
def test_any_stage_pooled_or_not(
    words: list[str], dim: int, trained: Trained, pictures: Path, say: Say, tmp_path: Path
) -> None:
    said = say("embed", trained.bundle, pictures, "--out", tmp_path / "v.parquet", "--json", *words)
    assert said.code == 0
    assert said.json["dim"] == dim
    assert len(pq.read_table(tmp_path / "v.parquet").column("vector")[0]) == dim


def test_a_part_of_a_set_and_a_picture_on_standard_input(
    trained: Trained, pictures: Path, say: Say, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for part in ("train", "test"):
        for kind in range(3):
            target = tmp_path / "set" / part / f"class{kind}"
            target.mkdir(parents=True)
            os.link(pictures / f"class{kind}" / "0.png", target / f"{part}.png")
    feed(monkeypatch, (pictures / "class0" / "0.png").read_bytes())
    words = ["-", "--data", tmp_path / "set", "--split", "test", "--out", tmp_path / "v.parquet"]
    assert say("embed", trained.bundle, *words).code == 0
    rows = pq.read_table(tmp_path / "v.parquet").to_pydict()
    assert [Path(file).name for file in rows["file"]] == ["-", "test.png", "test.png", "test.png"]
    assert rows["vector"][0] == pytest.approx(rows["vector"][1], abs=1e-5)
    everything = say("embed", trained.bundle, "--data", tmp_path / "set", "--out", tmp_path / "v.parquet", "--json")
    assert everything.json["pictures"] == 6


def test_bad_pictures_are_rows_and_the_others_have_their_vectors(
    trained: Trained, pictures: Path, say: Say, tmp_path: Path
) -> None:
    good = sorted((pictures / "class0").iterdir())[:2]
    torn, missing = tmp_path / "torn.png", tmp_path / "missing.jpg"
    torn.write_bytes(good[0].read_bytes()[:100])
    out = tmp_path / "v.parquet"
    files = [torn, missing, good[0], torn, missing, missing, good[1], missing]
    for size in ("1", "2", "3", "100"):
        said = say("embed", trained.bundle, *files, "--out", out, "-b", size, "--json")
        assert said.code == 3
        rows = pq.read_table(out).to_pydict()
        assert rows["file"] == [str(file) for file in files]
        assert [error is None for error in rows["error"]] == [file in good for file in files]
        assert [vector is None for vector in rows["vector"]] == [file not in good for file in files]
        assert (said.json["pictures"], said.json["vectors"]) == (8, 2)
        assert said.json["errors"] == {str(torn): rows["error"][0], str(missing): rows["error"][1]}
        assert said.err.startswith(f"Error: 6 of 8 pictures cannot be used; the first is {torn}: ")
        assert len(said.err.splitlines()) == 3
    np.testing.assert_allclose(rows["vector"][6], by_hand(trained.bundle, good[1]), rtol=1e-4, atol=1e-5)
    assert say("embed", trained.bundle, torn, "--out", out).code == 3
    assert say("search", out, good[0]).code == 3


def test_a_name_of_a_network_needs_weights(trained: Trained, pictures: Path, say: Say, tmp_path: Path) -> None:
    out = tmp_path / "v.parquet"
    said = say("embed", "resnet20_cifar", pictures, "--weights", trained.bundle, "--out", out)
    assert said.code == 0
    assert say("embed", trained.bundle, pictures, "--out", tmp_path / "w.parquet").code == 0
    first, second = (pq.read_table(tmp_path / name).column("vector") for name in ("v.parquet", "w.parquet"))
    assert first.to_pylist() == second.to_pylist()
    assert say("search", out, pictures / "class0" / "0.png", "--top", "1").out.split()[0] == "1.0000"
    none = say("embed", "resnet20_cifar", pictures, "--weights", "none", "--out", out)
    assert (none.code, none.err.splitlines()[0]) == (
        2,
        "Error: resnet20_cifar without weights tells no picture from another.",
    )


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["{bundle}", "--out", "v.parquet"], 2, "There are no pictures to embed."),
        (["{bundle}", "a.png"], 2, "-o/--out is missing."),
        (["{bundle}", "a.png", "--split", "test", "--out", "v.parquet"], 2, "--split test is a part of a set"),
        (["{bundle}", "a.png", "--stage", "4", "--out", "v.parquet"], 2, "The network has no stage 4."),
        (["{bundle}", "a.png", "--out", "nowhere/v.parquet"], 5, "Cannot write nowhere/v.parquet: there is no such"),
        (["{bundle}", "a.png", "--out", "mine.txt"], 2, "mine.txt is there, and is not a file of vectors."),
        (["resnet5O", "a.png", "--out", "v.parquet"], 4, "'resnet5O' is neither a bundle nor the name of a network."),
        (["resnet50", "a.png", "--offline", "--out", "v.parquet"], 4, ""),
        (["{bundle}", "--data", "nothing", "--out", "v.parquet"], 3, "There is no image set at 'nothing'."),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_in_three_parts_and_nothing_is_written(
    words: list[str], code: int, said: str, trained: Trained, say: Say, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))
    (tmp_path / "mine.txt").write_text("mine", encoding="utf-8")
    answer = say("embed", *(word.format(bundle=trained.bundle) for word in words))
    assert answer.code == code
    assert answer.err.startswith(f"Error: {said}")
    assert len(answer.err.splitlines()) >= 3
    assert answer.out == ""
    assert every_file(tmp_path) == {"mine.txt": 4}


def test_verbose_says_with_what(trained: Trained, pictures: Path, say: Say, tmp_path: Path) -> None:
    said = say("embed", trained.bundle, pictures, "--out", tmp_path / "v.parquet", "-v", "--precision", "bf16")
    assert said.err.splitlines()[0] == (
        f"Embedding with resnet20_cifar in {trained.bundle}: 64 numbers, stage 3, on cpu in bf16."
    )
    assert residuum.Index(tmp_path / "v.parquet").made.precision == "bf16"
