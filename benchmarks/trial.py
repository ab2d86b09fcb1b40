"""What a trial needs: a tiny run with everything random in it, processes to be killed, and what is compared."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from residuum import bundle
from residuum.recipe import Augment, Data, Model, OneCycle, PadCrop, Recipe, Sgd
from residuum.training import loop
from residuum.training.build import build
from residuum.training.stop import SIGNALS

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
        for number in SIGNALS:  # whatever nohup or a shell has silenced
            signal.signal(number, signal.SIG_DFL if number != signal.SIGINT else signal.default_int_handler)
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


def step_of(run: Path) -> int:
    """The step of the newest checkpoint, or -1 in the moment in which it is replaced."""
    try:
        return int(json.loads((run / "last" / "model.json").read_text())["step"])
    except (OSError, ValueError):
        return -1
