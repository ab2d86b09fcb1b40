"""`check` on a set with one of every fault, on sets without any, and on sets that training refuses."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from photographs import EVERYTHING, as_shards, as_table, clean, jpeg, photo, put, with_everything

from residuum import recipe
from residuum.data import findings
from residuum.data.check import Checked, check
from residuum.data.check_report import compose
from residuum.data.findings import KINDS
from residuum.data.sources import open_parts
from residuum.errors import DataError

HARMS = {
    "missing", "empty", "truncated", "not-an-image", "unreadable", "classes-differ", "empty-classes",
    "duplicates-across-splits", "conflicting-duplicates", "near-duplicates-across-splits",
    "conflicting-near-duplicates",
}  # fmt: skip


def state(root: Path) -> dict[str, tuple[int, int, str]]:
    """Everything below a folder: size, time of the last change, and a hash."""
    found = {}
    for path in sorted(root.rglob("*")):
        status = path.lstat()
        content = path.read_bytes() if path.is_file() and not path.is_fifo() else b""
        found[str(path)] = (status.st_size, status.st_mtime_ns, hashlib.sha256(content).hexdigest())
    return found


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> Checked:
    """A check of a set with one of every fault, which leaves the set as it was."""
    root = with_everything(tmp_path_factory.mktemp("everything") / "photos")
    before = state(root)
    checked = check(str(root))
    compose(checked)
    assert state(root) == before
    return checked


def kinds(checked: Checked) -> dict[str, list[str]]:
    """Returns kind -> sorted files, relative to the set's root."""
    root = str(checked.survey.root)
    return {f.kind: sorted(str(name).removeprefix(f"{root}/") for name in f.files) for f in checked.findings}


def check_of(root: Path) -> dict[str, list[str]]:
    return kinds(check(str(root)))


# --- one of everything -----------------------------------------------------------------------------------------------


def test_every_fault_is_found_and_nothing_else(everything: Checked) -> None:
    assert kinds(everything) == EVERYTHING
    assert everything.harmful


def test_what_harms_comes_first(everything: Checked) -> None:
    severities = [finding.severity for finding in everything.findings]
    assert severities == sorted(severities, key=["harm", "note"].index)
    assert {finding.kind for finding in everything.findings if finding.severity == "harm"} == HARMS


def test_findings_say_what_and_what_to_do(everything: Checked) -> None:
    for finding in everything.findings:
        number = re.match(r"\d+", finding.what)
        assert number is not None
        assert int(number[0]) == len(finding.files)
        assert finding.what.endswith(".")
        assert finding.do.endswith((".", ")"))
        assert "{" not in finding.what + finding.do


def test_remarks_tell_what_a_file_is(everything: Checked) -> None:
    said = {
        Path(name).name: remark
        for finding in everything.findings
        if not finding.groups
        for name, remark in finding.remarks.items()
    }
    assert said["page.jpg"] == "it is a web page"
    assert said["phone.jpg"] == "it is a HEIC photo"
    assert said["text.jpg"] == "it is text"
    assert said["pipe.jpg"] == "it is not a regular file"
    assert said["png_inside.jpg"] == "PNG inside"
    assert said["turned.jpg"] == "lying on its side"
    assert said["deep.png"] == "16 bits a channel"
    assert said["frames.webp"] == "2 frames"
    assert said["icon.png"] == "10 x 10 pixels"
    assert said["newt"] == "in val, not in train"


def test_copies_come_in_groups_with_their_homes(everything: Checked) -> None:
    found = {finding.kind: finding for finding in everything.findings}
    twice = [[Path(name).name for name in group] for group in found["duplicates"].groups]
    assert sorted(twice) == [["1.jpg", "again.jpg"], ["2.jpg", "lossless.bmp"]]
    conflict = found["conflicting-duplicates"]
    assert [conflict.remarks[name] for name in conflict.groups[0]] == ["train, cat", "train, dog"]


def test_counts_are_those_of_the_folders(everything: Checked) -> None:
    root = everything.survey.root
    assert root is not None
    pictures = (".jpg", ".png", ".webp", ".bmp")
    for name, parts in everything.counts.items():
        for part, count in parts.items():
            folder = root / part / name
            there = [path for path in folder.iterdir() if path.suffix in pictures] if folder.is_dir() else []
            assert count == len(there), (name, part)
    assert (
        everything.images == sum(everything.splits.values()) == sum(sum(p.values()) for p in everything.counts.values())
    )


def test_the_document_is_json(everything: Checked) -> None:
    document = json.loads(json.dumps(everything.as_dict()))
    assert set(document) == {"data", "images", "classes", "splits", "findings", "harmful"}
    for finding in document["findings"]:
        assert {"kind", "severity", "count", "files", "what", "do"} <= set(finding)
        assert finding["count"] == len(finding["files"])


def test_the_page_shows_what_was_found_and_needs_nothing_else(everything: Checked) -> None:
    page = compose(everything)
    for finding in everything.findings:
        assert finding.what in page
    shown = re.findall(r'<img src="data:image/(?:png|jpeg);base64,[^"]+" alt="([^"]+)"', page)
    assert {"train/cat/turned.jpg", "stray.jpg", "train/cat/frames.gif", "val/cat/leak.jpg"} <= set(shown)
    assert "train/cat/truncated.jpg" not in shown  # there is nothing to show, so it is named
    assert "train/cat/truncated.jpg" in page
    assert "<script" not in page
    assert not re.search(r'(?:src|href)="(?!data:|#)', page)


def test_names_cannot_break_out_of_the_page(tmp_path: Path) -> None:
    name = '<img src=x onerror="alert(1)">.jpg'
    put(clean(tmp_path, ("train",)) / "train/cat" / name, "text")
    (tmp_path / "train").rename(tmp_path / "set")
    page = compose(check(str(tmp_path / "set")))
    assert "&lt;img src=x" in page
    assert "<img src=x" not in page


def test_the_table_of_kinds_is_the_table_in_the_docs() -> None:
    rows = re.findall(r"^\| (`.+?) +\| (harm|note) +\|", findings.__doc__ or "", re.MULTILINE)
    written = {kind: severity for names, severity in rows for kind in re.findall(r"`([^`]+)`", names)}
    assert written == {name: kind.severity for name, kind in KINDS.items()}
    assert list(written) == list(KINDS)


# --- sets without a fault --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", [str, as_table, as_shards, lambda root: str(root / "train")])
def test_nothing_is_found_in_a_clean_set(tmp_path: Path, source: Callable[[Path], str]) -> None:
    checked = check(source(clean(tmp_path)))
    assert checked.findings == ()
    assert not checked.harmful
    assert checked.images in (24, 48)
    assert "Ready" in checked.verdict


@pytest.mark.parametrize("source", ["digits", "synthetic", "synthetic:300x3x64"])
def test_nothing_is_found_in_embedded_sets(source: str) -> None:
    assert check(source).findings == ()


def test_progress_goes_up_to_the_number_of_pictures(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    check(str(clean(tmp_path)), workers=2, progress=lambda done, total: told.append((done, total)))
    assert told == sorted(told)
    assert told[-1] == (48, 48)


# --- parts and classes -----------------------------------------------------------------------------------------------


def only_val(root: Path) -> str:
    return str(clean(root, ("val",)))


def one_class(root: Path) -> str:
    return str(clean(root, classes=("cat",)))


def flat_val(root: Path) -> str:
    clean(root, ("train",))
    put(root / "val/0.jpg", jpeg(photo(900)))
    return str(root)


def spelt_differently(root: Path) -> str:
    clean(root)
    (root / "val/dog").rename(root / "val/Dog")
    return str(root)


def empty_class(root: Path) -> str:
    (clean(root) / "train/fox").mkdir()
    (root / "val/fox").mkdir()
    return str(root)


def class_only_in_val(root: Path) -> str:
    put(clean(root) / "val/fox/0.jpg", jpeg(photo(901)))
    return as_table(root)


def only_heic(root: Path) -> str:
    put(root / "cat/0.heic", "heic")
    put(root / "dog/0.heic", "heic")
    return str(root)


def missing_files(root: Path) -> str:
    table = as_table(clean(root))
    (root / "train/cat/3.jpg").unlink()
    (root / "val/dog/4.jpg").unlink()
    return table


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (only_val, {"no-training-part": ["val"]}),
        (one_class, {"one-class": ["cat"]}),
        (flat_val, {"classes-differ": ["cat", "dog"], "stray-pictures": ["val/0.jpg"]}),
        (spelt_differently, {"classes-differ": ["Dog", "dog"]}),
        (empty_class, {"empty-classes": ["fox"]}),
        (class_only_in_val, {"classes-differ": ["fox"]}),
        (missing_files, {"missing": ["train/cat/3.jpg", "val/dog/4.jpg"]}),
    ],
)
def test_check_goes_on_where_training_refuses(
    tmp_path: Path, make: Callable[[Path], str], expected: dict[str, list[str]]
) -> None:
    source = make(tmp_path)
    with pytest.raises(DataError):
        open_parts(recipe.Data(source=source))
    checked = check(source)
    found = {kind: [name.removeprefix(f"{tmp_path}/") for name in files] for kind, files in kinds(checked).items()}
    assert found == expected
    assert checked.harmful


def test_a_set_without_a_picture_is_reported_with_what_is_there_instead(tmp_path: Path) -> None:
    found = check_of(Path(only_heic(tmp_path)))
    assert found["ignored-extensions"] == ["cat/0.heic", "dog/0.heic"]
    assert "no-pictures" in found
    assert "no-training-part" not in found


@pytest.mark.parametrize("source", ["nothing-here", "digitz", "*.parquet"])
def test_what_cannot_be_opened_at_all_is_an_error(source: str) -> None:
    with pytest.raises(DataError):
        check(source)


def test_a_folder_without_class_folders_is_an_error(tmp_path: Path) -> None:
    put(tmp_path / "0.jpg", jpeg(photo(0)))
    with pytest.raises(DataError, match="no class folders"):
        check(str(tmp_path))


def test_shards_are_read_to_their_last_byte(tmp_path: Path) -> None:
    whole = jpeg(photo(902))
    checked = check(as_shards(clean(tmp_path), cut=whole[:-400], none=None, nothing=b"", twice=jpeg(photo(0))))
    assert {f.kind: len(f.files) for f in checked.findings} == {
        "empty": 1,
        "truncated": 1,
        "unreadable": 1,
        "duplicates": 2,
    }


def test_small_pictures_are_normal_among_small_pictures(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        for number in range(12):
            put(tmp_path / name / f"{number}.jpg", jpeg(photo(number + 50 * (name == "dog"), 28, 28)))
    assert check_of(tmp_path) == {}


# --- real pictures ---------------------------------------------------------------------------------------------------


@pytest.mark.data
def test_ants_and_bees_have_one_graphic_and_no_copies(data_folder: Path) -> None:
    checked = check(str(data_folder / "hymenoptera"))
    assert kinds(checked) == {"graphics": ["train/ants/imageNotFound.gif"]}
    assert checked.splits == {"train": 244, "val": 153}


@pytest.mark.data
def test_among_ten_thousand_small_photos_one_pair_is_the_same(data_folder: Path) -> None:
    """CIFAR-10's test part; the pair was looked at: one photo, once paler."""
    source = str(data_folder / "cifar10/test-00000-of-00001.parquet")
    assert {
        finding.kind: [name.rpartition("[")[2] for name in finding.files] for finding in check(source).findings
    } == {
        "no-training-part": ["test"],
        "near-duplicates": ["8767]", "9408]"],
    }
