"""Bad input to every command: one message in three parts, the right exit code, nothing lost and nothing left behind."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from speaking import TINY, Say, Trained, every_file, picture, stop_after_an_epoch

from residuum import bundle

TRAIN = ["train", *TINY[2:]]
SYNTHETIC = ["train", *TINY]


def flip_a_byte(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


@pytest.fixture(scope="session")
def place(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of everything that can be wrong, and of what is right."""
    place = tmp_path_factory.mktemp("bad")
    for kind in ("ants", "bees"):
        for number in range(5):
            picture(place / "good" / kind / f"{number}.png", number)
    shutil.copytree(place / "good", place / "torn")
    (place / "torn" / "ants" / "x.png").write_bytes((place / "good" / "ants" / "0.png").read_bytes()[:99])
    shutil.copytree(place / "good" / "ants", place / "one" / "ants")
    for name in ("empty", "hollow/ants", "hollow/bees", "outside"):
        (place / name).mkdir(parents=True)
    (place / "file").write_text("x", encoding="utf-8")
    (place / "empty.png").touch()
    (place / "text.png").write_text("hello", encoding="utf-8")
    (place / "binary.toml").write_bytes(bytes(range(256)))
    (place / "broken.toml").write_text("epochs = = 3", encoding="utf-8")
    (place / "key.toml").write_text("epohcs = 3", encoding="utf-8")
    (place / "type.toml").write_text('epochs = "many"', encoding="utf-8")
    run = trained.bundle.parent
    shutil.copytree(run, place / "run")
    shutil.copytree(run, place / "broken_run")
    flip_a_byte(place / "broken_run" / "last" / "train_state.safetensors")
    (place / "broken_run" / "best" / "SHA256SUMS").unlink()
    for name, file in (("flipped", "model.safetensors"), ("edited", "model.json")):
        shutil.copytree(run / "best", place / name)
        flip_a_byte(place / name / file)
    shutil.copytree(run / "best", place / "cut")
    (place / "cut" / "model.safetensors").unlink()
    return place


@pytest.fixture
def untouched(place: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Runs the test in the bad place, which must be afterwards as it was before."""
    monkeypatch.chdir(place)
    before = every_file(place)
    yield
    assert every_file(place) == before


PICTURES = [
    (["nothing"], "nothing"), (["empty"], "empty"), (["hollow"], "hollow"), (["file"], "file"),
    (["no*.parquet"], "no*.parquet"), (["good/ants/0.png"], "good/ants/0.png"), (["synthetic:0x0x0"], "synthetic:0x0"),
]  # fmt: skip

BAD_BUNDLES = ["nothing", "empty", "file", "file/x", "flipped", "edited", "cut", "run", "broken_run/best", "good"]

CASES: list[tuple[list[str], int, str]] = [
    *[([*TRAIN, "--data", *words], 3, value) for words, value in PICTURES],
    ([*TRAIN, "--data", "one"], 3, "ants"),
    ([*TRAIN, "--data", "torn"], 3, "torn/ants/x.png"),
    ([*TRAIN, "--data", "torn", "--on-bad-image", "skip"], 3, "1 of"),  # more than 5 %
    ([*TRAIN, "--data", ""], 2, "image set"),
    (["check", ""], 2, "No image set is named"),
    (["evaluate", "run/best", "--data", ""], 2, "No image set is named"),
    ([*TRAIN, "--data", "~nobody-is-called-that/x"], 3, "~nobody-is-called-that/x"),
    (["evaluate", "run/best", "--data", "~nobody-is-called-that"], 3, "~nobody-is-called-that"),
    (["check", "~nobody-is-called-that/x"], 3, "~nobody-is-called-that/x"),
    (["cache", "~nobody-is-called-that/x", "--out", "new"], 3, "~nobody-is-called-that/x"),
    ([*SYNTHETIC, "--weights", "~nobody-is-called-that/x"], 2, "~nobody-is-called-that/x"),
    ([*SYNTHETIC, "--model", "resnet18", "--img-size", "16", "-b", "1"], 2, "single pixel"),
    ([*SYNTHETIC, "--model", "swift_resnet7_cifar", "--img-size", "16", "-b", "1"], 2, "from 17 px on"),
    ([*SYNTHETIC, "--set", "optim.name=muon", "--set", "optim.fixed_length=true"], 2, "'optim.weight_decay'"),
    ([*TRAIN, "--data", "good", "--set", "data=torn"], 2, "'data.source' is given twice"),
    ([*TRAIN, "--set", "recipe=photos"], 2, "'recipe'"),
    ([*TRAIN, "--set", "optim.lr=1", "--set", "optim.lr=2"], 2, "'optim.lr' is given twice"),
    ([*TRAIN, "--data", "x" * 300], 3, "x" * 300),
    (["predict", "x" * 300, "good/ants/0.png"], 3, "x" * 300),
    ([*TRAIN, "--data", "good", "--set", "data.val_fraction=0.9", "--set", "data.test_fraction=0.9"], 2, "0.9"),
    (["train", "--data", "good", "-c", "nope"], 2, "'nope'"),
    (["train", "--data", "good", "-c", "resnet20_cifar10_2051"], 2, "resnet20_cifar10_2015"),
    (["train", "--data", "good", "-c", "nothing.toml"], 2, "nothing.toml"),
    (["train", "--data", "good", "-c", "empty"], 2, "empty"),
    (["train", "--data", "good", "-c", "file"], 2, "file"),
    (["train", "--data", "good", "-c", "binary.toml"], 2, "binary.toml"),
    (["train", "--data", "good", "-c", "broken.toml"], 2, "broken.toml"),
    (["train", "--data", "good", "-c", "key.toml"], 2, "epohcs"),
    (["train", "--data", "good", "-c", "type.toml"], 2, "many"),
    ([*SYNTHETIC, "--epochs", "many"], 2, "many"),
    ([*SYNTHETIC, "--epochs", "0"], 2, "epochs"),
    ([*SYNTHETIC, "--epochs", "-1"], 2, "-1"),
    ([*SYNTHETIC, "-b", "0"], 2, "data.batch_size"),
    ([*SYNTHETIC, "-j", "-1"], 2, "data.workers"),
    ([*SYNTHETIC, "--lr", "fast"], 2, "fast"),
    ([*SYNTHETIC, "--lr", "nan"], 2, "nan"),
    ([*SYNTHETIC, "--img-size", "3"], 2, "data.img_size"),
    ([*SYNTHETIC, "--seed", "1.5"], 2, "1.5"),
    ([*SYNTHETIC, "--precision", "fp8"], 2, "fp8"),
    ([*SYNTHETIC, "--on-bad-image", "weep"], 2, "weep"),
    ([*SYNTHETIC, "--model", "resnet5O"], 2, "resnet50"),
    ([*SYNTHETIC, "--set", "optim.rl=1"], 2, "rl"),
    ([*SYNTHETIC, "--set", "optmi.lr=1"], 2, "optmi"),
    ([*SYNTHETIC, "--set", "optim=1"], 2, "optim"),
    ([*SYNTHETIC, "--set", "epochs"], 2, "'epochs'"),
    ([*SYNTHETIC, "--set", "=1"], 2, "'=1'"),
    ([*SYNTHETIC, "--set", "epochs="], 2, "epochs"),
    ([*SYNTHETIC, "--device", "abacus"], 2, "'abacus'"),
    ([*SYNTHETIC, "--out", "run"], 2, "run"),
    ([*SYNTHETIC, "--out", "file"], 5, "file"),
    ([*SYNTHETIC, "--out", "file/new"], 5, "file/new"),
    ([*SYNTHETIC, "--out", "/proc/new"], 5, "/proc/new"),
    (["train", "--resume", "nothing"], 2, "nothing"),
    (["train", "--resume", "empty"], 2, "empty"),
    (["train", "--resume", "file"], 2, "file"),
    (["train", "--resume", "run/best"], 2, "run/best"),
    (["train", "--resume", "run", "--out", "other"], 2, "--resume"),
    (["train", "--resume", "run", "--model", "resnet18"], 2, "model.name"),
    (["train", "--override"], 2, "--resume"),
    (["train", "--resume", "run", "--dry-run"], 2, "run"),
    (["train", "--resume", "broken_run"], 4, "broken_run/last"),
    *[(["evaluate", bundle], 4, bundle) for bundle in BAD_BUNDLES],
    *[(["predict", bundle, "good"], 4, bundle) for bundle in BAD_BUNDLES],
    *[(["evaluate", "run/best", "--data", *words], 3, value) for words, value in PICTURES],
    (["evaluate", "run/best", "--data", "one"], 3, "ants"),  # a class that the network does not know
    (["evaluate", "run/best", "--split", "test"], 3, "'test'"),
    (["evaluate", "run/best", "--device", "abacus"], 2, "'abacus'"),
    (["evaluate", "run/best", "--batch-size", "0"], 2, "'0'"),
    (["evaluate", "run/best", "--csv", "nothing/a.csv"], 5, "nothing/a.csv"),
    (["evaluate", "run/best", "--csv", "file/a.csv"], 5, "file/a.csv"),
    (["evaluate", "run/best", "--csv", "empty"], 5, "empty"),
    (["predict", "run/best", "nothing"], 3, "nothing"),
    (["predict", "run/best", "empty"], 3, "empty"),
    (["predict", "run/best", "hollow", "good"], 3, "hollow"),
    (["predict", "run/best", "file"], 3, "file"),
    (["predict", "run/best", "empty.png"], 3, "empty.png"),
    (["predict", "run/best", "text.png", "good"], 3, "text.png"),
    (["predict", "run/best", "-", "-"], 2, "- -"),
    (["predict", "run/best", "good", "--device", "cuda:99"], 2, "'cuda:99'"),
    (["predict", "run/best", "good", "--csv", "nothing/a.csv"], 5, "nothing/a.csv"),
    (["predict", "run/best", "good", "--csv", "file/a.csv"], 5, "file/a.csv"),
    (["predict", "run/best", "good", "--csv", "empty"], 5, "empty"),
    (["predict", "run/best", "good", "--csv", "/dev/full"], 5, "/dev/full"),
    (["evaluate", "run/best", "--ensemble", "nothing"], 4, "nothing"),
    (["evaluate", "run/best", "--ensemble", "run/last", "cut"], 4, "cut"),
    (["evaluate", "run/best", "--views", "all"], 2, "all"),
    *[(["explain", bundle, "good"], 4, bundle) for bundle in BAD_BUNDLES],
    (["explain", "run/best", "nothing"], 3, "nothing"),
    (["explain", "run/best", "empty"], 3, "empty"),
    (["explain", "run/best", "text.png"], 3, "text.png"),
    (["explain", "run/best", "good", "--stage", "9"], 2, "9"),
    (["explain", "run/best", "good", "--class", "wasps"], 2, "'wasps'"),
    (["explain", "run/best", "good", "--out", "run"], 2, "run"),
    (["explain", "run/best", "good", "--out", "file"], 5, "file"),
    (["explain", "run/best", "good", "--out", "file/new"], 5, "file/new"),
    (["explain", "run/best", "good", "--out", "/proc/new"], 5, "/proc/new"),
    (["recipes", "show", "nothing"], 2, "'nothing'"),
    (["bench", "train", "--data", "nothing"], 3, "nothing"),
    (["bench", "train", "--model", "resnet5O"], 2, "resnet50"),
    (["bench", "train", "-c", "nothing.toml"], 2, "nothing.toml"),
    (["bench", "train", "--set", "optmi.lr=1"], 2, "optmi"),
    (["bench", "train", "--precision", "fp8"], 2, "fp8"),
    (["bench", "train", "--device", "abacus"], 2, "'abacus'"),
    (["bench", "train", "--out", "file/a.csv"], 5, "file/a.csv"),
    (["bench", "train", "--out", "file"], 3, "file"),
    (["bench", "train", "--out", "empty"], 5, "empty"),
    (["bench", "infer", "--model", "nothing"], 2, "'nothing'"),
    (["bench", "infer", "--model", "flipped"], 4, "flipped"),
    (["bench", "infer", "--model", "run/best", "--data", "nothing"], 3, "nothing"),
    (["bench", "data", "--data", "nothing"], 3, "nothing"),
    (["bench", "data", "--data", "torn", "-b", "2"], 3, "torn/ants/x.png"),
    (["bench", "startup", "--device", "abacus"], 2, "'abacus'"),
    (["bench", "trane"], 2, "'trane'"),
    *[(["check", *words, "--no-report"], 3, value) for words, value in PICTURES if words != ["hollow"]],
    (["check", "good", "--out", "file/a.html"], 5, "file/a.html"),
    (["check", "good", "--out", "file"], 2, "file"),
]


@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize(("words", "code", "value"), [pytest.param(*case, id=" ".join(case[0])) for case in CASES])
def test_bad_input_is_one_message_in_three_parts(words: list[str], code: int, value: str, say: Say) -> None:
    said = say(*words, *(["-q"] if words[0] == "train" else []))
    assert said.code == code, said.err
    assert "Traceback" not in said.err
    lines = said.err.splitlines()
    assert lines[0].startswith("Error: ")
    assert value in "\n".join(lines[:2])
    assert len(lines) == 3
    assert all((line.startswith("  ") and line.endswith(tuple(".?)"))) or ":" in line for line in lines[1:])
    assert words[0] in ("predict", "explain") or said.out == ""


@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize("out", [[], ["--out", "a/b/c"], ["--out", "empty"]])
def test_a_run_that_never_began_leaves_no_folder(out: list[str], say: Say) -> None:
    assert say(*TRAIN, "--data", "torn", "-q", *out).code == 3


@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize(
    "words",
    [[*TRAIN, "--data", "good", "-q"], ["check", "good", "--no-report"], ["evaluate", "run/best", "--data", "good"]],
)
def test_a_set_that_may_not_be_looked_at(words: list[str], say: Say, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = Path.stat

    def refused(path: Path, **options: bool) -> os.stat_result:
        if path.name == "good":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return plain(path, **options)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "stat", refused)
        said = say(*words)
    assert said.code == 3, said.err
    assert "'good' may not be looked at (Permission denied)" in said.err


@pytest.mark.usefixtures("untouched")
def test_compile_without_a_compiler_is_refused_at_once(say: Say, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    said = say(*SYNTHETIC, "--set", "compile=true", "-q")
    assert said.code == 2, said.err
    assert "no compiler (no-such-compiler)" in said.err


@contextlib.contextmanager
def small_files_only() -> Iterator[None]:
    """A disk that is full for every file of more than 100,000 bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_disk_that_fills_up_in_training_leaves_nothing_half_made(
    say: Say, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with small_files_only():
        said = say(*SYNTHETIC, "-q")
    assert (said.code, said.out) == (5, "")
    first, second, third = said.err.splitlines()
    assert first.startswith("Error: Cannot write the bundle runs/photos-1/best: ")
    assert "bytes" in second
    assert "--out" in third
    assert every_file(tmp_path) == {}


def test_a_disk_that_is_full_when_a_run_goes_on_loses_nothing_of_it(
    say: Say, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    stop_after_an_epoch(monkeypatch, signal.SIGTERM)
    assert say(*SYNTHETIC, "--epochs", "2", "-o", run).code == 75
    monkeypatch.undo()
    before = every_file(run)
    with small_files_only():
        said = say("train", "--resume", run, "-q")
    assert (said.code, said.out) == (5, "")
    assert said.err.startswith(f"Error: Cannot write the bundle {run}/")
    after = every_file(run)
    assert {name: after[name] for name in before if name.startswith(("best", "last"))} == {
        name: size for name, size in before.items() if name.startswith(("best", "last"))
    }
    bundle.read(run / "best")
    bundle.read(run / "last")
