"""Measures vectors and the search among them, and writes docs/results/embedding.csv, search.csv and knn.csv.

    python benchmarks/embedding.py speed [--model resnet20_cifar] [--turns 5]
    python benchmarks/embedding.py search [--vectors 1000000] [--dim 512]
    python benchmarks/embedding.py knn --bundle BUNDLE --data SHARDS [--knn 20]

Leave the machine alone while it measures times. `speed` takes the bare network, `residuum embed` on pictures in memory
and on pictures as PNG in turns, on random pictures. `search` compares every answer with a product of all vectors in
full precision. A bundle for `knn`: residuum convert resnet56.th --model resnet56_cifar --out resnet56
"""

from __future__ import annotations

import argparse
import io
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from measure import write
from PIL import Image

from residuum import bundle
from residuum.data.builtin import synthetic
from residuum.data.sets import BytesSet, ImageSet, ResidentSet
from residuum.deploy.embed import Chosen, Maker, embed, open_maker
from residuum.evaluation import neighbours
from residuum.evaluation.searcher import Searcher
from residuum.imaging import Preprocessing
from residuum.models import create_model
from residuum.models.saved import arrays

BATCH = 256


def main() -> None:
    """Measures what the first argument names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("speed", "search", "knn"))
    parser.add_argument("--model", default="resnet20_cifar")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--vectors", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--bundle")
    parser.add_argument("--data")
    parser.add_argument("--knn", type=int, default=20)
    arguments = parser.parse_args()
    if arguments.what == "speed":
        speed(arguments.model, arguments.turns)
    elif arguments.what == "search":
        for kind in ("random", "clustered"):
            search(kind, arguments.vectors, arguments.dim)
    else:
        knn(arguments.bundle, arguments.data, arguments.knn)


def speed(model: str, turns: int, pictures: int = 100_000) -> None:
    """Embeds 100,000 pictures of 32 pixels in `turns` parts, each after the bare network has seen as many."""
    count = pictures // turns
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        _write_bundle(model, place / "bundle")
        maker = open_maker(str(place / "bundle"))
        resident = synthetic(f"synthetic:{count}x10x32").parts["train"]
        arms: dict[str, Callable[[], None]] = {
            "bare": lambda: _bare(maker, count),
            "memory": lambda: _embedded(maker, resident, place),
            "png": lambda: _embedded(maker, png, place),
        }
        png = _encoded(resident)
        seconds: dict[str, list[float]] = {name: [] for name in arms}
        _bare(maker, 10 * BATCH)
        for turn in range(turns):
            for name in list(arms) if turn % 2 else list(arms)[::-1]:
                started = time.perf_counter()
                arms[name]()
                seconds[name].append(time.perf_counter() - started)
    rate = {name: count / statistics.median(values) for name, values in seconds.items()}
    write(
        "embedding.csv",
        model=model,
        pictures=turns * count,
        bare_per_s=round(rate["bare"]),
        memory_per_s=round(rate["memory"]),
        png_per_s=round(rate["png"]),
        memory_percent=round(100 * rate["memory"] / rate["bare"], 1),
        png_percent=round(100 * rate["png"] / rate["bare"], 1),
        slowest_over_fastest_bare=round(max(seconds["bare"]) / min(seconds["bare"]), 2),
    )


def _write_bundle(model: str, folder: Path) -> None:
    network = create_model(model)
    look = Preprocessing("RGB", 32, 32, "bilinear", (0.5,) * 3, (0.25,) * 3)
    card = {
        "model": {"name": model, "num_classes": network.num_classes, "in_channels": 3},
        "classes": [str(number) for number in range(network.num_classes)],
        "preprocessing": look.as_dict(),
    }
    bundle.write(folder, arrays(network.state_dict()), card)


def _encoded(images: ImageSet) -> BytesSet:
    assert isinstance(images, ResidentSet)
    files = []
    for pixels in images.images:
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "PNG")
        files.append(file.getvalue())
    return BytesSet((pa.array(files, pa.binary()),), images.labels, images.classes, "png")


def _bare(maker: Maker, count: int) -> None:
    batches = [torch.randn(BATCH, 3, 32, 32).contiguous(memory_format=torch.channels_last) for _ in range(8)]
    network = maker.embedder.model
    with torch.inference_mode():
        for number in range(-(-count // BATCH)):
            network(batches[number % 8][: count - number * BATCH])


def _embedded(maker: Maker, images: ImageSet, place: Path) -> None:
    source = {"data": "synthetic", "part": "train", "pictures": len(images)}
    embed(maker, place / "vectors.parquet", [Chosen(images, source)], batch_size=BATCH)


def search(kind: str, count: int, dim: int, queries: int = 30) -> None:
    """Times single queries among vectors, and holds every answer to a product in full precision."""
    random = np.random.default_rng(0)
    centres = random.standard_normal((1000, dim), dtype=np.float32)
    spread = 0.5 if kind == "clustered" else 0.0

    def drawn(number: int) -> neighbours.Floats:
        noise = random.standard_normal((number, dim), dtype=np.float32)
        if spread:
            noise *= spread
            noise += centres[random.integers(0, len(centres), number)]
        return noise

    vectors = np.empty((count, dim), np.float32)
    for start in range(0, count, 50_000):
        vectors[start : start + 50_000] = drawn(min(50_000, count - start))
    neighbours.shorten(vectors)
    asked = neighbours.unit(drawn(queries))
    index = Searcher(vectors)
    first = _seconds(lambda: index.search(asked[:1], 10))
    second = _seconds(lambda: index.search(asked[:1], 10))
    index.search(asked[:1], 10)
    times, plain, candidates, same = [], [], [], 0
    for query in asked:
        times.append(_seconds(lambda query=query: index.search(query[None], 10)))
        plain.append(_seconds(lambda query=query: neighbours.nearest(query[None], vectors, 10)))
        found, true = index.search(query[None], 10), neighbours.nearest(query[None], vectors, 10)
        same += bool(np.allclose(found.similarities, true.similarities, rtol=0, atol=1e-6))
        candidates.append(len(index._candidates(query, 10)))
    write(
        "search.csv",
        vectors=count,
        dim=dim,
        kind=kind,
        queries=queries,
        median_ms=round(1000 * statistics.median(times), 1),
        slowest_ms=round(1000 * max(times), 1),
        full_precision_ms=round(1000 * statistics.median(plain), 1),
        first_ms=round(1000 * first, 1),
        second_ms=round(1000 * second, 1),
        compared_again=round(statistics.median(candidates)),
        same_answers=same,
    )


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def knn(folder: str, data: str, k: int) -> None:
    """Writes the accuracy of the vectors of a bundle by their neighbours beside that of its classifier."""
    known = _said("evaluate", folder, "--data", data, "--split", "test")
    found = _said("evaluate", folder, "--data", data, "--split", "test", "--knn", str(k))
    write(
        "knn.csv",
        model=bundle.read(Path(folder))[1]["model"]["name"],
        data=Path(data).name,
        images=found["images"],
        k=found["knn"]["k"],
        known=found["knn"]["known"],
        stage=found["knn"]["stage"],
        knn_top1=round(found["top1"], 3),
        classifier_top1=round(known["top1"], 3),
        difference=round(found["top1"] - known["top1"], 3),
    )


def _said(*words: str) -> dict[str, object]:
    command = [sys.executable, "-m", "residuum", *words, "--json", "-q"]
    said: dict[str, object] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    return said


if __name__ == "__main__":
    main()
