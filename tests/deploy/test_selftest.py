"""The self-test: each test goes red where its subject is broken, and stays green where it is not."""

from __future__ import annotations

import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import PIL.Image
import pytest
import torch

from residuum import bundle, hardware, imaging
from residuum.deploy import selftest
from residuum.errors import PictureError, VerificationError
from residuum.models import saved
from residuum.training import optim

CPU = torch.device("cpu")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "place"
    place.mkdir()
    return place


def lose_a_level(monkeypatch: pytest.MonkeyPatch) -> None:
    """PNG is decoded one level too dark."""
    intact = imaging.open_picture

    def dark(source: bytes, name: str) -> PIL.Image.Image:
        picture = intact(source, name=name)
        return picture.point(lambda level: max(level - 1, 0)) if name.endswith("png") else picture

    monkeypatch.setattr(imaging, "open_picture", dark)


def swap_channels(monkeypatch: pytest.MonkeyPatch) -> None:
    """JPEG comes out with red and blue exchanged."""
    intact = imaging.open_picture

    def swapped(source: bytes, name: str) -> PIL.Image.Image:
        picture = intact(source, name=name)
        return PIL.Image.merge("RGB", picture.split()[::-1]) if name.endswith("jpeg") else picture

    monkeypatch.setattr(imaging, "open_picture", swapped)


def forget_to_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "manual_seed", lambda _: None)


def stand_still(monkeypatch: pytest.MonkeyPatch) -> None:
    intact = optim.set_lr
    monkeypatch.setattr(optim, "set_lr", lambda optimizer, _: intact(optimizer, 0.0))


def hash_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything has the same hash."""
    digest = types.SimpleNamespace(hexdigest=lambda: "0" * 64)
    broken = types.SimpleNamespace(sha256=lambda _: digest, file_digest=lambda *_: digest)
    monkeypatch.setattr(bundle, "hashlib", broken)


def lose_a_weight(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bundle comes back with one number changed, its hash notwithstanding."""
    intact = bundle.read

    def read(place: Path) -> tuple[bundle.Tensors, bundle.Card]:
        tensors, card = intact(place)
        tensors["head.fc.weight"][0, 0] += 1
        return tensors, card

    monkeypatch.setattr(bundle, "read", read)


def load_something_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every load gives other weights."""
    intact = saved.load

    def load(*arguments: Any) -> saved.Saved:
        loaded = intact(*arguments)
        torch.nn.init.normal_(loaded.model.head.fc.weight)
        return loaded

    monkeypatch.setattr(saved, "load", load)


def compute_wrongly(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first network that is loaded computes a tenth too much."""
    intact, broken = selftest.load, []

    def load(*arguments: Any, **more: Any) -> Any:
        predictor = intact(*arguments, **more)
        if not broken:
            broken.append(predictor)
            predictor.model.head.fc.weight.data.mul_(1.1)
        return predictor

    monkeypatch.setattr(selftest, "load", load)


@pytest.mark.parametrize(
    ("test", "harm", "said"),
    [
        (selftest.pictures, lose_a_level, r"PNG comes back 0\.\d\d levels off"),
        (selftest.pictures, swap_channels, r"JPEG comes back \d\d\.\d\d levels off"),
        (selftest.repeatable, forget_to_seed, "two training steps, twice from one seed, differ by"),
        (selftest.learning, stand_still, r"the loss on digits went from .* to .* in 58 steps, not under 0\.8"),
        (selftest.bundles, hash_nothing, "a flipped bit in model.safetensors goes unnoticed"),
        (selftest.bundles, lose_a_weight, "a bundle comes back with other numbers in head.fc.weight"),
        (selftest.prediction, load_something_else, "other probabilities after a second load"),
        (selftest.bf16, compute_wrongly, r"bf16 differs from float32 by \d+\.\d%, more than 5%"),
        (selftest.agreement, compute_wrongly, "float32 on cpu differs from the processor's by 0.1"),
    ],
)
def test_a_test_goes_red_where_its_subject_is_broken(
    test: selftest.Test,
    harm: Callable[[pytest.MonkeyPatch], None],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    folder: Path,
) -> None:
    harm(monkeypatch)
    with pytest.raises(VerificationError, match=said):
        test(CPU, folder)


@pytest.mark.parametrize("test", [selftest.pictures, selftest.bf16, selftest.agreement])
def test_a_test_is_green_where_it_is_not(test: selftest.Test, folder: Path) -> None:
    """The others are, in the one whole self-test of the command's tests."""
    assert test(CPU, folder)


def test_a_decoder_that_is_not_there_is_an_error(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    def refuse(*_: object, name: str) -> None:
        raise PictureError(name, "there is no decoder")

    monkeypatch.setattr(imaging, "open_picture", refuse)
    with pytest.raises(PictureError, match="there is no decoder"):
        selftest.pictures(CPU, folder)


@pytest.mark.parametrize(
    ("device", "precision", "more"),
    [("cpu", "fp32", set()), ("cpu", "bf16", {"bf16"}), ("cuda", "bf16", {"bf16", "agreement"})],
)
def test_only_what_says_something_on_the_device_is_tested(
    device: str, precision: str, more: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hardware, "choose_precision", lambda *_: precision)
    always = {"pictures", "repeatable", "learning", "bundle", "prediction"}
    assert selftest.tests(torch.device(device)).keys() == always | more
