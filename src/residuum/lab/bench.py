"""The bench of an experiment: its nets, its pictures, and the rows that it has measured, in a folder that is gone on
with.

    OUT/nets/<net>-<seed>-<recipe>/       a run folder for each net, shared by all experiments in OUT
    OUT/<experiment>-<scale>/             results.jsonl, plots/, report.html

A row of a net says by which recipe it was trained, or which bundle it is of. Where the recipe is another one now, the
net is trained and measured anew, and the older rows lie in superseded.jsonl.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from residuum import __version__, hardware
from residuum.data.labels import are_several
from residuum.data.loading import EvalLoader
from residuum.data.places import root_of
from residuum.data.randomness import permutation
from residuum.data.sets import ImageSet, in_mode, subset
from residuum.data.sources import Parts, open_parts, statistics
from residuum.errors import UsageError
from residuum.imaging import Preprocessing
from residuum.lab import together
from residuum.lab.findings import Row, Rows, Scale
from residuum.lab.foreign import Foreign, of_one_class, refuse_misfits
from residuum.lab.nets import DONE, Net, append_row, read_rows, train_net, write_rows
from residuum.lab.scales import CURVE_PICTURES, NO_DATA, TRAINING_PICTURES, digest, label_of, recipe_of
from residuum.lab.together import Request, Wanted
from residuum.models import create_model, saved
from residuum.models.layers import Network
from residuum.recipe import Data, Recipe
from residuum.training.records import Listener

_LOOKED_AT = 0  # the stream of the permutation that chooses which pictures a net is looked at with


class Bench:
    """Where one experiment is measured, at one scale. `bundles` are nets that others have trained, by label; `at_once`
    is how many nets are trained side by side; `command` is what the page tells its readers to type, and None where
    nothing is measured: where nets are only trained.

    Raises:
        UsageError: the folder holds what was measured with other pictures or bundles.
        DataError: the pictures cannot be used.
    """

    def __init__(
        self,
        experiment: str,
        scale: Scale,
        out: str | Path,
        *,
        data: str,
        seeds: int,
        bundles: Mapping[str, Foreign],
        device: str,
        listener: Listener | None,
        command: str | None = "",
        at_once: int = 1,
    ) -> None:
        self.scale, self.data, self.seeds = scale, data, range(seeds)
        self._out, self._at_once = Path(out), at_once
        self.folder, self._nets = self._out / f"{experiment}-{scale}", self._out / "nets"
        self.device = hardware.choose_device(device)
        self._experiment, self._device_name, self._listener = experiment, device, listener
        self._bundles = dict(bundles)
        self._parts: dict[str, Parts] = {}
        self._loaders: dict[tuple[Preprocessing, str, int, str], EvalLoader] = {}
        self.folder.mkdir(parents=True, exist_ok=True)
        self._rows = read_rows(self.results)
        self._start = None if command is None else self._begin(command)

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

    def refuse_misfits(self, nets: Sequence[str]) -> None:
        """Raises what `foreign.refuse_misfits` raises where a bundle cannot stand in for one of `nets`."""
        if self._bundles:
            wanted = {label_of(net, {}): self.recipe(net, 0).model for net in nets}
            refuse_misfits(self._bundles, self._experiment, wanted, self.data, self.classes())

    def once(self, kind: str, measure: Callable[[], Mapping[str, Any]], **key: Any) -> None:
        """Adds the row of `kind` and `key` that `measure` returns, unless it was measured before.

        The key of a net's row is the net's own and what it is measured at: `once("slice", measure, **net.key, at=0.5)`.
        """
        wanted = {"kind": kind, **key}
        if any(wanted.items() <= row.items() for row in self._rows):
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
            return self._bundled(self._bundles[label], seed)
        row = self.trained(model, seed, 1, **options)
        found = saved.load(self._folder_of(model, seed, options) / "best", self.device)
        made = digest(self.recipe(model, seed, **options))
        net = Net(label, seed, made, found.model, found.preprocessing, found.classes)
        self.once("net", lambda: row, **net.key)
        return net

    def trained(self, model: str, seed: int, at_once: int, **options: str) -> Row:
        """Returns the row of a net that is trained here, now, unless it was trained before; `at_once` is how many share
        the machine meanwhile. Nothing is written into the experiment's rows."""
        wanted = self.recipe(model, seed, **options)
        folder = self._folder_of(model, seed, options)
        if not (folder / DONE).is_file():
            self._opened(wanted.data)  # refuses what cannot be used
            self.note(f"{self._experiment}: training {label_of(model, options)}, seed {seed}")
        pictures = (CURVE_PICTURES[self.scale], TRAINING_PICTURES)

        def loaders(preprocessing: Preprocessing, part: str, count: int) -> EvalLoader:
            return self.loader(wanted.data, preprocessing, part, count)

        return train_net(wanted, folder, loaders, pictures, self._device_name, self._listener, at_once)

    def train(self, nets: Iterable[Wanted]) -> None:
        """Trains nets, side by side where more than one is not trained yet; each has its row then, in this order."""
        nets = list(nets)
        missing = [net for net in nets if self._is_missing(net)]
        if self._at_once > 1 and len(missing) > 1:
            self._opened(self.recipe(missing[0].model, missing[0].seed).data)  # refuses what cannot be used
            count = min(self._at_once, len(missing))
            self.note(f"{self._experiment}: training {len(missing)} nets, {count} at once")
            requests = [
                Request(self._experiment, self.scale, str(self._out), self.data, self._device_name, count, net)
                for net in missing
            ]
            together.train(
                requests, [f"{label_of(m.model, dict(m.options))}, seed {m.seed}" for m in missing], self.note
            )
        for net in nets:
            self.net(net.model, net.seed, **dict(net.options))

    def nets(self, *models: str) -> Iterator[Net]:
        """Yields the trained nets of all seeds; a bundle, which is one net, once."""
        own = [model for model in models if label_of(model, {}) not in self._bundles]
        self.train(Wanted(model, seed) for model in own for seed in self.seeds)
        for model in models:
            for seed in self.seeds if model in own else (0,):
                yield self.net(model, seed)

    def _folder_of(self, model: str, seed: int, options: Mapping[str, str]) -> Path:
        made = digest(self.recipe(model, seed, **options))
        return self._nets / f"{label_of(model, options)}-{seed}-{made}"

    def _is_missing(self, net: Wanted) -> bool:
        options = dict(net.options)
        bundled = label_of(net.model, options) in self._bundles
        return not bundled and not (self._folder_of(net.model, net.seed, options) / DONE).is_file()

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
        return Net(
            label_of(model, options), seed, digest(wanted), network.to(self.device), preprocessing, train.classes
        )

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

    def _bundled(self, bundle: Foreign, seed: int) -> Net:
        found = saved.load(bundle.folder, self.device)
        net = Net(bundle.label, seed, bundle.digest, found.model, found.preprocessing, found.classes)
        self.once("net", lambda: self._row_of_bundle(bundle, net), **net.key)
        return net

    def _row_of_bundle(self, bundle: Foreign, net: Net) -> Row:
        from residuum.evaluation.evaluate import evaluate

        data = self.recipe("resnet20_cifar", 0).data
        scores, _ = evaluate(net.model, self.loader(data, net.preprocessing, "test", 10**9), net.classes)
        return {
            "params": sum(parameter.numel() for parameter in net.model.parameters()),
            "img_size": net.preprocessing.img_size,
            "test_pictures": scores.images,
            "test_error": round(100 - scores.top1, 4),
            "bundle": bundle.name,
        }

    def _opened(self, data: Data) -> Parts:
        key = f"{data.source} {data.val_fraction} {data.test_fraction} {data.split_seed}"
        if key not in self._parts:
            parts = open_parts(data)
            if are_several(parts.train.labels):
                raise of_one_class(f"{data.source} gives")
            self._parts[key] = parts
        return self._parts[key]

    def _add(self, row: Row) -> None:
        """Keeps a row, and sets aside those of the same net by another recipe."""
        if older := [each for each in self._rows if _supersedes(row, each)]:
            for each in older:
                append_row(self.folder / "superseded.jsonl", each)
            self._rows = [each for each in self._rows if not _supersedes(row, each)]
            write_rows(self.results, self._rows)
        for new in (self._start, row):
            if new is not None:
                append_row(self.results, new)
                self._rows.append(new)
        self._start = None

    def _begin(self, command: str) -> Row | None:
        """Returns the row that says where and with what this is measured, to be written before the first that is; None
        where it is there. Refuses to mix rows of other pictures or bundles with it."""
        about = hardware.describe(self.device)
        versions = about["versions"]
        assert isinstance(versions, dict)
        now: Row = {
            "kind": "start",
            "experiment": self._experiment,
            "scale": self.scale,
            "command": command,
            "data": Path(self.data).name,
            "pictures": self._pictures_digest(),
            "bundles": {label: bundle.name for label, bundle in sorted(self._bundles.items())},
            "machine": about["device"],
            "cores": about["cores"],
            "torch": versions.get("torch"),
            "residuum": __version__,
            "date": datetime.now(UTC).date().isoformat(),
        }
        for row in self._rows:
            told = ("bundles", "pictures" if "pictures" in row else "data")
            if row["kind"] == "start" and any(row.get(key) != now[key] for key in told):
                raise UsageError(
                    f"{self.folder} holds what was measured with {_with(row, now)}, not with {_with(now, row)}.",
                    expected="Expected the same pictures and bundles, or a folder of its own.",
                    hint="Give another --out.",
                )
        same = {key: value for key, value in now.items() if key != "date"}
        known = any(row["kind"] == "start" and same.items() <= row.items() for row in self._rows)
        return None if known else now

    def _pictures_digest(self) -> str:
        """Returns letters that tell sets apart by the names and classes of their pictures, wherever the set lies and
        however it is divided; none where there are no pictures."""
        if self.data == NO_DATA:
            return ""
        parts = self._opened(self.recipe("resnet20_cifar", 0).data)
        made_of = parts.record.get("made_of")
        root = str(made_of["root"]) if isinstance(made_of, dict) else root_of(self.data)
        pictures = sorted(
            f"{images.name(index).removeprefix(root)}\0{label}\0"
            for images in (parts.train, parts.val, parts.test)
            if images is not None
            for index, label in enumerate(images.labels.tolist())
        )
        return hashlib.sha256("".join(pictures).encode("utf-8", "surrogateescape")).hexdigest()[:12]


def _supersedes(row: Row, older: Row) -> bool:
    """Whether an older row is of the same kind, net and state, by another recipe."""
    same = all(row.get(key) == older.get(key) for key in ("kind", "net", "seed", "state"))
    return "recipe" in row and same and row["recipe"] != older.get("recipe")


def _with(row: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    data, bundles = str(row.get("data")), list(row.get("bundles", {}).values())
    if row.get("data") == other.get("data") and row.get("pictures") != other.get("pictures"):
        data += f" ({row.get('pictures')})"
    return data + (f" and {', '.join(bundles)}" if bundles else "")
