"""Makes a bundle of weights that others have trained: torchvision's, timm's, CIFAR nets, with 'module.' or without.

Which of them a file is, is recognised; what does not fit the network is listed by key. A file of torch.save is read
without executing anything that is in it. What a file does not say, its author does: the classes, and how pictures were
normalised; left out, classes are numbers, and mean and standard deviation ImageNet's.

examples:
  residuum convert resnet50-11ad3fa6.pth --model resnet50 --out resnet50
  residuum convert resnet18.a1_in1k --model resnet18 --out resnet18
  residuum convert net.th --model resnet20_cifar --classes cifar10 --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225
    --out resnet20
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path

from residuum.cli import console, flags


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of this command."""
    add = parser.add_argument
    add("file", metavar="FILE", help="the weights: a file, or a name (list: residuum weights)")
    add("--model", metavar="NAME", required=True, help="the network that they are of (list: residuum models)")
    add("-o", "--out", metavar="BUNDLE", type=Path, required=True, help="the folder to write")
    text = "cifar10, cifar100, digits, imagenet, or a text file with the name of a class on each line, in order"
    add("--classes", metavar="SET|FILE", help=text)
    text = "the mean of each channel that it was trained with, on the 0..1 scale"
    add("--mean", metavar="R,G,B", type=_numbers, help=text)
    text = "the standard deviation of each channel that it was trained with, on the 0..1 scale"
    add("--std", metavar="R,G,B", type=_numbers, help=text)
    text = "the side, in pixels, of what the network sees (default: the network's own)"
    add("--img-size", metavar="PX", type=flags.whole_number(1), help=text)
    text = "the shorter side, in pixels, that a picture is brought to before its centre is cropped"
    add("--resize-px", metavar="PX", type=flags.whole_number(1), help=text)
    flags.add_accept_license(parser)
    add("--offline", action="store_true", help="use no network: fail instead of downloading weights")
    flags.add_json(parser, "what was written")


def run(arguments: argparse.Namespace) -> int:
    """Converts."""
    from residuum.cli.changes import accept_licence, go_offline
    from residuum.models.convert import Seen, convert

    go_offline(arguments.offline)
    accept_licence(arguments.accept_license)
    classes = None if arguments.classes is None else _classes(arguments.classes)
    seen = Seen(arguments.mean, arguments.std, arguments.img_size, arguments.resize_px)
    done = convert(arguments.file, arguments.model, arguments.out, classes, seen)
    if arguments.json:
        console.answer_json({"bundle": str(done.folder), "layout": done.layout, "tensors": done.tensors, **done.card})
        return 0
    names = done.card["classes"]
    shown = f" ({', '.join(names[:3])}, ...)" if len(names) > 3 else f" ({', '.join(names)})"
    console.answer(
        f"Converted {done.tensors} tensors, named as those of {done.layout}, into {done.folder}: "
        f"{arguments.model}, {len(names):,} classes{shown}, licence {done.card['licence']}."
    )
    console.answer(_pictures(done.card["preprocessing"]))
    console.answer(f"Next: residuum evaluate {done.folder} --data DATA")
    return 0


def _pictures(seen: dict[str, object]) -> str:
    """Returns in words what the network will see of a picture, for somebody who may know better."""
    mean, std = (", ".join(f"{value:g}" for value in _listed(seen[key])) for key in ("mean", "std"))
    return f"Pictures: {seen['img_size']} pixels, shorter side {seen['resize_px']}; mean {mean}, std {std}."


def _listed(values: object) -> Sequence[float]:
    assert isinstance(values, list)
    return values


def _numbers(text: str) -> tuple[float, ...]:
    """Reads numbers that are separated by commas."""
    try:
        numbers = tuple(float(part) for part in text.split(","))
    except ValueError:
        numbers = ()
    if not numbers or not all(map(math.isfinite, numbers)):
        raise argparse.ArgumentTypeError(f"cannot be {text!r}. Expected numbers such as 0.485,0.456,0.406")
    return numbers


def _classes(given: str) -> Sequence[str]:
    """Returns the classes of a set that is known by name, or those that a file names."""
    from residuum.data.class_names import CLASS_NAMES
    from residuum.errors import UsageError, did_you_mean

    if given in CLASS_NAMES:
        return CLASS_NAMES[given]
    if given == "imagenet":
        from residuum.models.convert import imagenet_classes

        return imagenet_classes()
    try:
        return [line for line in Path(given).read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        sets = (*CLASS_NAMES, "imagenet")
        raise UsageError(
            f"Cannot read the names of the classes in {given}: {getattr(error, 'strerror', None) or 'no UTF-8'}.",
            expected=did_you_mean(given, sets)
            or f"Expected {', '.join(sets)}, or a text file in UTF-8 with a name on each line.",
            hint="Leave out --classes, and the classes are called by their numbers.",
        ) from error
