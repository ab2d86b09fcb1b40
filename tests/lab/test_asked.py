"""The command that repeats an experiment, read back by the command line's own parser."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path

from residuum.cli import reproduce
from residuum.lab.asked import Asked


def parsed(command: str) -> argparse.Namespace:
    program, name, *words = shlex.split(command)
    assert (program, name) == ("residuum", "reproduce")
    parser = argparse.ArgumentParser()
    reproduce.add_arguments(parser)
    return parser.parse_args(words)


def test_the_command_says_all_that_was_asked_for() -> None:
    bundles = [Path("my runs/b/best"), Path("resnet56")]
    asked = Asked("paths", "small", "my sets/cifar10", 2, bundles, "the lab", "cpu", offline=True, jobs=3)
    here = parsed(asked.here())
    assert (here.experiment, here.scale, here.data, here.seeds) == ("paths", "small", "my sets/cifar10", 2)
    assert (here.bundle, here.out, here.device, here.offline) == (bundles, Path("the lab"), "cpu", True)
    assert here.jobs == 3
    anywhere = parsed(asked.anywhere())
    assert (anywhere.experiment, anywhere.scale, anywhere.data, anywhere.seeds) == ("paths", "small", "cifar10", 2)
    assert anywhere.bundle == [Path("b/best"), Path("resnet56")]
    assert (anywhere.out, anywhere.device, anywhere.jobs, anywhere.offline) == (None, None, None, False)


def test_what_was_left_out_stays_out() -> None:
    asked = Asked("degradation", "smoke")
    assert asked.here() == asked.anywhere() == "residuum reproduce degradation --scale smoke"
