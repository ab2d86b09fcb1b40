"""The batches of a small set made on the device alone, from numbers that are brought there once an epoch.

For steps that the host does not take part in, such as those of a CUDA graph: nothing of a batch depends on what the
host knows when it is made. What the batches hold is what `TrainLoader` gives, bit for bit: the same order, crops,
flips and erased rectangles, which are functions of (seed, epoch, picture), and the same normalisation.

Shapes: N pictures of C channels in a batch, S x S pixels; B batches in an epoch; F numbers for a picture.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from residuum import recipe
from residuum.data.balance import balanced_order
from residuum.data.labels import rarest
from residuum.data.loading import prepared, targets_of
from residuum.data.randomness import Draws, permutation
from residuum.data.sets import ResidentSet
from residuum.data.transforms import AlternateFlip, Erasing, Normalise, RandomFlip, reflected
from residuum.imaging import Preprocessing

Table = NDArray[np.int64]
"""What is drawn for the pictures of an epoch: int64 [B, F, N]."""

_FIELDS = ("place", "y", "x", "flip", "top", "left", "height", "width")


def unsupported(augment: recipe.Augment) -> str:
    """Returns the first key of `augment` that batches made here do not know, or nothing."""
    known = (recipe.CenterCrop, recipe.PadCrop)
    usual = recipe.Augment(grow_until=augment.grow_until, start_px=augment.start_px)
    rest = replace(augment, flip=usual.flip, erasing=usual.erasing)
    if isinstance(augment.crop, known):
        rest = replace(rest, crop=usual.crop)
    return next((f"augment.{key}" for key, value in vars(rest).items() if value != getattr(usual, key)), "")


class DeviceBatches:
    """The training batches of a resident set, whose pixels lie on the device with their margin.

    `load` brings an epoch's numbers to the device; `batch` makes one of its batches there.
    """

    def __init__(
        self,
        images: ResidentSet,
        data: recipe.Data,
        augment: recipe.Augment,
        preprocessing: Preprocessing,
        *,
        seed: int,
        device: torch.device,
        channels_last: bool,
        batches: int,
    ) -> None:
        self.seed = seed
        self._balance, self._labels = data.balanced_sampling, images.labels
        self._shape = (batches, len(_FIELDS), data.batch_size)
        crop = augment.crop if isinstance(augment.crop, recipe.PadCrop) else recipe.PadCrop(px=0)
        self._margin, self._reflects = crop.px, crop.fill == "reflect"
        self._flip = {"none": None, "random": RandomFlip(), "alternate": AlternateFlip()}[augment.flip]
        self._erasing = Erasing(augment.erasing, preprocessing.mean_colour) if augment.erasing else None
        self._normalise = Normalise(preprocessing, device, channels_last)
        self._fill = torch.tensor(preprocessing.mean_colour, dtype=torch.uint8, device=device)
        self._pixels = self._padded(prepared(images, preprocessing), device)
        self._all_labels = targets_of(images.labels, np.arange(len(images)), device)
        self._along = torch.arange(preprocessing.img_size, device=device)
        self._table = torch.zeros(self._shape, dtype=torch.int64, device=device)

    def count(self, number: int) -> int:
        """Returns how many pictures batch `number` of an epoch has."""
        size = self._shape[2]
        return min(size, len(self._labels) - number * size)

    def table(self, epoch: int) -> Table:
        """Returns what is drawn for an epoch: on the host, and for `load`."""
        batches, fields, size = self._shape
        if self._balance:
            order = balanced_order(rarest(self._labels), self._balance, self.seed, epoch)
        else:
            order = permutation(len(self._labels), self.seed, epoch)
        draws = Draws(self.seed, epoch, order[: batches * size])
        columns = np.zeros((fields, batches * size), dtype=np.int64)
        used = columns[:, : len(draws.indices)]
        used[0] = draws.indices % len(self._labels)
        if self._margin:
            used[1] = draws.uniform("crop_y") * (2 * self._margin + 1)
            used[2] = draws.uniform("crop_x") * (2 * self._margin + 1)
        if self._flip is not None:
            used[3] = self._flip.which(draws)
        if self._erasing is not None:
            used[4:] = self._erasing.rectangles(draws, len(self._along), len(self._along))
        return np.ascontiguousarray(columns.reshape(fields, batches, size).transpose(1, 0, 2))

    def load(self, table: Table) -> None:
        """Brings an epoch's numbers to the device, after the steps that were asked for before."""
        host = torch.from_numpy(table)
        if self._table.is_cuda:
            host = host.pin_memory()  # from elsewhere the copy would wait for all steps
        self._table.copy_(host, non_blocking=True)

    def batch(self, number: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """Returns the images, float32 [count, C, S, S], and labels, int64 [count], or float32 [count, K] of several
        classes, of the batch whose number is in `number`, int64 [1] on the device."""
        place, y, x, flip, top, left, height, width = self._table.index_select(0, number)[0, :, :count].unbind()
        last = len(self._along) - 1
        columns = torch.where(flip[:, None] > 0, last - self._along, self._along)
        rows_at, columns_at = y[:, None] + self._along, x[:, None] + columns
        images = self._pixels[place[:, None, None], rows_at[:, :, None], columns_at[:, None, :]]
        if self._erasing is not None:
            in_rows = (top[:, None] <= self._along) & (self._along < (top + height)[:, None])
            in_columns = (left[:, None] <= self._along) & (self._along < (left + width)[:, None])
            erased = in_rows[:, :, None, None] & in_columns[:, None, :, None]
            images = torch.where(erased, self._fill, images)
        return self._normalise(images.permute(0, 3, 1, 2)), self._all_labels.index_select(0, place)

    def _padded(self, pixels: NDArray[np.uint8], device: torch.device) -> Tensor:
        """Returns the pictures with `_margin` pixels on every side: uint8 [N, S + 2 m, S + 2 m, C]."""
        count, side, _, channels = pixels.shape
        if self._reflects:
            along = reflected(side, self._margin)
            return torch.from_numpy(np.ascontiguousarray(pixels[:, along[:, None], along])).to(device)
        wide = side + 2 * self._margin
        padded = self._fill.expand(count, wide, wide, channels).contiguous()
        inner = slice(self._margin, self._margin + side)
        padded[:, inner, inner] = torch.from_numpy(np.array(pixels)).to(device)
        return padded
