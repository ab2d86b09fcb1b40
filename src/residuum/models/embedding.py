"""Vectors of pictures: what a network makes of them before its classifier.

    embed = residuum.embedder(residuum.create_model("resnet50", weights="imagenet"))
    vectors = embed(images)  # [N, 2048]

Shapes: N pictures, C channels, H and W pixels; D numbers a vector.
"""

from __future__ import annotations

import hashlib

from torch import Tensor, nn

from residuum.errors import UsageError
from residuum.models.layers import Network
from residuum.models.saved import arrays


def stage_or_last(model: Network, stage: int | None) -> int:
    """Returns the stage, counted from 1; the last one where none is named.

    Raises:
        UsageError: the network has no such stage.
    """
    last = len(model.stages)
    if stage is not None and not 1 <= stage <= last:
        raise UsageError(
            f"The network has no stage {stage}.",
            expected=f"Expected a stage from 1, the finest, to {last}.",
            hint="Leave it out for the last one.",
        )
    return stage or last


class Embedder(nn.Module):
    """Turns pictures into vectors: [N, C, H, W] -> [N, D].

    `stage` counts from 1; the last is what the classifier sees, the layers before it included (timm's `num_classes=0`).
    A `pooled` vector has the mean of each channel over the map; otherwise it is the map itself, before any pooling,
    channel by channel. Gradients pass. `model` is used and not copied.

    Raises:
        UsageError: the network has no such stage.
    """

    def __init__(self, model: Network, stage: int | None = None, *, pooled: bool = True) -> None:
        super().__init__()
        self.model = model
        self.stage = stage_or_last(model, stage)
        self.pooled = pooled

    def forward(self, images: Tensor) -> Tensor:
        x = self.model.features(images)[self.stage - 1]
        if self.stage < len(self.model.feature_channels):
            return x.mean((2, 3)) if self.pooled else x.flatten(1)
        *before, _ = self.model.head.children()  # the classifier is the head's last layer
        for layer in before:
            if isinstance(layer, nn.AdaptiveAvgPool2d) and not self.pooled:
                break
            x = layer(x)
        return x.flatten(1)

    @property
    def fingerprint(self) -> str:
        """The SHA-256 of the weights, in hexadecimal: all but the classifier's, which no vector depends on."""
        classifier = list(self.model.head.named_children())[-1][0]
        digest = hashlib.sha256()
        for name, array in sorted(arrays(self.model.state_dict()).items()):
            if not name.startswith(f"head.{classifier}."):
                digest.update(f"{name} {array.dtype} {array.shape}\n".encode())
                digest.update(array.tobytes())
        return digest.hexdigest()

    def extra_repr(self) -> str:
        return f"stage={self.stage}, pooled={self.pooled}"


def embedder(model: Network, stage: int | None = None, *, pooled: bool = True) -> Embedder:
    """Returns what turns pictures into vectors with `model`, which is put into evaluation mode; see `Embedder`."""
    return Embedder(model, stage, pooled=pooled).eval()
