"""Explanations of predictions: `residuum.load("runs/photos-1/best").explain("a.jpg").save("a.png")`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from residuum import imaging
from residuum.data.labels import SEPARATOR
from residuum.errors import PictureError, UsageError, did_you_mean
from residuum.evaluation import explain, metrics, multilabel
from residuum.evaluation.temperature import tempered

if TYPE_CHECKING:
    from residuum.deploy.predict import Predictor, Source

SHOWN_PX = 640
"""Pictures with longer sides are scaled down to be drawn."""


@dataclass(frozen=True)
class Explanation:
    """What speaks for a class on one picture. `error` is why there is no answer; the rest is empty then.

    `label` and `prob` are what the network says, `asked` and `asked_prob` the class that the map speaks for; `prob` in
    0..1. `heat` is the map over what the network has seen, float32 [S, S], from 0 on in the method's own unit; `seen`
    is that part of the picture: left, top, right and bottom as fractions of its width and height. `size` is the
    picture's (width, height) in pixels; `pixels` shows it, at most 640 pixels long: uint8 [H, W, C]. `stage` counts
    from 1, and is None for occlusion. Where a picture may have several classes, `label` is the most probable one, and
    `labels` are those that it has, as in a `Prediction`.
    """

    file: str
    method: explain.Method
    stage: int | None = None
    label: str | None = None
    prob: float | None = None
    asked: str | None = None
    asked_prob: float | None = None
    heat: NDArray[np.float32] | None = None
    seen: tuple[float, float, float, float] = (0.0, 0.0, 1.0, 1.0)
    size: tuple[int, int] = (0, 0)
    pixels: NDArray[np.uint8] | None = None
    error: str | None = None
    labels: tuple[str, ...] | None = None

    @property
    def peak(self) -> tuple[int, int] | None:
        """The pixel (x, y) of the picture that speaks most for the class, to within a place of the map, or the nearest
        to it where that is a border beside the picture; None where nothing does."""
        if self.heat is None or not self.heat.max() > 0:
            return None
        row, column = np.unravel_index(int(self.heat.argmax()), self.heat.shape)
        left, top, right, bottom = self.seen
        x = left + (right - left) * (int(column) + 0.5) / self.heat.shape[1]
        y = top + (bottom - top) * (int(row) + 0.5) / self.heat.shape[0]
        width, height = self.size
        return min(max(0, int(x * width)), width - 1), min(max(0, int(y * height)), height - 1)

    def as_dict(self) -> dict[str, object]:
        """The explanation in JSON's types, without the map."""
        return {
            "file": self.file,
            "label": self.label,
            "prob": self.prob,
            "class": self.asked,
            "class_prob": self.asked_prob,
            "method": self.method,
            "stage": self.stage,
            "peak": None if self.peak is None else list(self.peak),
            "error": self.error,
            **({} if self.labels is None else {"labels": list(self.labels)}),
        }

    @property
    def how(self) -> str:
        """The method in words."""
        return _how(self.method, self.stage)

    @property
    def said_in_words(self) -> str:
        """What the network says, and how sure it is."""
        best = f"{self.label}, {100 * (self.prob or 0):.1f} %"
        if self.labels is None or self.labels == (self.label,):
            return best
        return f"{SEPARATOR.join(self.labels) or 'none'} (most: {best})"

    @property
    def asked_in_words(self) -> str:
        """The class that the map speaks for, with its probability where it is not the predicted one."""
        sure = "" if self.asked == self.label else f" ({100 * (self.asked_prob or 0):.1f} %)"
        return f"{self.asked}{sure}"

    def draw(self) -> bytes:
        """Returns a PNG of the picture, the map over it, and the map's scale.

        Raises:
            UsageError: the picture could not be used.
        """
        from residuum.evaluation.heat import draw_explanation  # imports Matplotlib

        if self.heat is None or self.pixels is None:
            raise UsageError(
                f"There is nothing to draw of {self.file}: {self.error}.",
                expected="Expected the explanation of a picture that can be used.",
                hint="Look at `error` first.",
            )
        return draw_explanation(
            self.pixels,
            self.heat,
            seen=self.seen,
            name=self.file,
            said=self.said_in_words,
            asked=self.asked_in_words,
            how=self.how,
        )

    def save(self, path: str | Path) -> None:
        """Writes `draw` into a file; raises what `draw` raises."""
        Path(path).write_bytes(self.draw())


class Explainer:
    """Explains pictures one by one, with a predictor's network.

    Raises:
        UsageError: there is no such method, stage or class.
    """

    def __init__(
        self,
        predictor: Predictor,
        method: explain.Method = "grad-cam",
        stage: int | None = None,
        label: str | None = None,
    ) -> None:
        self._predictor, self.method = predictor, method
        self.stage = explain.stage_of(predictor.model, method, stage)
        if label is not None and label not in predictor.classes:
            meant = did_you_mean(label, predictor.classes)
            raise UsageError(
                f"The network knows no class {label!r}.",
                expected=meant or f"Expected one of {', '.join(predictor.classes[:20])}.",
                hint="Leave it out for the class that the network predicts.",
            )
        self._classes = None if label is None else [predictor.classes.index(label)]
        self._probabilities = metrics.softmax if predictor.thresholds is None else multilabel.probabilities

    @property
    def how(self) -> str:
        """The method in words."""
        return _how(self.method, self.stage)

    def __call__(self, source: Source, name: str) -> Explanation:
        """Returns the explanation of a picture, which it calls `name`.

        Raises:
            PictureError: it cannot be used.
        """
        how, classes = self._predictor.preprocessing, self._predictor.classes
        picture = imaging.open_picture(source, how.mode)
        images = torch.from_numpy(imaging.normalise(imaging.prepare(picture, how)[None], how))
        images = images.to(self._predictor.device, memory_format=torch.channels_last)
        found = explain.explain(
            self._predictor.model,
            images,
            self._classes,
            method=self.method,
            stage=self.stage,
            autocast=self._predictor.autocast,
            probabilities=self._probabilities,
        )
        probs = self._probabilities(tempered(found.logits, self._predictor.temperature))[0]
        order, asked = metrics.ranked(found.logits, len(classes))[0].tolist(), int(found.classes[0])
        best, thresholds = order[0], self._predictor.thresholds
        labels = None if thresholds is None else tuple(classes[k] for k in order if probs[k] >= thresholds[k])
        shown = picture.copy()  # it may be the caller's own
        shown.thumbnail((SHOWN_PX, SHOWN_PX))
        return Explanation(
            file=name,
            method=self.method,
            stage=self.stage,
            label=classes[best],
            prob=float(probs[best]),
            asked=classes[asked],
            asked_prob=float(probs[asked]),
            heat=found.maps[0],
            seen=imaging.seen_part(picture.size, how),
            size=picture.size,
            pixels=np.atleast_3d(np.asarray(shown, dtype=np.uint8)),
            labels=labels,
        )

    def attempt(self, source: Source, name: str) -> Explanation:
        """As a call, with the reason as `error` where the picture cannot be used."""
        try:
            return self(source, name)
        except PictureError as error:
            labels = None if self._predictor.thresholds is None else ()
            return Explanation(name, self.method, self.stage, error=error.reason, labels=labels)


def _how(method: explain.Method, stage: int | None) -> str:
    name = {"grad-cam": "Grad-CAM", "layer-cam": "LayerCAM", "occlusion": "occlusion"}[method]
    return name if stage is None else f"{name}, stage {stage}"
