"""What is found out about software and machine, and what is made of it."""

from __future__ import annotations

import json
import shutil
import tempfile
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from residuum import software
from residuum.compiling import compile_lacks
from residuum.deploy import doctor, machine, selftest, storage
from residuum.errors import UsageError, VerificationError

CPU = torch.device("cpu")


def found(name: str) -> doctor.Section:
    return next(section for section in doctor.examine() if section.name == name)


def severities(section: doctor.Section) -> list[str]:
    return [finding.severity for finding in section.findings]


def cgroups(place: Path, own: str, files: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Puts a tree of control groups in the place of the machine's."""
    (place / "own").write_text(own)
    for name, text in files.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_text(text + "\n")
    monkeypatch.setattr("residuum.memory._CGROUPS", place)
    monkeypatch.setattr("residuum.memory._OWN_CGROUPS", place / "own")


def test_memory_is_what_the_kernel_says() -> None:
    told = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    memory = machine.devices("cpu")["memory"]
    assert memory["total_bytes"] == int(told["MemTotal"].removesuffix(" kB")) * 1024
    assert 0 < memory["available_bytes"] < memory["total_bytes"]


@pytest.mark.parametrize(
    ("own", "files", "cores", "limit_bytes"),
    [
        ("0::/\n", {"cpu.max": "150000 100000", "memory.max": "4000000000"}, 1.5, 4_000_000_000),
        ("0::/\n", {"cpu.max": "max 100000", "memory.max": "max"}, None, None),
        ("0::/a/b\n", {"a/b/cpu.max": "max 100000", "a/cpu.max": "50000 100000", "a/memory.max": "7"}, 0.5, 7),
        (
            "4:memory:/x\n2:cpu,cpuacct:/y\n0::/\n",
            {
                "memory/x/memory.limit_in_bytes": "9",
                "memory/memory.limit_in_bytes": "9223372036854771712",
                "cpu,cpuacct/cpu.cfs_quota_us": "-1",
            },
            None,
            9,
        ),
        ("2:cpu:/docker/abc\n", {"cpu/cpu.cfs_quota_us": "300000"}, 3.0, None),
        ("", {}, None, None),
    ],
)
def test_the_limits_of_a_container_are_seen(
    own: str,
    files: dict[str, str],
    cores: float | None,
    limit_bytes: int | None,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    cgroups(tmp_path, own, files, monkeypatch)
    about = machine.devices("cpu")
    assert (about["cores_quota"], about["memory"]["limit_bytes"]) == (cores, limit_bytes)


def test_what_compile_lacks_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert compile_lacks(CPU) == "compiler (no-such-compiler)"
    monkeypatch.setattr(shutil, "which", lambda name: name)
    monkeypatch.setattr("residuum.compiling.find_spec", lambda _: None)
    assert compile_lacks(torch.device("cuda")) == "Triton"
    monkeypatch.setattr("sysconfig.get_path", lambda _: "nowhere")
    assert compile_lacks(CPU) == "Python.h in nowhere"


def test_gpus_are_told_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    about = type("About", (), {"name": "GPU", "total_memory": 8_000_000_000, "major": 9, "minor": 0})
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: about)
    monkeypatch.setattr(machine, "_precision", lambda device: "bf16" if device.index != 1 else "fp32")
    gpus = machine.devices("cpu")["gpus"]
    assert [(gpu["device"], gpu["bf16_in_hardware"]) for gpu in gpus] == [("cuda:0", True), ("cuda:1", False)]
    assert gpus[0]["capability"] == "9.0"


def test_what_torch_warns_of_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    def is_available() -> bool:
        warnings.warn("CUDA initialization: the driver\n is too old", stacklevel=1)
        return False

    monkeypatch.setattr(torch.cuda, "is_available", is_available)
    (finding,) = [finding for finding in found("devices").findings if "too old" in finding.what]
    assert finding.what == "torch warns: CUDA initialization: the driver is too old"
    assert finding.severity == "note"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"threads": 8, "cores_quota": 1.5}, "torch computes in 8 threads, and this process has 1.5 cores' worth"),
        ({"threads": 1}, "torch computes in 1 thread, and 8 cores can be used"),
        ({"gpu_driver": "570.1"}, "NVIDIA's GPUs (570.1), and torch, which is built without CUDA, finds no GPU"),
        ({"gpu_driver": "570.1", "cuda": "13.0"}, "which is built for CUDA 13.0, finds no GPU"),
        ({"threads": 4}, None),
        ({"cores_quota": 8.0}, None),
        ({"gpu_driver": "570.1", "gpus": [{}]}, None),
    ],
)
def test_what_slows_training_is_worth_knowing(changes: dict[str, Any], said: str | None) -> None:
    usual = {"cores": 8, "cores_quota": None, "threads": 8, "gpu_driver": None, "gpus": [], "cuda": None}
    findings = list(doctor._judge_devices({**usual, "warnings": [], **changes}))
    assert [finding.severity for finding in findings] == ["note"] * (said is not None)
    if said is not None:
        assert said in findings[0].what
        assert findings[0].do


def test_missing_and_old_libraries_stop_training(monkeypatch: pytest.MonkeyPatch) -> None:
    declared = ["torch>=99.1", "no-such-library>=1", "rich"]
    monkeypatch.setattr(software, "_declared", lambda: declared)
    section = found("libraries")
    assert severities(section) == ["harm", "harm"]
    assert "is too old; residuum needs torch>=99.1." in section.findings[0].what
    assert "no-such-library is not installed" in section.findings[1].what
    assert section.findings[1].do == "Install it: pip install 'no-such-library>=1'"
    monkeypatch.setattr(software, "_declared", list)
    assert severities(found("libraries")) == ["note"]


@pytest.mark.parametrize(("free", "severity"), [(10_000_000, ["harm"]), (10**9, ["note"]), (10**11, [])])
def test_a_full_disk_is_found_once(free: int, severity: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    room = type("Room", (), {"free": free, "total": 10**12})
    monkeypatch.setattr(shutil, "disk_usage", lambda _: room)
    assert severities(found("disk")) == severity


def test_every_folder_that_is_written_is_told_with_its_room(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RESIDUUM_CACHE", str(tmp_path / "a" / "b"))
    work, temporary, cache = storage.places()
    assert (work["folder"], temporary["folder"]) == (str(Path.cwd()), tempfile.gettempdir())
    for place in (work, temporary):
        assert place["total_bytes"] == shutil.disk_usage(place["folder"]).total
        assert (place["exists"], place["refusal"]) == (True, None)
    assert (cache["folder"], cache["exists"], cache["refusal"]) == (str(tmp_path / "a" / "b"), False, None)
    assert list(tmp_path.iterdir()) == []  # it was not made
    (tmp_path / "a").write_text("")
    assert storage.places()[2]["refusal"] == "it is a file"


def test_what_lies_in_the_cache_is_weighed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RESIDUUM_CACHE", str(tmp_path))
    (tmp_path / "cifar10" / "deep").mkdir(parents=True)
    (tmp_path / "cifar10" / "a.parquet").write_bytes(bytes(1000))
    (tmp_path / "cifar10" / "deep" / "b.parquet").write_bytes(bytes(234))
    (tmp_path / "index.json").write_bytes(bytes(7))
    (tmp_path / "link").symlink_to(tmp_path)  # a circle
    cached = storage.cached()
    assert [entry["name"] for entry in cached] == ["cifar10", "index.json", "link"]
    assert cached[0] == {"name": "cifar10", "files": 2, "bytes": 1234}
    assert cached[1]["bytes"] == 7
    monkeypatch.setenv("RESIDUUM_CACHE", str(tmp_path / "nothing"))
    assert storage.cached() == []


def test_a_decoder_that_pillow_lacks_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    from PIL import features

    intact = features.check
    monkeypatch.setattr(features, "check", lambda name: name != "webp" and intact(name))
    section = found("pictures")
    assert (section.facts["WEBP"], section.facts["GIF"]) == (None, "Pillow itself")
    assert [finding.what for finding in section.findings] == ["This Pillow cannot decode WEBP."]


def test_a_section_that_cannot_be_gathered_is_told_and_the_others_are_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise RuntimeError("the driver\nis gone.")

    monkeypatch.setattr(storage, "places", refuse)
    sections = {section.name: section for section in doctor.examine()}
    assert [name for name, section in sections.items() if section.failed] == ["disk"]
    assert sections["disk"].facts["error"].startswith("RuntimeError: the driver (test_doctor.py:")
    assert severities(sections["disk"]) == ["harm"]
    json.dumps([section.facts for section in sections.values()])


def test_a_device_that_is_not_there_is_refused_before_anything_is_said() -> None:
    with pytest.raises(UsageError, match="cuda:99"):
        next(doctor.examine("cuda:99"))


def run_tests(monkeypatch: pytest.MonkeyPatch, limit_s: float, **tests: Callable[..., str]) -> list[doctor.Result]:
    monkeypatch.setattr(software, "import_all", lambda: "0 libraries import")
    monkeypatch.setattr(selftest, "tests", lambda _: tests)
    libraries, own, *results = doctor.self_test("cpu", limit_s)
    assert libraries.ok
    assert own.ok
    return results


def test_a_library_that_is_broken_keeps_no_other_test_from_running(monkeypatch: pytest.MonkeyPatch) -> None:
    declared = ["no-such-library"]
    monkeypatch.setattr(software, "_declared", lambda: declared)
    monkeypatch.setattr(selftest, "tests", lambda _: {"passes": lambda *_: "fine"})
    results = {result.name: result for result in doctor.self_test("cpu")}
    assert [name for name, result in results.items() if not result.ok] == ["libraries"]
    assert results["passes"].detail == "fine"
    monkeypatch.setattr(selftest, "tests", lambda _: 1 / 0)
    results = {result.name: result for result in doctor.self_test("cpu")}
    assert list(results) == ["libraries", "residuum"]
    assert results["residuum"].detail.startswith("ZeroDivisionError: division by zero (test_doctor.py:")


def test_whatever_a_test_raises_is_its_result(monkeypatch: pytest.MonkeyPatch) -> None:
    def passes(device: torch.device, folder: Path) -> str:
        assert list(folder.iterdir()) == []
        return f"fine on {device}"

    def fails(*_: object) -> str:
        raise VerificationError("it is\n42", expected="Expected 41.", hint="Subtract one.")

    def breaks(*_: object) -> str:
        raise ValueError

    def leaves(*_: object) -> str:
        raise SystemExit(3)

    monkeypatch.setattr(threading, "excepthook", lambda _: None)  # pytest's would object to the SystemExit
    results = run_tests(monkeypatch, 60.0, passes=passes, fails=fails, breaks=breaks, leaves=leaves)
    assert [(result.name, result.ok) for result in results] == [
        ("passes", True),
        ("fails", False),
        ("breaks", False),
        ("leaves", False),
    ]
    details = [result.detail for result in results]
    assert details[:2] == ["fine on cpu", "it is 42"]
    assert details[2].startswith("ValueError (test_doctor.py:")
    assert details[3] == "no result after 0 s"


def test_a_test_that_hangs_is_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    done = threading.Event()
    results = run_tests(monkeypatch, 0.3, hangs=lambda *_: str(done.wait(60)), waits=lambda *_: "")
    done.set()
    assert [(result.ok, result.detail) for result in results] == [
        (False, "no result after 0 s"),
        (False, "not run: the time was up"),
    ]
    assert results[0].seconds < 10
