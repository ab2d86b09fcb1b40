"""residuum's own side of each comparison: what a recipe trains with, through the same functions as `residuum bench`.

An arm of benchmarks/against.py: it measures once each time that a line comes on standard input (`arms.serve`), or, for
`memory`, `modes` and `agreement`, once and for all.
"""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Iterator

import torch
from arms import answer, rate_of, serve

from residuum import hardware, memory
from residuum.deploy import bench
from residuum.deploy.bench_inference import batches_for, modes_of, opened
from residuum.deploy.bench_recipes import recipe_for_data, recipe_for_training
from residuum.models import complexity, create_model

CPU = torch.device("cpu")


def epoch(wanted: argparse.Namespace) -> None:
    """ResNet-20 on pictures of CIFAR's size, by the very loop that trains, loading and augmentation included."""
    changes = {"precision": wanted.precision, "data.batch_size": wanted.batch_size}
    data = f"synthetic:{wanted.pictures}x10x32"
    recipe, _ = recipe_for_training("resnet20_cifar10_2015", data, changes, wanted.steps)
    with bench.training_run(recipe, CPU, wanted.steps) as run:
        serve(bench.arms_of_training(run)["epoch"])


def step(wanted: argparse.Namespace) -> None:
    """Updates of a network from batches that are there; with --memory one of them, and the most memory then."""
    changes = {"model.name": wanted.model, "data.batch_size": wanted.batch_size, "data.img_size": wanted.img_size}
    recipe, _ = recipe_for_training(None, None, {**changes, "precision": wanted.precision}, wanted.steps)
    with bench.training_run(recipe, CPU, wanted.steps) as run:
        if wanted.memory:
            bench.arms_of_training(run)["step"]()
            answer(value=(memory.peak_bytes() or 0) / 1e6)
        else:
            serve(bench.arms_of_training(run)["step"])


def product(wanted: argparse.Namespace) -> None:
    """As many pictures a second as one bf16 matrix product with the multiply-adds of a training step allows."""
    side = round((wanted.batch_size * multiply_adds("resnet20_cifar", 32)) ** (1 / 3))
    hardware.take(CPU)
    left, right = (torch.randn(side, side).to(torch.bfloat16) for _ in range(2))

    def products() -> Iterator[int]:
        while True:
            torch.mm(left, right)
            yield wanted.batch_size

    serve(rate_of(products(), wanted.steps))


def multiply_adds(name: str, px: int) -> int:
    """Returns those of a training step for one picture: forward, the gradients of all weights, and those of all data
    but the pictures themselves."""
    counted = complexity.measure(create_model(name), px)
    first = next(layer.multiply_adds for layer in counted.layers if layer.multiply_adds)
    return 3 * counted.multiply_adds - first


def inference(wanted: argparse.Namespace) -> None:
    """Answers of a network in one mode."""
    hardware.take(CPU)
    network, preprocessing, _ = opened(wanted.model, CPU, wanted.img_size)
    forward = modes_of(network, CPU)[wanted.mode].forward
    batches = batches_for(preprocessing, None, wanted.batch_size, 2, CPU)

    def answers() -> Iterator[int]:
        while True:
            for batch in batches:
                with torch.inference_mode():
                    forward(batch)
                yield len(batch)

    serve(rate_of(answers(), wanted.steps))


def modes(_: argparse.Namespace) -> None:
    """The names of the modes of this machine."""
    network = create_model("resnet20_cifar")
    answer(modes=list(modes_of(network, CPU)))


def agreement(wanted: argparse.Namespace) -> None:
    """On how many pictures, in percent, each mode gives a trained network's answer in float32."""
    hardware.take(CPU)
    network, preprocessing, _ = opened(wanted.model, CPU, None)
    batches = batches_for(preprocessing, wanted.data, wanted.batch_size, 10**9, CPU)
    found = bench.agreement(modes_of(network, CPU), batches)
    answer(agreement=found)


def photos(wanted: argparse.Namespace) -> None:
    """Batches to train on from a folder of photos or from a cache of them, a whole epoch at a time."""
    hardware.take(CPU)
    changes = {"data.batch_size": wanted.batch_size, "data.img_size": wanted.img_size}
    recipe = recipe_for_data(None, wanted.data, {**changes, "data.workers": wanted.workers})
    training, _ = bench.loaders(recipe, CPU, 10**9)
    number = 0

    def whole() -> float:
        nonlocal number
        number += 1
        return bench.rate(training.epoch(number), CPU)

    serve(whole)


def main() -> None:
    """Measures what the first word names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arms = {each.__name__: each for each in (epoch, step, product, inference, modes, agreement, photos)}
    parser.add_argument("arm", choices=tuple(arms))
    parser.add_argument("--model", default="resnet50")
    parser.add_argument("--mode", default="fp32")
    parser.add_argument("--data")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--pictures", type=int, default=50_000)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--img-size", type=int, default=224)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--memory", action="store_true")
    wanted = parser.parse_args()
    with contextlib.suppress(KeyboardInterrupt):
        arms[wanted.arm](wanted)


if __name__ == "__main__":
    main()
