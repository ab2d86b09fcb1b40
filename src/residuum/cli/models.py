"""Lists the networks: parameters, multiply-adds for one picture, input size, source."""

from __future__ import annotations

import argparse

from residuum.cli import console


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of this command."""
    parser.add_argument("--json", action="store_true", help="print the list as JSON")


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
            f"{entry.card.multiply_adds / 1e9:.2f} G"
            if entry.card.multiply_adds >= 1e9
            else f"{entry.card.multiply_adds / 1e6:.0f} M",
            str(entry.card.input_px),
            entry.card.source,
        ]
        for entry in entries
    ]
    console.answer(console.table(("model", "parameters", "multiply-adds", "pixels", "source"), rows, right=(1, 2, 3)))
    return 0
