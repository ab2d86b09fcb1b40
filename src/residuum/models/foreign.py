"""Reads files of weights that others wrote: safetensors, and what `torch.save` leaves (.pth, .pt, .th, .bin).

What a file is follows from its first bytes, not from its name. A pickle is read by torch's restricted reader alone
(`weights_only=True`), which knows tensors and containers and calls nothing else that a file names.
"""

from __future__ import annotations

import json
import pickle
import struct
import warnings
from collections.abc import Mapping
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from residuum.errors import WeightsError

_INSIDE = ("state_dict", "model_state_dict", "model", "state_dict_ema", "net", "weights")
"""Under which keys a checkpoint keeps its tensors, in the order in which they are looked for."""

_PREFIXES = ("module.", "_orig_mod.", "model.")
"""What DataParallel, torch.compile and wrappers put before every key."""

_DAMAGE = (
    RuntimeError, EOFError, ValueError, TypeError, AttributeError, KeyError, IndexError, ImportError, AssertionError,
    struct.error,
)  # fmt: skip
"""What torch's reader was seen to raise of files with flipped and missing bytes."""

_HEADER_LIMIT = 100_000_000  # bytes, as in the safetensors library


def read(path: Path) -> dict[str, Tensor]:
    """Returns the tensors of a file by name, on the CPU, without what wrappers put before the names.

    Raises:
        WeightsError: it cannot be read, is of another format, holds something else than tensors, or would execute code.
    """
    try:
        with path.open("rb") as file:
            beginning = file.read(9)
        found = safetensors.torch.load_file(path) if _is_safetensors(beginning, path) else _unpickled(path)
    except OSError as error:
        raise _unusable(path, error.strerror or str(error)) from error
    except (safetensors.SafetensorError, json.JSONDecodeError, KeyError) as error:
        raise _unusable(path, f"it is a damaged safetensors file ({error})") from error
    return _plain(_tensors(found, path))


def _is_safetensors(beginning: bytes, path: Path) -> bool:
    """Whether a file begins with the length of a JSON object and that object."""
    if len(beginning) < 9 or beginning[8:9] != b"{":
        return path.suffix == ".safetensors"
    (length,) = struct.unpack("<Q", beginning[:8])
    return bool(length <= _HEADER_LIMIT)


def _unpickled(path: Path) -> object:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that it may not read a file; whether it did is all that counts
            found: object = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = str(error).split("\n", maxsplit=1)[0]
        raise _unusable(
            path, f"it is no file of weights, or asks for more than tensors, which is refused ({reason[:200]})"
        ) from error
    except OSError:
        raise
    except _DAMAGE as error:
        raise _unusable(path, f"it is damaged or no file of weights ({type(error).__name__})") from error
    return found


def _tensors(found: object, path: Path) -> dict[str, Tensor]:
    """Returns the tensors of what was read, be they within a checkpoint."""
    if isinstance(found, Mapping):
        for key in _INSIDE:
            if isinstance(found.get(key), Mapping):
                return _tensors(found[key], path)
        others = [str(key) for key, value in found.items() if not isinstance(value, Tensor)]
        if found and not others:
            return {str(key): value for key, value in found.items()}
        what = f"{', '.join(others[:5])} are no tensors" if others else "it is empty"
    else:
        what = f"it holds a {type(found).__name__}"
    raise _unusable(path, f"there is no state dict in it: {what}")


def _plain(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    for prefix in _PREFIXES * 2:  # they may be nested
        if all(key.startswith(prefix) for key in tensors):
            tensors = {key.removeprefix(prefix): value for key, value in tensors.items()}
    return tensors


def _unusable(path: Path, reason: str) -> WeightsError:
    return WeightsError(
        f"Cannot use the weights {path}: {reason}.",
        expected="Expected a state dict, as safetensors or as torch.save writes it, with nothing but tensors in it.",
        hint="Save model.state_dict() where the file comes from, as safetensors if you can, or use --weights none.",
    )
