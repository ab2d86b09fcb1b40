"""Lists the networks: parameters, multiply-adds for one picture of the given size in pixels, and where each comes from.

Any of them is trained with: residuum train --model NAME
"""

from __future__ import annotations

import argparse

from residuum.cli import console, flags


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of this command."""
    flags.add_json(parser, "the list")


def run(arguments: argparse.Namespace) -> int:
    """Lists the networks."""
    from dataclasses import asdict

    from residuum.models import MODELS

    entries = MODELS.entries()
    if arguments.json:
        console.answer_json({"models": [{"name": entry.name, **asdict(entry.card)} for entry in entries]})
        return 0
    rows = [
        [
            entry.name,
            f"{entry.card.params:,}",
            _operations(entry.card.multiply_adds),
            str(entry.card.input_px),
            entry.card.source,
        ]
        for entry in entries
    ]
    console.answer(console.table(("model", "parameters", "multiply-adds", "pixels", "source"), rows, right=(1, 2, 3)))
    return 0


def _operations(count: int) -> str:
    return f"{count / 1e9:.2f} G" if count >= 1e9 else f"{count / 1e6:.0f} M"
