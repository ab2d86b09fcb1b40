"""Lists the weights to start from that are known by name: where they come from, and how well they are known to do.

Accuracies are as published: on ImageNet's validation pictures, one crop, each with its own preprocessing. A file is
checked against its SHA-256 (with ..., against the beginning of it that is published). Where that is not known, it is
held to the names, shapes and types of its tensors.

examples:
  residuum weights
  residuum train --data my_photos --weights resnet50.imagenet1k_v1
  residuum convert resnet50.a1_in1k --model resnet50 --out resnet50
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from residuum.cli import console, flags

if TYPE_CHECKING:
    from residuum.models.weights import Weights


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of this command."""
    flags.add_json(parser, "the list")


def run(arguments: argparse.Namespace) -> int:
    """Lists the weights."""
    from residuum.models.weights import WEIGHTS

    if arguments.json:
        console.answer_json({"weights": [card.as_dict() for card in WEIGHTS.values()]})
        return 0
    rows = [
        [
            card.name,
            card.publisher if card.repo is None else f"huggingface {card.publisher}",
            card.licence,
            f"{card.bytes_about / 1e6:.0f} MB",
            f"{card.top1:.2f} %",
            _checked_by(card),
            "yes" if card.cached.is_file() else "-",
        ]
        for card in WEIGHTS.values()
    ]
    header = ("weights", "source", "licence", "size", "top-1", "SHA-256", "here")
    console.answer(console.table(header, rows, right=(3, 4)))
    return 0


def _checked_by(card: Weights) -> str:
    """Returns in words what tells whether a file is the right one: its hash, as far as that is known."""
    return f"{card.sha256[:8] or 'not known'}{'...' if len(card.sha256) < 64 and card.sha256 else ''}"
