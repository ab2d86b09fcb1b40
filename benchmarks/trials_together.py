"""Trials of several processes that work together."""

from __future__ import annotations

import contextlib
import functools
import json
import mmap
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from trial import CPU, TIMEOUT_S, TINY, code_of, free_port, same_runs, step_of, world

from residuum.cli.main import main as command
from residuum.recipe import Recipe, to_toml
from residuum.training import loop
from residuum.training.run import Run


def worlds(folder: Path) -> Iterator[bool]:
    """1 to 50 pictures scored by 2 to 4 processes in batches of 1 to 7: all scores are those of one process."""
    answers = {}
    for size in (1, 2, 3, 4):
        out = folder / f"{size}.json"
        codes = [code_of(process, 600) for process in world(size, functools.partial(_score_all, out))]
        answers[size] = json.loads(out.read_text()) if codes == [0] * size else {}
    for key, expected in answers[1].items():
        for size in (2, 3, 4):
            yield answers[size].get(key) == expected


def _score_all(out: Path) -> None:
    """Scores every count of pictures in batches of every size; the first process writes down what came out."""
    from residuum.data.loading import EvalLoader
    from residuum.data.sets import subset
    from residuum.data.sources import find
    from residuum.distributed import joined
    from residuum.evaluation.evaluate import evaluate
    from residuum.imaging import Preprocessing
    from residuum.models import create_model

    images = find("synthetic:60x3x8").parts["train"]
    torch.manual_seed(0)
    model = create_model("resnet20_cifar", num_classes=3, width=0.25)
    seen = Preprocessing("RGB", 8, 8, "bilinear", (0.5,) * 3, (0.25,) * 3)
    found = {}
    with joined() as here:
        for count in range(1, 51):
            part = subset(images, list(range(count)))
            for batch_size in range(1, 8):
                loader = EvalLoader(part, seen, batch_size, device=CPU, channels_last=True, world=here)
                scores, _ = evaluate(model, loader, images.classes, world=here)
                found[f"{count} in batches of {batch_size}"] = scores.as_dict()
        if here.is_main:
            out.write_text(json.dumps(found))


def stops(folder: Path) -> Iterator[bool]:
    """SIGTERM to one of two processes at 50 random moments: both end with 75 after the same step, and nobody hangs."""
    chance = random.Random(0)
    for at in range(50):
        run, ready = folder / str(at), mmap.mmap(-1, 1)
        processes = world(2, functools.partial(_train_in_world, replace(TINY, epochs=10**6), run, ready, None))
        until = time.monotonic() + TIMEOUT_S
        while not ready[0] and time.monotonic() < until:
            time.sleep(0.005)
        time.sleep(chance.uniform(0, 0.5))
        os.kill(chance.choice(processes), signal.SIGTERM)
        codes = [code_of(process) for process in processes]
        steps = {file.read_text() for file in folder.glob(f"{at}.step*")}
        yield codes == [75, 75] and steps == {str(step_of(run))}


def _train_in_world(recipe: Recipe, run: Path, ready: mmap.mmap, kill_at: int | None) -> None:
    """Trains in a world; the flag goes up with the first step. One process may kill itself after a step."""
    from residuum.training import train as training

    original, fit = loop.train_step, training.fit

    def step(of: Run, *arguments: Any) -> Any:
        ready[0] = 1
        if of.world.rank == 1 and of.step == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(of, *arguments)

    def watched(of: Run) -> None:
        try:
            fit(of)
        finally:
            run.with_suffix(f".step{of.world.rank}").write_text(str(of.step))

    loop.train_step, training.fit = step, watched  # type: ignore[attr-defined]
    file = run.with_suffix(".toml")
    with contextlib.suppress(FileExistsError), file.open("x") as toml:
        toml.write(to_toml(recipe))
    while not file.read_text().endswith(to_toml(recipe)[-20:]):
        time.sleep(0.01)
    os._exit(command(["train", "-q", "--recipe", str(file), "--out", str(run), "--device", "cpu"]))


def lost(folder: Path) -> Iterator[bool]:
    """One of two processes killed with SIGKILL in any of ten steps: the other ends with an error, and nobody hangs."""
    for at in range(10):
        work = functools.partial(_train_in_world, TINY, folder / str(at), mmap.mmap(-1, 1), at)
        codes = [code_of(process) for process in world(2, work)]
        yield codes == [5, -signal.SIGKILL]


RESTARTED = """
import os, signal, sys
from residuum.cli.main import main
from residuum.training import loop
original = loop.train_step

def step(run, *arguments):
    if run.step == int(sys.argv[1]) and run.world.rank == 1 and run.world.restarts == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return original(run, *arguments)

loop.train_step = step
sys.exit(main(sys.argv[2:]))
"""


def restarts(folder: Path) -> Iterator[bool]:
    """torchrun --max-restarts with one of two processes killed in an early, a middle and a late step, with --out and
    without: the run ends with the weights of an undisturbed one, bit for bit.
    """
    recipe, script = folder / "tiny.toml", folder / "restarted.py"
    recipe.write_text(to_toml(replace(TINY, save_every_steps=4)))
    script.write_text(RESTARTED)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--max-restarts=1"]
    words = ["train", "-q", "--recipe", str(recipe), "--device", "cpu"]

    def run(name: str, kill_at: int, *more: str) -> tuple[int, Path]:
        place = folder / name
        place.mkdir()
        port = f"--master-port={free_port()}"
        done = subprocess.run(
            [*torchrun, port, str(script), str(kill_at), *words, *more], cwd=place, capture_output=True
        )
        return done.returncode, place

    _, whole = run("whole", -1, "--out", "run")
    for step in (2, 9, 17):
        code, place = run(f"out{step}", step, "--out", "run")
        yield code == 0 and same_runs(place / "run", whole / "run")
        code, place = run(f"named{step}", step)
        yield code == 0 and same_runs(place / "runs" / "tiny-1", whole / "run")
