"""Who is who among processes that were started together, as torchrun and srun say it."""

from __future__ import annotations

import os

import pytest

from residuum import distributed
from residuum.distributed import ALONE, World, announced, first_host
from residuum.errors import UsageError

TORCHRUN = {"RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_RESTART_COUNT"}
SLURM = {"SLURM_PROCID", "SLURM_LOCALID", "SLURM_STEP_NUM_TASKS", "SLURM_STEP_NODELIST", "SLURM_JOB_ID"}


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """An environment that speaks of no world."""
    for name in TORCHRUN | SLURM:
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


@pytest.mark.usefixtures("environment")
def test_without_torchrun_it_is_a_world_of_one() -> None:
    assert announced() == ALONE
    assert ALONE.is_main
    assert ALONE.table([1.5, 2]) == [[1.5, 2]]
    assert ALONE.gather("x") == ["x"]
    assert ALONE.from_main(lambda: 3) == 3
    with distributed.joined() as world:
        assert world == ALONE


def test_torchruns_variables_say_who_one_is(environment: pytest.MonkeyPatch) -> None:
    told = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "MASTER_ADDR": "a", "MASTER_PORT": "1"}
    for name, value in told.items():
        environment.setenv(name, value)
    assert announced() == World(rank=5, size=8, local_rank=1)


def test_sruns_variables_say_who_one_is(environment: pytest.MonkeyPatch) -> None:
    told = {
        "SLURM_PROCID": "9", "SLURM_LOCALID": "1", "SLURM_STEP_NUM_TASKS": "16", "SLURM_JOB_ID": "123456",
        "SLURM_STEP_NODELIST": "gpu[007-008]",
    }  # fmt: skip
    for name, value in told.items():
        environment.setenv(name, value)
    for name in TORCHRUN:  # so that what is set on the way goes afterwards
        environment.setenv(name, "")
        os.environ.pop(name)
    assert announced() == World(rank=9, size=16, local_rank=1)
    assert os.environ["MASTER_ADDR"] == "gpu007"
    assert 20_000 <= int(os.environ["MASTER_PORT"]) < 40_000
    for name in TORCHRUN:
        os.environ.pop(name, None)


def test_a_batch_script_of_slurm_is_a_world_of_one(environment: pytest.MonkeyPatch) -> None:
    """Which has SLURM_NTASKS for the steps that it may start, and must not wait for anybody."""
    environment.setenv("SLURM_NTASKS", "16")
    environment.setenv("SLURM_PROCID", "0")
    assert announced() == ALONE


@pytest.mark.parametrize(
    ("nodes", "first"),
    [("gpu[003-007,012],login", "gpu003"), ("a,b", "a"), ("node7", "node7"), ("n[1,3]-ib", "n1-ib"), ("", "")],
)
def test_the_first_host_of_slurms_list(nodes: str, first: str) -> None:
    assert first_host(nodes) == first


@pytest.mark.parametrize(
    "told",
    [
        {"WORLD_SIZE": "2"},
        {"WORLD_SIZE": "2", "RANK": "2", "MASTER_ADDR": "a", "MASTER_PORT": "1"},
        {"WORLD_SIZE": "two", "RANK": "0"},
        {"WORLD_SIZE": "0"},
    ],
)
def test_half_a_world_is_refused(environment: pytest.MonkeyPatch, told: dict[str, str]) -> None:
    for name, value in told.items():
        environment.setenv(name, value)
    with pytest.raises(UsageError, match="do not describe a world") as caught:
        announced()
    assert "torchrun" in caught.value.hint
