"""Trials of one process: what is saved, and what a run is after it was interrupted."""

from __future__ import annotations

import contextlib
import functools
import io
import json
import mmap
import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from trial import CPU, TIMEOUT_S, TINY, code_of, forked, same_runs, state_of, step_of, undisturbed

from residuum import bundle
from residuum.cli.main import main as command
from residuum.errors import Stopped, WeightsError
from residuum.recipe import Model, Recipe, to_toml
from residuum.training import checkpoint, loop
from residuum.training.build import build
from residuum.training.run import Run
from residuum.training.train import train


def resumes(folder: Path) -> Iterator[bool]:
    """Stopped after any step, at the end or in an evaluation, and resumed with other workers: not one bit differs."""
    recipe = replace(TINY, data=replace(TINY.data, source=str(_class_folders(folder / "pictures")), workers=1))
    whole = undisturbed(recipe, folder / "whole")
    steps = 3 * len(build(recipe, folder / "whole", CPU).train_loader)
    moments = [("between_steps", count) for count in range(1, steps + 1)]
    moments += [("until_stopped", count) for count in range(1, 10)]
    for at, (where, count) in enumerate(moments):
        place = folder / str(at)
        run = build(recipe, place, CPU)
        _signalled(run, where, count)
        with contextlib.suppress(Stopped):
            loop.fit(run)
        was_stopped = run.stop.signal != 0
        again = build(replace(recipe, data=replace(recipe.data, workers=3)), place, CPU)
        torch.manual_seed(at)  # nothing may depend on what another process drew
        checkpoint.restore(again, checkpoint.read(place)[0])
        again.records.rewind(again.step, again.epoch)
        again.recipe = recipe  # which the cards hold, so that they can be compared
        loop.fit(again)
        yield was_stopped and same_runs(place, whole)


def _signalled(run: Run, where: str, at: int) -> None:
    """Lets a signal come the `at`-th time that the loop asks: after a step, or before a batch of an evaluation."""
    world, count = run.world, 0

    class Asked(type(world)):  # type: ignore[misc]
        def table(self, row: Any) -> Any:
            nonlocal count
            caller = sys._getframe(1).f_code.co_name
            if caller == {"between_steps": "apply", "until_stopped": "until_stopped"}[where]:
                count += 1
                if count == at:
                    run.stop.signal = signal.SIGTERM
                    row = [*row[:-1], signal.SIGTERM]
            return super().table(row)

    run.world = Asked()


def kills(folder: Path) -> Iterator[bool]:
    """kill -9 at 200 random moments, at least 50 of them while a checkpoint is saved: the newest one loads."""
    recipe = replace(TINY, epochs=10**6, save_every_steps=1)
    run, flag, chance = folder / "run", mmap.mmap(-1, 1), random.Random(0)
    assert code_of(forked(functools.partial(_train_one_step, recipe, run))) == Stopped.exit_code
    saving = 0
    for number in range(200):
        before = step_of(run)
        process = forked(functools.partial(_train_flagged, run, flag))
        until = time.monotonic() + TIMEOUT_S
        while step_of(run) == before and time.monotonic() < until:
            time.sleep(0.002)  # until it has saved once, so that each process goes on from another one's checkpoint
        if number % 2:  # at any moment, or, as these would be too few, at one after a save has begun
            while not flag[0] and time.monotonic() < until:
                pass
            time.sleep(chance.uniform(0, 0.01))
        else:
            time.sleep(chance.uniform(0, 0.1))
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
        saving += flag[0]
        flag[0] = 0
        try:
            (_, card, extra), _ = checkpoint.read(run)
            yield bool(card["step"] >= before and extra)
        except WeightsError:
            yield False
    print(f"{saving} of 200 processes were killed while they saved")
    if saving < 50:
        yield False


def _train_one_step(recipe: Recipe, folder: Path) -> None:
    run = build(recipe, folder, CPU)
    (folder / "recipe.toml").write_text(to_toml(recipe))
    (folder / "data.json").write_text(json.dumps({**run.parts.record, "skipped": {}}))
    _signalled(run, "between_steps", 1)
    loop.fit(run)


def _train_flagged(run: Path, flag: mmap.mmap) -> None:
    """Goes on with a run, with a flag up while a bundle is written."""
    original = bundle.write

    def flagged(*arguments: Any, **more: Any) -> None:
        flag[0] = 1
        original(*arguments, **more)
        flag[0] = 0

    bundle.write = flagged
    train(resume=run, device="cpu")


def flips(folder: Path) -> Iterator[bool]:
    """A single bit flipped anywhere in a checkpoint, 100 times: 100 are noticed."""

    def flipped(content: bytes, chance: random.Random) -> bytes:
        bad = bytearray(content)
        bad[chance.randrange(len(bad))] ^= 1 << chance.randrange(8)
        return bytes(bad)

    return _damages(folder, 100, flipped)


def truncations(folder: Path) -> Iterator[bool]:
    """A file of a checkpoint cut short at 50 lengths: 50 clear errors."""
    return _damages(folder, 50, lambda content, chance: content[: chance.randrange(len(content))])


def _damages(folder: Path, times: int, damaged: Callable[[bytes, random.Random], bytes]) -> Iterator[bool]:
    """Damages the files of a checkpoint in turn, each of them mended again before the next."""
    last, chance = undisturbed(TINY, folder / "run") / "last", random.Random(0)
    files = sorted(last.iterdir())
    for at in range(times):
        file = files[at % len(files)]
        good = file.read_bytes()
        file.write_bytes(damaged(good, chance))
        yield _is_refused(last)
        file.write_bytes(good)
    bundle.read_all(last)


def _is_refused(last: Path) -> bool:
    try:
        bundle.read_all(last)
    except WeightsError as error:
        return error.exit_code == 4 and bool(error.expected and error.hint)
    return False


def full_disks(folder: Path) -> Iterator[bool]:
    """A disk that fills up at 30 sizes of file while a checkpoint is saved: exit 5, the older one is as it was."""
    run = undisturbed(replace(TINY, epochs=1), folder / "run")
    _leave_resumable(replace(TINY, epochs=2), run)
    good, largest = state_of(run / "last"), max(file.stat().st_size for file in (run / "last").iterdir())
    for at in range(30):
        said = folder / "said.txt"
        limit = 4096 + (largest - 4096) * at // 30
        code = code_of(forked(functools.partial(_resume_within, run, limit, said)))
        words = said.read_text()
        told = "needs" in words and "free" in words and str(run) in words
        yield code == 5 and told and state_of(run / "last") == good and "Traceback" not in words


def _leave_resumable(recipe: Recipe, run: Path) -> None:
    """Writes what `--resume` reads beside the checkpoint."""
    (run / "recipe.toml").write_text(to_toml(recipe))
    (run / "data.json").write_text(json.dumps({**build(recipe, run, CPU).parts.record, "skipped": {}}))


def _resume_within(run: Path, limit: int | None, said: Path) -> None:
    """Goes on with a run in a process that may not write files larger than `limit` bytes."""
    with contextlib.redirect_stderr(io.StringIO()) as words:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        # The records, which are small, are written; the checkpoint is not.
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit or resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        code = command(["train", "-q", "--resume", str(run), "--device", "cpu"])
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    said.write_text(words.getvalue())
    os._exit(code)


def read_only(folder: Path) -> Iterator[bool]:
    """A run resumed in a folder that cannot be written: exit 5, and what it held is as it was."""
    place, said = folder / "place", folder / "said.txt"
    place.mkdir()
    root = os.geteuid() == 0  # for whom permissions do not count
    if root:
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", place], check=True)
    try:
        run = undisturbed(replace(TINY, epochs=1), place / "run")
        _leave_resumable(replace(TINY, epochs=2), run)
        good = state_of(run / "last")
        if root:
            subprocess.run(["mount", "-o", "remount,ro", place], check=True)
        else:
            for held in (run, *run.rglob("*")):
                held.chmod(0o555 if held.is_dir() else 0o444)
        code = code_of(forked(functools.partial(_resume_within, run, None, said)))
        words = said.read_text()
        told = "needs" in words and "free" in words and str(run) in words
        yield code == 5 and told and state_of(run / "last") == good and "Traceback" not in words
    finally:
        if root:
            subprocess.run(["umount", place], check=True)
        else:
            for held in (place / "run", *(place / "run").rglob("*")):
                held.chmod(0o755)


PHASES = ("loading", "first step", "training", "evaluation", "report")


def signals(folder: Path) -> Iterator[bool]:
    """SIGTERM, SIGUSR1, SIGINT or SIGHUP while pictures are opened, in the first step, in training, in an evaluation
    or while the report is written: saved, exit 75 (130 for SIGINT) in under 10 s, resumed without a bit of difference.
    """
    whole = undisturbed(TINY, folder / "whole")
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT, signal.SIGHUP):
        for at, phase in enumerate(PHASES):
            run, ready = folder / f"{number.name}-{at}", mmap.mmap(-1, 1)
            process = forked(functools.partial(_train_slowly, run, phase, ready))
            until = time.monotonic() + TIMEOUT_S
            while not ready[0] and time.monotonic() < until:
                time.sleep(0.005)
            started = time.monotonic()
            os.kill(process, number)
            code = code_of(process)
            quick = time.monotonic() - started < 10
            resumed = code_of(forked(functools.partial(command, ["train", "-q", "--resume", str(run)])))
            expected = 130 if number == signal.SIGINT else 75
            yield quick and code == expected and resumed is not None and same_runs(run, whole)


def _train_slowly(run: Path, phase: str, ready: mmap.mmap) -> None:
    """Trains, and takes its time in one phase, from whose beginning on the flag is up."""
    from residuum.training import build as building
    from residuum.training import summary

    def dawdle(seconds: float) -> None:
        ready[0] = 1
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            time.sleep(0.01)

    def slowed(function: Callable[..., Any], seconds: float, after: int = 0) -> Callable[..., Any]:
        calls = 0

        def slow(*arguments: Any, **more: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls > after:
                dawdle(seconds)
            return function(*arguments, **more)

        return slow

    if phase == "loading":
        building.open_parts = slowed(building.open_parts, 60)  # type: ignore[attr-defined]
    elif phase == "first step":
        loop.train_step = slowed(loop.train_step, 1)
    elif phase == "training":
        loop.train_step = slowed(loop.train_step, 1, after=8)
    elif phase == "evaluation":
        Run.until_stopped = _slow_batches(Run.until_stopped, dawdle)  # type: ignore[method-assign]
    else:
        summary.write_summary = slowed(summary.write_summary, 60)
    recipe = run.with_suffix(".toml")
    recipe.write_text(to_toml(TINY))
    os._exit(command(["train", "-q", "--recipe", str(recipe), "--out", str(run), "--device", "cpu"]))


def _slow_batches(original: Callable[..., Iterator[Any]], dawdle: Callable[[float], None]) -> Callable[..., Any]:
    def slow(run: Run, batches: Any) -> Iterator[Any]:
        for batch in original(run, batches):
            dawdle(1)
            yield batch

    return slow


def names(folder: Path) -> Iterator[bool]:
    """Two runs started at once under one name, ten times: both finish, each in a folder of its own."""
    recipe = folder / "tiny.toml"
    recipe.write_text(to_toml(replace(TINY, epochs=1)))
    for at in range(10):
        place = folder / str(at)
        place.mkdir()

        def work(place: Path = place) -> None:
            os.chdir(place)
            os._exit(command(["train", "-q", "--recipe", str(recipe), "--device", "cpu"]))

        codes = [code_of(process) for process in [forked(work), forked(work)]]
        yield codes == [0, 0] and all((place / "runs" / f"tiny-{n}" / "report.html").is_file() for n in (1, 2))


def memory(folder: Path) -> Iterator[bool]:
    """--batch-size auto under three limits of memory: the batch that it finds survives 200 steps."""
    recipe = folder / "large.toml"
    large = replace(
        TINY, epochs=25, accumulate=1, model=Model("resnet20_cifar"), average_decay=0.0,
        data=replace(TINY.data, source="synthetic:1600x3x16", img_size=16, resize_px=16, batch_size=128,
                     val_fraction=0.0, test_fraction=0.36),
    )  # fmt: skip
    recipe.write_text(to_toml(large))
    for at, megabytes in enumerate((100, 200, 400)):
        code = code_of(forked(functools.partial(_train_within, folder / str(at), recipe, megabytes)), 600)
        log = (folder / str(at) / "log.txt").read_text() if code == 0 else ""
        steps = [json.loads(line)["step"] for line in (folder / str(at) / "metrics.jsonl").read_text().splitlines()]
        print(megabytes, code, [line for line in log.splitlines() if "go through the network" in line])
        yield code == 0 and max(steps) >= 200


def _train_within(run: Path, recipe: Path, megabytes: int) -> None:
    """Trains with so much memory left to the process, once it has loaded all that training needs."""
    train(replace(TINY, epochs=1), out=run.with_name(f"{run.name}-before"), device="cpu")
    used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (used + megabytes * 2**20, resource.RLIM_INFINITY))
    words = ["train", "-q", "--recipe", str(recipe), "--out", str(run), "--batch-size", "auto", "--device", "cpu"]
    os._exit(command(words))


def _class_folders(folder: Path) -> Path:
    """A folder of 66 pictures of different sizes in three class folders."""
    import numpy as np
    from PIL import Image

    chance = np.random.default_rng(0)
    for name, grey in (("2", 40), ("10", 120), ("bee", 200)):
        (folder / name).mkdir(parents=True)
        for number in range(22):
            pixels = grey + chance.integers(-40, 41, (int(chance.integers(9, 14)), int(chance.integers(9, 14)), 3))
            Image.fromarray(pixels.astype(np.uint8)).save(folder / name / f"{number}.png")
    return folder
