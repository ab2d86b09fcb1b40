"""Views against torchvision and hand calculation; one view is the plain evaluation; ensembles; processes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import PIL.Image
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.special import softmax
from torch import Tensor, nn
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as tv

import residuum
from residuum import bundle, imaging
from residuum.data.loading import EvalLoader
from residuum.data.sets import FileSet, ImageSet
from residuum.data.sources import open_single
from residuum.distributed import ALONE, World
from residuum.errors import DataError, DivergedError, PictureError, UsageError, WeightsError
from residuum.evaluation.evaluate import Predictions, evaluate, join, predict
from residuum.evaluation.views import SCALES, Averaged, Kind, ViewLoader, views_of
from residuum.imaging import Preprocessing
from residuum.training.run import Run

CPU = torch.device("cpu")
PX8 = Preprocessing("RGB", 8, 10, "bilinear", (0.4, 0.5, 0.6), (0.2, 0.25, 0.3))


def noise(width: int, height: int, seed: int = 0) -> PIL.Image.Image:
    return PIL.Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


class Linear(nn.Module):
    """Answers linearly with the sum of every channel over the picture, and with its left half's: mirrors differ."""

    def __init__(self, num_classes: int = 3, scale: float = 0.02) -> None:
        super().__init__()
        weights = np.random.default_rng(1).normal(size=(6, num_classes))
        self.weights = nn.Parameter(torch.tensor(scale * weights, dtype=torch.float32))

    def forward(self, images: Tensor) -> Tensor:
        half = images[..., : images.shape[-1] // 2]
        return torch.cat([images.mean((2, 3)), half.mean((2, 3))], dim=1) @ self.weights


def by_hand(views: Sequence[NDArray[Any]], networks: Sequence[Linear], preprocessing: Preprocessing) -> NDArray[Any]:
    """The mean probability over networks and views, each [h, w, C], in float64 NumPy alone."""
    probs = []
    for network in networks:
        weights = network.weights.detach().double().numpy()
        for view in views:
            x = (view / 255 - np.array(preprocessing.mean)) / np.array(preprocessing.std)
            response = np.concatenate([x.mean((0, 1)), x[:, : x.shape[1] // 2].mean((0, 1))]) @ weights
            probs.append(softmax(response))
    return np.mean(probs, axis=0)


def mirrored(views: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
    return [*views, *(view[:, ::-1] for view in views)]


def expected_views(picture: PIL.Image.Image, preprocessing: Preprocessing, kind: Kind) -> list[NDArray[Any]]:
    """The views by torchvision's resize and slices."""
    px = preprocessing.img_size
    if kind == "multiscale":
        sides = [round(px * scale / 224) for scale in (224, 256, 384, 480, 640)]
        return mirrored([np.asarray(v2.Resize(side, antialias=True)(picture)) for side in sides])
    whole = v2.Resize(preprocessing.resize_px, antialias=True)(picture)
    centre = np.asarray(v2.CenterCrop(px)(whole))
    if kind in ("one", "mirror"):
        return [centre] if kind == "one" else mirrored([centre])
    if kind == "shift":
        wide = np.asarray(v2.Pad(1, padding_mode="reflect")(PIL.Image.fromarray(centre)))
        return mirrored([wide[y : y + px, x : x + px] for y, x in ((1, 1), (2, 1), (0, 1), (1, 2), (1, 0))])
    square = v2.CenterCrop(preprocessing.resize_px)(whole)
    return mirrored([*(np.asarray(crop) for crop in tv.five_crop(square, [px, px])[:4]), centre])


@pytest.mark.parametrize(("px", "by"), [(8, 1), (47, 1), (49, 2), (96, 3)])
def test_a_shift_is_a_32nd_of_the_side(px: int, by: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (px, px, 3), dtype=np.uint8)
    wide = np.asarray(v2.Pad(by, padding_mode="reflect")(PIL.Image.fromarray(pixels)))
    corners = ((by, by), (2 * by, by), (0, by), (by, 2 * by), (by, 0))
    found = views_of(PIL.Image.fromarray(pixels), replace(PX8, img_size=px, resize_px=px), "shift")
    for view, (y, x) in zip(found, corners, strict=True):
        assert np.array_equal(view, wide[y : y + px, x : x + px])


def answers(
    images: ImageSet, networks: Sequence[nn.Module], kind: Kind, batch_size: int = 4, **more: Any
) -> Predictions:
    preprocessings = more.pop("preprocessings", [PX8] * len(networks))
    loader = ViewLoader(images, preprocessings, kind, batch_size, device=CPU, channels_last=True, **more)
    return predict(Averaged(list(zip(networks, preprocessings, strict=True)), kind), loader, images.classes)


@pytest.fixture(scope="module")
def images(class_folders: Path) -> ImageSet:
    """The 66 pictures of different sizes."""
    return open_single(str(class_folders), None, ("2", "10", "bee"), mode="RGB")


@pytest.mark.parametrize("kind", ["one", "mirror", "shift", "ten", "multiscale"])
@pytest.mark.parametrize("count", [1, 2])
def test_every_view_of_linear_networks_is_what_it_must_be(images: ImageSet, kind: Kind, count: int) -> None:
    networks = [Linear(scale=0.5 * (1 + number)) for number in range(count)]
    found = answers(images, networks, kind, batch_size=40)
    assert found.indices.tolist() == list(range(66))
    for index in range(66):
        views = expected_views(images.open(index), PX8, kind)
        assert len(views) == {"one": 1, "mirror": 2, "shift": 10, "ten": 10, "multiscale": 10}[kind]
        probs = by_hand(views, networks, PX8)
        assert found.probs[index] == pytest.approx(probs[found.top[index]], abs=2e-6), images.name(index)
        assert found.losses[index] == pytest.approx(-math.log(probs[images.labels[index]]), abs=1e-5)


@given(st.integers(8, 60), st.integers(8, 60), st.integers(1, 9))
@settings(deadline=None, max_examples=50)
def test_ten_crops_are_torchvisions_of_the_central_square(width: int, height: int, margin: int) -> None:
    """And its centre is what one view is: that of the whole picture."""
    wanted, picture = replace(PX8, resize_px=8 + margin), noise(width, height)
    found = views_of(picture, wanted, "ten")
    for ours, theirs in zip(mirrored(found), expected_views(picture, wanted, "ten"), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_array_equal(found[4], imaging.prepare(picture, wanted).transpose(1, 2, 0))


@pytest.mark.parametrize(("img_size", "square_px"), [(224, 256), (32, 37), (8, 9), (1, 2)])
def test_without_a_margin_ten_crops_have_the_papers(img_size: int, square_px: int) -> None:
    picture = noise(square_px, square_px)
    corner = views_of(picture, replace(PX8, img_size=img_size, resize_px=img_size), "ten")[3]
    np.testing.assert_array_equal(corner, np.asarray(picture)[-img_size:, -img_size:])


@pytest.mark.parametrize("resize", ["squash", "pad"])
def test_what_squashes_or_pads_has_views_of_the_whole_picture(resize: Literal["squash", "pad"]) -> None:
    """By torchvision: a square of the whole picture at each scale, and its five crops."""
    how, picture = replace(PX8, resize=resize), noise(18, 30)
    squares = [imaging.squared(picture, how, round(8 * scale)) for scale in SCALES]
    for found, square in zip(views_of(picture, how, "multiscale"), squares, strict=True):
        np.testing.assert_array_equal(found, np.asarray(square))
    crops = tv.five_crop(imaging.squared(picture, how, 10), [8, 8])
    for found, crop in zip(views_of(picture, how, "ten"), crops, strict=True):
        np.testing.assert_array_equal(found, np.asarray(crop))


def test_scales_are_the_papers_and_fall_with_the_networks_input() -> None:
    for img_size, sides in ((224, (224, 256, 384, 480, 640)), (32, (32, 37, 55, 69, 91))):
        views = views_of(noise(60, 40), replace(PX8, img_size=img_size), "multiscale")
        assert [min(view.shape[:2]) for view in views] == list(sides)
        assert [view.shape[1] for view in views] == [side * 60 // 40 for side in sides], "the whole picture"
    assert len(SCALES) == 5


def test_a_network_over_a_larger_picture_is_its_classifier_at_every_place(finished: Run) -> None:
    """Fully convolutional: the linear layer as a 1x1 convolution over the last map, then the mean of its answers."""
    model = residuum.load(finished.folder / "best", device="cpu").model
    images = torch.randn(2, 3, 20, 31)
    with torch.no_grad():
        fc = model.head.get_submodule("fc")
        dense = nn.functional.conv2d(model.features(images)[-1], fc.weight[:, :, None, None], fc.bias)  # type: ignore
        assert dense.shape[2:] == (5, 8)
        torch.testing.assert_close(model(images), dense.mean((2, 3)))


def test_one_view_is_the_plain_evaluation_to_the_last_bit(finished: Run) -> None:
    assert finished.result is not None
    model, images = residuum.load(finished.folder / "best", device="cpu").model, finished.result.images
    wanted = finished.preprocessing
    plain = EvalLoader(images, wanted, 7, device=CPU, channels_last=True)
    views = ViewLoader(images, [wanted], "one", 7, device=CPU, channels_last=True)
    assert len(views) == len(plain) > 1
    first, said = evaluate(model, plain, images.classes)
    second, again = evaluate(Averaged([(model, wanted)], "one"), views, images.classes)
    assert second.as_dict() == first.as_dict()
    for name in ("indices", "labels", "top", "probs", "losses"):
        np.testing.assert_array_equal(getattr(said, name), getattr(again, name))


@pytest.mark.parametrize("kind", ["ten", "multiscale"])
def test_processes_join_to_the_whole_exactly(images: ImageSet, kind: Kind) -> None:
    whole = answers(images, [Linear()], kind, batch_size=60)
    parts = [answers(images, [Linear()], kind, batch_size=60, world=World(rank, 3)) for rank in range(3)]
    assert sum(map(len, parts)) == 66
    together = join(parts)
    for name in ("indices", "top", "probs", "losses"):
        np.testing.assert_array_equal(getattr(together, name), getattr(whole, name))


@pytest.mark.parametrize("batch_size", [1, 7, 1000])
def test_the_batch_size_and_the_workers_do_not_matter(images: ImageSet, batch_size: int) -> None:
    found = answers(images, [Linear()], "multiscale", batch_size=batch_size, workers=2)
    np.testing.assert_allclose(found.probs, answers(images, [Linear()], "multiscale").probs, rtol=1e-5)


def test_networks_may_want_different_inputs(images: ImageSet) -> None:
    other = replace(PX8, img_size=6, resize_px=9, mean=(0.0, 0.1, 0.2))
    networks = [Linear(scale=0.5), Linear(scale=2.0)]
    found = answers(images, networks, "ten", preprocessings=[PX8, other])
    for index in (0, 40):
        picture = images.open(index)
        each = [
            by_hand(expected_views(picture, wanted, "ten"), [network], wanted)
            for network, wanted in zip(networks, (PX8, other), strict=True)
        ]
        assert found.probs[index] == pytest.approx(np.mean(each, axis=0)[found.top[index]], abs=2e-6)


def test_a_class_that_no_view_believes_in_has_a_finite_loss(images: ImageSet) -> None:
    found = answers(images, [Linear(scale=1e5)], "ten")
    assert np.isfinite(found.losses).all()
    assert found.losses.max() > 1000


def test_answers_that_are_not_finite_are_refused(images: ImageSet) -> None:
    with pytest.raises(DivergedError):
        answers(images, [Linear(scale=math.nan)], "ten")


def test_bad_pictures_end_it_or_are_named(images: ImageSet, class_folders: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"")
    assert isinstance(images, FileSet)
    mixed = replace(
        images, paths=[*sorted(class_folders.rglob("*.png")), bad], rows=None, labels=np.zeros(67, np.int64)
    )
    with pytest.raises(PictureError, match=r"bad\.png"):
        answers(mixed, [Linear()], "ten")
    loader = ViewLoader(mixed, [PX8], "ten", 1, device=CPU, channels_last=True, on_bad_image="skip")
    found = predict(Averaged([(Linear(), PX8)], "ten"), loader, images.classes)
    assert len(found) == 66
    assert list(loader.skipped) == [str(bad)]


@pytest.fixture(scope="module")
def twin(finished: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The finished run's bundle with other weights in its classifier."""
    tensors, card = bundle.read(finished.folder / "best")
    folder = tmp_path_factory.mktemp("twin") / "best"
    bundle.write(folder, tensors | {"head.fc.weight": -2 * tensors["head.fc.weight"]}, card)
    return folder


def test_an_ensemble_averages_probabilities(finished: Run, twin: Path) -> None:
    assert finished.result is not None
    best, images = finished.folder / "best", finished.result.images
    names = [images.name(index) for index in range(len(images))]
    probs = [
        [
            {guess.label: guess.prob for guess in answer.top}
            for answer in residuum.load(each, device="cpu").predict(names)
        ]
        for each in (best, twin)
    ]
    mean = [[(one[name] + two[name]) / 2 for name in images.classes] for one, two in zip(*probs, strict=True)]
    right = np.mean(np.argmax(mean, axis=1) == images.labels)
    scores = residuum.evaluate(best, ensemble=[twin], device="cpu")
    assert scores.top1 == pytest.approx(100 * right)
    losses = [-math.log(row[label]) for row, label in zip(mean, images.labels, strict=True)]
    assert scores.loss == pytest.approx(np.mean(losses), abs=1e-5)
    assert scores.top1 != residuum.evaluate(twin, device="cpu").top1 or scores.loss != finished.result.scores.loss


@pytest.mark.parametrize("views", ["ten", "multiscale"])
def test_views_of_a_real_network_change_its_scores_a_little(finished: Run, views: Kind) -> None:
    best = finished.folder / "best"
    plain, seen = residuum.evaluate(best, device="cpu"), residuum.evaluate(best, views=views, device="cpu")
    assert seen.images == plain.images
    assert seen.loss != plain.loss
    assert seen.loss == pytest.approx(plain.loss, rel=0.5)


def changed(finished: Run, folder: Path, **changes: object) -> Path:
    tensors, card = bundle.read(finished.folder / "best")
    bundle.write(folder, tensors, card | changes)
    return folder


def test_other_classes_or_another_order_are_refused(finished: Run, tmp_path: Path) -> None:
    best = finished.folder / "best"
    for classes, said in ((["2", "10", "wasp"], "other classes"), (["10", "2", "bee"], "another order")):
        other = changed(finished, tmp_path / said / "best", classes=classes)
        with pytest.raises(WeightsError, match=said) as caught:
            residuum.evaluate(best, ensemble=[other], device="cpu")
        assert str(other) in caught.value.what
        assert caught.value.expected
        assert caught.value.hint


def test_grey_and_colour_do_not_go_together(finished: Run, tmp_path: Path) -> None:
    tensors, card = bundle.read(finished.folder / "best")
    grey = {**card["preprocessing"], "mode": "L", "mean": [0.5], "std": [0.2]}
    tensors["stem.conv.weight"] = tensors["stem.conv.weight"][:, :1]
    model = {**card["model"], "in_channels": 1}
    bundle.write(tmp_path / "best", tensors, {**card, "preprocessing": grey, "model": model})
    with pytest.raises(WeightsError, match="mode L"):
        residuum.evaluate(finished.folder / "best", ensemble=[tmp_path / "best"], device="cpu")


def test_networks_that_held_out_other_pictures_are_refused(finished: Run, class_folders: Path, tmp_path: Path) -> None:
    _, card = bundle.read(finished.folder / "best")
    names = dict.fromkeys(card["data"]["names"], "0" * 16)
    other = changed(finished, tmp_path / "best", data={**card["data"], "names": names})
    with pytest.raises(DataError, match="divided the set"):
        residuum.evaluate(finished.folder / "best", ensemble=[other], device="cpu")
    elsewhere = changed(finished, tmp_path / "two" / "best", data={**card["data"], "source": "elsewhere"})
    best = finished.folder / "best"
    one = residuum.evaluate(best, ensemble=[elsewhere], device="cpu")
    assert residuum.evaluate(elsewhere, str(class_folders), ensemble=[best], device="cpu").loss == pytest.approx(
        one.loss
    )


def test_unknown_views_are_refused(finished: Run) -> None:
    with pytest.raises(UsageError, match="twelve"):
        residuum.evaluate(finished.folder / "best", views="twelve", device="cpu")  # type: ignore[arg-type]
    assert ALONE.size == 1
