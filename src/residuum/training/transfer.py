"""Transfer: which parts of a network learn, from which epoch on and how fast, as the recipe's table `transfer` says.

The parts are the stem, each stage, and the head. All of it is a function of the epoch, so that a resumed run needs to
know nothing more. A part that does not learn computes as at evaluation: its weights and its batch norms' statistics
stay as they are, bit for bit.

Source: Howard and Ruder, arXiv:1801.06146, section 3.2 (rates that fall with depth, gradual unfreezing); Yosinski et
    al., arXiv:1411.1792 (freezing the first layers); Brock et al., arXiv:1706.04983 (first layers that stop learning).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch import nn

from residuum import recipe
from residuum.errors import RecipeError
from residuum.models.convert import imagenet_classes
from residuum.models.layers import Network
from residuum.models.pretrained import Pretrained


def parts_of(model: Network) -> list[nn.Module]:
    """Returns the parts of a network, from its input to its output."""
    return [model.stem, *model.stages, model.head]


def names_of_parts(stages: int) -> list[str]:
    """Returns what the parts are called: stem, stage1, stage2, ..., head."""
    return ["stem", *(f"stage{number}" for number in range(1, stages + 1)), "head"]


def first_epochs(transfer: recipe.Transfer, stages: int) -> list[float]:
    """Returns for each part the epoch from which on it learns; infinity is never.

    Raises:
        RecipeError: the network has no such stage, or the stem stops before it begins.
    """
    names = names_of_parts(stages)
    if transfer.freeze not in ("none", "all", *names):
        raise RecipeError(
            f"The recipe key 'transfer.freeze' cannot be {transfer.freeze!r} for a network of {stages} stages.",
            expected=f"Expected one of none, {', '.join(names[:-1])}, all.",
            hint=f"Use: --set transfer.freeze={names[-2]}",
        )
    frozen = {"none": -1, "all": stages}.get(transfer.freeze)
    last_frozen = names.index(transfer.freeze) if frozen is None else frozen
    later = transfer.thaw_every_epochs
    body = [
        math.inf if part <= last_frozen else transfer.head_epochs + later * (stages - part)
        for part in range(stages + 1)
    ]
    if 0 < transfer.stem_until_epoch <= body[0]:
        begins = "never learns" if math.isinf(body[0]) else f"begins to learn after epoch {body[0]}"
        raise RecipeError(
            f"The recipe key 'transfer.stem_until_epoch' cannot be {transfer.stem_until_epoch}: the stem {begins}.",
            expected="Expected an end after the beginning; 0 is no end.",
            hint="Leave it out, or transfer.freeze, head_epochs and thaw_every_epochs.",
        )
    return [*body, 0]


def only_the_head_learns(transfer: recipe.Transfer, stages: int) -> bool:
    """Whether no other part ever learns."""
    return all(math.isinf(epoch) for epoch in first_epochs(transfer, stages)[:-1])


def freezes(transfer: recipe.Transfer, stages: int, epochs: int) -> bool:
    """Whether some part does not learn in some epoch of as many."""
    return _stem_stops(transfer, epochs) or any(epoch > 0 for epoch in first_epochs(transfer, stages))


def _stem_stops(transfer: recipe.Transfer, epochs: int) -> bool:
    return 0 < transfer.stem_until_epoch < epochs


class Thawing:
    """Puts a network into training mode, as far as it learns, in a run of `epochs`. By default all of it does, from the
    first epoch on."""

    def __init__(self, model: Network, transfer: recipe.Transfer, epochs: int) -> None:
        self._model = model
        self._first = first_epochs(transfer, len(model.stages))
        self._stem_until = transfer.stem_until_epoch if _stem_stops(transfer, epochs) else math.inf
        self._keep = transfer.batch_norm == "keep"

    def begin(self, epoch: int) -> None:
        """Makes the parts that learn in `epoch` trainable and the others constant."""
        self._model.train()
        for part, first in zip(parts_of(self._model), self._first, strict=True):
            learns = epoch >= first and (part is not self._model.stem or epoch < self._stem_until)
            part.requires_grad_(learns)
            part.train(learns)
        for layer in self._model.modules() if self._keep else ():
            if isinstance(layer, nn.modules.batchnorm._BatchNorm):
                layer.eval()

    @property
    def all_learn_from(self) -> int:
        """The epoch from which on every part learns that ever does."""
        return int(max(first for first in self._first if first < math.inf))

    def in_words(self) -> str:
        """Returns what learns when, in sentences; nothing where all of it does from the start to the end."""
        until = self._stem_until
        stops = "" if until == math.inf else f"The stem learns until epoch {until}."
        return " ".join(filter(None, (self._from_when(), stops)))

    def _from_when(self) -> str:
        groups: dict[float, list[str]] = {}
        for name, first in zip(names_of_parts(len(self._first) - 2), self._first, strict=True):
            groups.setdefault(first, []).append(name)
        if set(groups) == {0}:
            return ""
        if set(groups) == {0, math.inf}:
            return f"{_listed(groups[math.inf])} stay as they are: only {_learn(groups[0])}."
        words = [
            f"{_listed(names)} from epoch {first + 1:.0f} on"  # as epochs are shown, which begin with 1
            for first, names in sorted(groups.items())
            if 0 < first < math.inf
        ]
        never = [f"{_listed(groups[math.inf])} never"] if math.inf in groups else []
        return f"At first only {_learn(groups[0])}, {', '.join(words + never)}."


def choose_head(model: Network, start: Pretrained, transfer: recipe.Transfer, classes: Sequence[str]) -> str:
    """Makes the head new where the weights' own is not known to be for these classes; returns a word where it does.

    Raises:
        RecipeError: the weights' classifier is to be kept, and is not for as many classes.
    """
    fits = start.num_classes == len(classes)
    if transfer.head == "keep" and not fits:
        raise RecipeError(
            f"The weights {start.in_words} have no classifier for {len(classes):,} classes that could be kept.",
            expected=f"Expected weights with as many classes; they have {start.num_classes or 'none'}.",
            hint="Start with a new one: --set transfer.head=new",
        )
    if not fits or transfer.head == "keep":
        return ""
    theirs = _classes_of(start)
    same = theirs is not None and list(classes) == list(theirs)
    if same and transfer.head == "auto":
        return ""
    model.reset_head(len(classes))
    if same or transfer.head == "new":
        return " Its head is new."
    why = "the weights do not say for which classes theirs is" if theirs is None else "theirs is for other classes"
    return f" Its head is new: {why} (to keep it: --set transfer.head=keep)."


def _classes_of(start: Pretrained) -> Sequence[str] | None:
    """Returns the classes that the weights' classifier is for, in their order; None where nothing says so."""
    if start.known is not None:
        return imagenet_classes()
    named: Any = (start.card or {}).get("classes")
    return None if named is None else list(named)


def _learn(names: Sequence[str]) -> str:
    return f"{_listed(names)} learn{'s' if len(names) == 1 else ''}"


def _listed(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} and {names[-1]}" if len(names) > 1 else names[0]
