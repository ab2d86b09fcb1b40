"""The kernel for max pooling: torch's values, to the bit, and the gradient that float32 has."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from residuum.models import pool
from residuum.models.inference import answering
from residuum.models.layers import Halving
from residuum.models.pool import max_pool

here = pytest.mark.skipif(pool.library() is None, reason="no AVX-512 with bfloat16 here, or no C compiler")

POOLS = {
    "stem": nn.MaxPool2d(3, 2, 1),
    "halves": nn.MaxPool2d(2),
    "halves, a pixel stays one": nn.MaxPool2d(2, ceil_mode=True),
    "a last odd pixel is left out": Halving(),
    "AlexNet": nn.MaxPool2d(3, 2),
    "rest at the edge": nn.MaxPool2d(3, 2, 1, ceil_mode=True),
    "side by side": nn.MaxPool2d(3, 1, 1),
    "gaps": nn.MaxPool2d((2, 2), (3, 3)),
    "large": nn.MaxPool2d(5, 2, 2),
}
OTHERS = [
    nn.MaxPool2d((3, 2)), nn.MaxPool2d(3, (2, 1), 1), nn.MaxPool2d(3, 2, 1, dilation=2), nn.MaxPool2d(17, padding=8),
]  # fmt: skip


def drawn(*shape: int, seed: int = 0) -> Tensor:
    values = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return values.bfloat16().contiguous(memory_format=torch.channels_last)


@here
@pytest.mark.parametrize("pool", POOLS.values(), ids=POOLS.keys())
@pytest.mark.parametrize("shape", [(2, 16, 9, 8), (1, 48, 5, 12), (3, 32, 6, 6)])
def test_it_is_torchs(pool: nn.MaxPool2d, shape: tuple[int, int, int, int]) -> None:
    """Of several largest values the first has the gradient; gradients add up to what float32's do."""
    x = drawn(*shape).relu().requires_grad_()  # with zeros, of which many are the largest
    y = max_pool(pool, x)
    assert type(y.grad_fn).__name__ == "_MaxPoolBackward"
    gradient = drawn(*y.shape, seed=1)
    y.backward(gradient)
    wide = x.detach().float().requires_grad_()
    expected = pool(wide)
    expected.backward(gradient.float())
    assert torch.equal(y.float(), expected)
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert x.grad is not None
    assert wide.grad is not None
    assert torch.equal(x.grad, wide.grad.bfloat16())
    with torch.inference_mode():
        assert torch.equal(max_pool(pool, x.detach()), y)


@here
def test_one_pixel_may_stay_one() -> None:
    x = drawn(2, 16, 1, 1)
    assert torch.equal(max_pool(nn.MaxPool2d(2, ceil_mode=True), x), x)
    assert torch.equal(max_pool(Halving(), x), x)
    thin = drawn(2, 16, 1, 5)
    assert torch.equal(max_pool(Halving(), thin), F.max_pool2d(thin, (1, 2)))
    with pytest.raises(RuntimeError, match="too small"):
        max_pool(nn.MaxPool2d(2), x)


@here
def test_what_is_not_finite_is_passed_on() -> None:
    x = drawn(2, 16, 7, 7)
    x[0, 3, 2, 2] = float("nan")
    x[1, 4] = float("-inf")
    x[1, 5, 0, 0] = float("inf")
    stem = POOLS["stem"]
    torch.testing.assert_close(max_pool(stem, x), stem(x), rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("pool", OTHERS, ids=repr)
def test_other_windows_are_torchs(pool: nn.MaxPool2d) -> None:
    x = drawn(2, 16, 20, 20).requires_grad_()
    y = max_pool(pool, x)
    assert torch.equal(y, pool(x))
    assert type(y.grad_fn).__name__ == "MaxPool2DWithIndicesBackward0"


@pytest.mark.parametrize("x", [torch.randn(2, 16, 8, 8), drawn(2, 16, 8, 8).contiguous(), drawn(2, 24, 8, 8)])
def test_other_pictures_are_torchs(x: Tensor) -> None:
    y = max_pool(POOLS["stem"], x.clone(memory_format=torch.preserve_format).requires_grad_())
    assert torch.equal(y, POOLS["stem"](x))
    assert type(y.grad_fn).__name__ == "MaxPool2DWithIndicesBackward0"


@here
def test_answers_are_pooled_by_it(monkeypatch: pytest.MonkeyPatch) -> None:
    from residuum.models import create_model, inference

    pooled: list[nn.MaxPool2d] = []

    def counted(layer: nn.MaxPool2d, x: Tensor) -> Tensor:
        pooled.append(layer)
        return max_pool(layer, x)

    monkeypatch.setattr(inference, "max_pool", counted)
    model = create_model("resnet18", width=0.25, num_classes=5).eval()
    images = torch.randn(2, 3, 64, 64)
    found = answering(model, "bf16")(images)
    assert pooled == [layer for layer in model.modules() if isinstance(layer, nn.MaxPool2d)]
    monkeypatch.setattr(pool, "library", lambda: None)
    assert torch.equal(found, answering(model, "bf16")(images))
