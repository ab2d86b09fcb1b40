"""A folder of real photos, from the first command to a report that one can read, without one needless question."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from speaking import Say

pytestmark = [pytest.mark.data, pytest.mark.slow]


def test_ants_and_bees_from_a_fresh_folder_to_a_report(
    data_folder: Path, say: Say, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The set of PyTorch's transfer-learning tutorial: 244 and 153 JPEG, and among the ants a GIF that is no photo."""
    monkeypatch.chdir(tmp_path)
    photos = data_folder / "hymenoptera"
    said = say("train", "--data", photos, "--weights", "none", "--img-size", "32", "--epochs", "2", "--device", "cpu")
    assert said.code == 0, said.err
    for words in (
        "data.batch_size = 16: there are 244 training pictures.",
        "1 of 398 pictures is a GIF among photos and was left out as no photo: ",
        f"on {photos}: 2 classes, 244 train, 153 val",
        "epoch 2/2",
    ):
        assert words in said.err
    assert "epochs = " not in said.err  # nor is any other key that was given chosen
    assert "Validation accuracy" in said.out
    assert "of 153 pictures" in said.out
    run = Path("runs/photos-1")
    assert f"Report               {run}/report.html" in said.out
    report = (run / "report.html").read_text("utf-8")
    for words in ("imageNotFound.gif", "ants", "bees"):
        assert words in report
    card = json.loads((run / "best" / "model.json").read_text("utf-8"))
    assert (card["classes"], card["model"]["name"]) == (["ants", "bees"], "resnet18")
    new = next((photos / "val" / "bees").glob("*.jpg"))
    predicted = say("predict", run / "best", new, "--json")
    assert predicted.code == 0
    assert predicted.json["predictions"][0]["label"] in ("ants", "bees")
