"""Worlds of several processes on this machine: exact scores, equal losses, and what the others are told."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from torch import nn

from residuum.cli.main import main
from residuum.recipe import Model, Recipe, Transfer, to_toml

TORCHRUN = {"RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_RESTART_COUNT"}


SERVER = multiprocessing.get_context("forkserver")
"""Forks processes that have imported everything already, which is most of what these tests would wait for."""
SERVER.set_forkserver_preload(
    ["residuum.cli.train", "residuum.cli.evaluate", "residuum.training.train", "torch._dynamo"]
)


@dataclass(frozen=True)
class Ended:
    """How a process ended, and what it said."""

    code: int | None
    out: str
    err: str


@dataclass(frozen=True)
class Started:
    """A process, and the files that it says everything into."""

    process: multiprocessing.context.ForkServerProcess
    said: Path

    def told(self) -> Ended:
        """What it said, once it has ended."""
        out, err = ((self.said / name).read_text(encoding="utf-8") for name in ("out", "err"))
        return Ended(self.process.exitcode, out, err)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def live(words: list[str], told: dict[str, str], cwd: Path, said: Path) -> None:
    """What a process does: the command line with these words or, after -c, a program."""
    os.chdir(cwd)
    os.environ.update(told)
    for descriptor, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(said / name, os.O_WRONLY | os.O_CREAT), descriptor)
    if words[0] != "-c":
        sys.exit(main(words))
    sys.argv = ["-c", *words[2:]]
    exec(compile(words[1], "-c", "exec"), {"__name__": "__main__"})


def started(size: int, words: list[str], cwd: Path, naming: str = "torchrun") -> list[Started]:
    """Starts the processes of a world, with the variables that torchrun or srun would set."""
    port = free_port()
    processes = []
    for rank in range(size):
        told = {
            "torchrun": {
                "RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port,
            },
            "srun": {
                "SLURM_PROCID": rank, "SLURM_LOCALID": rank, "SLURM_STEP_NUM_TASKS": size,
                "SLURM_STEP_NODELIST": "localhost", "SLURM_JOB_ID": port,
            },
        }[naming]  # fmt: skip
        said = cwd / f".said-{port}-{rank}"
        said.mkdir()
        process = SERVER.Process(target=live, args=(words, {key: str(told[key]) for key in told}, cwd, said))
        process.start()
        processes.append(Started(process, said))
    return processes


def ended(processes: list[Started], timeout_s: float = 90) -> list[Ended]:
    """Waits for the processes of a world; one that hangs fails the test."""
    try:
        for each in processes:
            each.process.join(timeout_s)
            assert each.process.exitcode is not None, f"it hangs: {each.told().err}"
    finally:
        for each in processes:
            each.process.kill()
    return [each.told() for each in processes]


def world_recipe(tiny: Recipe) -> Recipe:
    """`tiny` without what differs between worlds by its nature: drop-path, and parts whose batch norm is their own; in
    the first epoch the head learns alone."""
    return replace(
        tiny,
        epochs=2,
        accumulate=1,
        log_every_steps=1,
        sync_batch_norm=True,
        class_weights=0.5,
        transfer=Transfer(head_epochs=1, layer_decay=0.8),
        model=Model("resnet20_cifar", width=0.25),
        data=replace(tiny.data, source="synthetic:90x3x8", eval_batch_size=8),
    )


@pytest.fixture(scope="module")
def runs(tiny: Recipe, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The folders of the same recipe's runs in worlds of 1 and 2 processes."""
    folder = tmp_path_factory.mktemp("worlds")
    return trained(tiny, folder, {"alone": (1, "torchrun"), "two": (2, "torchrun")})


@pytest.fixture(scope="module")
def srun(tiny: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of that recipe's run in a world of 2 processes that srun has started."""
    return trained(tiny, tmp_path_factory.mktemp("worlds"), {"srun": (2, "srun")})["srun"]


def trained(tiny: Recipe, folder: Path, worlds: dict[str, tuple[int, str]]) -> dict[str, Path]:
    """Trains `world_recipe` in each of the worlds, name -> size and kind, side by side; returns their run folders."""
    (folder / "recipe.toml").write_text(to_toml(world_recipe(tiny)), encoding="utf-8")
    command = ["train", "-q", "--json", "--recipe", "recipe.toml", "--device", "cpu", "--out"]
    processes = {name: started(size, [*command, name], folder, naming) for name, (size, naming) in worlds.items()}
    for name, of_world in processes.items():
        for rank, process in enumerate(ended(of_world)):
            assert process.code == 0, process.err
            assert bool(process.out) == (rank == 0), name  # one document on stdout, whatever the number of processes
    return {name: folder / name for name in worlds}


def records_of(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def test_losses_of_one_and_two_processes_are_the_same(runs: dict[str, Path]) -> None:
    assert_the_same_losses(records_of(runs["alone"]), records_of(runs["two"]))


@pytest.mark.slow
def test_losses_of_a_world_of_srun_are_the_same(runs: dict[str, Path], srun: Path) -> None:
    assert_the_same_losses(records_of(runs["alone"]), records_of(srun))


def assert_the_same_losses(alone: list[dict[str, float]], together: list[dict[str, float]]) -> None:
    steps = [(one["loss"], two["loss"]) for one, two in zip(alone, together, strict=True) if one["kind"] == "step"]
    assert len(steps) == 12
    for one, two in steps:
        assert two == pytest.approx(one, rel=1e-5)
    epochs = [(one, two) for one, two in zip(alone, together, strict=True) if one["kind"] == "epoch"]
    for one, two in epochs:
        assert two["val_top1"] == one["val_top1"]
        assert two["val_loss"] == pytest.approx(one["val_loss"], rel=1e-5)


def test_only_the_first_process_writes(runs: dict[str, Path]) -> None:
    def files(run: Path) -> set[str]:
        return {file.relative_to(run).as_posix() for file in run.rglob("*")}

    assert files(runs["two"]) == files(runs["alone"])


@pytest.mark.parametrize("views", [pytest.param("one", marks=pytest.mark.slow), "ten"])
def test_two_processes_evaluate_exactly(runs: dict[str, Path], tmp_path: Path, views: str) -> None:
    words = ["evaluate", str(runs["two"] / "best"), "--json", "--batch-size", "5"]
    words += ["--csv", "rows.csv", "--views", views]
    worlds = [started(size, words, tmp_path / str(size)) for size in (1, 2) if (tmp_path / str(size)).mkdir() is None]
    (alone,), (first, second) = (ended(of_world) for of_world in worlds)
    assert [alone.code, first.code, second.code] == [0, 0, 0], first.err
    assert json.loads(first.out) == json.loads(alone.out)
    assert second.out == ""
    assert (tmp_path / "2" / "rows.csv").read_bytes() == (tmp_path / "1" / "rows.csv").read_bytes()


FAILING = """
import sys
from residuum.cli.main import main
from residuum.errors import DataError
from residuum.training import loop
original = loop.train_step

def step(run, *arguments):
    if run.world.rank == int(sys.argv[1]) and run.step == 3:
        raise DataError("That picture is gone.", expected="Expected it to stay.", hint="Put it back.")
    return original(run, *arguments)

loop.train_step = step
sys.exit(main(sys.argv[2:]))
"""


@pytest.mark.parametrize("rank", [pytest.param(0, marks=pytest.mark.slow), 1])  # 0 keeps the store of words
def test_what_fails_in_one_process_is_told_by_the_others(tiny: Recipe, tmp_path: Path, rank: int) -> None:
    (tmp_path / "recipe.toml").write_text(to_toml(world_recipe(tiny)), encoding="utf-8")
    words = ["train", "-q", "--recipe", "recipe.toml", "--device", "cpu", "--out", "run"]
    processes = ended(started(2, ["-c", FAILING, str(rank), *words], tmp_path))
    failing, other = processes[rank], processes[1 - rank]
    assert (failing.code, other.code) == (3, 3), other.err
    assert f"Process {rank} of 2" in other.err
    assert "has failed: That picture is gone." in other.err
    assert "Put it back." in other.err
    assert f"Error in process {rank}: That picture is gone." in failing.err
    assert "Traceback" not in failing.err + other.err


WAITING = """
import sys, time
from residuum.cli.console import complain
from residuum.distributed import joined
from residuum.errors import DataError
try:
    with joined() as world:
        if world.rank == 1:
            raise DataError("That picture is gone.", hint="Put it back.")
        time.sleep(100)  # as in an exchange that does not break
except DataError as error:
    sys.exit(complain(error))
"""


@pytest.mark.slow
def test_a_process_that_waits_for_one_that_failed_is_ended(tmp_path: Path) -> None:
    first, second = ended(started(2, ["-c", WAITING], tmp_path), timeout_s=50)
    assert (first.code, second.code) == (3, 3)
    assert "Process 1 of 2" in first.err
    assert "has failed: That picture is gone." in first.err


def test_a_signal_to_one_process_stops_all_after_the_same_step(tiny: Recipe, tmp_path: Path) -> None:
    recipe = replace(world_recipe(tiny), epochs=100_000)
    (tmp_path / "recipe.toml").write_text(to_toml(recipe), encoding="utf-8")
    words = ["train", "-q", "--recipe", "recipe.toml", "--device", "cpu", "--out", "run"]
    processes = started(2, words, tmp_path)
    until = time.monotonic() + 60
    while not (tmp_path / "run" / "metrics.jsonl").exists() and time.monotonic() < until:
        time.sleep(0.05)
    os.kill(processes[1].process.pid or 0, signal.SIGTERM)
    first, second = ended(processes)
    assert (first.code, second.code) == (75, 75), first.err + second.err
    assert "Stopped by SIGTERM; everything is saved." in first.err
    assert second.err == ""
    numbers = json.loads((tmp_path / "run" / "last" / "train_state.json").read_text(encoding="utf-8"))
    assert numbers["step"] >= 1


@pytest.mark.slow
def test_two_agents_of_torchrun_on_one_machine(tiny: Recipe, runs: dict[str, Path], tmp_path: Path) -> None:
    """As on two machines: c10d rendezvous, one process for each node."""
    (tmp_path / "recipe.toml").write_text(to_toml(world_recipe(tiny)), encoding="utf-8")
    agent = ["-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1", "--rdzv-backend=c10d"]
    agent += [f"--rdzv-endpoint=127.0.0.1:{free_port()}", "--rdzv-id=residuum", "-m", "residuum", "train", "-q"]
    agent += ["--recipe", "recipe.toml", "--device", "cpu", "--out", "run"]
    clean = {name: value for name, value in os.environ.items() if name not in TORCHRUN}
    agents = [
        subprocess.Popen(
            [sys.executable, *agent], cwd=tmp_path, env=clean, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        for _ in range(2)
    ]
    for agent_of_one in agents:
        _, complaint = agent_of_one.communicate(timeout=150)
        assert agent_of_one.returncode == 0, complaint
    losses = [[record["loss"] for record in records_of(run)] for run in (tmp_path / "run", runs["two"])]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


TOGETHER = """
import sys
from pathlib import Path
import torch
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from residuum import recipe
from residuum.distributed import joined, synchronised
from residuum.training.build import build
from residuum.training.loop import train_epoch

def synchronise(world):
    torch.manual_seed(0)
    images, gradient = torch.randn(7, 5, 3, 4), torch.randn(7, 5, 3, 4)
    norm = synchronised(nn.Sequential(nn.BatchNorm2d(5)), torch.device("cpu"))
    nn.init.uniform_(norm[0].weight, 0.5, 2)
    cut = slice(0, 2) if world.rank == 0 else slice(2, 7)
    own = images[cut].clone().requires_grad_()
    answer = norm(own)
    answer.backward(gradient[cut])
    found = [answer.detach(), own.grad]
    torch.save([*found, norm[0].weight.grad, norm[0].bias.grad, norm[0].running_mean, norm[0].running_var,
                norm[0].weight.detach(), norm[0].num_batches_tracked], f"{world.rank}.pt")

def count(world):
    run = build(recipe.read(Path("recipe.toml")), Path("run"), torch.device("cpu"), world=world)
    travelled = []

    def hook(state, bucket):
        travelled.append(bucket.is_last())
        return allreduce_hook(state, bucket)

    run.shared.register_comm_hook(None, hook)
    train_epoch(run)
    print(run.epoch_steps, sum(travelled), run.parts_of_a_batch)

with joined() as world:
    synchronise(world)
    count(world)
"""
"""What two processes measure together: batch norm over both, and how often gradients travel in an epoch."""


@pytest.fixture(scope="module")
def together(tiny: Recipe, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Ended], Path]:
    """What the processes of `TOGETHER` said, and the folder that they wrote into."""
    folder = tmp_path_factory.mktemp("together")
    recipe = replace(world_recipe(tiny), accumulate=2)
    (folder / "recipe.toml").write_text(to_toml(recipe), encoding="utf-8")
    processes = ended(started(2, ["-c", TOGETHER], folder))
    for done in processes:
        assert done.code == 0, done.err
    return processes, folder


def test_gradients_travel_once_a_batch_whatever_its_parts(together: tuple[list[Ended], Path]) -> None:
    for done in together[0]:
        steps, exchanges, parts = map(int, done.out.split())
        assert parts == 2
        assert exchanges == steps > 3


def test_synchronised_batch_norm_is_torchs_on_the_whole_batch(together: tuple[list[Ended], Path]) -> None:
    first, second = (torch.load(together[1] / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    torch.manual_seed(0)
    images, gradient = torch.randn(7, 5, 3, 4, requires_grad=True), torch.randn(7, 5, 3, 4)
    norm = nn.BatchNorm2d(5)
    norm.weight.data = first[6]
    answer = norm(images)
    answer.backward(gradient)
    assert norm.weight.grad is not None
    assert norm.bias.grad is not None
    torch.testing.assert_close(torch.cat([first[0], second[0]]), answer.detach())
    torch.testing.assert_close(torch.cat([first[1], second[1]]), images.grad)
    torch.testing.assert_close(first[2] + second[2], norm.weight.grad)
    torch.testing.assert_close(first[3] + second[3], norm.bias.grad)
    for of_one in (first, second):
        torch.testing.assert_close(of_one[4], norm.running_mean)
        torch.testing.assert_close(of_one[5], norm.running_var)
        assert of_one[7] == norm.num_batches_tracked == 1
