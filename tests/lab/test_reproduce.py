"""Experiments as a whole: all of them at smoke, gone on with where they were stopped, and the pages made of them."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from residuum.errors import Stopped, UsageError, WeightsError
from residuum.lab import bench, nets, tables
from residuum.lab.costs import TABLE_1, anatomy
from residuum.lab.experiments import architecture, bottleneck, degradation, every, gradients
from residuum.lab.reproduce import as_json, reproduce
from residuum.training.records import Record

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trains for an epoch, and leaves out the reports of single nets."""
    monkeypatch.setattr("residuum.lab.scales.SMOKE_EPOCHS", 1)
    monkeypatch.setattr("residuum.training.train.write_summary", lambda *finished: None)  # noqa: ARG005


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
    before = len(done.rows)
    assert len(reproduce(name, out=tmp_path, device="cpu").rows) == before, "something was measured twice"
    assert len(trained) == len(set(trained)) == 6  # plain and residual, 20 and 56 layers; shortcuts B and C


@pytest.mark.usefixtures("short")
def test_what_a_signal_stops_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("residuum.lab.scales.SMOKE_EPOCHS", 2)
    monkeypatch.setitem(degradation.DEPTHS, "smoke", (20,))
    seen: list[Record] = []

    def listener(record: Record) -> None:
        seen.append(record)
        if record["kind"] == "epoch" and len(seen) < 5:
            os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Stopped) as stopped:
        reproduce("degradation", out=tmp_path, device="cpu", listener=listener)
    assert stopped.value.exit_code == 75
    assert stopped.value.what == "Stopped by SIGTERM; what was measured is saved."
    assert stopped.value.hint == f"Go on with: residuum reproduce degradation --scale smoke --out {tmp_path}"
    assert signal.getsignal(signal.SIGTERM) is before
    done = reproduce("degradation", out=tmp_path, device="cpu", listener=seen.append)
    assert [row["net"] for row in done.rows if row["kind"] == "net"] == ["plain20", "resnet20"]
    assert any("Resumed at epoch 1" in str(record.get("text")) for record in seen)
    for row in (row for row in done.rows if row["kind"] == "net"):
        assert [point["epoch"] for point in row["curve"]] == [1, 2]


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
        monkeypatch.setattr("residuum.lab.experiments.reuse.NETS", ())
        monkeypatch.setattr("residuum.lab.reproduce._written", lambda entry, bench: None)  # noqa: ARG005
        reproduce("reuse", out=tmp_path / "third", bundles=[bundle])
    with pytest.raises(WeightsError):
        reproduce("responses", out=tmp_path / "fourth", bundles=[tmp_path])


def test_the_pages_are_fresh() -> None:
    found = tables.measured(ROOT)
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert tables.with_table(readme, found) == readme, "run residuum reproduce tables"
    assert (ROOT / tables.PAGE).read_text(encoding="utf-8") == tables.page(found), "run residuum reproduce tables"
    assert {f"{name}-{d.name}.png" for name, done in found.items() for d in done.finding.drawings} == {
        path.name for path in (ROOT / tables.FIGURES).iterdir()
    }


@pytest.mark.usefixtures("anatomies")
def test_tables_are_made_of_the_rows_that_are_kept(tmp_path: Path) -> None:
    done = reproduce("architecture", out=tmp_path / "runs")
    (tmp_path / tables.RESULTS).mkdir(parents=True)
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{tables.BEGIN}\nold\n{tables.END}\nafter\n", encoding="utf-8")
    (tmp_path / tables.RESULTS / "architecture.jsonl").write_bytes((done.folder / "results.jsonl").read_bytes())
    written = tables.write(tmp_path)
    assert {path.relative_to(tmp_path).as_posix() for path in written} == {
        "README.md", "docs/reproduction.md", "docs/figures/architecture-multiply-adds.png",
    }  # fmt: skip
    text = readme.read_text(encoding="utf-8")
    assert text.startswith("before\n")
    assert text.endswith("\nafter\n")
    assert "| `architecture`, smoke | resnet18: multiply-adds 1.814 G" in text
    page = (tmp_path / tables.PAGE).read_text(encoding="utf-8")
    assert "Not measured yet: `residuum reproduce depth --scale small`" in page
    assert "11,689,512" in page
    with pytest.raises(UsageError, match="has no table of experiments"):
        tables.write(tmp_path / "docs")
