"""`residuum train`: its flags, its display, its outcome, and how it stops."""

from __future__ import annotations

import json
import re
import shlex
import signal
import tomllib
from pathlib import Path

import pytest
from speaking import TINY, Say, Trained, every_file, picture, stop_after_an_epoch, terminal, without_codes

from residuum import bundle
from residuum.cli import outcome, progress

START: dict[str, object] = {
    "kind": "start", "recipe": "digits", "model": "resnet20_cifar", "parameters": 269722, "source": "digits",
    "classes": 10, "images": {"train": 1079, "val": 359, "test": 359}, "img_size": 32, "device": "cpu",
    "precision": "fp32", "epochs": 12, "epoch": 0, "steps_per_epoch": 34, "folder": "runs/digits-1",
}  # fmt: skip
STEP = {"kind": "step", "epoch": 2, "step": 44, "loss": 1.23456, "lr": 0.05, "images_per_s": 1234.5}
EPOCH = {
    "kind": "epoch", "epoch": 2, "step": 68, "loss": 0.98765, "lr": 0.1, "images_per_s": 1234.5, "seconds": 65.0,
    "val_loss": 0.4321, "val_top1": 87.654,
}  # fmt: skip
SMALL = ["--model", "resnet20_cifar", "--img-size", "8", "--epochs", "1", "--set", "model.width=0.25"]
EPOCH_LINE = "epoch  2/12  loss 0.9877  val loss 0.4321  val accuracy 87.65 %  1,234 images/s  1 min 5 s"
STEP_LINE = "  step 10/34  loss 1.2346  lr 0.05  1,234 images/s"


def changed(say: Say, *words: str) -> dict[str, object]:
    """Returns the keys, dotted, that flags change in the recipe, with their values."""

    def flat(table: dict[str, object], path: str = "") -> dict[str, object]:
        found: dict[str, object] = {}
        for key, value in table.items():
            found |= flat(value, f"{path}{key}.") if isinstance(value, dict) else {f"{path}{key}": value}
        return found

    before, after = (flat(say("train", "--dry-run", "--json", *more).json) for more in ((), words))
    return {key: after.get(key) for key in before | after if before.get(key) != after.get(key)}


@pytest.mark.parametrize(
    ("words", "changes"),
    [
        (["--model", "resnet18"], {"model.name": "resnet18"}),
        (["--epochs", "3"], {"epochs": 3}),
        (["--batch-size", "17"], {"data.batch_size": 17}),
        (["-b", "17"], {"data.batch_size": 17}),
        (["--img-size", "48"], {"data.img_size": 48, "data.resize_px": 48}),
        (["--lr", "1e-3"], {"optim.lr": 0.001}),
        (["--seed", "7"], {"seed": 7}),
        (["--precision", "bf16"], {"precision": "bf16"}),
        (["--workers", "3"], {"data.workers": 3}),
        (["-j", "3"], {"data.workers": 3}),
        (["--on-bad-image", "skip"], {"data.on_bad_image": "skip"}),
        (["--resize", "pad"], {"data.resize": "pad"}),
        (["--unknown-below", "0.7"], {"unknown_below": 0.7}),
        (["--set", "optim.momentum=0.5", "--set", "epochs = 3"], {"optim.momentum": 0.5, "epochs": 3}),
        (["--recipe", "digits", "--data", "synthetic"], {"data.source": "synthetic"}),
    ],
)
def test_a_flag_changes_its_key_and_nothing_else(words: list[str], changes: dict[str, object], say: Say) -> None:
    assert changed(say, *words) == changes


@pytest.mark.parametrize(
    ("data", "name"),
    [
        ([], "digits"), (["digits"], "digits"), (["cifar10"], "resnet20_cifar10_fast"), (["synthetic"], "photos"),
    ],
)  # fmt: skip
def test_the_recipe_follows_from_the_data(data: list[str], name: str, say: Say) -> None:
    shown = say("train", "--dry-run", "--json", *(["--data", *data] if data else []))
    assert shown.json["name"] == name
    assert not data or shown.json["data"]["source"] == data[0]


def test_a_recipe_comes_by_name_or_from_a_file_whatever_its_name(say: Say, tmp_path: Path) -> None:
    assert say("train", "-c", "resnet20_cifar10_2015", "--dry-run", "--json").json["name"] == "resnet20_cifar10_2015"
    for name in ("mine.toml", "mine"):
        (tmp_path / name).write_text('name = "mine"\nepochs = 77\n', encoding="utf-8")
        said = say("train", "--recipe", tmp_path / name, "--dry-run")
        assert (said.code, said.err) == (0, "")
        assert tomllib.loads(said.out)["epochs"] == 77


def test_a_dry_run_leaves_nothing(say: Say, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert say("train", "--dry-run", "--out", "here").code == 0
    assert every_file(tmp_path) == {}


def test_a_dry_run_refuses_what_the_run_would(
    say: Say, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").touch()
    for words, said in (
        (["--out", "taken"], "The folder taken is not empty."),
        (["--override"], "--override is for a run that is resumed."),
        (["--find-lr"], "--dry-run cannot show what --find-lr would choose: that takes a trial."),
        (["--folds", "2", "--override"], "--override is for a run that is resumed."),
    ):
        shown = say("train", *words, "--dry-run")
        assert (shown.code, shown.out, shown.err.splitlines()[0]) == (2, "", f"Error: {said}")
    refused = say("train", "--data", pictures, "--folds", "2", "--override", "--out", "out")
    assert (refused.code, refused.err.splitlines()[0]) == (2, "Error: --override is for a run that is resumed.")
    assert every_file(tmp_path).keys() == {"taken", "taken/file"}


def test_a_dry_run_of_folds_shows_the_first(say: Say) -> None:
    shown = say("train", "--folds", "4", "--dry-run", "--json")
    assert (shown.json["data"]["folds"], shown.json["data"]["fold"]) == (4, 0)
    assert shown.err.splitlines() == ["This is fold 1 of 4; the others differ in data.fold alone."]
    assert say("train", "--folds", "4", "--dry-run", "-q").err == ""


def test_the_outcome_names_accuracy_part_folder_report_and_the_next_command(trained: Trained) -> None:
    assert trained.code == 0
    lines = trained.out.splitlines()
    assert lines[0] == ""
    accuracy = re.fullmatch(
        r"Validation accuracy  (\S+) %  \((\d+) of 12 pictures; with 95 % confidence between (\S+) and (\S+) %\)",
        lines[1],
    )
    assert accuracy
    top1, right, low, high = map(float, accuracy.groups())
    assert top1 == pytest.approx(100 * right / 12, abs=0.005)
    assert low <= top1 <= high
    scores = json.loads((trained.bundle.parent / "scores.json").read_text("utf-8"))
    assert scores["top1"] == pytest.approx(top1, abs=0.005)
    assert scores["part"] == "val"
    labels = {line[:21].strip(): line[21:] for line in lines[2:]}
    assert list(labels) == ["", "Trained in", "Run folder", "Report", "Next"]
    assert labels[""] == "These pictures also chose the epoch that was kept: there is no test part."
    assert re.fullmatch(r"\d+(\.\d)? s", labels["Trained in"])
    assert labels["Run folder"] == "runs/photos-1"
    assert (trained.place / labels["Report"]).is_file()


def test_the_next_command_works_when_it_is_typed(trained: Trained, say: Say, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(trained.place)
    residuum, *words = shlex.split(trained.out.splitlines()[-1].removeprefix("Next "))
    assert residuum == "residuum"
    said = say(*words)
    assert (said.code, said.err) == (0, "")
    assert len(said.out.splitlines()) == 5
    assert all(re.search(r"\.png: class\d \d+\.\d %, ", line) for line in said.out.splitlines())


def test_a_path_in_the_next_command_is_one_word_and_no_flag() -> None:
    assert shlex.split(outcome._shell(Path("-my run/a'b.png"))) == ["./-my run/a'b.png"]
    assert outcome._shell(Path("runs/a-1/best")) == "runs/a-1/best"


def test_a_terminal_is_shown_a_live_display(trained: Trained) -> None:
    assert "\x1b[?25l" in trained.screen  # the cursor is hidden while the bar moves
    assert trained.screen.count("\x1b[?25h") == trained.screen.count("\x1b[?25l")  # and comes back
    assert re.search(r"\x1b\[[0-9;]*3\d", trained.screen), "there are colours"
    text = without_codes(trained.screen)
    assert "training" in text
    assert "images/s" in text
    assert "Training resnet20_cifar (269,267 parameters) on synthetic:60x3x16: 3 classes, 48 train, 12 val" in text
    assert re.search(r"^epoch 1/1  loss \d\.\d{4}  val loss \d+\.\d{4}  val accuracy \d+\.\d\d %", text, re.MULTILINE)
    assert trained.screen.endswith("\x1b[1A\x1b[2K"), "the bar is gone at the end"


def test_no_color_is_honoured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("NO_COLOR", "1")
    with terminal() as (stream, end):
        monkeypatch.setattr("sys.stderr", stream)
        with progress.training(quiet=False, verbose=False) as listener:
            assert listener is not None
            for record in (START, STEP, EPOCH):
                listener(dict(record))
        screen = end()
    assert EPOCH_LINE in without_codes(screen)
    for codes in re.findall(r"\x1b\[([0-9;]*)m", screen):
        assert not re.search(r"(^|;)[349][0-9]", codes), "a colour"


@pytest.mark.parametrize("verbose", [False, True])
def test_the_live_display_shows_all_steps_if_asked(verbose: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    with terminal() as (stream, end):
        monkeypatch.setattr("sys.stderr", stream)
        with progress.training(quiet=False, verbose=verbose) as listener:
            assert listener is not None
            for record in (START, {"kind": "note", "text": "[bold]a note"}, STEP, EPOCH):
                listener(dict(record))
        lines = without_codes(end()).splitlines()
    assert "[bold]a note" in lines, "what is in brackets is text"
    assert (STEP_LINE in lines) == verbose
    assert EPOCH_LINE in lines


@pytest.mark.parametrize("verbose", [False, True])
def test_elsewhere_there_are_plain_lines(
    verbose: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    with progress.training(quiet=False, verbose=verbose) as listener:
        assert listener is not None
        for record in (START, {"kind": "note", "text": "[bold]a note"}, STEP, STEP, EPOCH):
            listener(dict(record))
        clock[0] = 10.5  # long enough for a word
        listener(dict(STEP))
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "Training resnet20_cifar (269,722 parameters) on digits: 10 classes, 1,079 train, 359 val, 359 test pictures",
        "at 32 x 32 pixels, recipe digits, 12 epochs of 34 steps, cpu in fp32, into runs/digits-1",
        "[bold]a note",
        *([STEP_LINE] * 2 if verbose else []),
        EPOCH_LINE,
        STEP_LINE,
    ]
    assert "\x1b" not in err


@pytest.mark.usefixtures("without_report")
def test_stopped_is_75_and_the_command_it_names_goes_on(
    say: Say, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for kind in ("ants", "bees"):
        for number in range(6):
            picture(Path("my set") / kind / f"{number}.png", number)
    Path("my set/ants/.hidden").write_text("not a picture", encoding="utf-8")
    with monkeypatch.context() as patch:
        stop_after_an_epoch(patch, signal.SIGTERM)
        words = ["--data", "my set", *TINY[2:-1], "2", "-b", "4", "-o", "my run", "--set", "data.test_fraction=0.2"]
        said = say("train", *words)
    assert (said.code, said.out) == (75, "")
    what, hint = said.err.splitlines()[-2:]
    assert what == "Stopped by SIGTERM; everything is saved."
    bundle.read(Path("my run/last"))  # whole, by its hashes
    command = hint.partition("Go on with: ")[2]
    said = say(*shlex.split(command)[1:], "--json")
    assert said.code == 0
    assert "Resumed at epoch 1, step 3." in said.err
    assert list(said.json) == [
        "run", "bundle", "report", "recipe", "part", "images", "top1", "top5", "loss", "ece", "temperature",
        "unknown_below", "best_epoch", "seconds", "skipped",
    ]  # fmt: skip
    assert said.json["run"] == "my run"
    assert said.json["part"] == "test"
    assert said.json["images"] == 2
    assert said.json["top5"] == 100.0
    records = [json.loads(line) for line in Path("my run/metrics.jsonl").read_text("utf-8").splitlines()]
    assert [record["epoch"] for record in records if record["kind"] == "epoch"] == [1, 2]


def test_control_c_in_training_is_130_and_saves(say: Say, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stop_after_an_epoch(monkeypatch, signal.SIGINT)
    said = say("train", *TINY[:-1], "2", "--out", tmp_path / "run")
    assert (said.code, said.out) == (130, "")
    assert said.err.splitlines()[-2] == "Stopped by SIGINT; everything is saved."
    assert said.err.splitlines()[-1] == f"  Go on with: residuum train --resume {tmp_path / 'run'}"
    bundle.read(tmp_path / "run" / "last")


def test_a_run_that_diverges_is_6_and_quiet_hides_all_but_that(say: Say, tmp_path: Path) -> None:
    loud = say("train", *TINY, "--lr", "1e6", "-b", "8", "-o", tmp_path / "loud")
    assert (loud.code, loud.out) == (6, "")
    assert loud.err.startswith("Training resnet20_cifar")
    quiet = say("train", *TINY, "--lr", "1e6", "-b", "8", "-o", tmp_path / "quiet", "-q")
    assert (quiet.code, quiet.out) == (6, "")
    assert quiet.err.startswith("Error: The ")
    assert len(quiet.err.splitlines()) == 3


def test_offline_downloads_nothing(say: Say, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def connect(*_: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr("socket.create_connection", connect)
    monkeypatch.setattr("socket.getaddrinfo", connect)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HOME", str(tmp_path))
    said = say("train", "--data", "cifar10", "--offline", "-o", tmp_path / "run")
    assert (said.code, said.out) == (4, "")
    assert "nothing is downloaded offline" in said.err
    assert not (tmp_path / "run").exists()


def test_the_device_is_passed_on(say: Say, tmp_path: Path) -> None:
    said = say("train", *TINY, "--device", "cuda:99", "-o", tmp_path / "run")
    assert said.code == 2
    assert "'cuda:99' is not on this machine" in said.err
    assert not (tmp_path / "run").exists()


def test_photos_offline_start_from_scratch_in_a_word(
    pictures: Path, say: Say, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was not asked for by name is no error; the word says which file would have to be where."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    said = say("train", "--data", pictures, "--model", "resnet18", "--offline", "--dry-run", "--json")
    assert said.code == 0
    assert said.json["model"]["weights"] == "none"
    assert "It starts from random weights" in said.err
    assert str(tmp_path / "torch" / "hub" / "checkpoints" / "resnet18-f37072fd.pth") in said.err
    asked = say(
        "train", "--data", pictures, "--weights", "imagenet", "--model", "resnet18", "--offline", "-o", tmp_path / "r"
    )
    assert asked.code == 4
    assert "resnet18-f37072fd.pth" in asked.err
    assert not (tmp_path / "r").exists()


def test_why_is_said_and_quiet_keeps_it_to_itself(pictures: Path, say: Say) -> None:
    loud = say("train", "--data", pictures, "--weights", "none", "--dry-run", "--json")
    assert "data.batch_size = 8: there are 10 training pictures." in loud.err.splitlines()
    quiet = say("train", "--data", pictures, "--weights", "none", "--dry-run", "--json", "-q")
    assert (quiet.err, quiet.json) == ("", loud.json)


@pytest.mark.usefixtures("without_report")
def test_folds_with_a_rate_that_is_found(pictures: Path, say: Say, tmp_path: Path) -> None:
    out = tmp_path / "out"
    said = say("train", "--data", pictures, *SMALL, "--folds", "2", "--find-lr", "--out", out)
    assert said.code == 0, said.err
    lines = said.out.splitlines()
    assert re.fullmatch(r"Accuracy +\S+ % \+- \S+ over 2 folds \(\S+, \S+\)", lines[1])
    assert f"Predictions          {out / 'out_of_fold.csv'}" in lines
    rates = {tomllib.loads((out / f"fold-{n}" / "recipe.toml").read_text())["optim"]["lr"] for n in (1, 2)}
    assert len(rates) == 1  # found once
    assert (out / "fold-1" / "plots" / "lr_search.png").is_file()
    again = say("train", "--resume", out, "--json", "-q")
    assert again.json["folds"] == 2
    assert f"{again.json['top1_mean']:.2f} %" in lines[1]
    assert say("train", "--resume", out, "--epochs", "3").code == 2
    assert say("train", "--resume", out, "--folds", "3").code == 2


@pytest.mark.usefixtures("without_report")
def test_a_square_of_another_kind_is_that_of_every_later_command(pictures: Path, say: Say, tmp_path: Path) -> None:
    for how in ("squash", "pad"):
        assert say("train", "--data", pictures, *SMALL, "--resize", how, "-o", tmp_path / how).code == 0
        assert bundle.read(tmp_path / how / "best")[1]["preprocessing"]["resize"] == how
        said = say("evaluate", tmp_path / how / "best", "--json")
        scores = json.loads((tmp_path / how / "scores.json").read_text())
        assert said.json["loss"] == pytest.approx(scores["loss"], rel=1e-6)
        held_out = (tmp_path / how / "predictions.csv").read_text().splitlines()[1].split(",")
        predicted = say("predict", tmp_path / how / "best", held_out[0], "--json").json["predictions"][0]
        assert predicted["label"] == held_out[2]
        assert predicted["prob"] == pytest.approx(float(held_out[3]), abs=1e-5)
