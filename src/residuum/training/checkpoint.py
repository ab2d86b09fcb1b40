"""Everything of a run that changes, into `last/` and back; and its best weights, into `best/`.

Both are bundles that `residuum predict` takes. `last/` holds besides the tensors that training needs
(`train_state.safetensors`: the weights themselves where the bundle's are their average, and the optimizer's state by
parameter name) and its numbers (`train_state.json`). Random states need no saving: what is random in a step is a
function of the seed and the step's number. The `last/` before is kept beside it, for the day that the disk damages one.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import safetensors.torch
import torch
from torch import Tensor, nn

from residuum import __version__, bundle, recipe
from residuum.errors import WeightsError
from residuum.models.saved import arrays

if TYPE_CHECKING:
    from residuum.training.run import Run

TENSORS, NUMBERS = "train_state.safetensors", "train_state.json"


def save(run: Run, scores: dict[str, Any], *, best: bool) -> None:
    """Writes `last/`, and before it `best/` where the weights are the best so far."""
    card = {
        "model": run.model_card,
        "classes": list(run.classes),
        "preprocessing": run.preprocessing.as_dict(),
        "licence": run.licence,
        "scores": scores,
        "epoch": run.epoch,
        "step": run.step,
        "recipe": _json(recipe.to_dict(run.recipe)),
        **({} if run.thresholds is None else {"thresholds": list(run.thresholds)}),
        "data": {
            key: run.parts.record[key]
            for key in ("source", "place", "kind", "names", "made_of")
            if key in run.parts.record
        },
        "residuum": __version__,
    }
    weights = arrays(run.averaged.model.state_dict())
    if best:
        bundle.write(run.folder / "best", weights, card)
    extra = {
        TENSORS: safetensors.torch.save(_tensors(run)),
        NUMBERS: json.dumps(run.numbers(), indent=2).encode(),
    }
    bundle.write(run.folder / "last", weights, card, extra, keep_older=True)


Checkpoint = tuple[bundle.Tensors, bundle.Card, dict[str, bytes]]


def read(folder: Path) -> tuple[Checkpoint, str]:
    """Returns the newest complete checkpoint of the run in `folder`, and a word where that is not the newest.

    Raises:
        WeightsError: there is none that is complete.
    """
    last = folder / "last"
    try:
        return bundle.read_all(last, aside_too=False), ""
    except WeightsError as error:
        was_there = last.exists()
        if not bundle.fall_back(last):
            raise
        what = f"{error.what} It is in last.damaged now" if was_there else "The last checkpoint was not finished"
        return bundle.read_all(last), f"{what}: the run goes on from the checkpoint before it."


def progress(found: Checkpoint) -> tuple[int, int]:
    """Returns the steps and the whole epochs that a checkpoint is behind."""
    return found[1]["step"], found[1]["epoch"]


def restore(run: Run, found: Checkpoint, *, what_fits: bool = False) -> list[str]:
    """Brings `run` to where the checkpoint was made; an optimizer of another kind than it had then starts anew.

    With `what_fits`, tensors that the network has in another shape, or not at all, are left out and their names
    returned; then the optimizer starts anew too.

    Raises:
        WeightsError: it is not a checkpoint of this run's network and optimizer.
    """
    weights, card, extra = found
    try:
        state = safetensors.torch.load(extra[TENSORS])
        averaged = {name: torch.from_numpy(array) for name, array in weights.items()}
        own = {name.removeprefix("model."): tensor for name, tensor in state.items() if name.startswith("model.")}
        misfits = _misfits(averaged, run.model.state_dict()) if what_fits else []
        _load(run.averaged.model, averaged, misfits)
        if run.averaged.model is not run.model or own:  # where the average was off before, the weights are its start
            _load(run.model, own or averaged, misfits)
        if not misfits and card["recipe"]["optim"]["name"] == run.recipe.optim.name:
            _restore_optimizer(run.optimizer, run.model, state)
        run.restore_numbers(json.loads(extra[NUMBERS]))
        run.licence = str(card["licence"])
    except (KeyError, RuntimeError, ValueError) as error:
        raise WeightsError(
            f"Cannot go on from {run.folder / 'last'}: {error}",
            expected="Expected the checkpoint that this run's recipe left there.",
            hint="Resume with the recipe that the run was started with, or start a new run.",
        ) from error
    return misfits


def _misfits(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> list[str]:
    """Returns the names of tensors that only one of the two has, or that have other shapes."""
    return [n for n in {**found, **wanted} if n not in found or n not in wanted or found[n].shape != wanted[n].shape]


def _load(model: nn.Module, tensors: dict[str, Tensor], misfits: list[str]) -> None:
    fitting = {name: tensor for name, tensor in tensors.items() if name not in misfits}
    model.load_state_dict(fitting, strict=not misfits)


def _tensors(run: Run) -> dict[str, Tensor]:
    tensors = {}
    if run.averaged.model is not run.model:
        tensors = {f"model.{name}": tensor for name, tensor in run.model.state_dict().items()}
    for name, parameter in run.model.named_parameters():
        for key, value in run.optimizer.state.get(parameter, {}).items():
            if isinstance(value, Tensor):
                tensors[f"optimizer.{key}.{name}"] = value
    return {name: tensor.detach().contiguous() for name, tensor in tensors.items()}


def _restore_optimizer(optimizer: torch.optim.Optimizer, model: nn.Module, state: dict[str, Tensor]) -> None:
    parameters = dict(model.named_parameters())
    for name, tensor in state.items():
        if name.startswith("optimizer."):
            _, key, parameter_name = name.split(".", maxsplit=2)
            parameter = parameters[parameter_name]
            # A count of steps stays on the CPU, unless a fused kernel reads it.
            tensor = tensor.to(parameter.device) if tensor.ndim or optimizer.defaults.get("fused") else tensor
            if tensor.shape == parameter.shape and parameter.ndim == 4:
                tensor = torch.empty_like(parameter).copy_(tensor)  # in the parameter's memory format
            optimizer.state[parameter][key] = tensor


def _json(value: Any) -> Any:
    """Returns a recipe's values in JSON's types: an infinity becomes its name."""
    if isinstance(value, dict):
        return {key: _json(item) for key, item in value.items()}
    return repr(value) if isinstance(value, float) and value in (float("inf"), float("-inf")) else value


def is_run(folder: Path) -> bool:
    """Whether `folder` holds a run, stopped or finished; one that was stopped before its first step has no weights."""
    return (folder / "recipe.toml").is_file()


def has_weights(folder: Path) -> bool:
    """Whether the run in `folder` has a checkpoint."""
    return bundle.is_there(folder / "last")
