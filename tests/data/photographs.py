"""Sets of photos that no camera took, for tests: clean ones, and one with one of every fault."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image


def photo(seed: int, width: int = 96, height: int = 72) -> Image.Image:
    """Returns a picture unlike any of another seed: shapes of a few sizes in colour, and grain."""
    noise = np.random.default_rng(seed)
    layers = [
        np.asarray(
            Image.fromarray(noise.integers(0, 256, (rows, rows + 1, 3), dtype=np.uint8)).resize(
                (width, height), Image.Resampling.BICUBIC
            ),
            dtype=np.float64,
        )
        for rows in (3, 6, 12)
    ]
    grain = noise.normal(0, 4, (height, width, 1))
    return Image.fromarray(np.clip(np.average(layers, axis=0, weights=(3, 2, 1)) + grain, 0, 255).astype(np.uint8))


def jpeg(picture: Image.Image, quality: int = 92, **options: object) -> bytes:
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=quality, **options)
    return file.getvalue()


def put(path: Path, content: bytes | str = b"") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)


def reopened(content: bytes) -> Image.Image:
    return Image.open(io.BytesIO(content)).convert("RGB")


def clean(root: Path, parts: Iterable[str] = ("train", "val"), classes: Iterable[str] = ("cat", "dog")) -> Path:
    """Writes 12 photos for each part and class, no two alike."""
    seed = 0
    for part in parts:
        for name in classes:
            for number in range(12):
                put(root / part / name / f"{number}.jpg", jpeg(photo(seed)))
                seed += 1
    return root


def as_table(root: Path) -> str:
    """Lists the photos of a divided folder in a CSV file."""
    lines = ["path,label,split"]
    lines += [f"{path.relative_to(root)},{path.parent.name},{path.parts[-3]}" for path in sorted(root.rglob("*.jpg"))]
    (root / "labels.csv").write_text("\n".join(lines))
    return str(root / "labels.csv")


def as_shards(root: Path, **more: bytes | None) -> str:
    """Writes the photos of a divided folder as Parquet shards; `more` are bytes that join the training part."""
    for part in ("train", "val"):
        files = sorted((root / part).rglob("*.jpg"))
        rows: list[tuple[bytes | None, str]] = [(file.read_bytes(), file.parent.name) for file in files]
        rows += [(content, "cat") for content in more.values()] if part == "train" else []
        images = pa.array([{"bytes": content} for content, _ in rows], pa.struct([("bytes", pa.binary())]))
        pq.write_table(pa.table({"image": images, "label": [label for _, label in rows]}), root / f"{part}.parquet")
    return str(root / "*.parquet")


def with_everything(root: Path) -> Path:
    """Writes a set with one of every fault."""
    clean(root)
    train, val = root / "train", root / "val"
    put(train / "cat/truncated.jpg", jpeg(photo(100))[:-600])
    put(train / "cat/empty.jpg")
    put(train / "cat/text.jpg", "this is a text\n")
    put(train / "cat/page.jpg", "<!DOCTYPE html><html></html>")
    put(train / "cat/phone.jpg", b"\0\0\0\x18ftypheic" + bytes(40))
    os.mkfifo(train / "cat/pipe.jpg")
    (train / "cat/link.jpg").symlink_to("nowhere.jpg")
    photo(101).save(train / "cat/png_inside.jpg", "PNG")
    turned = Image.Exif()
    turned[0x0112] = 6
    put(train / "cat/turned.jpg", jpeg(photo(102), exif=turned))
    Image.fromarray(np.asarray(photo(103).convert("L"), dtype=np.uint16) * 257).save(train / "cat/deep.png")
    put(train / "cat/print.jpg", jpeg(photo(104).convert("CMYK")))
    photo(105).convert("RGBA").save(train / "cat/clear.png")
    photo(106).save(train / "cat/frames.png", save_all=True, append_images=[photo(107)])
    photo(108).save(train / "cat/frames.webp", save_all=True, append_images=[photo(109)])
    photo(120).save(train / "cat/with_preview.jpg", "MPO", save_all=True, append_images=[photo(121)])  # no fault
    photo(110).save(train / "cat/frames.gif", save_all=True, append_images=[photo(111)])
    put(train / "cat/phone.heic", "heic")
    put(train / "cat/notes.txt", "notes")
    put(train / "cat/.cache/0.jpg", jpeg(photo(112)))
    put(train / "cat/.DS_Store", "ds")
    put(root / "__MACOSX/._0.jpg", "fork")
    put(root / "stray.jpg", jpeg(photo(113)))
    put(root / "raw/0.jpg", jpeg(photo(114)))
    for name in ("bird", "fish"):
        (train / name).mkdir()
        put(val / name / "0.jpg", jpeg(photo(115 + (name == "fish"))))
    put(val / "newt/0.jpg", jpeg(photo(117)))
    for number in range(150):  # so many dogs that cats are few
        put(train / f"dog/more{number}.jpg", jpeg(photo(1000 + number)))
    put(train / "ox/0.jpg", jpeg(photo(118)))
    (val / "ox").mkdir()
    put(train / "cat/icon.png")
    photo(119).resize((10, 10)).save(train / "cat/icon.png")

    put(val / "cat/leak.jpg", (train / "cat/0.jpg").read_bytes())
    put(train / "cat/again.jpg", (train / "cat/1.jpg").read_bytes())
    Image.open(train / "cat/2.jpg").save(train / "cat/lossless.bmp")
    put(train / "dog/a_cat.jpg", (train / "cat/3.jpg").read_bytes())
    put(val / "cat/near_leak.jpg", jpeg(photo(4), quality=40))
    put(train / "cat/smaller.jpg", jpeg(photo(5).resize((86, 65))))
    put(train / "dog/near_cat.jpg", jpeg(photo(6).resize((110, 82)), quality=70))
    return root


EVERYTHING: dict[str, list[str]] = {
    "missing": ["train/cat/link.jpg"],
    "empty": ["train/cat/empty.jpg"],
    "truncated": ["train/cat/truncated.jpg"],
    "not-an-image": ["train/cat/page.jpg", "train/cat/phone.jpg", "train/cat/text.jpg"],
    "unreadable": ["train/cat/pipe.jpg"],
    "classes-differ": ["newt"],
    "empty-classes": ["bird", "fish"],
    "unscored-classes": ["ox"],
    "few-pictures": ["ox"],
    "imbalance": ["ox"],
    "small": ["train/cat/icon.png"],
    "wrong-extension": ["train/cat/png_inside.jpg"],
    "rotated": ["train/cat/turned.jpg"],
    "16-bit": ["train/cat/deep.png"],
    "cmyk": ["train/cat/print.jpg"],
    "alpha": ["train/cat/clear.png"],
    "animated": ["train/cat/frames.png", "train/cat/frames.webp"],
    "graphics": ["train/cat/frames.gif"],
    "ignored-extensions": ["train/cat/notes.txt", "train/cat/phone.heic"],
    "hidden-folders": ["__MACOSX", "train/cat/.cache"],
    "hidden-files": ["train/cat/.DS_Store"],
    "stray-pictures": ["stray.jpg"],
    "unused-folders": ["raw"],
    "duplicates-across-splits": ["train/cat/0.jpg", "val/cat/leak.jpg"],
    "duplicates": ["train/cat/1.jpg", "train/cat/2.jpg", "train/cat/again.jpg", "train/cat/lossless.bmp"],
    "conflicting-duplicates": ["train/cat/3.jpg", "train/dog/a_cat.jpg"],
    "near-duplicates-across-splits": ["train/cat/4.jpg", "val/cat/near_leak.jpg"],
    "near-duplicates": ["train/cat/5.jpg", "train/cat/smaller.jpg"],
    "conflicting-near-duplicates": ["train/cat/6.jpg", "train/dog/near_cat.jpg"],
}
