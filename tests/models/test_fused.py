"""The fused kernel: the same function as torch's modules, in training, whatever the number of threads."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from residuum.models import create_model, functions, fused, layers, winograd
from residuum.models.layers import Network

CPU = torch.device("cpu")
here = pytest.mark.skipif(functions.library() is None, reason="no AVX-512 with bfloat16 here, or no C compiler")


def drawn(*shape: int, seed: int, mean: float = 0.0) -> Tensor:
    values = torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 2 + mean
    return values.bfloat16().contiguous(memory_format=torch.channels_last)


def norm_of(channels: int) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(channels, momentum=0.3)
    nn.init.uniform_(norm.weight, -1, 2)
    nn.init.normal_(norm.bias)
    return norm


@here
@pytest.mark.parametrize("joined", [False, True], ids=["alone", "with a residual"])
@pytest.mark.parametrize("by", ["relu", "gelu"])
@pytest.mark.parametrize(("pictures", "channels", "side"), [(4, 16, 5), (1, 32, 8), (128, 64, 1), (3, 48, 7)])
def test_it_is_torchs_batch_norm_addition_and_activation(
    pictures: int, channels: int, side: int, by: layers.Activation, joined: bool
) -> None:
    """Held to float64: the results are rounded to 8 bits once, and the running statistics not at all."""
    shape = (pictures, channels, side, side)
    x = drawn(*shape, seed=0, mean=3).requires_grad_()
    residual = drawn(*shape, seed=1).requires_grad_() if joined else None
    norm, exact = norm_of(channels), nn.BatchNorm2d(channels).double()
    exact.load_state_dict(norm.state_dict())
    exact.momentum = norm.momentum
    gradient = drawn(*shape, seed=2)

    y = fused._norm_activation(norm, x, residual, by)
    y.backward(gradient)

    wide = x.detach().double().requires_grad_()
    beside = None if residual is None else residual.detach().double().requires_grad_()
    expected = layers.activate_(exact(wide) if beside is None else exact(wide) + beside, by)
    expected.backward(gradient.double())

    def near(found: Tensor | None, wanted: Tensor | None, digits: float) -> None:
        assert found is not None
        assert wanted is not None
        assert (found.double() - wanted).abs().max() <= digits * wanted.abs().max()

    rounding = 2**-8
    near(y, expected, rounding)
    near(x.grad, wide.grad, rounding)
    if residual is not None and beside is not None:
        near(residual.grad, beside.grad, 0 if by == "relu" else rounding)
    near(norm.weight.grad, exact.weight.grad, 1e-5)
    near(norm.bias.grad, exact.bias.grad, 1e-5)
    near(norm.running_mean, exact.running_mean, 1e-5)
    near(norm.running_var, exact.running_var, 1e-5)
    assert norm.num_batches_tracked == exact.num_batches_tracked == 1


@here
def test_gelu_is_near_to_float64s_and_so_is_its_slope_at_any_size() -> None:
    """Of numbers from 2^-20 to 2^7, of either sign: results and slopes are rounded to 8 bits. The norm passes on what
    it is given: it has learned the batch's own mean and variance."""
    z = torch.cat([sign * 2.0 ** torch.linspace(-20, 7, 4096) for sign in (1, -1)])
    z = z.bfloat16().view(512, 16, 1, 1).contiguous(memory_format=torch.channels_last)
    norm = nn.BatchNorm2d(16, eps=0.0)
    with torch.no_grad():
        norm.weight.copy_(z.float().std((0, 2, 3), correction=0))
        norm.bias.copy_(z.float().mean((0, 2, 3)))
    residual = torch.zeros_like(z).requires_grad_()
    y = fused._norm_activation(norm, z, residual, "gelu")
    y.backward(torch.ones_like(y))
    exact = z.double().requires_grad_()
    expected = nn.functional.gelu(exact)
    expected.sum().backward()
    assert residual.grad is not None
    assert exact.grad is not None
    torch.testing.assert_close(y.double(), expected, rtol=2**-8, atol=2e-5)
    torch.testing.assert_close(residual.grad.double(), exact.grad, rtol=2**-8, atol=2e-5)


@here
def test_the_number_of_threads_changes_no_bit(threads: Callable[[int], None]) -> None:
    found = []
    for count in (1, 2, 3):
        threads(count)
        torch.manual_seed(0)
        x, norm = drawn(7, 32, 9, 9, seed=0).requires_grad_(), norm_of(32)
        y = fused._norm_activation(norm, x, None, "gelu")
        y.backward(drawn(7, 32, 9, 9, seed=1))
        found.append((y, x.grad, norm.weight.grad, norm.running_var))
    for other in found[1:]:
        for one, two in zip(found[0], other, strict=True):
            assert one is not None
            assert two is not None
            assert torch.equal(one, two)


@here
def test_what_is_not_finite_stays_so() -> None:
    x = drawn(2, 16, 4, 4, seed=0)
    x[1, 3, 2, 2] = float("nan")
    for by in ("relu", "gelu"):
        y = fused._norm_activation(norm_of(16), x, None, by)
        assert y[:, 3].isnan().all()
        assert y[:, 4:].isfinite().all()


def gradients(forward: Callable[[Tensor], Tensor], model: Network, images: Tensor, bf16: bool) -> list[Tensor]:
    model.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        logits = forward(images)
    nn.functional.cross_entropy(logits.float(), torch.arange(len(images)) % 10).backward()
    return [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]


def distance(ones: list[Tensor], others: list[Tensor]) -> float:
    of_difference = sum(float((one - other).square().sum()) for one, other in zip(ones, others, strict=True))
    return (of_difference / sum(float(one.square().sum()) for one in ones)) ** 0.5


@here
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("resnet20_cifar", {}),
        ("plain20_cifar", {}),
        ("resnet20_cifar", {"shortcut": "C", "drop_path": 0.0}),
        ("wrn16_8_cifar", {"width": 1.0}),
        ("resnet50", {"stem": "cifar", "width": 0.25, "num_classes": 10}),
        ("resnet18", {"num_classes": 10, "width": 0.25}),
        ("swift_resnet10_cifar", {}),
    ],
)
def test_a_networks_gradients_are_about_as_near_to_float32s_as_torchs(name: str, options: dict[str, object]) -> None:
    """With convolutions of `winograd.py` a little farther, which the running statistics of Wide ResNets show, and the
    gradients of networks of few layers, where little else is rounded."""
    limit = 1.25 if name in ("wrn16_8_cifar", "swift_resnet10_cifar") else 1.1
    torch.manual_seed(0)
    model = create_model(name, **options).to(memory_format=torch.channels_last).train()
    side = 16 * model.feature_strides[0]
    images = torch.randn(32, 3, side, side).contiguous(memory_format=torch.channels_last)
    state = copy.deepcopy(model.state_dict())
    found, running = [], []
    for forward, bf16 in ((model, False), (model, True), (fused.forward_of(model, CPU), True)):
        model.load_state_dict(state)
        found.append(gradients(forward, model, images, bf16))
        running.append([buffer.float().clone() for buffer in model.buffers()])
    for exact, torchs, ours in (found, running):
        assert 0 < distance(exact, ours) <= limit * distance(exact, torchs)


CONVS = [
    layers.conv(32, 48, 1),
    layers.conv(32, 16, 3, 2),
    layers.conv(32, 64, 3, groups=4),
    layers.conv(32, 64, 3),
]


@here
@pytest.mark.parametrize("by", ["relu", "gelu"])
@pytest.mark.parametrize("conv", CONVS, ids=["1x1", "3x3 that strides", "grouped", "3x3"])
def test_a_convolution_after_it_has_the_same_bits_without_what_went_into_it(
    conv: layers.Conv2d, by: layers.Activation
) -> None:
    """One after the other keep activation(norm(x)); as one they compute it again."""
    conv = copy.deepcopy(conv).to(memory_format=torch.channels_last)
    found, kept = [], []
    for joined in (conv, None):
        torch.manual_seed(0)
        x, norm = drawn(4, 32, 9, 9, seed=0, mean=1).requires_grad_(), norm_of(32)
        sizes: dict[int, int] = {}
        conv.zero_grad()

        def count(tensor: Tensor, sizes: dict[int, int] = sizes) -> Tensor:
            sizes[tensor.data_ptr()] = tensor.numel() if tensor.dtype == torch.bfloat16 else 0
            return tensor

        with torch.autocast("cpu", torch.bfloat16), torch.autograd.graph.saved_tensors_hooks(count, lambda kept: kept):
            assert fused._takes_over(conv)
            y = fused._norm_activation(norm, x, None, by, joined)
            y = fused._alone(conv, y) if joined is None else y
        y.backward(drawn(*y.shape, seed=1))
        gradients = (x.grad, norm.weight.grad, norm.bias.grad, conv.weight.grad, norm.running_mean, norm.running_var)
        found.append((y.detach(), *(value.clone() for value in gradients if value is not None)))
        kept.append(sum(sizes.values()))
    assert len(found[0]) == len(found[1]) == 7
    assert all(map(torch.equal, *found))
    assert kept == [x.numel(), 2 * x.numel() + (0 if winograd.knows(conv) else conv.weight.numel())]


@here
@pytest.mark.parametrize("by", ["relu", "gelu"])
@pytest.mark.parametrize(
    "learns",
    ["", "branch", "shortcut", "branch.conv3", "branch.norm2", "branch.norm3", "branch.conv1", "branch.norm2.bias"],
)
def test_a_bottlenecks_wide_map_is_computed_again_and_not_kept(
    learns: str, by: layers.Activation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever learns: all of it and what is before it, or one part."""
    found, kept = [], []
    for few in (fused._FEW, 0):
        monkeypatch.setattr(fused, "_FEW", few)
        torch.manual_seed(0)
        convs = [layers.conv(32, 16, 1), layers.conv(16, 16, 3), layers.conv(16, 64, 1)]
        block = layers.Block(convs, "B", 0.0, by).to(memory_format=torch.channels_last)
        for norm in block.modules():
            if isinstance(norm, nn.BatchNorm2d):
                nn.init.normal_(norm.weight)
        for name, parameter in block.named_parameters():
            parameter.requires_grad_(name.startswith(learns))
        x = drawn(4, 32, 9, 9, seed=0, mean=1).requires_grad_(not learns)
        sizes: list[int] = []

        def count(tensor: Tensor, sizes: list[int] = sizes) -> Tensor:
            sizes.append(tensor.numel() if tensor.dtype == torch.bfloat16 else 0)
            return tensor

        with torch.autocast("cpu", torch.bfloat16), torch.autograd.graph.saved_tensors_hooks(count, lambda kept: kept):
            y = fused._block(block, x)
        y.backward(drawn(*y.shape, seed=1))
        gradients = {name: each.grad for name, each in block.named_parameters()} | {"x": x.grad}
        found.append({"y": y.detach()} | gradients | dict(block.named_buffers()))
        kept.append(sum(sizes))
    for name, value in found[0].items():
        other = found[1][name]
        assert (value is None) == (other is None)
        assert value is None or torch.equal(value, other), name
    if not learns:
        assert kept[1] - kept[0] == y.numel()


@pytest.mark.parametrize("way", ["alone", pytest.param("with the norm before it", marks=here)])
def test_the_gradient_of_a_stride_over_one_pixel_is_float32s(way: str) -> None:
    """Torch's own has values that nobody wrote in half of these."""
    norm = norm_of(256)
    for seed in range(12):
        torch.manual_seed(seed)
        rubbish = [torch.full((512 * 256 * 9,), 1e5 * seed) for _ in range(3)]
        del rubbish  # which is what memory holds that nobody writes
        conv = layers.conv(256, 512, 3, 2).to(memory_format=torch.channels_last)
        x = drawn(32, 256, 1, 1, seed=seed)
        gradient = drawn(32, 512, 1, 1, seed=seed + 100)
        with torch.autocast("cpu", torch.bfloat16):
            y = conv(torch.relu(norm(x))) if way == "alone" else fused._norm_activation(norm, x, None, "relu", conv)
        y.backward(gradient)
        found = conv.weight.grad
        conv.weight.grad = None
        plain = nn.functional.conv2d(torch.relu(norm(x.float())), conv.weight, None, 2, 1)
        assert torch.allclose(plain, conv(torch.relu(norm(x.float()))))
        plain.backward(gradient.float())
        assert found is not None
        assert conv.weight.grad is not None
        assert distance([conv.weight.grad], [found]) < 0.02


@here
def test_what_does_not_learn_has_no_gradient() -> None:
    x, norm, conv = drawn(4, 32, 5, 5, seed=0), norm_of(32), copy.deepcopy(CONVS[0])
    for frozen in ([norm.weight, norm.bias], [conv.weight]):
        for parameter in (*norm.parameters(), *conv.parameters()):
            parameter.requires_grad_(not any(parameter is other for other in frozen)).grad = None
        with torch.autocast("cpu", torch.bfloat16):
            fused._norm_activation(norm, x, None, "relu", conv).sum().backward()  # type: ignore[no-untyped-call]
        for parameter in (*norm.parameters(), *conv.parameters()):
            assert (parameter.grad is not None) is parameter.requires_grad


@here
def test_it_is_used_in_training_and_only_there(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    own = functions._normalised
    monkeypatch.setattr(functions, "_normalised", lambda *given: calls.append(1) or own(*given))
    model = create_model("resnet20_cifar").to(memory_format=torch.channels_last)
    forward = fused.forward_of(model, CPU)
    images = torch.randn(2, 3, 16, 16).contiguous(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        forward(images)
        assert len(calls) == 19  # every norm
        assert torch.equal(forward.args[0].eval()(images), forward(images))  # type: ignore[attr-defined]
    model.train()
    forward(images)  # in float32
    assert len(calls) == 19


@here
def test_who_watches_a_module_sees_it_called() -> None:
    model = create_model("resnet20_cifar").to(memory_format=torch.channels_last)
    seen = []
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.register_forward_hook(lambda module, given, answer: seen.append(module))  # noqa: ARG005
    images = torch.randn(2, 3, 16, 16).contiguous(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        fused.forward_of(model, CPU)(images)
    assert len(seen) == len(norms)


def test_without_a_compiler_the_network_is_its_own_way(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("RESIDUUM_CACHE", str(tmp_path))
    functions.library.cache_clear()
    try:
        model = create_model("resnet20_cifar")
        assert fused.forward_of(model, CPU) is model
    finally:
        functions.library.cache_clear()


@pytest.mark.usefixtures("fresh_library")
@here
def test_it_is_compiled_once(tmp_path: Path) -> None:
    assert functions.library() is not None
    [kept] = (tmp_path / "kernels").iterdir()
    at = kept.stat().st_mtime_ns
    functions.library.cache_clear()
    assert functions.library() is not None
    assert [file.stat().st_mtime_ns for file in (tmp_path / "kernels").iterdir()] == [at]


@pytest.fixture
def fresh_library(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """A cache folder without a library."""
    monkeypatch.setenv("RESIDUUM_CACHE", str(tmp_path))
    functions.library.cache_clear()
    yield
    functions.library.cache_clear()
