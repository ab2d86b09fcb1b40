"""Experiments as a whole: all of them at smoke, gone on with where they were stopped, and the pages made of them."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import PIL.Image
import pytest
from test_verdicts import ROWS

from residuum.errors import Stopped, UsageError, WeightsError
from residuum.lab import bench, nets, scales, tables
from residuum.lab.costs import TABLE_1, anatomy
from residuum.lab.experiments import architecture, bottleneck, degradation, every, gradients
from residuum.lab.findings import SCALES, Scale
from residuum.lab.reproduce import as_json, reproduce
from residuum.lab.together import Wanted
from residuum.training.records import Record

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trains for an epoch, and leaves out the reports of single nets."""
    monkeypatch.setattr("residuum.lab.scales.SMOKE_EPOCHS", 1)
    monkeypatch.setattr("residuum.training.summary.write_summary", lambda *finished: None)  # noqa: ARG005


@pytest.mark.usefixtures("short")
def test_every_experiment_runs_at_smoke_and_nets_are_trained_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[str] = []
    train = nets.train

    def counted(*arguments: object, **more: object) -> object:
        trained.append(str(more["out"]))
        return train(*arguments, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(nets, "train", counted)
    monkeypatch.setitem(gradients.DEPTHS, "smoke", (20,))
    monkeypatch.setattr(architecture, "TABLE_1", {"resnet18": TABLE_1["resnet18"]})
    monkeypatch.setattr(bottleneck, "TABLE_1", {name: TABLE_1[name] for name in ("resnet34", "resnet50", "resnet152")})
    for name in (entry.name for entry in every()):
        done = reproduce(name, out=tmp_path, device="cpu")
        assert done.finding.measures, name
        assert done.finding.checks, name
        assert (done.folder / "results.jsonl").read_text(encoding="utf-8").count("\n") == len(done.rows), name
        plots = {path.stem for path in (done.folder / "plots").iterdir()}
        assert plots == {drawing.name for drawing in done.finding.drawings} != set(), name
        report = (done.folder / "report.html").read_text(encoding="utf-8")
        assert done.claim.rule.split(";")[0].split("'")[0] in report, name
        assert report.count("data:image/png") == len(plots), name
        json.dumps(as_json(done), allow_nan=False)
        assert all("recipe" in row for row in done.rows if "seed" in row), name
        assert done.finding.headlines, name
    before = len(done.rows)
    assert len(reproduce(name, out=tmp_path, device="cpu").rows) == before, "something was measured twice"
    assert len(trained) == len(set(trained)) == 6  # plain and residual, 20 and 56 layers; shortcuts B and C


@pytest.mark.usefixtures("short")
def test_what_a_signal_stops_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("residuum.lab.scales.SMOKE_EPOCHS", 2)
    monkeypatch.setitem(degradation.DEPTHS, "smoke", (20,))
    smoke = scales._smoke
    monkeypatch.setattr(scales, "_smoke", lambda model: replace(smoke(model), log_every_steps=1))
    seen: list[Record] = []
    within = [14, 16]  # steps of the second epoch, of twelve: so the checkpoint of the first is not even the one before

    def listener(record: Record) -> None:
        seen.append(record)
        if record["kind"] == "step" and record["step"] in within[:1]:
            within.pop(0)
            os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Stopped) as stopped:
        reproduce("degradation", out=tmp_path, device="cpu", listener=listener)
    assert stopped.value.exit_code == 75
    assert stopped.value.what == "Stopped by SIGTERM; what was measured is saved."
    again = f"residuum reproduce degradation --scale smoke --out {tmp_path} --device cpu"
    assert stopped.value.hint == f"Go on with: {again}"
    assert signal.getsignal(signal.SIGTERM) is before
    with pytest.raises(Stopped):
        reproduce("degradation", out=tmp_path, device="cpu", listener=listener)
    assert not within
    done = reproduce("degradation", out=tmp_path, device="cpu", listener=seen.append)
    undisturbed = reproduce("degradation", out=tmp_path / "undisturbed", device="cpu")
    found, expected = ([row for row in each.rows if row["kind"] == "net"] for each in (done, undisturbed))
    assert [row["net"] for row in found] == ["plain20", "resnet20"]
    assert any("Resumed at epoch 1, step 16" in str(record.get("text")) for record in seen)
    assert [[point["epoch"] for point in row["curve"]] for row in found] == [[1, 2], [1, 2]]
    assert [row["curve"] for row in found] == [row["curve"] for row in expected], "a point within an epoch"


@pytest.fixture
def anatomies(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """What `architecture` has counted, one net of which is enough for its manners."""
    counted: list[str] = []

    def count(name: str) -> dict[str, object]:
        counted.append(name)
        return anatomy(name)

    monkeypatch.setattr(architecture, "TABLE_1", {"resnet18": TABLE_1["resnet18"]})
    monkeypatch.setattr(architecture, "anatomy", count)
    yield counted


def test_a_torn_row_is_measured_again_and_harms_none_other(tmp_path: Path, anatomies: list[str]) -> None:
    done = reproduce("architecture", out=tmp_path)
    assert done.finding.verdict == "reproduced"
    file = done.folder / "results.jsonl"
    whole = file.read_bytes()
    file.write_bytes(whole[:-20])
    again = reproduce("architecture", out=tmp_path)
    assert anatomies == ["resnet18", "resnet18"]
    assert again.finding.verdict == "reproduced"
    assert [row["kind"] for row in nets.read_rows(file)] == ["start", "anatomy"]


def test_rows_of_other_pictures_are_never_mixed(tmp_path: Path) -> None:
    def begin(data: str) -> bench.Bench:
        return bench.Bench("paths", "smoke", tmp_path, data=data, seeds=1, bundles={}, device="cpu", listener=None)

    begin("digits").once("x", lambda: {"value": 1}, net="a", seed=0)
    with pytest.raises(UsageError, match="measured with digits, not with synthetic"):
        begin("synthetic:60x3x8")
    again = begin("digits")
    again.once("x", lambda: pytest.fail("measured twice"), net="a", seed=0)
    again.once("x", lambda: {"value": 2}, net="a", seed=1)
    assert [row["value"] for row in again.rows if row["kind"] == "x"] == [1]  # of the seeds that are asked for


@pytest.mark.usefixtures("short")
def test_a_bundle_stands_in_for_the_net_of_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from residuum.lab.experiments import responses

    monkeypatch.setitem(responses.NETS, "smoke", ("resnet20_cifar",))
    own = reproduce("responses", out=tmp_path / "first", device="cpu")
    (bundle,) = (tmp_path / "first" / "nets").glob("resnet20-*/best")
    done = reproduce("responses", out=tmp_path / "second", bundles=[bundle], device="cpu")
    assert not (tmp_path / "second" / "nets").exists()
    stds = [next(row["stds"] for row in found.rows if row["kind"] == "responses") for found in (done, own)]
    assert stds[0] == pytest.approx(stds[1], rel=1e-5)
    assert "was trained by others" in done.finding.remarks[0]
    with pytest.raises(UsageError, match="--bundle means nothing to degradation"):
        reproduce("degradation", out=tmp_path, bundles=[bundle])
    with pytest.raises(UsageError, match="reuse has no net resnet20"):
        reproduce("reuse", out=tmp_path / "third", bundles=[bundle])
    with pytest.raises(WeightsError):
        reproduce("responses", out=tmp_path / "fourth", bundles=[tmp_path])


def test_the_pages_are_fresh() -> None:
    found = tables.measured(ROOT)
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert tables.with_table(readme, found) == readme, "run residuum reproduce tables"
    assert (ROOT / tables.PAGE).read_text(encoding="utf-8") == tables.page(found), "run residuum reproduce tables"
    drawn = {
        f"{name}-{drawing.name}.png": tables.rows_digest(done.rows)
        for name, done in found.items()
        for drawing in done.finding.drawings
    }
    kept = {path.name: PIL.Image.open(path).text.get(tables.STAMP) for path in (ROOT / tables.FIGURES).iterdir()}
    assert kept == drawn, "run residuum reproduce tables"


@pytest.mark.usefixtures("anatomies")
def test_tables_are_made_of_the_rows_that_are_kept(tmp_path: Path) -> None:
    done = reproduce("architecture", out=tmp_path / "runs")
    (tmp_path / tables.RESULTS).mkdir(parents=True)
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{tables.BEGIN}\nold\n{tables.END}\nafter\n", encoding="utf-8")
    for name in ("architecture", "architecture-others"):
        (tmp_path / tables.RESULTS / f"{name}.jsonl").write_bytes((done.folder / "results.jsonl").read_bytes())
    written = tables.write(tmp_path)
    assert {path.relative_to(tmp_path).as_posix() for path in written} == {
        "README.md", "docs/reproduction.md", "docs/figures/architecture-multiply-adds.png",
        "docs/figures/architecture-others-multiply-adds.png",
    }  # fmt: skip
    text = readme.read_text(encoding="utf-8")
    assert text.startswith("before\n")
    assert text.endswith("\nafter\n")
    assert "| `architecture`, smoke | multiply-adds of ResNet-18: 1.81 G<br>their parameters: 11.69 M |" in text
    figure = PIL.Image.open(tmp_path / "docs" / "figures" / "architecture-multiply-adds.png")
    figure.load()
    assert figure.text[tables.STAMP] == tables.rows_digest(done.rows)
    assert tables.rows_digest(done.rows) != tables.rows_digest(done.rows[:-1])
    page = (tmp_path / tables.PAGE).read_text(encoding="utf-8")
    assert "Not measured yet: `residuum reproduce depth --scale small`" in page
    assert "11,689,512" in page.split("### architecture-others")[0]
    assert "11,689,512" in page.split("### architecture-others")[1].split("## bottleneck")[0]
    with pytest.raises(UsageError, match="has no table of experiments"):
        tables.write(tmp_path / "docs")


def test_tables_refuse_rows_that_are_not_all_there(tmp_path: Path) -> None:
    (tmp_path / tables.RESULTS).mkdir(parents=True)
    (tmp_path / "README.md").write_text(f"{tables.BEGIN}\n{tables.END}", encoding="utf-8")

    def refused(name: str, rows: list[dict[str, object]], *, begun: bool = True) -> str:
        start = [{"kind": "start", "scale": "small", "machine": "m", "cores": 2}] if begun else []
        file = tmp_path / tables.RESULTS / f"{name}.jsonl"
        nets.write_rows(file, [*start, *rows])
        with pytest.raises(UsageError) as error:
            tables.write(tmp_path)
        file.unlink()
        assert error.value.exit_code == 2
        assert f"{name}.jsonl does not hold all rows of {name}" in error.value.what
        return error.value.what

    for name, (rows, _) in ROWS.items():
        refused(name, rows, begun=False)
    for name in ("degradation", "landscape", "paths", "responses", "reuse", "shortcuts"):
        rows = ROWS[name][0]
        refused(name, [row for row in rows if not str(row["net"]).startswith("plain")])
        assert "has 1 of 2 seeds" in refused(name, [*rows, {**rows[0], "seed": 1}])
    assert "plain56 is missing" in refused("reuse", ROWS["reuse"][0][1:])
    assert "some are missing" in refused("landscape", ROWS["landscape"][0][1:2])


def test_a_bench_that_only_trains_minds_no_rows_of_others(tmp_path: Path) -> None:
    """A net may be trained beside others for an experiment that was begun with a bundle."""
    folder = tmp_path / "paths-smoke"
    folder.mkdir()
    begun = {"kind": "start", "bundles": {"resnet20": "theirs"}, "data": "digits"}
    nets.write_rows(folder / "results.jsonl", [begun])

    def begin(command: str | None) -> bench.Bench:
        return bench.Bench(
            "paths", "smoke", tmp_path, data="digits", seeds=1, bundles={}, device="cpu", listener=None, command=command
        )

    with pytest.raises(UsageError, match="theirs"):
        begin("residuum reproduce paths")
    assert begin(None).rows == [begun]


def test_a_set_is_known_by_its_pictures_and_not_by_its_name(class_folders: Path, tmp_path: Path) -> None:
    folders = [tmp_path / place / "pictures" for place in ("a", "b", "elsewhere")]
    for folder in folders:
        shutil.copytree(class_folders, folder)
    (folders[1] / "2" / "0.png").rename(folders[1] / "10" / "0a.png")

    def begin(data: Path) -> bench.Bench:
        out = tmp_path / "lab"
        return bench.Bench("paths", "smoke", out, data=str(data), seeds=1, bundles={}, device="cpu", listener=None)

    begin(folders[0]).once("x", lambda: {"value": 1}, net="a", seed=0)
    with pytest.raises(UsageError, match=r"measured with pictures \(\w{12}\), not with pictures \(\w{12}\)"):
        begin(folders[1])
    begin(folders[2]).once("x", lambda: pytest.fail("measured twice"), net="a", seed=0)


def test_a_net_of_another_recipe_is_measured_anew(tmp_path: Path) -> None:
    measured: list[str] = []

    def measure(recipe: str) -> None:
        place = bench.Bench("paths", "smoke", tmp_path, data="digits", seeds=1, bundles={}, device="cpu", listener=None)
        for net, made in (("a", recipe), ("b", "same")):
            for at in (0.0, 1.0):
                key = {"net": net, "seed": 0, "recipe": made, "at": at}
                place.once("x", lambda made=made: measured.append(made) or {"value": made}, **key)

    for recipe in ("one", "one", "two"):
        measure(recipe)
    assert measured == ["one", "one", "same", "same", "two", "two"]
    folder = tmp_path / "paths-smoke"
    kept, older = (nets.read_rows(folder / f"{name}.jsonl") for name in ("results", "superseded"))
    assert sorted(row["value"] for row in kept if row["kind"] == "x") == ["same", "same", "two", "two"]
    assert [row["value"] for row in older] == ["one", "one"]


def test_a_changed_recipe_is_another_key(monkeypatch: pytest.MonkeyPatch) -> None:
    before = scales.digest(scales.recipe_of("plain20_cifar", "smoke", "digits", 0, {}))
    assert scales.digest(scales.recipe_of("plain20_cifar", "smoke", "digits", 0, {})) == before
    monkeypatch.setattr(scales, "SMOKE_EPOCHS", 5)
    assert scales.digest(scales.recipe_of("plain20_cifar", "smoke", "digits", 0, {})) != before


@pytest.mark.parametrize("scale", SCALES)
def test_nothing_is_saved_within_an_epoch_but_by_a_signal(scale: Scale) -> None:
    wanted = scales.recipe_of("plain20_cifar", scale, "digits", 0, {})
    assert (wanted.save_every_minutes, wanted.save_every_steps, wanted.save_every_epochs) == (0, 0, 1)


@pytest.mark.usefixtures("short")
def test_a_net_that_is_trained_alone_shares_the_machine_with_none(tmp_path: Path) -> None:
    """However many might be trained at once, one that is missing has it for itself."""
    place = bench.Bench(
        "paths", "smoke", tmp_path, data="digits", seeds=1, bundles={}, device="cpu", listener=None, at_once=2
    )
    place.train([Wanted("resnet20_cifar", 0)])
    assert [row["at_once"] for row in place.rows if row["kind"] == "net"] == [1]
