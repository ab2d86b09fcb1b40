"""The weights known by name: each figure against the library that publishes it, and where each file is looked for."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torchvision

from residuum.errors import NetworkError, UsageError, WeightsError
from residuum.models import MODELS, weights
from residuum.models.weights import WEIGHTS, Weights, named, obtain
from serving import Server, serving

TORCHVISION = [card for card in WEIGHTS.values() if card.publisher == "torchvision"]
HUB = [card for card in WEIGHTS.values() if card.publisher == "timm"]
FACEBOOK = [card for card in WEIGHTS.values() if card.publisher == "facebook"]
ON_THE_HUB, PINNED = WEIGHTS["resnet50.a1_in1k"], "767268603ca0cb0bfe326fa87277f19c419566ef"


def published(card: Weights) -> torchvision.models.WeightsEnum:
    version = card.name.rpartition("_")[2].upper()
    return torchvision.models.get_model_weights(card.model)[f"IMAGENET1K_{version}"]


@pytest.mark.parametrize("card", TORCHVISION, ids=lambda card: card.name)
def test_torchvision_says_the_same(card: Weights) -> None:
    theirs = published(card)
    assert card.url == theirs.url
    assert card.file == theirs.url.rpartition("/")[2]
    assert card.file.removesuffix(".pth").endswith(f"-{card.sha256[:8]}")
    assert card.top1 == theirs.meta["_metrics"]["ImageNet-1K"]["acc@1"]
    assert card.bytes_about == round(theirs.meta["_file_size"] * 2**20)
    seen, own = theirs.transforms(), card.preprocessing
    assert (own.img_size, own.resize_px) == (seen.crop_size[0], seen.resize_size[0])
    assert (list(own.mean), list(own.std)) == (seen.mean, seen.std)
    assert own.interpolation == seen.interpolation.value
    assert own.mode == "RGB"


def test_every_twin_has_all_of_torchvisions_weights() -> None:
    twins = [entry for entry in MODELS.entries() if entry.card.twin]
    theirs = {(entry.name, each.url) for entry in twins for each in torchvision.models.get_model_weights(entry.name)}
    assert {(card.model, card.url) for card in TORCHVISION} == theirs
    for entry in twins:
        newest = torchvision.models.get_model_weights(entry.name).DEFAULT
        assert named("imagenet", entry.name).url == newest.url


@pytest.mark.parametrize("card", HUB + FACEBOOK, ids=lambda card: card.name)
def test_timm_says_the_same(card: Weights) -> None:
    models = pytest.importorskip("timm.models", reason="timm is not installed")
    theirs = models.get_pretrained_cfg(card.name)
    assert card.repo == theirs.hf_hub_id if card in HUB else card.url == theirs.url
    assert card.licence.lower() == theirs.license
    side_px = (theirs.test_input_size or theirs.input_size)[1]
    crop = theirs.test_crop_pct or theirs.crop_pct
    own = card.preprocessing
    assert (own.img_size, own.resize_px) == (side_px, int(side_px / crop))
    assert (own.mean, own.std, own.interpolation) == (theirs.mean, theirs.std, theirs.interpolation)


@pytest.mark.parametrize("card", WEIGHTS.values(), ids=lambda card: card.name)
def test_a_card_is_whole(card: Weights) -> None:
    assert card.name.startswith(f"{card.model}.")
    assert card.model in MODELS
    assert len(card.sha256) in (0, 8, 64)
    assert set(card.sha256) <= set("0123456789abcdef")
    assert card.revision is None or len(card.revision) == 40
    assert abs(card.bytes_about / (4 * MODELS[card.model].card.params) - 1) < 0.02 or "wide" in card.model
    assert 69 < card.top1 < 84
    assert card.as_dict()["url"].startswith("https://")


def test_names_that_are_close_and_names_of_others() -> None:
    with pytest.raises(UsageError, match=r"Did you mean .*resnet50\.imagenet1k_v1"):
        named("resnet50.imagenet1k_v3", "resnet50")
    with pytest.raises(WeightsError, match="of the network resnet50, not of resnet18"):
        named("resnet50.a1_in1k", "resnet18")
    with pytest.raises(WeightsError, match="no ImageNet weights for the network resnet20_cifar"):
        named("imagenet", "resnet20_cifar")


def test_where_files_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TORCH_HOME", "HF_HOME", "HF_HUB_CACHE", "HF_ENDPOINT", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    official = WEIGHTS["resnet50.imagenet1k_v2"]
    snapshot = f"models--timm--resnet50.a1_in1k/snapshots/{PINNED}/model.safetensors"
    assert official.cached == tmp_path / ".cache/torch/hub/checkpoints/resnet50-11ad3fa6.pth"
    assert ON_THE_HUB.cached == tmp_path / ".cache/huggingface/hub" / snapshot
    assert ON_THE_HUB.url == f"https://huggingface.co/timm/resnet50.a1_in1k/resolve/{PINNED}/model.safetensors"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert official.cached.is_relative_to(tmp_path / "xdg" / "torch")
    assert ON_THE_HUB.cached.is_relative_to(tmp_path / "xdg" / "huggingface" / "hub")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "t"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "h"))
    monkeypatch.setenv("HF_ENDPOINT", "https://mirror.example/")
    assert official.cached == tmp_path / "t/hub/checkpoints/resnet50-11ad3fa6.pth"
    assert ON_THE_HUB.cached == tmp_path / "h/hub" / snapshot
    assert ON_THE_HUB.url.startswith("https://mirror.example/timm/")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "c"))
    assert ON_THE_HUB.cached == tmp_path / "c" / snapshot


def test_huggingface_hub_keeps_them_there_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed")
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    ON_THE_HUB.cached.parent.mkdir(parents=True)
    ON_THE_HUB.cached.write_bytes(b"x")
    found = hub.try_to_load_from_cache(ON_THE_HUB.repo, ON_THE_HUB.file, tmp_path / "hub", ON_THE_HUB.revision)
    assert Path(found) == ON_THE_HUB.cached


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A hub and a mirror of torchvision's files, and caches of our own."""
    for name in ("RESIDUUM_OFFLINE", "HF_HUB_OFFLINE", "HF_HUB_CACHE", weights.ACCEPT_LICENCE, "http_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    with serving(b"the right bytes") as running:
        monkeypatch.setenv("HF_ENDPOINT", running.address)
        monkeypatch.setattr(weights, "_TORCHVISION", running.address)
        monkeypatch.setattr(weights, "_FACEBOOK", running.address)
        yield running


def right(card: Weights, server: Server) -> Weights:
    return replace(card, sha256=hashlib.sha256(server.body).hexdigest()[: len(card.sha256)])


@pytest.mark.parametrize("name", ["resnet50.imagenet1k_v2", "resnet152.imagenet1k_v2", "resnet50.a1_in1k"])
def test_obtained_once_then_from_the_cache(server: Server, name: str) -> None:
    card = right(WEIGHTS[name], server)
    for _ in range(2):
        assert obtain(card) == card.cached
        assert card.cached.read_bytes() == server.body
    assert [path for path, _ in server.asked] == [card.url.removeprefix(server.address)]


@pytest.mark.parametrize("name", ["resnet50.imagenet1k_v2", "resnet152.imagenet1k_v2", "resnet50.a1_in1k"])
def test_a_wrong_hash_is_refused_from_the_network_and_from_the_cache(server: Server, name: str) -> None:
    card = right(WEIGHTS[name], server)
    server.body = b"the wrong bytes"
    with pytest.raises(NetworkError, match="SHA-256") as refused:
        obtain(card)
    assert not card.cached.exists()
    card.cached.write_bytes(server.body)
    with pytest.raises(WeightsError, match="SHA-256") as refused_again:
        obtain(card)
    assert {refused.value.exit_code, refused_again.value.exit_code} == {4}
    assert card.cached.read_bytes() == server.body  # it may be somebody else's


@pytest.mark.parametrize("name", ["resnet50.imagenet1k_v2", "resnet50.a1_in1k"])
def test_offline_the_message_says_which_file_goes_where(
    server: Server, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("RESIDUUM_OFFLINE", "1")
    card = WEIGHTS[name]
    with pytest.raises(NetworkError) as refused:
        obtain(card)
    assert refused.value.exit_code == 4
    assert str(card.cached) in refused.value.expected
    assert card.url in refused.value.hint
    assert "--weights none" in refused.value.hint
    assert server.asked == []


def test_the_hubs_own_word_for_offline_is_for_the_hub_alone(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(NetworkError, match="HF_HUB_OFFLINE"):
        obtain(right(ON_THE_HUB, server))
    assert server.asked == []
    obtain(right(WEIGHTS["resnet18.imagenet1k_v1"], server))


def test_a_non_commercial_licence_is_asked_for(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    card = WEIGHTS["resnet18.fb_swsl_ig1b_ft_in1k"]
    with pytest.raises(WeightsError, match="--accept-license"):
        obtain(card)
    assert server.asked == []
    monkeypatch.setenv(weights.ACCEPT_LICENCE, "1")
    card = right(card, server)
    assert os.fspath(obtain(card)) == os.fspath(card.cached)
    for licence in ("Apache-2.0", "BSD-3-Clause", "unspecified", "MIT"):
        monkeypatch.delenv(weights.ACCEPT_LICENCE, raising=False)
        weights.check_licence("x", licence)


def test_every_file_is_pinned() -> None:
    """To a revision of the hub, or to an address whose name ends in the beginning of its hash."""
    assert len(TORCHVISION) + len(HUB) + len(FACEBOOK) == len(WEIGHTS)
    assert all(f"/resolve/{card.revision}/" in card.url and len(str(card.revision)) == 40 for card in HUB)
    assert all(card.url.endswith(f"-{card.sha256[:8]}.pth") for card in TORCHVISION + FACEBOOK)
    assert all(len(card.sha256) >= 8 for card in TORCHVISION + FACEBOOK)


def test_a_file_of_which_no_hash_is_known_is_not_recognised(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"anything")
    assert any(not card.sha256 for card in HUB)
    assert weights.recognised(tmp_path / "a") is None
    assert weights.recognised(tmp_path / "missing") is None
