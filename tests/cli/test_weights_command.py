"""`residuum weights`, `residuum convert` and `residuum train --weights`, from a file of weights to a prediction."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest
import torch
from speaking import TINY, Say, picture

from residuum.data.class_names import CLASS_NAMES
from residuum.models import create_model
from residuum.models.weights import WEIGHTS

TRAIN = ["train", *TINY, "--set", "model.width=0.25", "--out", "run", "--device", "cpu"]

pytestmark = pytest.mark.usefixtures("without_report")


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("HF_HUB_CACHE", "HF_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("RESIDUUM_ACCEPT_LICENSE", "")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Weights of a narrow ResNet-20 for five classes, with a stem that no training makes."""
    model = create_model("resnet20_cifar", num_classes=5, width=0.25)
    torch.nn.init.constant_(model.state_dict()["stem.conv.weight"], 0.125)
    torch.save({f"module.{key}": value for key, value in model.state_dict().items()}, tmp_path / "net.th")
    return tmp_path / "net.th"


def test_the_list(say: Say) -> None:
    said = say("weights", "--json")
    assert (said.code, said.err) == (0, "")
    listed = {card["name"]: card for card in said.json["weights"]}
    assert list(listed) == list(WEIGHTS)
    for card in listed.values():
        assert card.keys() >= {"name", "model", "url", "licence", "bytes_about", "top1", "sha256", "preprocessing"}
    header, *lines = say("weights").out.splitlines()
    assert header.split() == ["weights", "source", "licence", "size", "top-1", "SHA-256", "here"]
    assert [line.split()[0] for line in lines] == list(WEIGHTS)
    words = next(line for line in lines if line.startswith("resnet50.imagenet1k_v2 ")).split()
    assert words[1:] == ["torchvision", "BSD-3-Clause", "103", "MB", "80.86", "%", "11ad3fa6", "-"]
    words = next(line for line in lines if line.startswith("resnet18.fb_swsl_ig1b_ft_in1k ")).split()
    assert words[1:] == ["facebook", "CC-BY-NC-4.0", "47", "MB", "73.28", "%", "118f1556...", "-"]


def test_training_starts_from_a_file_and_says_that_the_head_is_new(say: Say, file: Path) -> None:
    said = say(*TRAIN, "--weights", file, "--lr", "0")
    assert said.code == 0, said.err
    assert f"starts from the weights {file}, with a new head for 3 classes: the weights have one for 5." in said.err
    assert tomllib.loads(Path("run/recipe.toml").read_text())["model"]["weights"] == str(file)
    card = json.loads(Path("run/best/model.json").read_text())
    assert "weights" not in card["model"]
    assert card["recipe"]["model"]["weights"] == str(file)
    best = create_model("resnet20_cifar", weights="run/best", width=0.25)
    assert (best.state_dict()["stem.conv.weight"] == 0.125).all()
    assert best.num_classes == 3
    file.unlink()  # neither a prediction nor a run that goes on asks for it again
    picture(Path("a.png"), 0)
    assert say("predict", "run/best", "a.png").code == 0
    resumed = say("train", "--resume", "run", "--epochs", "2", "--device", "cpu")
    assert resumed.code == 0, resumed.err
    assert "starts from" not in resumed.err
    refused = say("train", "--resume", "run", "--weights", "none")
    assert refused.code == 2
    assert "model.weights" in refused.err


def test_from_a_bundle_the_head_is_kept(say: Say, file: Path) -> None:
    said = say(*TRAIN, "--weights", file)
    assert said.code == 0, said.err
    said = say(*TRAIN[:-3], "again", "--device", "cpu", "--weights", "run/best")
    assert said.code == 0, said.err
    assert "starts from the weights run/best." in said.err


def test_a_bundle_of_anothers_weights_predicts(say: Say) -> None:
    model = create_model("resnet20_cifar", num_classes=2)
    torch.save({f"module.{key}": value for key, value in model.state_dict().items()}, "net.th")
    Path("names.txt").write_text("ant\nbee\n\n", encoding="utf-8")
    words = ["convert", "net.th", "--model", "resnet20_cifar", "--out", "b", "--classes", "names.txt"]
    said = say(*words)
    assert (said.code, said.err) == (0, "")
    assert "into b: resnet20_cifar, 2 classes (ant, bee), licence unspecified" in said.out
    picture(Path("a.png"), 0)
    assert say("predict", "b", "a.png", "--json").json["predictions"][0]["label"] in ("ant", "bee")
    again = say(*words, "--json")
    assert again.json["bundle"] == "b"
    assert again.json["classes"] == ["ant", "bee"]
    assert say(*words[:-1], "none.txt").code == 2


def test_what_a_file_does_not_say_its_author_does(say: Say) -> None:
    model = create_model("resnet20_cifar", num_classes=10)
    torch.save({f"module.{key}": value for key, value in model.state_dict().items()}, "net.th")
    words = "convert net.th --model resnet20_cifar --classes cifar10 --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225"
    said = say(*words.split(), "--out", "b")
    assert (said.code, said.err) == (0, "")
    assert "10 classes (airplane, automobile, bird, ...)" in said.out
    assert "Pictures: 32 pixels, shorter side 32; mean 0.485, 0.456, 0.406, std 0.229, 0.224, 0.225." in said.out
    card = json.loads(Path("b/model.json").read_text())
    assert card["classes"] == list(CLASS_NAMES["cifar10"])
    said = say("convert", "net.th", "--model", "resnet20_cifar", "--mean", "0.5,0.5,0.5", "--std", "0.25,0.25,0.25",
               "--img-size", "48", "--resize-px", "56", "--out", "c", "--json")  # fmt: skip
    seen = said.json["preprocessing"]
    assert (seen["mean"], seen["std"], seen["img_size"], seen["resize_px"]) == ([0.5] * 3, [0.25] * 3, 48, 56)
    assert say("convert", "net.th", "--model", "resnet20_cifar", "--img-size", "48", "--out", "d").code == 0
    assert json.loads(Path("d/model.json").read_text())["preprocessing"]["resize_px"] == 48


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (["--mean", "0.5,x,0.5"], "--mean cannot be '0.5,x,0.5'."),
        (["--std", ""], "--std cannot be ''."),
        (["--std", "nan"], "--std cannot be 'nan'."),
        (["--mean", "0.5,0.5"], "there are 2 means and 3 standard deviations"),
        (["--std", "0.2,0,0.2"], "Pictures cannot be normalised with mean"),
        (["--img-size", "0"], "--img-size cannot be '0'."),
        (["--classes", "cifar11"], "Did you mean cifar10"),
        (["--classes", "cifar100"], "100 names of classes, 100 of them different, do not fit the weights."),
    ],
    ids=str,
)
def test_what_its_author_cannot_have_meant_is_refused(words: list[str], what: str, say: Say, tmp_path: Path) -> None:
    torch.save(create_model("resnet20_cifar", num_classes=10).state_dict(), "net.th")
    said = say("convert", "net.th", "--model", "resnet20_cifar", "--out", "b", *words)
    assert (said.code, said.out) == (2, "")
    assert what in said.err
    assert [path.name for path in tmp_path.iterdir()] == ["net.th"]


def test_a_net_for_grey_pictures_needs_to_know_how_these_were_normalised(say: Say) -> None:
    torch.save(create_model("resnet20_cifar", num_classes=10, in_channels=1).state_dict(), "net.th")
    words = ["convert", "net.th", "--model", "resnet20_cifar", "--classes", "digits", "--out", "b"]
    said = say(*words)
    assert said.code == 2
    assert "take pictures of 1 channel, and there are 3 means" in said.err
    assert say(*words, "--mean", "0.1307", "--std", "0.3081").code == 0
    assert json.loads(Path("b/model.json").read_text())["preprocessing"]["mode"] == "L"
    picture(Path("a.png"), 0)
    assert say("predict", "b", "a.png", "--json").json["predictions"][0]["label"] in "0123456789"


@pytest.mark.parametrize("name", ["imagenet", "resnet18.a1_in1k"])
def test_no_network_and_no_cache_is_exit_code_4_and_leaves_nothing(say: Say, tmp_path: Path, name: str) -> None:
    words = ["train", "--data", "synthetic:60x3x16", "--model", "resnet18", "--weights", name, "--offline"]
    said = say(*words)
    assert said.code == 4
    known = WEIGHTS["resnet18.imagenet1k_v1" if name == "imagenet" else name]
    assert str(known.cached) in said.err
    assert known.url in said.err
    assert "--weights none" in said.err
    assert list(tmp_path.iterdir()) == []
    assert say("convert", name, "--model", "resnet18", "--out", "b", "--offline").code == 4


def test_words_that_name_nothing(say: Say, file: Path) -> None:
    said = say(*TRAIN, "--weights", "imagnet")
    assert said.code == 2
    assert "Did you mean imagenet?" in said.err
    said = say(*TRAIN, "--model", "resnet32_cifar", "--weights", file)
    assert said.code == 4
    assert "stages.0.3.branch.conv1.weight (not in the weights)" in said.err
    said = say("train", "--model", "resnet18", "--weights", "resnet18.fb_swsl_ig1b_ft_in1k")
    assert said.code == 4
    assert "--accept-license" in said.err
    assert not Path("run").exists()
    said = say(
        "train", "--model", "resnet18", "--weights", "resnet18.fb_swsl_ig1b_ft_in1k", "--accept-license", "--offline"
    )
    assert "and put it there" in said.err


def test_the_network_follows_from_a_bundle_and_a_word_says_so(say: Say, file: Path) -> None:
    assert say(*TRAIN, "--weights", file).code == 0
    words = ["train", "--data", "synthetic:60x3x16", "--img-size", "8", "--epochs", "1", "--device", "cpu"]
    said = say(*words, "--weights", "run/best", "--out", "again")
    assert said.code == 0, said.err
    assert "resnet20_cifar: the network that the weights run/best are of." in said.err
    assert "The network starts from the weights run/best." in said.err
    model = tomllib.loads(Path("again/recipe.toml").read_text())["model"]
    assert (model["name"], model["width"], model["weights"]) == ("resnet20_cifar", 0.25, "run/best")
    shown = say("train", "--data", "digits", "--weights", "resnet50.a1_in1k", "--dry-run", "--json")
    assert shown.json["model"]["name"] == "resnet50"
    assert "resnet50: the network that the weights resnet50.a1_in1k are of." in shown.err


def test_a_classifier_for_nobody_knows_which_classes_is_not_kept_without_a_word(say: Say) -> None:
    torch.save(create_model("resnet20_cifar", num_classes=3, width=0.25).state_dict(), "net.th")
    said = say(*TRAIN, "--weights", "net.th")
    assert said.code == 0, said.err
    assert "Its head is new: the weights do not say for which classes theirs is" in said.err
    assert "(to keep it: --set transfer.head=keep)" in said.err
    kept = say(*TRAIN[:-3], "again", "--device", "cpu", "--weights", "net.th", "--set", "transfer.head=keep")
    assert kept.code == 0, kept.err
    assert "head is new" not in kept.err
