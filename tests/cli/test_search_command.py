"""`residuum search`: pictures like a picture, near-duplicates, pages and maps; and what is refused."""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

import numpy as np
import PIL.Image
import pyarrow.parquet as pq
import pytest
from sklearn.metrics.pairwise import cosine_similarity
from speaking import Say, Trained, every_file

import residuum
from residuum import bundle
from residuum.errors import PictureError, UsageError, WeightsError


@pytest.fixture(scope="session")
def index(trained: Trained, pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve pictures in three classes, and one of them again, saved as another file."""
    from residuum.cli.main import main

    place = tmp_path_factory.mktemp("index")
    shutil.copy(pictures / "class1" / "2.png", place / "again.png")
    words = [str(trained.bundle), str(place / "again.png"), "--data", str(pictures), "--out", str(place / "v.parquet")]
    assert main(["embed", *words, "-q"]) == 0
    return place / "v.parquet"


def table(index: Path) -> tuple[list[str], np.ndarray]:
    rows = pq.read_table(index).to_pydict()
    return rows["file"], np.array(rows["vector"])


def test_the_most_similar_come_first(index: Path, pictures: Path, say: Say) -> None:
    files, vectors = table(index)
    similar = cosine_similarity(vectors)[5]
    said = say("search", index, pictures / "class1" / "0.png", "--top", "4", "--json")
    assert (said.code, said.err) == (0, "")
    assert list(said.json) == ["exact", "answers"]
    assert said.json["exact"] is True
    [answer] = said.json["answers"]
    assert (answer["file"], answer["error"]) == (str(pictures / "class1" / "0.png"), None)
    order = np.argsort(-similar, kind="stable")[:4]
    assert {match["file"] for match in answer["found"]} == {files[at] for at in order}
    assert [match["similarity"] for match in answer["found"]] == pytest.approx(similar[order], abs=1e-5)
    assert list(answer["found"][0]) == ["file", "label", "similarity"]
    assert (answer["found"][0]["file"], answer["found"][0]["label"]) == (files[5], "class1")


def test_the_words_are_a_line_a_picture(index: Path, pictures: Path, say: Say) -> None:
    one = say("search", index, pictures / "class0" / "1.png", "--top", "2")
    assert (one.code, one.err) == (0, "")
    assert re.fullmatch(rf" 1\.0000  {pictures}/class0/1\.png  class0\n .*\n", one.out)
    two = say("search", index, pictures / "class0" / "1.png", index.parent, "--top", "1")
    assert [line for line in two.out.splitlines() if line.endswith(":")] == [
        f"{pictures / 'class0' / '1.png'}:",
        f"{index.parent / 'again.png'}:",
    ]
    assert len(say("search", index, pictures / "class0" / "1.png").out.splitlines()) == 10


def test_near_duplicates_are_pairs(index: Path, pictures: Path, say: Say) -> None:
    said = say("search", index, "--duplicates", "--similarity", "0.99999", "--json")
    assert said.json["pairs_found"] == len(said.json["pairs"]) == 1
    [pair] = said.json["pairs"]
    assert pair["files"] == [str(index.parent / "again.png"), str(pictures / "class1" / "2.png")]
    words = say("search", index, "--duplicates", "--similarity", "0.99999")
    assert words.out == f"{pair['similarity']:.4f}  {pair['files'][0]}  {pair['files'][1]}\n"
    assert words.err == "1 pairs have a similarity of at least 0.99999.\n"
    _, vectors = table(index)
    expected = int((np.triu(cosine_similarity(vectors), 1) >= 0.95).sum())
    assert say("search", index, "--duplicates", "--json").json["pairs_found"] == expected


def test_pages_show_pictures_and_need_nothing_else(index: Path, pictures: Path, say: Say, tmp_path: Path) -> None:
    assert say("search", index, pictures / "class1" / "2.png", "--top", "3", "--html", tmp_path / "a.html").code == 0
    page = (tmp_path / "a.html").read_text("utf-8")
    assert page.count("<img") == 4
    assert "again.png" in page
    assert "Content-Security-Policy" in page
    assert not re.search(r"https?://", page)
    words = ["--duplicates", "--similarity", "0.99999", "--html", tmp_path / "d.html"]
    assert say("search", index, *words).code == 0
    assert (tmp_path / "d.html").read_text("utf-8").count("<img") == 2
    assert every_file(tmp_path).keys() == {"a.html", "d.html"}


def test_a_page_says_which_picture_is_not_there_any_more(
    trained: Trained, pictures: Path, say: Say, tmp_path: Path
) -> None:
    own = tmp_path / "own"
    shutil.copytree(pictures, own)
    assert say("embed", trained.bundle, "--data", own, "--out", tmp_path / "v.parquet").code == 0
    (own / "class0" / "0.png").unlink()
    assert say("search", tmp_path / "v.parquet", pictures / "class0" / "0.png", "--html", tmp_path / "a.html").code == 0
    assert "its set has changed, or is not there any more" in (tmp_path / "a.html").read_text("utf-8")


def test_a_map_is_a_picture(index: Path, say: Say, tmp_path: Path) -> None:
    said = say("search", index, "--map", tmp_path / "m.png")
    assert (said.code, said.out) == (0, f"Map: {tmp_path / 'm.png'}\n")
    with PIL.Image.open(tmp_path / "m.png") as picture:
        assert picture.format == "PNG"


def test_what_cannot_be_used_is_told_and_the_others_are_searched_for(
    index: Path, pictures: Path, say: Say, tmp_path: Path
) -> None:
    torn = tmp_path / "torn.png"
    torn.write_bytes(b"no picture")
    said = say("search", index, torn, pictures / "class0" / "0.png", "--json", "--html", tmp_path / "a.html")
    assert said.code == 3
    bad, good = said.json["answers"]
    assert (bad["found"], len(good["found"])) == ([], 10)
    assert said.err.startswith(f"Error: 1 of 2 pictures cannot be used; the first is {torn}: {bad['error']}.\n")
    assert f"{torn}: cannot be used: " in say("search", index, torn).out
    with pytest.raises(PictureError):
        residuum.Index(index).search(torn)


def test_in_python(index: Path, pictures: Path) -> None:
    found = residuum.Index(index, device="cpu").search((pictures / "class2" / "3.png").read_bytes(), top=2)
    assert (found.file, len(found.found)) == ("-", 2)
    assert found.found[0].file == str(pictures / "class2" / "3.png")
    with pytest.raises(UsageError):
        residuum.Index(index).search("a.png", top=0)
    with pytest.raises(UsageError):
        residuum.Index(index).duplicates(2)


def changed(place: Path, how: str) -> None:
    tensors, card = bundle.read(place)
    if how == "weights":
        name = next(name for name in sorted(tensors) if name.startswith("stages") and tensors[name].ndim == 4)
        tensors[name] = tensors[name] * np.float32(1.001)
    elif how == "classifier":
        tensors["head.fc.bias"] = tensors["head.fc.bias"] + np.float32(1)
    elif how == "preprocessing":
        card["preprocessing"]["resize_px"] += 1
    bundle.write(place, tensors, {key: value for key, value in card.items() if key != "format"})


@pytest.mark.parametrize(
    ("how", "why"), [("weights", "its weights are others"), ("preprocessing", "its preprocessing is another")]
)
def test_a_changed_bundle_is_refused(
    how: str, why: str, trained: Trained, pictures: Path, say: Say, tmp_path: Path
) -> None:
    own = shutil.copytree(trained.bundle, tmp_path / "best")
    out, query = tmp_path / "v.parquet", pictures / "class0" / "0.png"
    assert say("embed", own, pictures, "--out", out).code == 0
    changed(own, "classifier")
    assert say("search", out, query).code == 0  # no vector depends on it
    changed(own, how)
    said = say("search", out, query)
    assert (said.code, said.out) == (4, "")
    assert said.err.startswith(f"Error: {own} does not make the vectors of this index any more: {why}.\n")
    assert len(said.err.splitlines()) == 3
    assert say("search", out, query, "--bundle", trained.bundle).code == 0
    assert say("search", out, "--duplicates", "-q").code == 0  # needs no network
    shutil.rmtree(own)
    assert say("search", out, query).code == 4
    with pytest.raises(WeightsError):
        residuum.Index(out).search(query)


def test_an_index_finds_its_bundle_from_another_folder(
    trained: Trained, pictures: Path, say: Say, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
    shutil.copytree(trained.bundle, tmp_path / "here" / "best")
    shutil.copytree(pictures, tmp_path / "here" / "set")
    monkeypatch.chdir(tmp_path / "here")
    assert say("embed", "best", "set/class0", "--data", "set", "--out", "v.parquet").code == 0
    monkeypatch.chdir(tmp_path / "there")
    said = say("search", "../here/v.parquet", "../here/set/class0/0.png", "--top", "13", "--html", "a.html")
    assert said.code == 0
    page = Path("a.html").read_text("utf-8")
    assert page.count("<img") == 14
    assert "there any more" not in page


def test_what_is_here_is_not_taken_for_what_was_embedded_there(
    trained: Trained, pictures: Path, say: Say, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files, a set, a table and a bundle of the same names, in the folder of the index and in the current one."""
    for name in ("here", "there"):
        shutil.copytree(trained.bundle, tmp_path / name / "best")
        shutil.copytree(pictures, tmp_path / name / "set")
        (tmp_path / name / "lists").mkdir()
        (tmp_path / name / "lists" / "labels.csv").write_text("path,label\n../set/class1/0.png,a\n", encoding="utf-8")
    changed(tmp_path / "there" / "best", "weights")
    for picture in (tmp_path / "there" / "set").rglob("*.png"):
        PIL.Image.new("RGB", (12, 12)).save(picture)
    monkeypatch.chdir(tmp_path / "here")
    assert say("embed", "best", "set/class0/0.png", "--data", "set", "--out", "v.parquet").code == 0
    assert say("embed", "best", "--data", "lists/labels.csv", "--out", "l.parquet").code == 0
    monkeypatch.chdir(tmp_path / "there")
    query = pictures / "class0" / "0.png"
    said = say("search", "../here/v.parquet", query, "--top", "1")
    assert said.code == 0, said.err
    index, table = residuum.Index("../here/v.parquet"), residuum.Index("../here/l.parquet")
    for at, original in ((0, query), (1, query), (5, pictures / "class1" / "0.png")):
        with PIL.Image.open(original) as expected:
            assert index.picture(at).tobytes() == expected.tobytes()
    with PIL.Image.open(pictures / "class1" / "0.png") as expected:
        assert table.picture(0).tobytes() == expected.tobytes()


def test_a_set_that_has_a_name_is_no_folder_of_that_name(
    trained: Trained, say: Say, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    source = "synthetic:6x3x16"
    assert say("embed", trained.bundle, "--data", source, "--out", "v.parquet").code == 0
    Path(source).mkdir()
    assert residuum.Index("v.parquet").picture(5).size == (16, 16)


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["{index}"], 2, "There is nothing to search for."),
        (["{index}", "a.png", "--duplicates"], 2, "--duplicates compares all pictures of the index, exactly."),
        (["{index}", "a.png", "--similarity", "0.5"], 2, "--similarity is about --duplicates"),
        (["{index}", "--duplicates", "--similarity", "1.5"], 2, "--similarity cannot be '1.5'."),
        (["{index}", "--map", "m.png", "--approximate"], 2, "--map needs the vectors themselves"),
        (["{index}", "--map", "m.png", "--html", "a.html"], 2, "--html is a page of what was found"),
        (["{index}", "--duplicates", "--html", "nowhere/a.html"], 5, "Cannot write nowhere/a.html"),
        (["missing.parquet", "a.png"], 3, "Cannot use missing.parquet as an index"),
        (["a.png", "a.png"], 3, "Cannot use a.png as an index"),
        (["{index}", "a.png", "--bundle", "nowhere"], 4, "'nowhere' is neither a bundle nor the name of a network."),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_in_three_parts(
    words: list[str], code: int, said: str, index: Path, pictures: Path, say: Say, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    shutil.copy(pictures / "class0" / "0.png", "a.png")
    answer = say("search", *(word.format(index=index) for word in words))
    assert answer.code == code
    assert answer.err.startswith(f"Error: {said}")
    assert len(answer.err.splitlines()) == 3
    assert answer.out == ""
    assert every_file(tmp_path).keys() == {"a.png"}


def test_an_approximate_search_says_what_it_needs(
    index: Path, pictures: Path, say: Say, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    said = say("search", index, pictures / "class0" / "0.png", "--approximate")
    assert said.code == 2
    assert "pip install 'residuum[faiss]'" in said.err


def test_an_approximate_search_finds_nearly_all(index: Path, pictures: Path, say: Say, tmp_path: Path) -> None:
    own = shutil.copy(index, tmp_path / "v.parquet")
    (tmp_path / "v.parquet.older.faiss").touch()
    for _ in range(2):
        said = say("search", own, pictures / "class0" / "0.png", "--approximate", "--json")
        assert said.code == 0
        assert said.json["exact"] is False
        assert said.json["answers"][0]["found"][0]["file"] == str(pictures / "class0" / "0.png")
    [kept] = tmp_path.glob("*.faiss")
    kept.write_bytes(b"torn")
    torn = say("search", own, pictures / "class0" / "0.png", "--approximate")
    assert (torn.code, torn.err.splitlines()[-1]) == (3, "  Delete it, and it is made anew.")
    assert say("search", own, "--map", tmp_path / "m.png").code == 0
