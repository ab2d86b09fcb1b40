"""Many processes seen from one. Without torchrun or srun it is a world of one, in which nothing is ever sent.

torchrun starts the processes and says who is who (`RANK`, `WORLD_SIZE`, `LOCAL_RANK`, `MASTER_ADDR`, `MASTER_PORT`);
under SLURM's `srun` its own variables say it. Gradients are DistributedDataParallel's; what processes tell each other
besides is small and goes through gloo, on GPUs too.

A process that fails leaves word in the world's store before it ends, so that the others, whose next exchange breaks,
can say by name what happened.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch._C._distributed_c10d import PrefixStore, TCPStore
from torch.distributed.rendezvous import rendezvous

from residuum.errors import PeerError, ResiduumError, ResourceError, UsageError

T = TypeVar("T")

_TIMEOUT = timedelta(minutes=30)  # of one exchange: as long as the slowest process may be behind the fastest
_WORD_S = 5.0  # how long one waits for the word of a process that has failed
_READ_S = 2.0  # how long a failing process that keeps the store lets the others read it
_GRACE_S = 10.0  # how long one that knows of a failure may take to end by itself


@dataclass(frozen=True)
class World:
    """This process among those that work together: `rank` of `size`; `local_rank` among those on this machine.

    `local_size` is how many are on this machine, `restarts` how often torchrun has started the world anew.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    restarts: int = 0
    watch: _Watch | None = field(default=None, compare=False, repr=False)

    @property
    def is_main(self) -> bool:
        """Whether this process is the one that writes."""
        return self.rank == 0

    def table(self, row: Sequence[float]) -> list[list[float]]:
        """Returns every process's `row` of float64, in the order of their ranks, to all of them."""
        if self.size == 1:
            return [list(row)]
        own = torch.tensor(row, dtype=torch.float64)
        rows = [torch.empty_like(own) for _ in range(self.size)]
        dist.all_gather(rows, own)
        return [values.tolist() for values in rows]

    def gather(self, item: T) -> list[T]:
        """Returns every process's `item`, in the order of their ranks, to all of them."""
        if self.size == 1:
            return [item]
        items: list[Any] = [None] * self.size
        dist.all_gather_object(items, item)
        return items

    def from_main(self, make: Callable[[], T]) -> T:
        """Returns to all processes what `make` returns in the main one, which alone calls it."""
        if self.size == 1:
            return make()
        items: list[Any] = [make() if self.is_main else None]
        dist.broadcast_object_list(items, src=0)
        return items[0]  # type: ignore[no-any-return]

    def same(self, tensors: Iterable[Tensor]) -> None:
        """Overwrites `tensors` with those of the main process."""
        if self.size > 1:
            for tensor in tensors:
                contiguous = tensor.detach().contiguous()  # a collective works on plain memory, not on channels last
                dist.broadcast(contiguous, src=0)
                tensor.detach().copy_(contiguous)

    @contextlib.contextmanager
    def one_after_the_other(self) -> Iterator[None]:
        """What is inside is done by the first process of each machine, then by the others (a download, a cache)."""
        if self.size > 1 and self.local_rank:
            dist.barrier()
        yield
        if self.size > 1 and not self.local_rank:
            dist.barrier()


ALONE = World()
"""The world of one."""


def announced() -> World:
    """Returns the world that torchrun's variables, or srun's, speak of, not joined yet.

    Raises:
        UsageError: they do not describe one.
    """
    known = os.environ
    if "WORLD_SIZE" not in known and known.get("SLURM_STEP_NUM_TASKS", "1") != "1":
        _translate_slurm()
    try:
        size = int(known.get("WORLD_SIZE", "1"))
        rank, local = int(known.get("RANK", "0")), int(known.get("LOCAL_RANK", "0"))
        local_size = int(known.get("LOCAL_WORLD_SIZE", "1"))
        restarts = int(known.get("TORCHELASTIC_RESTART_COUNT", "0"))
    except ValueError:
        size, rank, local, local_size, restarts = 0, 0, 0, 1, 0
    missing = [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if size > 1 and name not in known]
    if missing or not 0 <= rank < max(size, 0):
        raise UsageError(
            f"WORLD_SIZE={known.get('WORLD_SIZE')!r} and RANK={known.get('RANK')!r} do not describe a world"
            + (f": {', '.join(missing)} not set." if missing else "."),
            expected="Expected what torchrun sets: 0 <= RANK < WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT.",
            hint="Start with: torchrun --nproc-per-node=N -m residuum train ...; or unset WORLD_SIZE.",
        )
    return World(rank, size, local, local_size, restarts)


@contextlib.contextmanager
def joined() -> Iterator[World]:
    """Yields the world that this process was started into, joined for as long as the context lasts.

    Raises:
        UsageError: the environment speaks of a world and is incomplete.
        PeerError: another process has failed meanwhile.
    """
    found = announced()
    if found.size == 1:
        yield found
        return
    if dist.is_initialized():
        raise UsageError(
            "This process has joined a group of processes already.",
            expected="Expected that residuum joins it.",
            hint="Leave init_process_group to residuum.",
        )
    world = _join(found)
    try:
        yield world
    except Exception as error:
        if isinstance(error, RuntimeError) and _is_broken_exchange(error):
            raise _peers_failure(world, error) from error
        _leave_word(world, error)
        raise
    finally:
        assert world.watch is not None
        world.watch.over.set()
    dist.destroy_process_group()


def launcher() -> str | None:
    """Names what started this world and starts it anew, or None: the same text in every life of a process."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return None
    return f"{socket.gethostname()} {os.getppid()} {os.environ['TORCHELASTIC_RUN_ID']}"


def synchronised(model: torch.nn.Module, device: torch.device) -> torch.nn.Module:
    """Returns `model` with batch norms that see the batch of the whole world, and the same parameters."""
    if device.type == "cuda":
        converted: torch.nn.Module = torch.nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
        return converted
    for module in list(model.modules()):
        for name, child in module.named_children():
            if type(child) is torch.nn.BatchNorm2d:
                setattr(module, name, _BatchNormOfAll.like(child))
    return model


class _Sum(torch.autograd.Function):
    """The sum of a tensor over all processes, through which gradients flow back, summed in the same way."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:  # noqa: ARG004 (torch hands it over)
        total = values.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:  # noqa: ARG004
        return _Sum.forward(None, gradients[0])


def _summed(values: Tensor) -> Tensor:
    total: Tensor = _Sum.apply(values)
    return total


class _BatchNormOfAll(torch.nn.BatchNorm2d):
    """Batch norm over the batches of all processes, where torch's SyncBatchNorm, which needs a GPU, cannot be used."""

    @classmethod
    def like(cls, norm: torch.nn.BatchNorm2d) -> _BatchNormOfAll:
        """Returns one with the very parameters and running statistics of `norm`."""
        made = cls(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
        made._parameters, made._buffers, made.training = norm._parameters, norm._buffers, norm.training
        return made

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 (torch's name)
        """[N, C, H, W] -> [N, C, H, W]; in training, mean and variance are over N of all processes, H and W."""
        if not self.training or not dist.is_initialized():
            return super().forward(input)
        assert self.running_mean is not None and self.running_var is not None
        x = input.float()
        count = torch.tensor([x.numel() / x.shape[1]])
        dist.all_reduce(count)
        total = count.item()
        mean = _summed(x.sum(dim=(0, 2, 3))) / total
        centred = x - mean[:, None, None]
        variance = _summed(centred.square().sum(dim=(0, 2, 3))) / total
        with torch.no_grad():
            if self.num_batches_tracked is not None:  # it is while a block is run a second time for its gradient
                self.num_batches_tracked.add_(1)
            assert self.momentum is not None
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * (total / max(total - 1, 1)), self.momentum)
        scale = self.weight * (variance + self.eps).rsqrt()
        return torch.addcmul(self.bias[:, None, None], centred, scale[:, None, None]).to(input.dtype)


def _translate_slurm() -> None:
    """Sets torchrun's variables from those that srun sets for each task of a step."""
    known = os.environ
    job = int(re.sub(r"\D", "", known.get("SLURM_JOB_ID", "")) or 0)
    nodes = known.get("SLURM_STEP_NODELIST") or known.get("SLURM_JOB_NODELIST", "")
    known.setdefault("MASTER_ADDR", first_host(nodes) or "127.0.0.1")
    known.setdefault("MASTER_PORT", str(20_000 + job % 20_000))  # tasks of one job agree on it without talking
    known.setdefault("RANK", known.get("SLURM_PROCID", "0"))
    known.setdefault("LOCAL_RANK", known.get("SLURM_LOCALID", "0"))
    each = re.match(r"\d+", known.get("SLURM_STEP_TASKS_PER_NODE", ""))  # such as 8(x2)
    known.setdefault("LOCAL_WORLD_SIZE", each[0] if each else "1")
    known["WORLD_SIZE"] = known["SLURM_STEP_NUM_TASKS"]


def first_host(nodes: str) -> str:
    """Returns the first of SLURM's list of hosts, such as `gpu[003-007,012],login` -> `gpu003`."""
    match = re.match(r"([^\[,]*)(?:\[([^\],-]*)[^\]]*\])?([^,]*)", nodes)
    return "".join(part or "" for part in match.groups()) if match else ""


def _join(found: World) -> World:
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() and dist.is_nccl_available() else "gloo"
    try:
        store, _, _ = next(rendezvous("env://", found.rank, found.size, timeout=_TIMEOUT))
        if os.environ.get("TORCHELASTIC_RUN_ID") == "none":
            # A world that is started anew would read where its dead processes listened: torchrun's static rendezvous,
            # which has no other name, keeps one store for all lives.
            store = PrefixStore(f"life {found.restarts}", store)
        dist.init_process_group(backend, store=store, rank=found.rank, world_size=found.size, timeout=_TIMEOUT)
    except (RuntimeError, ValueError) as error:
        address = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        raise ResourceError(
            f"Process {found.rank} of {found.size} cannot join the others at {address}: {_first_line(error)}.",
            expected="Expected all processes to reach that address.",
            hint="Check that each process was started, and that no firewall is between the machines.",
        ) from error
    restarts = max(int(row[0]) for row in World(found.rank, found.size).table([found.restarts]))
    watch = _Watch(f"residuum/failed/{restarts}", found.rank)
    watch.start()
    return replace(found, restarts=restarts, watch=watch)


class _Watch(threading.Thread):
    """Listens for the word that a failing process leaves in the world's store.

    Where this process waits for that one in an exchange that never breaks (NCCL's), it is ended here.
    """

    def __init__(self, key: str, rank: int) -> None:
        super().__init__(daemon=True, name="residuum-watch")
        self.key, self.rank, self.over = key, rank, threading.Event()
        self.word: dict[str, Any] | None = None
        self.store = TCPStore(
            os.environ["MASTER_ADDR"],
            int(os.environ["MASTER_PORT"]),
            is_master=False,
            timeout=timedelta(seconds=60),
        )

    def run(self) -> None:
        """Asks twice a second, until the world is left."""
        while not self.over.wait(0.5):
            try:
                if not self.store.check([self.key]):
                    continue
                self.word = dict(json.loads(self.store.get(self.key)))
            except RuntimeError:  # the store went with the process that kept it
                return
            if self.word["rank"] != self.rank and not self.over.wait(_GRACE_S):
                error = _told(self.word)
                logging.getLogger("residuum").error("%s\n  %s\n  %s", error.what, error.expected, error.hint)
                os._exit(error.exit_code)
            return

    def leave(self, word: dict[str, Any]) -> None:
        """Leaves word of this process's end, and time to read it where the store ends with this process."""
        with contextlib.suppress(RuntimeError):
            self.store.set(self.key, json.dumps(word))
        if self.rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
            time.sleep(_READ_S)

    def heard(self) -> dict[str, Any] | None:
        """Returns the word of another process, for which it waits a while."""
        until = time.monotonic() + _WORD_S
        while self.word is None and self.is_alive() and time.monotonic() < until:
            time.sleep(0.05)
        return self.word


def _leave_word(world: World, error: Exception) -> None:
    """Tells the others why this process ends."""
    if not isinstance(error, ResiduumError):
        resources = isinstance(error, (OSError, MemoryError, torch.OutOfMemoryError))
        error = (ResourceError if resources else ResiduumError)(f"{type(error).__name__}: {_first_line(error)}.")
    word = {
        "rank": world.rank,
        "size": world.size,
        "host": socket.gethostname(),
        "what": error.what,
        "expected": error.expected,
        "hint": error.hint,
        "exit_code": error.exit_code,
    }
    assert world.watch is not None
    world.watch.leave(word)


def _peers_failure(world: World, error: RuntimeError) -> PeerError:
    """Returns what another process said before it ended, which is why an exchange with it broke."""
    assert world.watch is not None
    word = world.watch.heard()
    if word is not None:
        return _told(word)
    return PeerError(
        f"Process {world.rank} of {world.size} has lost another one, which said nothing ({_first_line(error)}).",
        expected="Expected all processes to live as long as the run.",
        hint="It was killed (by the system, when memory runs out) or the network failed; go on with --resume.",
    )


def _told(word: dict[str, Any]) -> PeerError:
    return PeerError(
        f"Process {word['rank']} of {word['size']}, on {word['host']}, has failed: {word['what']}",
        expected=word["expected"],
        hint=word["hint"],
        exit_code=word["exit_code"],
    )


def _is_broken_exchange(error: RuntimeError) -> bool:
    signs = ("gloo", "nccl", "connection", "connect", "timed out", "timeout", "peer", "socket")
    return isinstance(error, dist.DistError) or any(sign in str(error).lower() for sign in signs)


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n", maxsplit=1)[0].rstrip(".")
