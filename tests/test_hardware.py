"""Devices and number formats: what is chosen, what is refused, and that autocast computes in it."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
import torch

from residuum import compiling, hardware
from residuum.errors import UsageError

CPU = torch.device("cpu")
CUDA = torch.device("cuda", 0)


def pretend(monkeypatch: pytest.MonkeyPatch, *, gpus: int = 0, mps: bool = False) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)


@pytest.mark.parametrize(
    ("gpus", "mps", "device"), [(0, False, "cpu"), (0, True, "mps"), (1, False, "cuda:0"), (2, True, "cuda:0")]
)
def test_auto_prefers_cuda_then_apple(monkeypatch: pytest.MonkeyPatch, gpus: int, mps: bool, device: str) -> None:
    pretend(monkeypatch, gpus=gpus, mps=mps)
    assert hardware.choose_device() == torch.device(device)


def test_a_device_that_is_there_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, gpus=2)
    for name in ("cpu", "cpu:0", "cuda:0", "cuda:1"):
        assert hardware.choose_device(name) == torch.device(name)
    for name in ("cuda", "auto"):  # processes on one machine take one each
        assert [hardware.choose_device(name, place) for place in (0, 1)] == [torch.device("cuda", k) for k in (0, 1)]


@pytest.mark.parametrize("name", ["cuda", "cuda:1", "mps", "cpu:1", "meta", "gpu", "", "cuda:-1", "CPU", "xpu"])
def test_a_device_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    pretend(monkeypatch)
    with pytest.raises(UsageError) as caught:
        hardware.choose_device(name)
    assert repr(name) in caught.value.what
    assert caught.value.expected == "Expected auto, or one of cpu."
    assert caught.value.hint


def test_a_gpu_too_many_is_answered_with_those_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, gpus=2)
    with pytest.raises(UsageError, match="cpu, cuda:0 to cuda:1"):
        hardware.choose_device("cuda:2")


@pytest.mark.parametrize("wanted", ["fp32", "bf16"])
def test_a_precision_that_is_asked_for_is_taken(wanted: hardware.Precision) -> None:
    assert hardware.choose_precision(wanted, CPU) == wanted


@pytest.mark.parametrize("wanted", ["fp64", "", "half", None])
def test_an_unknown_precision_is_refused(wanted: hardware.Precision) -> None:
    with pytest.raises(UsageError, match="auto, fp32, bf16, fp16"):
        hardware.choose_precision(wanted, CPU)


def test_fp16_is_for_gpus() -> None:
    assert hardware.choose_precision("fp16", CUDA) == "fp16"
    with pytest.raises(UsageError, match="fp16 cannot be used on a CPU"):
        hardware.choose_precision("fp16", CPU)


@pytest.mark.skipif(platform.machine() != "x86_64", reason="torch tells of x86's instructions only")
def test_auto_on_this_cpu_is_what_torch_found_out_about_it() -> None:
    has_bf16 = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    assert hardware.choose_precision("auto", CPU) == ("bf16" if has_bf16 else "fp32")


@pytest.mark.parametrize(
    ("cpuinfo", "chosen"),
    [
        ("flags\t\t: fpu avx2 avx512f avx512_bf16 avx512_fp16", "bf16"),
        ("flags\t\t: fpu avx2 amx_bf16 amx_tile", "bf16"),
        ("Features\t: fp asimd sve i8mm bf16 dgh", "bf16"),
        ("flags\t\t: fpu avx2 avx512f avx512_vnni", "fp32"),
        ("flags\t\t: fpu bf16x", "fp32"),
        ("", "fp32"),
    ],
)
def test_auto_on_a_cpu_reads_its_flags(monkeypatch: pytest.MonkeyPatch, cpuinfo: str, chosen: str) -> None:
    monkeypatch.setattr(hardware, "_cpuinfo", lambda: cpuinfo)
    assert hardware.choose_precision("auto", CPU) == chosen


@pytest.mark.parametrize(("supported", "chosen"), [(True, "bf16"), (False, "fp32")])
def test_auto_on_a_gpu_does_not_count_emulation(monkeypatch: pytest.MonkeyPatch, supported: bool, chosen: str) -> None:
    def is_bf16_supported(including_emulation: bool = True) -> bool:
        return supported or including_emulation

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", is_bf16_supported)
    assert hardware.choose_precision("auto", CUDA) == chosen


def test_auto_elsewhere_is_fp32() -> None:
    assert hardware.choose_precision("auto", torch.device("mps")) == "fp32"


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_autocast_computes_in_the_precision_every_time(precision: str, dtype: torch.dtype) -> None:
    context = hardware.autocast(precision, CPU)  # type: ignore[arg-type]
    left = torch.ones(2, 2)
    for _ in range(2):
        with context():
            assert (left @ left).dtype == dtype
        assert (left @ left).dtype == torch.float32


def test_the_description_is_json_with_what_a_figure_needs() -> None:
    described = json.loads(json.dumps(hardware.describe(CPU)))
    assert described["device_type"] == "cpu"
    assert described["device"]
    assert 1 <= described["cores"] <= (os.cpu_count() or 1)
    assert described["threads"] == torch.get_num_threads()
    assert described["python"] == platform.python_version()
    assert described["versions"]["torch"] == metadata.version("torch")
    assert {"torchvision", "numpy", "pillow", "scikit-learn"} <= described["versions"].keys()


PAGE_FAULTS = """
import resource
from residuum import memory

def page_faults_of_a_step():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(2):
        b"1" * (64 << 20)  # larger than glibc would keep by itself: 32 MiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

page_faults_of_a_step()
without = page_faults_of_a_step()
memory.keep_freed()
page_faults_of_a_step()
print(without, page_faults_of_a_step())
"""
"""How often the kernel hands over memory for arrays as large as a training step's, without the setting and with it."""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a matter of glibc's malloc")
def test_freed_memory_is_kept_for_the_next_step() -> None:
    """In a process of its own: what else a process holds decides what its heap can give back."""
    said = subprocess.run([sys.executable, "-c", PAGE_FAULTS], check=True, stdout=subprocess.PIPE, text=True).stdout
    without, kept = map(int, said.split())
    assert without >= 64  # at least one for each 2 MiB
    assert kept < 20


def test_what_is_compiled_is_kept_beside_downloads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torch._inductor.runtime.cache_dir_utils import cache_dir

    monkeypatch.setenv("RESIDUUM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "own"))
    compiling.keep_compiled_code()
    assert cache_dir() == str(tmp_path / "own")  # what somebody has chosen stays
    assert not (tmp_path / "cache").exists()
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "")
    compiling.keep_compiled_code()
    assert cache_dir() == str(tmp_path / "cache" / "compiled")


def test_a_cache_that_cannot_be_written_to_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("RESIDUUM_CACHE", str(tmp_path / "file"))
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    compiling.keep_compiled_code()
    assert "TORCHINDUCTOR_CACHE_DIR" not in os.environ


COMPILED = """
import torch
from residuum import compiling
compiling.keep_compiled_code()
torch.compile(lambda x: (x.sin() + x).relu())(torch.ones(64, 64))
from torch._dynamo.utils import counters
found = counters["inductor"]
print(found["fxgraph_cache_miss"], found["fxgraph_cache_hit"])
"""


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch compiles for CPUs with g++")
def test_a_second_run_finds_what_the_first_has_compiled(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "TORCHINDUCTOR_CACHE_DIR"}
    environment["RESIDUUM_CACHE"] = str(tmp_path)
    said = [
        subprocess.run(
            [sys.executable, "-c", COMPILED], check=True, stdout=subprocess.PIPE, text=True, env=environment
        ).stdout.split()
        for _ in range(2)
    ]
    assert said == [["1", "0"], ["0", "1"]]
