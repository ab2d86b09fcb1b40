"""Lists the weights to start from that are known by name: where they come from, and how well they are known to do.

Accuracies are as published: on ImageNet's validation pictures, one crop, each with its own preprocessing.

examples:
  residuum weights
  residuum train --data my_photos --model resnet50 --weights resnet50.imagenet1k_v1
  residuum convert resnet50.a1_in1k --model resnet50 --out resnet50
"""

from __future__ import annotations

import argparse

from residuum.cli import console, flags


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
            "torchvision" if card.repo is None else f"huggingface {card.repo.split('/')[0]}",
            card.licence,
            f"{card.bytes_about / 1e6:.0f} MB",
            f"{card.top1:.2f} %",
            f"{card.sha256[:8] or 'not known'}{'...' if len(card.sha256) < 64 and card.sha256 else ''}",
            "yes" if card.cached.is_file() else "-",
        ]
        for card in WEIGHTS.values()
    ]
    header = ("weights", "source", "licence", "size", "top-1", "SHA-256", "here")
    console.answer(console.table(header, rows, right=(3, 4)))
    return 0
