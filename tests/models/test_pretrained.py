"""Networks from weights that were named: downloaded from a server of our own, from files and from bundles."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import torchvision
from torch import Tensor

from residuum import bundle
from residuum.errors import NetworkError, UsageError, WeightsError
from residuum.models import create_model, pretrained, saved, weights
from residuum.models._catalog import untrained_model
from residuum.models.convert import convert
from residuum.models.weights import WEIGHTS
from serving import Server, serving

State = dict[str, Tensor]


@pytest.fixture(scope="module")
def official() -> State:
    torch.manual_seed(0)
    state: State = torchvision.models.resnet18(weights=None).state_dict()
    return state


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    for name in ("RESIDUUM_OFFLINE", "HF_HUB_OFFLINE", "HF_HUB_CACHE", "http_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    with serving() as running:
        monkeypatch.setenv("HF_ENDPOINT", running.address)
        monkeypatch.setattr(weights, "_TORCHVISION", running.address)
        yield running


def as_torchvision_publishes(state: State) -> bytes:
    file = io.BytesIO()
    torch.save(state, file)
    return file.getvalue()


PUBLISHED: dict[str, Callable[[State], bytes]] = {
    "resnet18.imagenet1k_v1": as_torchvision_publishes,
    "resnet18.a1_in1k": lambda state: safetensors.torch.save(state, {"format": "pt"}),
}


def publish(name: str, state: State, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    server.body = PUBLISHED[name](state)
    known = replace(WEIGHTS[name], sha256=hashlib.sha256(server.body).hexdigest())
    monkeypatch.setitem(WEIGHTS, name, known)  # type: ignore[arg-type] (a dict when the program runs)


@pytest.mark.parametrize("name", PUBLISHED)
def test_by_name_over_a_connection_that_is_cut(
    name: str, official: State, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(name, official, server, monkeypatch)
    server.cuts = [20_000_000]
    model = create_model("resnet18", weights="imagenet" if "imagenet" in name else name)
    assert [wanted for _, wanted in server.asked] == [None, "bytes=20000000-"]
    assert torch.equal(model.state_dict()["head.fc.weight"], official["fc.weight"])
    assert torch.equal(model.state_dict()["stages.3.1.branch.norm2.bias"], official["layer4.1.bn2.bias"])
    other = create_model("resnet18", weights=name, num_classes=10)
    assert len(server.asked) == 2
    assert other.num_classes == 10
    assert other(torch.zeros(1, 3, 64, 64)).shape == (1, 10)
    assert torch.equal(other.state_dict()["stem.conv.weight"], official["conv1.weight"])
    other.reset_head(3)
    assert other.eval()(torch.zeros(1, 3, 64, 64)).shape == (1, 3)
    assert [tuple(x.shape) for x in other.features(torch.zeros(1, 3, 64, 64))][-1] == (1, 512, 2, 2)


def test_a_name_becomes_a_bundle_with_its_licence_and_preprocessing(
    official: State, server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    publish("resnet18.a1_in1k", official, server, monkeypatch)
    convert("resnet18.a1_in1k", "resnet18", tmp_path / "b")
    loaded = saved.load(tmp_path / "b")
    assert (loaded.card["licence"], loaded.card["weights"]["name"]) == ("Apache-2.0", "resnet18.a1_in1k")
    assert (loaded.preprocessing.img_size, loaded.preprocessing.interpolation) == (288, "bicubic")
    assert loaded.classes[0] == "tench"
    assert torch.equal(loaded.model.state_dict()["stem.conv.weight"], official["conv1.weight"])


@pytest.mark.parametrize("name", PUBLISHED)
def test_wrong_bytes_never_reach_a_network(
    name: str, official: State, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(name, official, server, monkeypatch)
    server.body = server.body[:-1] + bytes([server.body[-1] ^ 1])
    with pytest.raises(NetworkError, match="SHA-256"):
        create_model("resnet18", weights=name)
    assert not WEIGHTS[name].cached.exists()


def test_a_hub_without_a_known_hash_is_held_to_names_and_shapes(
    official: State, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "resnet18.a1_in1k"
    server.body = safetensors.torch.save({key: value for key, value in official.items() if key != "bn1.bias"})
    monkeypatch.setitem(WEIGHTS, name, replace(WEIGHTS[name], sha256=""))  # type: ignore[arg-type]
    with pytest.raises(WeightsError, match=r"stem\.norm\.bias \(not in the weights\)"):
        create_model("resnet18", weights=name)
    assert server.asked == [(f"/timm/{name}/resolve/{WEIGHTS[name].revision}/model.safetensors", None)]


def tiny(**options: Any) -> Any:
    return create_model("resnet20_cifar", width=0.25, **options)


def test_a_file_brings_its_number_of_classes(tmp_path: Path) -> None:
    torch.save({"state_dict": tiny(num_classes=4).state_dict()}, tmp_path / "a.pth")
    assert tiny(weights=tmp_path / "a.pth").num_classes == 4
    assert tiny(weights=str(tmp_path / "a.pth"), num_classes=7).num_classes == 7
    with pytest.raises(WeightsError, match="do not fit the network"):
        create_model("resnet20_cifar", weights=tmp_path / "a.pth")


def in_bundle(folder: Path, **card: Any) -> Path:
    options = {"name": "resnet20_cifar", "num_classes": 4, "in_channels": 3, "width": 0.25, **card.pop("options", {})}
    preprocessing = weights._preprocessing(32, img_size=32).as_dict()
    model = untrained_model(**options)  # type: ignore[arg-type]
    whole = {"model": options, "classes": list("abcd"), "preprocessing": preprocessing, "licence": "MIT", **card}
    bundle.write(folder, saved.arrays(model.state_dict()), whole)
    return folder


def test_a_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(weights.ACCEPT_LICENCE, raising=False)
    best = in_bundle(tmp_path / "best")
    theirs = saved.load(best).model.state_dict()
    ours = tiny(weights=best).state_dict()
    assert all(torch.equal(value, ours[key]) for key, value in theirs.items())
    with pytest.raises(WeightsError, match="holds the network resnet20_cifar, not resnet32_cifar"):
        create_model("resnet32_cifar", weights=best)
    with pytest.raises(WeightsError, match="forbids commercial use"):
        tiny(weights=in_bundle(tmp_path / "nc", licence="CC-BY-NC-4.0"))
    with pytest.raises(WeightsError, match="Cannot use the bundle"):
        tiny(weights=tmp_path)


def test_a_bundle_names_no_weights_to_fetch(tmp_path: Path) -> None:
    best = in_bundle(tmp_path / "best")
    tensors, card = bundle.read(best)
    card["model"]["weights"] = "imagenet"
    bundle.write(best, tensors, card)
    with pytest.raises(WeightsError, match="no option 'weights'"):
        saved.load(best)


def test_another_stride_is_another_function(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESIDUUM_OFFLINE", "1")
    with pytest.raises(WeightsError, match="stride_in='1x1'"):
        create_model("resnet50", weights="imagenet", stride_in="1x1")


def test_none_and_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "imagenet").mkdir()  # a set of pictures, as likely as not
    for nothing in (None, "none"):
        assert tiny(weights=nothing).num_classes == 10
    with pytest.raises(WeightsError, match="no ImageNet weights for the network resnet20_cifar"):
        tiny(weights="imagenet")
    with pytest.raises(UsageError, match="is no file, no bundle and no name of weights"):
        tiny(weights="nothing.pth")
    with pytest.raises(UsageError, match="no option 'widht'"):  # before anything is fetched
        create_model("resnet18", weights="imagenet", widht=2)


def known_as(name: str, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes the weights called `name` those of a file, of whose hash eight digits are known."""
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    monkeypatch.setitem(WEIGHTS, name, replace(WEIGHTS[name], sha256=digest[:8]))  # type: ignore[arg-type]


def test_a_file_that_is_recognised_brings_what_is_known_of_it(
    official: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(weights.ACCEPT_LICENCE, raising=False)
    file = tmp_path / "download (1).bin"
    file.write_bytes(as_torchvision_publishes(official))
    nobodys = pretrained.find(file, "resnet18", {})
    assert nobodys is not None
    assert (nobodys.licence, nobodys.preprocessing, pretrained.network_of(file)) == ("unspecified", None, {})

    known_as("resnet18.a1_in1k", file, monkeypatch)
    found = pretrained.find(file, "resnet18", {})
    assert found is not None
    assert (found.licence, found.preprocessing) == ("Apache-2.0", WEIGHTS["resnet18.a1_in1k"].preprocessing)
    assert pretrained.network_of(file) == {"name": "resnet18"}
    assert f"starts from the weights {file} (resnet18.a1_in1k)." in found.load_into(create_model("resnet18"))
    with pytest.raises(WeightsError, match=r"\(resnet18\.a1_in1k\) are of the network resnet18, not of resnet34"):
        create_model("resnet34", weights=file)


def test_a_non_commercial_licence_is_asked_for_by_file_too(
    official: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(weights.ACCEPT_LICENCE, raising=False)
    file = tmp_path / "net.pth"
    file.write_bytes(as_torchvision_publishes(official))
    known_as("resnet18.fb_swsl_ig1b_ft_in1k", file, monkeypatch)
    with pytest.raises(WeightsError, match=r"net\.pth \(resnet18\.fb_swsl_ig1b_ft_in1k\) are under CC-BY-NC-4\.0"):
        create_model("resnet18", weights=file)
    with pytest.raises(WeightsError, match="forbids commercial use"):
        convert(file, "resnet18", tmp_path / "b")
    monkeypatch.setenv(weights.ACCEPT_LICENCE, "1")
    assert convert(file, "resnet18", tmp_path / "b").card["licence"] == "CC-BY-NC-4.0"


def test_which_network_weights_are_of(tmp_path: Path) -> None:
    best = in_bundle(tmp_path / "best")
    assert pretrained.network_of(best) == {"name": "resnet20_cifar", "num_classes": 4, "in_channels": 3, "width": 0.25}
    assert pretrained.network_of("resnet50.a1_in1k") == {"name": "resnet50"}
    for nobodys in ("imagenet", "none", "imagnet", tmp_path / "missing.pth"):
        assert pretrained.network_of(nobodys) == {}
    with pytest.raises(WeightsError, match="Cannot use the bundle"):
        pretrained.network_of(tmp_path)
