"""Networks in bundles: the same numbers back, and nothing else in their place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from residuum import bundle
from residuum.errors import WeightsError
from residuum.models import create_model, saved
from residuum.models.layers import Network

OPTIONS = {"name": "resnet20_cifar", "num_classes": 3, "in_channels": 1, "width": 0.25, "shortcut": "B"}
PREPROCESSING = {
    "mode": "L", "img_size": 8, "resize_px": 9, "interpolation": "bicubic", "mean": [0.1 + 0.2], "std": [1 / 3],
}  # fmt: skip
CARD = {"model": OPTIONS, "classes": ["ä", "10", "b"], "preprocessing": PREPROCESSING, "licence": "x", "scores": {}}


@pytest.fixture(scope="module")
def model() -> Network:
    torch.manual_seed(0)
    model = create_model(**OPTIONS).to(memory_format=torch.channels_last)  # type: ignore[arg-type]
    model.train()(torch.randn(4, 1, 8, 8))  # so that the running statistics are not those of the start
    return model.eval()


def test_the_same_network_comes_back(model: Network, tmp_path: Path) -> None:
    bundle.write(tmp_path / "best", saved.arrays(model.state_dict()), CARD)
    loaded = saved.load(tmp_path / "best")
    state = loaded.model.state_dict()
    assert list(state) == list(model.state_dict())
    for name, value in model.state_dict().items():
        assert value.dtype == state[name].dtype
        assert torch.equal(value, state[name]), name
    assert loaded.classes == ("ä", "10", "b")
    assert (loaded.preprocessing.mean, loaded.preprocessing.std) == ((0.1 + 0.2,), (1 / 3,))
    assert loaded.card["licence"] == "x"
    assert not any(module.training for module in loaded.model.modules())
    images = torch.randn(2, 1, 8, 8).to(memory_format=torch.channels_last)
    with torch.inference_mode():
        assert torch.equal(loaded.model(images), model(images))


def test_arrays_have_the_tensors_shapes_and_values(model: Network) -> None:
    arrays = saved.arrays(model.state_dict())
    for name, tensor in model.state_dict().items():
        assert arrays[name].shape == tuple(tensor.shape), name  # of a count of batches too, which has none
        assert arrays[name].flags["C_CONTIGUOUS"]
        assert np.array_equal(arrays[name], tensor.numpy())


FULL = np.zeros((3, 16), np.float32)
TENSORS: dict[str, dict[str, Any]] = {
    "renamed": {"head.fc.weight": None, "head.fc.weights": FULL},
    "missing": {"stem.conv.weight": None},
    "of another shape": {"head.fc.weight": FULL[:, 1:]},
    "one too many": {"extra": FULL},
}
"""Changes to the tensors of a bundle; None is one that is not there."""

CARDS: dict[str, dict[str, Any]] = {
    "another model": {"model": {**OPTIONS, "name": "resnet32_cifar"}},
    "an unknown model": {"model": {"name": "resnet5O"}},
    "an unknown option": {"model": {**OPTIONS, "depth": 3}},
    "a wrong option": {"model": {**OPTIONS, "width": "wide"}},
    "fewer classes": {"classes": ["a", "b"]},
    "more classes": {"classes": ["a", "b", "c", "d"]},
    "no mean": {"preprocessing": {key: value for key, value in PREPROCESSING.items() if key != "mean"}},
}
"""Changes to its card."""


@pytest.mark.parametrize("name", [*TENSORS, *CARDS])
def test_what_does_not_fit_is_refused(model: Network, tmp_path: Path, name: str) -> None:
    tensors = saved.arrays(model.state_dict()) | TENSORS.get(name, {})
    kept = {key: value for key, value in tensors.items() if value is not None}
    bundle.write(tmp_path / "best", kept, CARD | CARDS.get(name, {}))
    with pytest.raises(WeightsError) as caught:
        saved.load(tmp_path / "best")
    assert caught.value.exit_code == 4
    assert caught.value.expected
    assert caught.value.hint


def test_a_flipped_byte_is_found(model: Network, tmp_path: Path) -> None:
    bundle.write(tmp_path / "best", saved.arrays(model.state_dict()), CARD)
    file = tmp_path / "best" / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(WeightsError, match=r"model\.safetensors"):
        saved.load(tmp_path / "best")
