"""Loads weights that come from elsewhere: torchvision's residual nets, whose layers have other names and are the same.

A layout is a list of renamings, applied in order to every key of the foreign state dict; what does not fit after that
is listed, and nothing is loaded.
Source: torchvision/models/resnet.py (BSD 3-Clause).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from torch import Tensor

from residuum.errors import WeightsError
from residuum.models.layers import Network

TORCHVISION_RESNET: Sequence[tuple[str, str]] = (
    (r"^conv1\.", "stem.conv."),
    (r"^bn1\.", "stem.norm."),
    (r"^fc\.", "head.fc."),
    (r"^layer1\.", "stages.0."),
    (r"^layer2\.", "stages.1."),
    (r"^layer3\.", "stages.2."),
    (r"^layer4\.", "stages.3."),
    (r"^(stages\.\d+\.\d+)\.conv", r"\1.branch.conv"),
    (r"^(stages\.\d+\.\d+)\.bn", r"\1.branch.norm"),
    (r"^(stages\.\d+\.\d+)\.downsample\.0\.", r"\1.shortcut.conv."),
    (r"^(stages\.\d+\.\d+)\.downsample\.1\.", r"\1.shortcut.norm."),
)
"""torchvision's names, as regular expressions, and ours."""

_LISTED = 12


def rename(key: str, layout: Sequence[tuple[str, str]]) -> str:
    """Returns our name for a foreign key."""
    for pattern, ours in layout:
        key = re.sub(pattern, ours, key)
    return key


def load_torchvision(model: Network, state_dict: Mapping[str, Tensor]) -> None:
    """Loads the state dict of torchvision's twin into `model`, running statistics included.

    A batch norm's `num_batches_tracked` may be absent, as it is in files from before torch 0.4.1; it then stays as it
    is.

    Raises:
        WeightsError: a key of one has no counterpart in the other, or its shape differs. Nothing is loaded then.
    """
    foreign = {rename(key, TORCHVISION_RESNET): (key, value) for key, value in state_dict.items()}
    ours = model.state_dict()
    misfits = [f"{key} (not in the network)" for name, (key, _) in foreign.items() if name not in ours]
    for name, value in ours.items():
        if name not in foreign:
            if not name.endswith(".num_batches_tracked"):
                misfits.append(f"{name} (not in the weights)")
        elif foreign[name][1].shape != value.shape:
            key, other = foreign[name]
            misfits.append(f"{key} (shape {tuple(other.shape)}, {tuple(value.shape)} in the network)")
    if misfits:
        more = f", and {len(misfits) - _LISTED} more" if len(misfits) > _LISTED else ""
        raise WeightsError(
            f"The weights do not fit the network: {', '.join(misfits[:_LISTED])}{more}.",
            expected=f"Expected the {len(ours)} tensors of torchvision's twin, of the same classes and channels.",
            hint="Create the network as the weights have it, load them, then call reset_head for other classes.",
        )
    model.load_state_dict({name: value for name, (_, value) in foreign.items()}, strict=False)
