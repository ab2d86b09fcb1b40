"""Torture: what residuum promises of interrupted runs, tried many times, and counted in docs/results/reliability.csv.

    python benchmarks/reliability.py [WHAT ...] [--out FILE]      (by default all of it, in about ten minutes)

Each line of the file is one promise: how often it was tried, how often it was kept, and by which versions on which
machine. The trials train a tiny network on synthetic pictures with everything switched on that is random:
augmentation, mixup, cutmix, drop-path, and an average of the weights.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import io
import json
import mmap
import os
import random
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from measure import write

from residuum import bundle
from residuum.cli.main import main as command
from residuum.errors import Stopped, WeightsError
from residuum.recipe import Augment, Data, Model, OneCycle, PadCrop, Recipe, Sgd, to_toml
from residuum.training import checkpoint, loop
from residuum.training.build import build
from residuum.training.run import Run
from residuum.training.train import train

CPU = torch.device("cpu")
TINY = Recipe(
    name="tiny",
    epochs=3,
    precision="fp32",
    average_decay=0.9,
    label_smoothing=0.1,
    accumulate=2,
    log_every_steps=2,
    model=Model("resnet20_cifar", width=0.25, drop_path=0.2),
    data=Data(
        "synthetic:96x3x8", img_size=8, resize_px=8, batch_size=8, eval_batch_size=8, val_fraction=0.25,
        test_fraction=0.25,
    ),
    augment=Augment(crop=PadCrop(px=1), flip="random", rotate=5.0, erasing=0.3, mixup=0.2, cutmix=0.5),
    optim=Sgd(lr=0.05, nesterov=True, clip_norm=1.0),
    schedule=OneCycle(),
)  # fmt: skip
"""Three epochs of six steps, each followed by an evaluation of three batches."""

TIMEOUT_S = 60.0
"""A trial that takes longer hangs."""

Trial = Callable[[Path], Iterator[bool]]


def main() -> None:
    """Runs the trials that are named, or all of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", metavar="WHAT", help=f"of {', '.join(TRIALS)}")
    parser.add_argument("--out", help="the CSV file (default: docs/results/reliability.csv)")
    arguments = parser.parse_args()
    failed = 0
    torch.set_num_threads(1)  # a pool of threads does not survive a fork
    for what in arguments.what or TRIALS:
        started = time.perf_counter()
        with tempfile.TemporaryDirectory(prefix="residuum-") as folder:
            kept = _tried(TRIALS[what], Path(folder))
        failed += not kept or not all(kept)
        write(
            str(Path(arguments.out).absolute()) if arguments.out else "reliability.csv",
            instead_of="what",
            what=what,
            promise=" ".join((TRIALS[what].__doc__ or "").split()),
            tried=len(kept),
            kept=sum(kept),
            seconds=round(time.perf_counter() - started, 1),
        )
    sys.exit(7 if failed else 0)


def _tried(trial: Trial, folder: Path) -> list[bool]:
    """Returns what came of a trial in a process of its own: one that has trained cannot be forked any more."""
    out = folder / "kept.json"
    process = forked(lambda: out.write_text(json.dumps(list(trial(folder)))), silent=False)
    os.waitpid(process, 0)
    return list(json.loads(out.read_text())) if out.exists() else []


# Everything that is compared, and processes to be killed


def state_of(folder: Path) -> dict[str, Any]:
    """Everything that a bundle holds, bit for bit, but for the time that it took."""
    files = {file.name: file.read_bytes() for file in folder.iterdir() if file.name != bundle.SUMS}
    state: dict[str, Any] = {name: content for name, content in files.items() if not name.endswith(".json")}
    state |= {name: json.loads(content) for name, content in files.items() if name.endswith(".json")}
    state.get("train_state.json", {}).pop("seconds", None)
    return state


def records_of(run: Path) -> list[dict[str, Any]]:
    """The records of a run, but for its speed."""
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in r.items() if key not in ("seconds", "images_per_s")} for r in records]


def same_runs(one: Path, other: Path) -> bool:
    """Whether two runs left the same weights, optimizer, average, numbers and metrics: not one bit differs."""
    return all(state_of(one / kind) == state_of(other / kind) for kind in ("last", "best")) and (
        records_of(one) == records_of(other)
    )


def undisturbed(recipe: Recipe, folder: Path) -> Path:
    """The folder of a run that nobody stopped, without its report."""
    assert code_of(forked(lambda: loop.fit(build(recipe, folder, CPU)))) == 0
    return folder


def forked(work: Callable[[], object], *, silent: bool = True, **environment: str) -> int:
    """Starts `work` in a process of its own, which needs not import torch again; returns the process's number."""
    process = os.fork()
    if process:
        return process
    code = 1
    try:
        os.environ.update(environment)
        if silent:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, 1)
            os.dup2(nowhere, 2)
        work()
        code = 0
    except BaseException as error:  # noqa: BLE001 (whatever it is, the process ends here)
        code = getattr(error, "exit_code", 1)
        if not silent:
            traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(code)


def code_of(process: int, timeout_s: float = TIMEOUT_S) -> int | None:
    """Waits for a process; returns its exit code, -N for signal N, or None where it hangs (and is killed)."""
    until = time.monotonic() + timeout_s
    while time.monotonic() < until:
        done, status = os.waitpid(process, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)
    return None


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def world(size: int, work: Callable[[], None]) -> list[int]:
    """Starts `work` in the processes of a world, as torchrun would; returns their numbers."""
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(size)}
    return [forked(work, RANK=str(rank), LOCAL_RANK=str(rank), **address) for rank in range(size)]


# The trials


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
        again.records.rewind(again.step)
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
    code_of(forked(functools.partial(_train_one_step, recipe, run)))
    saving = 0
    for _ in range(200):
        before = _step_of(run)
        process = forked(functools.partial(_train_flagged, run, flag))
        until = time.monotonic() + TIMEOUT_S
        while _step_of(run) == before and time.monotonic() < until:
            time.sleep(0.002)  # until it has saved once, so that each process goes on from another one's checkpoint
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


def _step_of(run: Path) -> int:
    """The step of the newest checkpoint, or -1 in the moment in which it is replaced."""
    try:
        return int(json.loads((run / "last" / "model.json").read_text())["step"])
    except (OSError, ValueError):
        return -1


def flips(folder: Path) -> Iterator[bool]:
    """A single bit flipped anywhere in a checkpoint, 100 times: 100 are noticed."""
    last, chance = undisturbed(TINY, folder / "run") / "last", random.Random(0)
    files = sorted(last.iterdir())
    for at in range(100):
        file = files[at % len(files)]
        good = file.read_bytes()
        bad = bytearray(good)
        bad[chance.randrange(len(bad))] ^= 1 << chance.randrange(8)
        file.write_bytes(bad)
        yield _is_refused(last)
        file.write_bytes(good)
    bundle.read_all(last)


def truncations(folder: Path) -> Iterator[bool]:
    """A file of a checkpoint cut short at 50 lengths: 50 clear errors."""
    last, chance = undisturbed(TINY, folder / "run") / "last", random.Random(0)
    files = sorted(last.iterdir())
    for at in range(50):
        file = files[at % len(files)]
        good = file.read_bytes()
        file.write_bytes(good[: chance.randrange(len(good))])
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
    from residuum.training import train as training

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
        training.write_summary = slowed(training.write_summary, 60)  # type: ignore[attr-defined]
    recipe = run.with_suffix(".toml")
    recipe.write_text(to_toml(TINY))
    os._exit(command(["train", "-q", "--recipe", str(recipe), "--out", str(run), "--device", "cpu"]))


def _slow_batches(original: Callable[..., Iterator[Any]], dawdle: Callable[[float], None]) -> Callable[..., Any]:
    def slow(run: Run, batches: Any) -> Iterator[Any]:
        for batch in original(run, batches):
            dawdle(1)
            yield batch

    return slow


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
        yield codes == [75, 75] and len(steps) == 1


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
        data=replace(TINY.data, source="synthetic:1600x3x32", img_size=32, resize_px=32, batch_size=128,
                     val_fraction=0.0, test_fraction=0.36),
    )  # fmt: skip
    recipe.write_text(to_toml(large))
    for at, megabytes in enumerate((250, 500, 1000)):
        code = code_of(forked(functools.partial(_train_within, folder / str(at), recipe, megabytes)), 600)
        log = (folder / str(at) / "log.txt").read_text() if code == 0 else ""
        steps = [json.loads(line)["step"] for line in (folder / str(at) / "metrics.jsonl").read_text().splitlines()]
        print(megabytes, code, [line for line in log.splitlines() if "go through the network" in line])
        yield code == 0 and max(steps) >= 200


def _train_within(run: Path, recipe: Path, megabytes: int) -> None:
    """Trains with so much memory left to the process."""
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


TRIALS: dict[str, Trial] = {
    trial.__name__: trial
    for trial in (
        resumes, signals, kills, flips, truncations, full_disks, read_only, worlds, stops, lost, restarts, names, memory
    )
}  # fmt: skip

if __name__ == "__main__":
    main()
