"""What a step that must not be applied has changed already, kept so that it can be undone: the norms' statistics."""

from __future__ import annotations

import torch
from torch import Tensor, nn

IN_A_ROW = 3
"""How many steps in a row may have a loss or a gradient that is not finite, before the run counts as diverged."""


class Norms:
    """The running statistics of a model's batch norms, before the step that is being made."""

    def __init__(self, model: nn.Module) -> None:
        self._buffers = list(model.buffers())
        self._kept = [torch.empty_like(buffer) for buffer in self._buffers]

    @torch.no_grad()
    def keep(self) -> None:
        """Keeps what they are now."""
        _copy(self._kept, self._buffers)

    @torch.no_grad()
    def put_back(self) -> None:
        """Makes them what they were when they were kept, bit for bit."""
        _copy(self._buffers, self._kept)


def _copy(to: list[Tensor], what: list[Tensor]) -> None:
    if to:
        torch._foreach_copy_(to, what)
