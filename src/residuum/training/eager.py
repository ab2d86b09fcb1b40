"""Torch's optimizers without torch's compiler: a run that compiles nothing begins a second or more sooner.

Methods of `torch.optim` import `torch._dynamo` when they are first called, to tell it to leave them alone. These
classes call what is inside; what they compute is the same.
"""

from __future__ import annotations

from typing import Any

import torch

_Optimizer = torch.optim.Optimizer


def _inside(method: Any) -> Any:
    """Returns what torch has wrapped into a method that imports its compiler; the method itself if that changes."""
    return getattr(method, "__wrapped__", method)


class Eager(_Optimizer):
    """An optimizer that leaves the compiler alone, but for its `step`."""

    add_param_group = _inside(_Optimizer.add_param_group)
    zero_grad = _inside(_Optimizer.zero_grad)
    state_dict = _inside(_Optimizer.state_dict)
    load_state_dict = _inside(_Optimizer.load_state_dict)


class SGD(Eager, torch.optim.SGD):
    """`torch.optim.SGD`, which cannot be differentiated through."""

    step = torch.no_grad()(_inside(torch.optim.SGD.step))


class AdamW(Eager, torch.optim.AdamW):
    """`torch.optim.AdamW`, which cannot be differentiated through."""

    step = torch.no_grad()(_inside(torch.optim.AdamW.step))
