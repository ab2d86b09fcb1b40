"""Predictions for any picture: `residuum.load("runs/digits-1/best").predict("a.png")`."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, TypeAlias, overload

import numpy as np
import PIL.Image
import torch
from numpy.typing import NDArray
from torch import nn

from residuum import hardware, imaging
from residuum.calibration import Threshold, threshold_of, unknown_for
from residuum.data.transforms import Normalise
from residuum.deploy.explain import Explainer, Explanation
from residuum.errors import PictureError, UsageError
from residuum.evaluation import metrics, multilabel
from residuum.evaluation.explain import Method
from residuum.evaluation.temperature import tempered
from residuum.models import inference, saved

Source: TypeAlias = str | os.PathLike[str] | bytes | PIL.Image.Image | NDArray[Any]
"""A picture: a path, the bytes of a file, a Pillow image, or an array uint8 [H, W] or [H, W, C]."""


@dataclass(frozen=True)
class Guess:
    """One class and its probability, in 0..1."""

    label: str
    prob: float


@dataclass(frozen=True)
class Prediction:
    """What the network says of one picture. `error` is why there is no answer, and `top` is empty then. `unknown_as` is
    the word for a picture that it is not sure enough of to name a class, and else empty.

    `labels` are the classes that the picture has, where it may have several: those whose probability reaches the
    class's threshold, most probable first. It is None where a picture has one class.
    """

    file: str
    top: tuple[Guess, ...]
    error: str | None = None
    unknown_as: str = ""
    labels: tuple[str, ...] | None = None

    @property
    def unknown(self) -> bool:
        """Whether the most probable class is not probable enough to be the answer."""
        return bool(self.unknown_as)

    @property
    def label(self) -> str | None:
        """The most probable class; "unknown" where it is not probable enough (or "(unknown)", where the former is the
        name of a class)."""
        return self.unknown_as or (self.top[0].label if self.top else None)

    @property
    def prob(self) -> float | None:
        """The probability of the most probable class, in 0..1."""
        return self.top[0].prob if self.top else None

    def as_dict(self) -> dict[str, object]:
        """The prediction in JSON's types."""
        return {
            "file": self.file,
            "label": self.label,
            "prob": self.prob,
            "unknown": self.unknown,
            "top": [{"label": guess.label, "prob": guess.prob} for guess in self.top],
            **({} if self.labels is None else {"labels": list(self.labels)}),
            "error": self.error,
        }


class Predictor:
    """A trained network with its classes, its preprocessing and its temperature, ready for pictures.

    Where the probability of the best class is below `unknown_below`, the answer is "unknown"; None is the bundle's own
    threshold, if any, "auto" insists on it, and "none" answers always.

    Raises:
        UsageError: the threshold is no probability, or the bundle has none of its own.
    """

    def __init__(
        self,
        trained: saved.Saved,
        device: torch.device,
        precision: hardware.Precision = "fp32",
        unknown_below: Threshold | None = None,
    ) -> None:
        self.model = trained.model
        self.classes = trained.classes
        self.preprocessing = trained.preprocessing
        self.card = trained.card
        self.thresholds = trained.thresholds
        if self.thresholds is not None and unknown_below not in (None, "none"):
            raise _of_several(unknown_below)
        self.temperature = trained.calibration.temperature
        self.unknown_below = threshold_of(trained.calibration, unknown_below)
        self.device = device
        self._normalise = Normalise(trained.preprocessing, device, channels_last=True)
        self._precision = hardware.choose_precision(precision, device)
        self.autocast = hardware.autocast(self._precision, device)

    @cached_property
    def _answering(self) -> nn.Module:
        """What gives the logits of `model`, faster; made when it is first needed."""
        return inference.answering(self.model, self._precision)

    @overload
    def predict(self, pictures: Source, *, top: int = 5, batch_size: int = 32) -> Prediction: ...
    @overload
    def predict(
        self, pictures: list[Source] | list[str], *, top: int = 5, batch_size: int = 32
    ) -> list[Prediction]: ...
    def predict(self, pictures: Any, *, top: int = 5, batch_size: int = 32) -> Prediction | list[Prediction]:
        """Returns the `top` classes of one picture, or of each of a list, in its order.

        In a list, a picture that cannot be used has its reason as `error`.

        Raises:
            PictureError: the only picture cannot be used.
            UsageError: `top` or `batch_size` is less than 1.
        """
        _require_positive(top=top, batch_size=batch_size)
        if isinstance(pictures, list | tuple):
            return list(self.stream(pictures, top=top, batch_size=batch_size))
        prepared = self._prepare(pictures)
        return self._answer([_title(pictures)], [prepared], top)[0]

    def stream(
        self, pictures: Iterable[Source], *, top: int = 5, batch_size: int = 32, workers: int = 0
    ) -> Iterator[Prediction]:
        """Yields the prediction of each picture as its batch is done; memory does not grow with their number.

        `workers` threads decode (0: chosen by the processor).
        """
        _require_positive(top=top, batch_size=batch_size)
        waiting = iter(pictures)
        with ThreadPoolExecutor(workers or None, thread_name_prefix="residuum-predict") as pool:
            while batch := list(islice(waiting, batch_size)):
                opened = list(pool.map(self._try_prepare, batch))
                good = [pixels for pixels in opened if isinstance(pixels, np.ndarray)]
                titles = [
                    _title(source)
                    for source, pixels in zip(batch, opened, strict=True)
                    if isinstance(pixels, np.ndarray)
                ]
                answers = iter(self._answer(titles, good, top) if good else [])
                for source, found in zip(batch, opened, strict=True):
                    if isinstance(found, PictureError):
                        labels = None if self.thresholds is None else ()
                        yield Prediction(_title(source), (), found.reason, labels=labels)
                    else:
                        yield next(answers)

    @overload
    def explain(
        self, pictures: Source, *, label: str | None = None, method: Method = "grad-cam", stage: int | None = None
    ) -> Explanation: ...
    @overload
    def explain(
        self,
        pictures: list[Source] | list[str],
        *,
        label: str | None = None,
        method: Method = "grad-cam",
        stage: int | None = None,
    ) -> list[Explanation]: ...
    def explain(
        self, pictures: Any, *, label: str | None = None, method: Method = "grad-cam", stage: int | None = None
    ) -> Explanation | list[Explanation]:
        """Returns what speaks for the class `label`, or for the predicted one, on a picture, or on each of a list.

        `method` is "grad-cam", "layer-cam" or "occlusion", `stage` the stage whose map is read (1 is the finest; None
        the last). In a list, a picture that cannot be used has its reason as `error`.

        Raises:
            PictureError: the only picture cannot be used.
            UsageError: there is no such method, stage or class.
        """
        explainer = Explainer(self, method, stage, label)
        if isinstance(pictures, list | tuple):
            return [explainer.attempt(source, _title(source)) for source in pictures]
        return explainer(pictures, _title(pictures))

    def _prepare(self, source: Source) -> NDArray[np.uint8]:
        return imaging.prepare_channels_last(imaging.open_picture(source, self.preprocessing.mode), self.preprocessing)

    def _try_prepare(self, source: Source) -> NDArray[np.uint8] | PictureError:
        try:
            return self._prepare(source)
        except PictureError as error:
            return error

    def _answer(self, titles: list[str], pictures: list[NDArray[np.uint8]], top: int) -> list[Prediction]:
        seen = torch.from_numpy(np.stack(pictures)).to(self.device).permute(0, 3, 1, 2)
        images = self._normalise(seen)
        with torch.inference_mode():
            logits = self._answering(images).cpu().numpy()
        if self.thresholds is not None:
            return self._answer_each(titles, logits, top, self.thresholds)
        probs = metrics.softmax(tempered(logits, self.temperature))
        best = metrics.ranked(logits, min(top, len(self.classes)))
        word = unknown_for(self.classes)
        return [
            Prediction(
                title,
                tuple(Guess(self.classes[k], float(row[k])) for k in order),
                unknown_as=word if float(row[order[0]]) < (self.unknown_below or 0.0) else "",
            )
            for title, row, order in zip(titles, probs, best.tolist(), strict=True)
        ]

    def _answer_each(
        self, titles: list[str], logits: NDArray[np.float32], top: int, thresholds: tuple[float, ...]
    ) -> list[Prediction]:
        """Returns the answers where a picture may have several classes. Shapes: `logits` [N, K], `thresholds` [K]."""
        found = []
        probs, orders = multilabel.probabilities(logits), metrics.ranked(logits, len(self.classes))
        for title, row, order in zip(titles, probs, orders.tolist(), strict=True):
            guesses = tuple(Guess(self.classes[k], float(row[k])) for k in order[:top])
            labels = tuple(self.classes[k] for k in order if row[k] >= thresholds[k])
            found.append(Prediction(title, guesses, labels=labels))
        return found


def load(
    bundle: str | Path,
    *,
    device: str = "auto",
    precision: hardware.Precision = "fp32",
    unknown_below: Threshold | None = None,
) -> Predictor:
    """Loads a bundle (the folder `best/` of a run), every file of it checked against its hash.

    `unknown_below` is the probability below which the answer is "unknown": None is the bundle's own, if it has one.

    Raises:
        WeightsError: there is no bundle, or it is incomplete, changed or malformed.
        UsageError: an argument cannot be what it is.
    """
    place = hardware.choose_device(device)
    return Predictor(saved.load(Path(bundle), place), place, precision, unknown_below)


def _of_several(unknown_below: Threshold | None) -> UsageError:
    return UsageError(
        f"unknown_below cannot be {unknown_below!r} for a network that gives a picture any number of classes.",
        expected="Expected a network that gives a picture one class: of several, each has a threshold of its own.",
        hint="Leave it out: where no class reaches its threshold, the answer is none of them.",
    )


def _require_positive(**values: int) -> None:
    for name, value in values.items():
        if value < 1:
            raise UsageError(
                f"{name} cannot be {value}.",
                expected="Expected a whole number from 1.",
                hint="Leave it out for the default.",
            )


def _title(source: Source) -> str:
    if isinstance(source, str | os.PathLike):
        return os.fspath(source)
    return {bytes: "bytes", np.ndarray: "array"}.get(type(source), getattr(source, "filename", "") or "picture")
