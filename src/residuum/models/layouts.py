"""The names that others give to the layers of the same networks, and how they become ours.

A layout is a list of renamings, applied in order to every key of a foreign state dict. Which layout a file has is
recognised: it is the one under which the most keys begin as ours do.
Source: torchvision/models/resnet.py (BSD 3-Clause); timm/models/resnet.py (Apache-2.0), whose plain residual nets have
    torchvision's names; the CIFAR nets in the manner of github.com/akamaster/pytorch_resnet_cifar10 and
    github.com/kuangliu/pytorch-cifar (`linear`, `shortcut`).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor

from residuum.errors import WeightsError
from residuum.models.layers import Network

_STEM_AND_STAGES = (
    (r"^conv1\.", "stem.conv."),
    (r"^bn1\.", "stem.norm."),
    (r"^layer1\.", "stages.0."),
    (r"^layer2\.", "stages.1."),
    (r"^layer3\.", "stages.2."),
    (r"^layer4\.", "stages.3."),
    (r"^(stages\.\d+\.\d+)\.conv", r"\1.branch.conv"),
    (r"^(stages\.\d+\.\d+)\.bn", r"\1.branch.norm"),
)
_OURS = re.compile(
    r"(stem\.(conv|norm)|stages\.\d+\.\d+\.(branch|activate|shortcut\.(conv|norm))|head\.(fc|norm))\.[\w.]+"
)
_HEAD = ("head.fc.weight", "head.fc.bias")
_LISTED = 12


@dataclass(frozen=True)
class Layout:
    """Renamings by regular expression, theirs and ours; `name` says whose names they are."""

    name: str
    renamings: tuple[tuple[str, str], ...]

    def rename(self, key: str) -> str:
        """Returns our name for a foreign key."""
        for pattern, ours in self.renamings:
            key = re.sub(pattern, ours, key)
        return key


RESIDUUM = Layout("residuum", ())
TORCHVISION = Layout(
    "torchvision and timm",
    (
        *_STEM_AND_STAGES,
        (r"^fc\.", "head.fc."),
        (r"^(stages\.\d+\.\d+)\.downsample\.0\.", r"\1.shortcut.conv."),
        (r"^(stages\.\d+\.\d+)\.downsample\.1\.", r"\1.shortcut.norm."),
    ),
)
CIFAR = Layout(
    "CIFAR nets",
    (
        *_STEM_AND_STAGES,
        (r"^linear\.", "head.fc."),
        (r"^(stages\.\d+\.\d+)\.shortcut\.0\.", r"\1.shortcut.conv."),
        (r"^(stages\.\d+\.\d+)\.shortcut\.1\.", r"\1.shortcut.norm."),
    ),
)
LAYOUTS = (RESIDUUM, TORCHVISION, CIFAR)


def recognise(keys: Iterable[str]) -> Layout:
    """Returns the layout that makes the most of the keys ours; the first of several."""
    keys = list(keys)
    return max(LAYOUTS, key=lambda layout: sum(bool(_OURS.fullmatch(layout.rename(key))) for key in keys))


def classes_in(state_dict: Mapping[str, Tensor]) -> int | None:
    """Returns for how many classes the classifier of a foreign state dict is, or None where it has none."""
    layout = recognise(state_dict)
    for key, value in state_dict.items():
        if layout.rename(key) == "head.fc.weight" and value.ndim:
            return len(value)
    return None


def channels_in(state_dict: Mapping[str, Tensor]) -> int | None:
    """Returns how many channels the pictures of a foreign state dict's network have, or None where nothing says so."""
    layout = recognise(state_dict)
    for key, value in state_dict.items():
        if layout.rename(key) == "stem.conv.weight" and value.ndim == 4:
            return value.shape[1]
    return None


def load(model: Network, state_dict: Mapping[str, Tensor], source: str = "The weights") -> bool:
    """Loads a foreign state dict, running statistics included; returns whether the classifier is among what it loaded.

    A classifier for another number of classes is left out, and the network keeps its own. A batch norm's
    `num_batches_tracked` may be absent, as it is in files from before torch 0.4.1. `source` begins the message.

    Raises:
        WeightsError: a key of one has no counterpart in the other, or its shape differs. Nothing is loaded then.
    """
    layout = recognise(state_dict)
    foreign = {layout.rename(key): (key, value) for key, value in state_dict.items()}
    ours = model.state_dict()
    with_head = classes_in(state_dict) == model.num_classes
    if not with_head:
        foreign = {name: entry for name, entry in foreign.items() if name not in _HEAD}
        ours = {name: value for name, value in ours.items() if name not in _HEAD}
    if misfits := _doubles(layout, state_dict) + _misfits(foreign, ours):
        more = f", and {len(misfits) - _LISTED} more" if len(misfits) > _LISTED else ""
        raise WeightsError(
            f"{source} do not fit the network: {', '.join(misfits[:_LISTED])}{more}.",
            expected=f"Expected its {len(ours)} tensors, as {', '.join(each.name for each in LAYOUTS)} name them.",
            hint="Name the network, and its options, that these weights were trained in; for pictures with other "
            "channels or another network there is --weights none.",
        )
    model.load_state_dict({name: value for name, (_, value) in foreign.items()}, strict=False)
    return with_head


def _doubles(layout: Layout, state_dict: Mapping[str, Tensor]) -> list[str]:
    counts = Counter(layout.rename(key) for key in state_dict)
    return [f"{key} (there twice, under two names)" for key in state_dict if counts[layout.rename(key)] > 1]


def _misfits(foreign: Mapping[str, tuple[str, Tensor]], ours: Mapping[str, Tensor]) -> list[str]:
    misfits = [f"{key} (not in the network)" for name, (key, _) in foreign.items() if name not in ours]
    for name, value in ours.items():
        if name not in foreign:
            if not name.endswith(".num_batches_tracked"):
                misfits.append(f"{name} (not in the weights)")
            continue
        key, other = foreign[name]
        if other.shape != value.shape:
            misfits.append(f"{key} (shape {tuple(other.shape)}, {tuple(value.shape)} in the network)")
        elif other.is_floating_point() != value.is_floating_point():
            misfits.append(f"{key} (of type {other.dtype}, {value.dtype} in the network)")
    return misfits
