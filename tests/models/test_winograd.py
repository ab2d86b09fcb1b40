"""Convolutions in fewer multiplications: exact where nothing is rounded, and near to float64 where something is."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d

from residuum.models import create_model, fused, inference, layers, winograd

here = pytest.mark.skipif(winograd.library() is None, reason="no AVX-512 with bfloat16 here, or no C compiler")

SHAPES = [  # pictures, channels before and after, height and width
    (1, 32, 32, 1, 1),
    (1, 32, 64, 2, 2),
    (3, 64, 32, 5, 7),
    (2, 96, 160, 4, 9),
    (40, 32, 32, 3, 3),
    (2, 128, 64, 14, 14),
    (70, 64, 96, 8, 8),
    (3, 24, 64, 9, 9),
    (2, 72, 30, 5, 6),
    (2, 7, 99, 4, 4),
]


def channels_last(values: Tensor) -> Tensor:
    return values.contiguous(memory_format=torch.channels_last)


def whole(*shape: int, most: int, seed: int) -> Tensor:
    """Whole numbers, of which sums of four stay exact in bfloat16."""
    drawn = torch.randint(-most, most + 1, shape, generator=torch.Generator().manual_seed(seed))
    return channels_last(drawn.bfloat16())


def drawn(*shape: int, seed: int) -> Tensor:
    return channels_last(torch.randn(shape, generator=torch.Generator().manual_seed(seed)).bfloat16())


@here
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_whole_numbers_are_convolved_exactly(shape: tuple[int, ...]) -> None:
    """What goes into the products has no rounding then, so that the sums are those of float64."""
    n, c, d, h, w = shape
    x, gradient = whole(n, c, h, w, most=3, seed=0), whole(n, d, h, w, most=3, seed=1)
    weight = 4 * whole(d, c, 3, 3, most=3, seed=2).float()
    wide, exact = x.double().requires_grad_(), weight.double().requires_grad_()
    y = conv2d(wide, exact, padding=1)
    y.backward(gradient.double())
    assert wide.grad is not None
    assert exact.grad is not None
    assert torch.equal(winograd.convolved(x, winograd.packed(weight)), y.bfloat16())
    assert torch.equal(winograd.gradient_of_pictures(gradient, weight), wide.grad.bfloat16())
    assert torch.equal(winograd.gradient_of_weights(x, gradient), exact.grad.float())


@here
@pytest.mark.parametrize("more", [(-1, 0), (-1, -1), (-2, 1), (1, 1)], ids=str)
def test_fewer_results_than_pixels_or_one_more_are_exact_too(more: tuple[int, int]) -> None:
    """Those of a picture that lies in zeros."""
    x, weight = whole(3, 64, 7, 5, most=3, seed=0), 4 * whole(96, 64, 3, 3, most=3, seed=1).float()
    size = (7 + more[0], 5 + more[1])
    gradient = whole(3, 96, *size, most=3, seed=2)
    wide, exact = x.double().requires_grad_(), weight.double().requires_grad_()
    y = conv2d(nn.functional.pad(wide, (1, 2, 1, 2)), exact)[:, :, : size[0], : size[1]]
    y.backward(gradient.double())
    assert wide.grad is not None
    assert exact.grad is not None
    assert torch.equal(winograd.convolved(x, winograd.packed(weight), size=size), y.bfloat16())
    assert torch.equal(winograd.gradient_of_weights(x, gradient), exact.grad.float())
    if max(more) < 1:
        assert torch.equal(winograd.gradient_of_pictures(gradient, weight, (7, 5)), wide.grad.bfloat16())


@here
@pytest.mark.parametrize("side", [2, 5, 7])
def test_what_halving_leaves_out_is_not_computed(side: int, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[tuple[int, ...]] = []
    own = winograd.convolved
    monkeypatch.setattr(winograd, "convolved", lambda *a, **k: sizes.append(own(*a, **k).shape[2:]) or own(*a, **k))
    conv, x = layers.conv(32, 64, 3).to(memory_format=torch.channels_last), drawn(20, 32, side, side, seed=0)
    gradient = drawn(20, 64, side // 2, side // 2, seed=1)
    found = []
    for pool in (layers.Halving(), nn.MaxPool2d(2)):  # the second is the same, but it does not say what it reads
        conv.weight.grad, own_x = None, x.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16):
            y = fused._in_a_row([conv, pool], own_x)
        y.backward(gradient)
        with torch.inference_mode():
            answer = inference._chain(inference._in_a_row([conv, nn.GELU(), pool], torch.bfloat16))(x)
        found.append((y, own_x.grad, answer, conv.weight.grad))
    assert sizes[::3] == [(side // 2 * 2,) * 2, (side, side)]
    assert sizes[2::3] == sizes[::3]
    assert all(map(torch.equal, found[0][:3], found[1][:3]))
    weights, whole_map = found[0][3], found[1][3]
    assert weights is not None
    torch.testing.assert_close(weights, whole_map, rtol=1e-5, atol=1e-4)


@here
@pytest.mark.parametrize("side", [1, 3])
def test_halving_small_maps_learns_as_torchs_does(side: int) -> None:
    """What is left of 3x3 is one tile; the gradient of its pictures is torch's."""
    layer = nn.Sequential(layers.conv(32, 64, 3), layers.Halving()).to(memory_format=torch.channels_last)
    x, gradient = whole(20, 32, side, side, most=1, seed=0), whole(20, 64, 1, 1, most=3, seed=1)
    with torch.no_grad():
        layer[0].weight.copy_(4 * whole(64, 32, 3, 3, most=1, seed=2))
    exact = copy.deepcopy(layer).double()
    wide = x.double().requires_grad_()
    exact(wide).backward(gradient.double())
    x.requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        fused._in_a_row(layer, x).backward(gradient)
    assert x.grad is not None
    assert wide.grad is not None
    assert torch.equal(x.grad, wide.grad.bfloat16())
    assert torch.equal(layer[0].weight.grad, exact[0].weight.grad.float())


@here
@pytest.mark.parametrize("shape", SHAPES[2:], ids=str)
def test_others_are_about_twice_as_far_from_float64_as_torchs(shape: tuple[int, ...]) -> None:
    n, c, d, h, w = shape
    x, gradient = drawn(n, c, h, w, seed=0).relu(), drawn(n, d, h, w, seed=1)
    weight = channels_last(torch.randn(d, c, 3, 3, generator=torch.Generator().manual_seed(2)))
    found = [
        winograd.convolved(x, winograd.packed(weight)),
        winograd.gradient_of_pictures(gradient, weight),
        winograd.gradient_of_weights(x, gradient),
    ]
    exact, torchs = [], []
    for results, dtype in ((exact, torch.float64), (torchs, torch.bfloat16)):
        wide, heavy = x.to(dtype).requires_grad_(), weight.to(dtype).requires_grad_()
        y = conv2d(wide, heavy, padding=1)
        y.backward(gradient.to(dtype))
        results += [y.detach(), wide.grad, heavy.grad]
    for one, usual, ours in zip(exact, torchs, found, strict=True):
        far, near = (float((other.double() - one).norm() / one.norm()) for other in (ours, usual))
        assert far < 0.005
        assert far < 2.25 * near


@here
@pytest.mark.parametrize("channels", [64, 30, 99])
def test_bias_addition_and_relu_are_added_before_it_is_rounded(channels: int) -> None:
    x, weight = whole(3, 32, 5, 6, most=3, seed=0), 4 * whole(channels, 32, 3, 3, most=3, seed=1).float()
    bias = torch.arange(channels) / 8 - 4
    u, exact = winograd.packed(weight), conv2d(x.double(), weight.double(), padding=1)
    shifted = exact + bias.double()[:, None, None]
    assert torch.equal(winograd.convolved(x, u, bias), shifted.bfloat16())
    assert torch.equal(winograd.convolved(x, u, relu=True), exact.relu().bfloat16())
    short = whole(3, channels, 5, 6, most=99, seed=2)
    wanted = (shifted + short.double()).relu().bfloat16()
    found = winograd.convolved(x, u, bias, short, relu=True)
    assert torch.equal(found, wanted)
    assert found.data_ptr() == short.data_ptr()


@here
@pytest.mark.parametrize(
    "shape",
    [(70, 64, 32, 9, 9), (2, 160, 224, 8, 8), (2, 72, 150, 8, 8)],
    ids=["many tiles", "few tiles", "odd groups"],
)
def test_the_number_of_threads_changes_no_bit(shape: tuple[int, ...], threads: Callable[[int], None]) -> None:
    """Of few tiles, several threads take the same ones: each some of the channels. Of the gradient of the weights each
    takes some of the places, of which there are four rows, and where there are more threads, some of the channels."""
    n, c, d, h, w = shape
    x, gradient, weight = drawn(n, c, h, w, seed=0), drawn(n, d, h, w, seed=1), torch.randn(d, c, 3, 3)
    found = []
    for count in (1, 2, 3, 6, 8, 13):
        threads(count)
        y = winograd.convolved(x, winograd.packed(weight))
        found.append((y, winograd.gradient_of_pictures(gradient, weight), winograd.gradient_of_weights(x, gradient)))
    for other in found[1:]:
        assert all(map(torch.equal, found[0], other))


@here
def test_other_defaults_of_torch_change_nothing() -> None:
    x, gradient, weight = (
        whole(2, 32, 4, 4, most=3, seed=0),
        whole(2, 64, 4, 4, most=3, seed=1),
        torch.ones(64, 32, 3, 3),
    )
    found = []
    before = torch.get_default_dtype()
    for dtype in (torch.float32, torch.bfloat16):
        torch.set_default_dtype(dtype)
        try:
            with torch.device("meta" if dtype == torch.bfloat16 else "cpu"):
                y = winograd.convolved(x, winograd.packed(weight))
                found.append((y, winograd.gradient_of_weights(x, gradient)))
        finally:
            torch.set_default_dtype(before)
    assert all(map(torch.equal, *found))


@here
def test_a_step_and_an_answer_compute_by_it_what_they_can(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: Counter[str] = Counter()
    for name in ("convolved", "gradient_of_pictures", "gradient_of_weights"):
        own = getattr(winograd, name)
        monkeypatch.setattr(winograd, name, lambda *a, own=own, name=name, **k: calls.update([name]) or own(*a, **k))
    model = create_model("resnet20_cifar").to(memory_format=torch.channels_last)
    images = channels_last(torch.randn(2, 3, 32, 32))
    with torch.autocast("cpu", torch.bfloat16):
        logits = fused.forward_of(model, torch.device("cpu"))(images)
    assert calls == {"convolved": 10}  # all of the second and third stage but the two that stride
    logits.float().sum().backward()
    assert calls == {"convolved": 20, "gradient_of_pictures": 10, "gradient_of_weights": 10}
    with torch.inference_mode():
        inference.answering(model.eval(), "bf16")(images)
    assert calls["convolved"] == 30


@here
def test_it_follows_norms_that_are_kept_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    own = winograd.convolved
    monkeypatch.setattr(winograd, "convolved", lambda *a, **k: calls.append(1) or own(*a, **k))
    norm, conv = nn.BatchNorm2d(32).eval(), layers.conv(32, 32, 3)
    with torch.autocast("cpu", torch.bfloat16):
        fused._norm_activation(norm, drawn(2, 32, 4, 4, seed=0), None, "relu", conv)
    assert len(calls) == 1


@here
def test_pictures_that_do_not_fit_are_refused_as_torch_does() -> None:
    conv, x = layers.conv(32, 64, 3).to(memory_format=torch.channels_last), drawn(2, 64, 4, 4, seed=0)
    with torch.autocast("cpu", torch.bfloat16), pytest.raises(RuntimeError, match="to have 32 channels, but got 64"):
        fused._alone(conv, x)


@here
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_answers_of_other_weights_than_float32(dtype: torch.dtype) -> None:
    conv, x = nn.Conv2d(32, 64, 3, padding=1), drawn(2, 32, 6, 6, seed=0)
    wanted = conv(x.float())
    with torch.no_grad():
        found = inference.Convolution(conv.to(dtype), None, None, torch.bfloat16)(x)
    assert float((found - wanted.detach()).norm() / wanted.detach().norm()) < 0.01


@here
def test_later_training_does_not_reach_answers() -> None:
    conv, x = nn.Conv2d(32, 64, 3, padding=1), drawn(2, 32, 6, 6, seed=0)
    with torch.no_grad():
        answers = inference.Convolution(conv, None, None, torch.bfloat16)
        before = answers(x)
        for parameter in conv.parameters():
            parameter.zero_()
        assert torch.equal(answers(x), before)


@here
def test_what_is_not_finite_stays_so_and_stays_near() -> None:
    x = drawn(2, 32, 8, 8, seed=0)
    x[1, 3, 4, 4] = float("nan")
    y = winograd.convolved(x, winograd.packed(torch.ones(32, 32, 3, 3)), relu=True)
    assert y[1, :, 3:6, 3:6].isnan().all()
    assert y[0].isfinite().all()
    assert y[1, :, :2].isfinite().all()


@here
def test_it_is_for_those_convolutions_alone_that_it_computes() -> None:
    assert winograd.knows(layers.conv(32, 64, 3))
    assert winograd.knows(layers.conv(24, 64, 3))
    others = [
        layers.conv(32, 64, 1),
        layers.conv(32, 64, 5),
        layers.conv(32, 64, 3, stride=2),
        layers.conv(32, 64, 3, groups=2),
        layers.conv(16, 64, 3),
        layers.conv(32, 33, 3),
        nn.Conv2d(32, 64, 3),
        nn.Conv2d(32, 64, 3, padding=1, dilation=2),
        nn.Conv2d(32, 64, 3, padding=1, padding_mode="reflect"),
        nn.Conv2d(32, 64, 3, padding="same"),
    ]
    assert not any(map(winograd.knows, others))
    x = drawn(2, 32, 4, 4, seed=0)
    assert winograd.takes(x, 32)
    assert not winograd.takes(x, 64)
    assert not any(winograd.takes(other, 32) for other in (x.float(), x.contiguous(), x[:0], x.to("meta"), x[0]))
    three, one = (channels_last(x[:, :, :side, :side]) for side in (3, 1))
    assert not winograd.takes(three, 32)  # a map of 3x3 is four tiles of 2x2
    assert winograd.takes_weights_gradient(three, 32)
    assert not winograd.takes_weights_gradient(one, 32)


@here
@pytest.mark.parametrize("side", [1, 3, 8])
@pytest.mark.parametrize("frozen", ["nothing", "pictures", "weights"])
def test_a_layer_learns_as_torchs_does(side: int, frozen: str) -> None:
    """On maps of one pixel all of it is torch's, on those of three the gradient of the weights is not."""
    torch.manual_seed(0)
    conv = layers.conv(32, 64, 3).to(memory_format=torch.channels_last)
    exact = copy.deepcopy(conv)
    gradient = drawn(40, 64, side, side, seed=1)
    x = drawn(40, 32, side, side, seed=0).requires_grad_(frozen != "pictures")
    conv.weight.requires_grad_(frozen != "weights")
    with torch.autocast("cpu", torch.bfloat16):
        y = fused._alone(conv, x)
    y.backward(gradient)
    wide = x.detach().float().requires_grad_()
    wanted = exact(wide)
    wanted.backward(gradient.float())
    asked = (frozen != "pictures", frozen != "weights")
    assert (x.grad is not None, conv.weight.grad is not None) == asked
    for ours, theirs in ((y, wanted), (x.grad, wide.grad), (conv.weight.grad, exact.weight.grad)):
        if ours is not None and theirs is not None:
            assert float((ours - theirs).detach().norm() / theirs.detach().norm()) < 0.005


@here
def test_float32_and_watched_layers_are_left_to_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(winograd, "convolved", lambda *_: pytest.fail("it is not torch's"))
    conv, x = layers.conv(32, 32, 3), drawn(2, 32, 4, 4, seed=0)
    assert fused._alone(conv, x.float()).dtype == torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        fused._alone(conv, x.float())
        fused._alone(conv.eval(), x)
    conv.train()
    seen: list[nn.Module] = []
    conv.register_forward_hook(lambda module, given, answer: seen.append(module))  # noqa: ARG005
    with torch.autocast("cpu", torch.bfloat16):
        fused._alone(conv, x)
    assert seen == [conv]
