"""CSV files of path,label."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from residuum import recipe
from residuum.data.sources import open_parts
from residuum.errors import DataError


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    for number in range(12):
        Image.new("RGB", (80, 80), (number, 0, 0)).save(tmp_path / f"{number}.png")
    (tmp_path / "deep").mkdir()
    Image.new("RGB", (80, 80), (99, 0, 0)).save(tmp_path / "deep" / "café, 1.png")
    return tmp_path


def table(folder: Path, text: str | bytes, name: str = "list.csv") -> recipe.Data:
    (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return recipe.Data(source=str(folder / name), val_fraction=0.0)


def test_a_table_lists_pictures_and_labels(pictures: Path) -> None:
    lines = [f"{number}.png,{number % 2 * 8 + 2}\n" for number in range(12)]
    parts = open_parts(
        table(pictures, "path,label\n" + "".join(lines) + f'"deep/café, 1.png",2\n{pictures}/3.png,10\n\n')
    )
    assert parts.train.classes == ("2", "10")
    assert parts.train.labels.tolist() == [0, 1] * 6 + [0, 1]
    assert [parts.train.open(index).getpixel((0, 0)) for index in (5, 12, 13)] == [(5, 0, 0), (99, 0, 0), (3, 0, 0)]
    assert parts.train.name(12) == str(pictures / "deep" / "café, 1.png")


@pytest.mark.parametrize(
    "text",
    [
        "path,label\n0.png,a\n1.png,b\n",
        "\ufeffpath,label\r\n0.png,a\r\n1.png,b\r\n",
        "Label;Filename;size\na;0.png;8\nb;1.png;8\n",
        "0.png,a\n1.png,b\n",
        "image\tclass\n0.png\ta\n1.png\tb\n",
    ],
    ids=["plain", "from Excel", "other columns", "no first line", "tabs"],
)
def test_tables_come_in_many_shapes(pictures: Path, text: str) -> None:
    train = open_parts(table(pictures, text)).train
    assert [(Path(train.name(i)).name, train.classes[train.labels[i]]) for i in range(2)] == [
        ("0.png", "a"),
        ("1.png", "b"),
    ]


def test_a_table_may_say_what_is_held_out(pictures: Path) -> None:
    lines = [
        f"{number}.png,{number % 2},{split}"
        for number, split in enumerate(["train"] * 6 + ["valid"] * 4 + ["TEST"] * 2)
    ]
    parts = open_parts(table(pictures, "path,label,split\n" + "\n".join(lines)))
    assert parts.val is not None
    assert parts.test is not None
    assert [len(part) for part in (parts.train, parts.val, parts.test)] == [6, 4, 2]
    assert [Path(parts.val.name(index)).name for index in range(4)] == ["6.png", "7.png", "8.png", "9.png"]
    assert parts.val.open(1).getpixel((0, 0)) == (7, 0, 0)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "lists no pictures"),
        ("path,label\n", "lists no pictures"),
        ("a,b,c\n1,2,3\n", "has the columns a, b, c"),
        ("path,label\n0.png\n", "1 cells in line 2"),
        ("path,label\n0.png,\n", "no label in line 2"),
        ("path,label\n,a\n", "no path in line 2"),
        ("path,label,split\n0.png,a,later\n", "'later' in line 2"),
        (b"path,label\n\xff\xfe.png,a\n", "not a text in UTF-8"),
        ('path,label\n0.png,"' + "a" * 200_000 + '"\n', "is not CSV"),
        ("path,label\n0.png,a\n1.png,a\n", "one class only: a"),
        ("path,label\n" + "".join(f"no{n}.png,{n}\n" for n in range(7)) + "1.png,x\n", "7 of 8 files"),
        ("path,label,split\n0.png,a,train\n1.png,b,val\n", "no training picture: b"),
    ],
)
def test_a_table_that_cannot_be_used_says_where(pictures: Path, text: str | bytes, what: str) -> None:
    with pytest.raises(DataError) as caught:
        open_parts(table(pictures, text))
    assert what in caught.value.what
    assert caught.value.expected
    assert caught.value.hint


def test_the_first_missing_files_are_named_with_their_lines(pictures: Path) -> None:
    with pytest.raises(DataError, match=r"no0\.png \(line 2\), no1\.png \(line 3\).*and others"):
        open_parts(table(pictures, "path,label\n" + "".join(f"no{n}.png,{n}\n" for n in range(7))))
