"""Many views and one answer: ten crops, several scales, several networks, whose probabilities are averaged.

"one" is the centre that every other command looks at, "mirror" that and its mirror. "shift" are these, and the centre
moved a little in four directions, its edge mirrored into the gap, and their mirrors. "ten" are the four
corners and the centre of the central square, and their mirrors. "multiscale" is the whole picture at five scales, and
its mirrors, as a fully-convolutional network sees it: pooling takes any size, and a linear layer after it answers the
mean of its answers at all places.

Source: Krizhevsky et al. 2012, sections 2 and 4.1 (ten crops); He et al., arXiv:1512.03385, section 3.4 (scales) and
    Table 5 (ensembles); Simonyan and Zisserman, arXiv:1409.1556, section 3.2 (mirrors of the whole picture); Page,
    "How to train your ResNet", part 8 (the mirror of the one view, on CIFAR-10); Jordan, arXiv:2404.00498, section 3.5
    (moved pictures, on CIFAR-10).
Departures: pixels are given for networks of 224; others have the same proportions. Where preparation leaves no margin
    around its crop (`resize_px` not above `img_size`), ten crops are taken with the paper's margin of 256 to 224. All
    shifts count alike, and are up, down, left and right; the source has two, along the diagonal, at half the weight.
Shapes: N pictures, V views of each, M views of one size, C channels, h x w pixels, K classes.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from residuum import imaging
from residuum.data.loading import default_workers, targets_of
from residuum.data.sets import ImageSet
from residuum.data.transforms import Normalise
from residuum.data.verification import OnBadImage, take_note
from residuum.distributed import ALONE, World
from residuum.errors import PictureError
from residuum.imaging import Preprocessing

Kind = Literal["one", "mirror", "shift", "ten", "multiscale"]
Pixels = NDArray[np.uint8]

MARGIN = 256 / 224
"""The square that ten crops are taken from, as a multiple of their side. Source: Krizhevsky et al. 2012, section 2."""
SCALES = tuple(px / 224 for px in (224, 256, 384, 480, 640))
"""Shorter sides, as multiples of the network's input. Source: arXiv:1512.03385, section 3.4."""

WORDS: Mapping[Kind, str] = {
    "one": "the centre",
    "mirror": "the centre and its mirror",
    "shift": "the centre, moved in four directions too, and their mirrors",
    "ten": "four corners and the centre, and their mirrors",
    "multiscale": f"the whole picture at {len(SCALES)} scales, and its mirrors",
}
"""What the views of a picture are, for people."""

_VIEWS: Mapping[Kind, int] = {"one": 1, "mirror": 1, "shift": 5, "ten": 5, "multiscale": len(SCALES)}  # without mirrors
_COST: Mapping[Kind, int] = {
    "one": 1,
    "mirror": 1,
    "shift": 5,
    "ten": 5,
    "multiscale": round(sum(scale**2 for scale in SCALES)),
}
"""How many pictures of the network's input one picture's views are worth, in memory."""

_AHEAD = 3  # batches that are being decoded while one is in use


class Part(NamedTuple):
    """Views of one size: `images` float32 [M, C, h, w], normalised, on the device; image i is view `slots[i]` of the
    picture in row `rows[i]` of the batch. Both are int64 [M] in the processor's memory."""

    images: Tensor
    rows: Tensor
    slots: Tensor


@dataclass(frozen=True)
class Views:
    """The views of N pictures, `slots` of each, prepared in every way that a network of an ensemble wants."""

    count: int
    slots: int
    parts: Mapping[Preprocessing, Sequence[Part]]


class ViewBatch(NamedTuple):
    """What `loading.Batch` is, with views in the place of pictures."""

    images: Views
    labels: Tensor
    indices: NDArray[np.int64]
    number: int


class Averaged(nn.Module):
    """Networks, each with its own preprocessing, as one network of `Views`.

    Its answer is the logarithm of the mean probability over networks and views; where a picture may have `several`
    classes, the logit of each one's mean probability; or where there is one view and one network, its logits: Views ->
    float64 [N, K] in the processor's memory. The logits of each network are divided by its temperature (1 where none
    are given) before they become probabilities.
    """

    def __init__(
        self,
        networks: Sequence[tuple[nn.Module, Preprocessing]],
        kind: Kind,
        temperatures: Sequence[float] = (),
        *,
        several: bool = False,
    ) -> None:
        super().__init__()
        self.networks = nn.ModuleList(network for network, _ in networks)
        self.preprocessings = [preprocessing for _, preprocessing in networks]
        self.temperatures = tuple(temperatures) or (1.0,) * len(networks)
        self.mirrors = (False,) if kind == "one" else (False, True)
        self.several = several

    def forward(self, views: Views) -> Tensor:
        return self.both(views)[0]

    def both(self, views: Views) -> tuple[Tensor, ...]:
        """Returns the answer with the temperatures and, where one is not 1, without."""
        found = [
            (_answers(network, views, views.parts[preprocessing], mirrored), temperature)
            for network, preprocessing, temperature in zip(
                self.networks, self.preprocessings, self.temperatures, strict=True
            )
            for mirrored in self.mirrors
        ]
        mean = _mean_of_each if self.several else _mean
        tempered = mean([logits / temperature for logits, temperature in found])
        alike = all(temperature == 1 for temperature in self.temperatures)
        return (tempered,) if alike else (tempered, mean([logits for logits, _ in found]))


def _mean(answers: Sequence[Tensor]) -> Tensor:
    """Returns the logarithm of the mean probability, or what there is one of as it is; float64 [N, V, K] -> [N, K]."""
    logits = torch.cat(list(answers), dim=1)
    if logits.shape[1] == 1:
        return logits[:, 0]
    # In logarithms and float64, so that a class that no view believes in keeps a finite loss.
    return logits.log_softmax(dim=2).logsumexp(dim=1) - math.log(logits.shape[1])


def _mean_of_each(answers: Sequence[Tensor]) -> Tensor:
    """Returns the logit of each class's mean probability, or what there is one of as it is; float64 [N, V, K] -> [N,
    K]."""
    logits = torch.cat(list(answers), dim=1)
    if logits.shape[1] == 1:
        return logits[:, 0]
    # The yes and the no of each class, in logarithms and float64; the number of views cancels out.
    return functional.logsigmoid(logits).logsumexp(dim=1) - functional.logsigmoid(-logits).logsumexp(dim=1)


def _answers(network: nn.Module, views: Views, parts: Sequence[Part], mirrored: bool) -> Tensor:
    """Returns the network's logits of every view; float64 [N, V, K]."""
    answers: list[Tensor] = []
    for part in parts:
        logits: Tensor = network(part.images.flip(-1) if mirrored else part.images)
        answers.append(logits.float().cpu().double())
    together = answers[0].new_empty((views.count, views.slots, *answers[0].shape[1:]))
    for part, answer in zip(parts, answers, strict=True):
        together[part.rows, part.slots] = answer
    return together


def views_of(picture: Image.Image, preprocessing: Preprocessing, kind: Kind) -> list[Pixels]:
    """Returns the views of an opened picture, without mirrors, in a fixed order; uint8 [h, w, C] each. Where
    `preprocessing` squashes or pads, they are of the whole picture as a square."""
    if kind in ("one", "mirror"):
        return [imaging.prepare(picture, preprocessing).transpose(1, 2, 0)]
    if kind == "shift":
        return _shifted(imaging.prepare(picture, preprocessing).transpose(1, 2, 0))
    if kind == "ten":
        return _five_crops(picture, preprocessing)
    sides = [round(preprocessing.img_size * scale) for scale in SCALES]
    return [_pixels(imaging.resized(picture, side, preprocessing)) for side in sides]


def _shifted(centre: Pixels) -> list[Pixels]:
    """The view itself, and moved up, down, left and right by a 32nd of its side, at least by a pixel."""
    by = max(1, round(len(centre) / 32))
    wide = np.pad(centre, ((by, by), (by, by), (0, 0)), mode="reflect")
    high, across = centre.shape[:2]
    places = ((by, by), (2 * by, by), (0, by), (by, 2 * by), (by, 0))
    return [wide[top : top + high, left : left + across] for top, left in places]


def _five_crops(picture: Image.Image, preprocessing: Preprocessing) -> list[Pixels]:
    """The corners of the central square, row by row, and the centre exactly as `imaging.prepare` takes it."""
    crop_px = preprocessing.img_size
    square_px = preprocessing.resize_px
    if square_px <= crop_px:
        square_px = max(crop_px + 1, round(crop_px * MARGIN))
    picture = imaging.resized(picture, square_px, preprocessing)
    left, top = (round((side - square_px) / 2) for side in picture.size)
    far = square_px - crop_px
    places = [(left + x, top + y) for y in (0, far) for x in (0, far)]
    places.append((round((picture.width - crop_px) / 2), round((picture.height - crop_px) / 2)))
    return [_pixels(picture.crop((x, y, x + crop_px, y + crop_px))) for x, y in places]


def _pixels(picture: Image.Image) -> Pixels:
    return np.atleast_3d(np.asarray(picture, dtype=np.uint8))


class ViewLoader:
    """All pictures of a set in its order, each decoded once, as views of a `kind` for every one of `preprocessings`.

    `batch_size` is in pictures of the network's input, of which the views of one picture are worth several: a batch
    has fewer pictures, and takes no more memory than one of single views. `skipped`, the share of each process and
    the errors are as in `loading.EvalLoader`.
    """

    def __init__(
        self,
        images: ImageSet,
        preprocessings: Sequence[Preprocessing],
        kind: Kind,
        batch_size: int,
        *,
        device: torch.device,
        channels_last: bool,
        workers: int = 0,
        on_bad_image: OnBadImage = "error",
        world: World = ALONE,
    ) -> None:
        self.skipped: dict[str, str] = {}
        self._images, self._preprocessings, self._kind = images, tuple(dict.fromkeys(preprocessings)), kind
        self._size = max(1, batch_size // _COST[kind])
        self._device, self._channels_last, self._world = device, channels_last, world
        self._workers = workers or default_workers(device, world.local_size)
        self._on_bad_image = on_bad_image

    def __len__(self) -> int:
        """The number of batches, of all processes together."""
        return -(-len(self._images) // self._size)

    def __iter__(self) -> Iterator[ViewBatch]:
        order = np.arange(len(self._images))
        pool = ThreadPoolExecutor(self._workers, thread_name_prefix="residuum-decode")
        started: deque[tuple[int, NDArray[np.int64], list[Future[list[list[Pixels]] | PictureError]]]] = deque()
        try:
            for number in range(self._world.rank, len(self), self._world.size):
                indices = order[number * self._size : (number + 1) * self._size]
                started.append((number, indices, [pool.submit(self._open, int(index)) for index in indices]))
                if len(started) > _AHEAD:
                    yield from self._finish(*started.popleft())
            while started:
                yield from self._finish(*started.popleft())
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _open(self, index: int) -> list[list[Pixels]] | PictureError:
        """Returns the picture's views for each preprocessing."""
        try:
            picture = self._images.open(index)
        except PictureError as error:
            return error
        return [views_of(picture, preprocessing, self._kind) for preprocessing in self._preprocessings]

    def _finish(
        self, number: int, indices: NDArray[np.int64], futures: Sequence[Future[list[list[Pixels]] | PictureError]]
    ) -> Iterator[ViewBatch]:
        """Yields the batch, unless all its pictures are bad."""
        found = [future.result() for future in futures]
        bad = [error for error in found if isinstance(error, PictureError)]
        good = [views for views in found if not isinstance(views, PictureError)]
        if bad:
            take_note(bad, self._on_bad_image, self.skipped, len(self._images))
            indices = indices[[not isinstance(views, PictureError) for views in found]]
        if not good:
            return
        parts = {
            preprocessing: self._parts([views[at] for views in good], preprocessing)
            for at, preprocessing in enumerate(self._preprocessings)
        }
        labels = targets_of(self._images.labels, indices, self._device)
        yield ViewBatch(Views(len(good), _VIEWS[self._kind], parts), labels, indices, number)

    def _parts(self, found: Sequence[Sequence[Pixels]], preprocessing: Preprocessing) -> list[Part]:
        """Puts views of one size together."""
        places: dict[tuple[int, ...], list[tuple[int, int]]] = {}
        for row, views in enumerate(found):
            for slot, view in enumerate(views):
                places.setdefault(view.shape[:2], []).append((row, slot))
        parts = []
        for (height, width), at in places.items():
            pixels = torch.from_numpy(np.stack([found[row][slot] for row, slot in at])).to(self._device)
            normalise = Normalise(preprocessing, self._device, self._channels_last, size=(height, width))
            rows, slots = torch.tensor(at).T
            parts.append(Part(normalise(pixels.permute(0, 3, 1, 2)), rows, slots))
        return parts
