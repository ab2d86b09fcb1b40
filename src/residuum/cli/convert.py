"""Makes a bundle of weights that others have trained: torchvision's, timm's, CIFAR nets, with 'module.' or without.

Which of them a file is, is recognised; what does not fit the network is listed by key. A file of torch.save is read
without executing anything that is in it.

examples:
  residuum convert resnet50-11ad3fa6.pth --model resnet50 --out resnet50
  residuum convert resnet18.a1_in1k --model resnet18 --out resnet18
  residuum convert net.th --model resnet20_cifar --classes names.txt --out resnet20
"""

from __future__ import annotations

import argparse
from pathlib import Path

from residuum.cli import console, flags


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of this command."""
    add = parser.add_argument
    add("file", metavar="FILE", help="the weights: a file, or a name (list: residuum weights)")
    add("--model", metavar="NAME", required=True, help="the network that they are of (list: residuum models)")
    add("-o", "--out", metavar="BUNDLE", type=Path, required=True, help="the folder to write")
    text = "a text file with the name of a class on each line, in the order of the network's outputs"
    add("--classes", metavar="FILE", type=Path, help=text)
    flags.add_accept_license(parser)
    add("--offline", action="store_true", help="use no network: fail instead of downloading weights")
    flags.add_json(parser, "what was written")


def run(arguments: argparse.Namespace) -> int:
    """Converts."""
    from residuum.cli.changes import accept_licence, go_offline
    from residuum.models.convert import convert

    go_offline(arguments.offline)
    accept_licence(arguments.accept_license)
    classes = None if arguments.classes is None else _names(arguments.classes)
    done = convert(arguments.file, arguments.model, arguments.out, classes)
    if arguments.json:
        console.answer_json({"bundle": str(done.folder), "layout": done.layout, "tensors": done.tensors, **done.card})
        return 0
    console.answer(
        f"Converted {done.tensors} tensors, named as those of {done.layout}, into {done.folder}: "
        f"{arguments.model}, {len(done.card['classes']):,} classes, licence {done.card['licence']}."
    )
    console.answer(f"Next: residuum evaluate {done.folder} --data DATA")
    return 0


def _names(path: Path) -> list[str]:
    from residuum.errors import UsageError

    try:
        return [line for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"Cannot read the names of the classes in {path}: {getattr(error, 'strerror', None) or 'no UTF-8'}.",
            expected="Expected a text file in UTF-8, a name on each line.",
            hint="Leave out --classes, and the classes are called by their numbers.",
        ) from error
