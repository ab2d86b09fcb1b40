"""The bench of an experiment: its nets, its pictures, and the rows that it has measured, in a folder that is gone on
with.

    OUT/nets/<net>-<seed>-<recipe>/       a run folder for each net, shared by all experiments in OUT
    OUT/<experiment>-<scale>/             results.jsonl, plots/, report.html
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from residuum import __version__, hardware
from residuum.data.labels import are_several
from residuum.data.loading import EvalLoader
from residuum.data.randomness import permutation
from residuum.data.sets import ImageSet, in_mode, subset
from residuum.data.sources import Parts, open_parts, statistics
from residuum.errors import DataError, UsageError
from residuum.imaging import Preprocessing
from residuum.lab.findings import Row, Rows, Scale
from residuum.lab.nets import Net, append_row, read_rows, train_net
from residuum.lab.scales import CURVE_PICTURES, TRAINING_PICTURES, digest, label_of, recipe_of
from residuum.models import create_model, saved
from residuum.models.layers import Network
from residuum.recipe import Data, Recipe
from residuum.training.records import Listener

_LOOKED_AT = 0  # the stream of the permutation that chooses which pictures a net is looked at with


class Bench:
    """Where one experiment is measured, at one scale. `bundles` are nets that others have trained, by label."""

    def __init__(
        self,
        experiment: str,
        scale: Scale,
        out: Path,
        *,
        data: str,
        seeds: int,
        bundles: Mapping[str, Path],
        device: str,
        listener: Listener | None,
    ) -> None:
        self.scale, self.data, self.seeds = scale, data, range(seeds)
        self.folder, self._nets = out / f"{experiment}-{scale}", out / "nets"
        self.device = hardware.choose_device(device)
        self._experiment, self._device_name, self._listener = experiment, device, listener
        self._bundles = dict(bundles)
        self._used: set[str] = set()
        self._parts: dict[str, Parts] = {}
        self._loaders: dict[tuple[Preprocessing, str, int, str], EvalLoader] = {}
        self.folder.mkdir(parents=True, exist_ok=True)
        self._rows = read_rows(self.results)
        self._start = self._begin()

    @property
    def results(self) -> Path:
        """The file of rows."""
        return self.folder / "results.jsonl"

    @property
    def rows(self) -> Rows:
        """What was measured, of the seeds that are asked for."""
        return [row for row in self._rows if row.get("seed", 0) in self.seeds]

    def note(self, text: str) -> None:
        """Tells the listener something, for people."""
        if self._listener is not None:
            self._listener({"kind": "note", "text": text})

    def once(self, kind: str, measure: Callable[[], Mapping[str, Any]], **key: Any) -> None:
        """Adds the row of `kind` and `key` that `measure` returns, unless it was measured before."""
        wanted = {"kind": kind, **key}
        if any(all(row.get(name) == value for name, value in wanted.items()) for row in self._rows):
            return
        started = time.perf_counter()
        measured = dict(measure())
        self._add({**wanted, "seconds": round(time.perf_counter() - started, 3), **measured})

    def recipe(self, model: str, seed: int, **options: str) -> Recipe:
        """Returns how a net is trained here."""
        return recipe_of(model, self.scale, self.data, seed, options)

    def net(self, model: str, seed: int, **options: str) -> Net:
        """Returns a trained net: the bundle that stands in for it, or one that is trained here, with its row."""
        label = label_of(model, options)
        if label in self._bundles:
            return self._bundled(label, seed)
        wanted = self.recipe(model, seed, **options)
        folder = self._nets / f"{label}-{seed}-{digest(wanted)}"

        def trained() -> Row:
            pictures = (CURVE_PICTURES[self.scale], TRAINING_PICTURES)

            def loaders(preprocessing: Preprocessing, part: str, count: int) -> EvalLoader:
                return self.loader(wanted.data, preprocessing, part, count)

            return train_net(wanted, folder, loaders, pictures, self._device_name, self._listener)

        if not (folder / "net.json").is_file():
            self._opened(wanted.data)  # refuses what cannot be used
            self.note(f"{self._experiment}: training {label}, seed {seed}")
        row = trained()
        self.once("net", lambda: row, net=label, seed=seed)
        found = saved.load(folder / "best", self.device)
        return Net(label, seed, found.model, found.preprocessing, found.classes)

    def nets(self, *models: str) -> Iterator[Net]:
        """Yields the trained nets of all seeds; a bundle, which is one net, once."""
        for model in models:
            for seed in self.seeds:
                if seed == 0 or label_of(model, {}) not in self._bundles:
                    yield self.net(model, seed)

    def untrained(self, model: str, seed: int, **options: str) -> Net:
        """Returns a net as its seed makes it."""
        wanted = self.recipe(model, seed, **options)
        train = self._opened(wanted.data).train
        mean, std = statistics(train)
        side = wanted.data.img_size
        preprocessing = Preprocessing(train.mode, side, side, wanted.data.interpolation, mean, std)
        torch.manual_seed(seed)
        options_of_network: dict[str, Any] = wanted.model.options()
        network: Network = create_model(
            wanted.model.name,
            num_classes=len(train.classes),
            in_channels=preprocessing.channels,
            **options_of_network,
        )
        return Net(label_of(model, options), seed, network.to(self.device), preprocessing, train.classes)

    def pictures(self, net: Net, count: int, part: str = "test") -> tuple[Tensor, Tensor]:
        """Returns `count` pictures of a part as the net sees them, float32 [N, C, H, W], and their labels [N]; the same
        ones for every net."""
        batches = list(self.loader(self.recipe("resnet20_cifar", 0).data, net.preprocessing, part, count))
        return torch.cat([batch.images for batch in batches]), torch.cat([batch.labels for batch in batches])

    def loader(self, data: Data, preprocessing: Preprocessing, part: str, count: int) -> EvalLoader:
        """Returns the batches of at most `count` pictures of a part; where there is no test part, of what is held
        out."""
        key = (preprocessing, part, count, str(data))
        if key not in self._loaders:
            parts = self._opened(data)
            images: ImageSet = parts.train if part == "train" else parts.test or parts.val or parts.train
            if count < len(images):
                images = subset(images, np.sort(permutation(len(images), _LOOKED_AT, 0)[:count]))
            self._loaders[key] = EvalLoader(
                in_mode(images, preprocessing.mode), preprocessing, 256, device=self.device, channels_last=True
            )
        return self._loaders[key]

    def classes(self) -> tuple[str, ...]:
        """The classes of the image set."""
        return self._opened(self.recipe("resnet20_cifar", 0).data).train.classes

    def shorter_side(self) -> int:
        """The shorter side, in pixels, of the set's first picture."""
        return min(self._opened(self.recipe("resnet20_cifar", 0).data).train.open(0).size)

    def refuse_unused_bundles(self) -> None:
        """Raises UsageError for a bundle that stands in for no net of the experiment."""
        if unused := sorted(self._bundles.keys() - self._used):
            raise UsageError(
                f"{self._experiment} has no net {unused[0]}, which the bundle {self._bundles[unused[0]]} holds.",
                expected="Expected a bundle of one of its nets.",
                hint=f"See them with: residuum reproduce {self._experiment} --scale smoke",
            )

    def _bundled(self, label: str, seed: int) -> Net:
        self._used.add(label)
        found = saved.load(self._bundles[label], self.device)
        if found.thresholds is not None:
            raise _of_one_class(f"The network in {self._bundles[label]} gives")
        if found.classes != self.classes():
            raise DataError(
                f"The bundle {self._bundles[label]} tells other classes apart than {self.data}: "
                f"{', '.join(found.classes[:10])}.",
                expected=f"Expected {', '.join(self.classes()[:10])}.",
                hint="Name the classes when the weights are converted: residuum convert FILE --classes FILE",
            )
        net = Net(label, seed, found.model, found.preprocessing, found.classes)
        self.once("net", lambda: self._row_of_bundle(net), net=label, seed=seed)
        return net

    def _row_of_bundle(self, net: Net) -> Row:
        from residuum.evaluation.evaluate import evaluate

        data = self.recipe("resnet20_cifar", 0).data
        scores, _ = evaluate(net.model, self.loader(data, net.preprocessing, "test", 10**9), net.classes)
        return {
            "params": sum(parameter.numel() for parameter in net.model.parameters()),
            "img_size": net.preprocessing.img_size,
            "test_pictures": scores.images,
            "test_error": round(100 - scores.top1, 4),
            "bundle": self._bundles[net.label].name,
        }

    def _opened(self, data: Data) -> Parts:
        key = f"{data.source} {data.val_fraction} {data.test_fraction} {data.split_seed}"
        if key not in self._parts:
            parts = open_parts(data)
            if are_several(parts.train.labels):
                raise _of_one_class(f"{data.source} gives")
            self._parts[key] = parts
        return self._parts[key]

    def _add(self, row: Row) -> None:
        for each in (self._start, row):
            if each is not None:
                append_row(self.results, each)
                self._rows.append(each)
        self._start = None

    def _begin(self) -> Row | None:
        """Returns the row that says where and with what this is measured, to be written before the first that is; None
        where it is there. Refuses to mix rows of other pictures or bundles with it."""
        about = hardware.describe(self.device)
        versions = about["versions"]
        assert isinstance(versions, dict)
        now: Row = {
            "kind": "start",
            "experiment": self._experiment,
            "scale": self.scale,
            "data": Path(self.data).name,
            "bundles": {label: path.name for label, path in sorted(self._bundles.items())},
            "machine": about["device"],
            "cores": about["cores"],
            "torch": versions.get("torch"),
            "residuum": __version__,
            "date": datetime.now(UTC).date().isoformat(),
        }
        for row in self._rows:
            if row["kind"] == "start" and any(row.get(key) != now[key] for key in ("data", "bundles")):
                raise UsageError(
                    f"{self.folder} holds what was measured with {_with(row)}, not with {_with(now)}.",
                    expected="Expected the same pictures and bundles, or a folder of its own.",
                    hint="Give another --out.",
                )
        same = {key: value for key, value in now.items() if key != "date"}
        known = any(row["kind"] == "start" and same.items() <= row.items() for row in self._rows)
        return None if known else now


def _of_one_class(what: str) -> DataError:
    return DataError(
        f"{what} a picture any number of classes.",
        expected="Expected one class for each picture, as in the paper.",
        hint="Leave out --data for the experiment's own pictures.",
    )


def _with(row: Mapping[str, Any]) -> str:
    bundles: Sequence[str] = list(row.get("bundles", {}).values())
    return str(row.get("data")) + (f" and {', '.join(bundles)}" if bundles else "")
