"""A recipe: everything that decides what a training run does, as frozen, typed data.

A recipe is written in Python (`residuum.recipes`) or as TOML, and single values are changed by dotted key
(`optim.lr=0.05`). Every key is checked against its type; an unknown key is answered with the closest one. A table with
variants (`optim`, `schedule`, `augment.crop`, `augment.policy`) is a union of dataclasses told apart by its key `name`,
so that no key is ever read and ignored.
"""

from __future__ import annotations

import dataclasses
import math
import tomllib
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

import tomli_w

from residuum.errors import RecipeError, did_you_mean
from residuum.typed import Builder, unknown


@dataclass(frozen=True)
class Model:
    """The network. An option left out is the network's own default; one that the network does not have is refused.

    `weights` are what it starts from: "imagenet", a name of `residuum weights`, a file, a bundle, or "none".
    """

    name: str = "resnet20_cifar"
    weights: str = "none"
    shortcut: Literal["A", "B", "C"] | None = None
    stride_in: Literal["1x1", "3x3"] | None = None
    stem: Literal["imagenet", "cifar"] | None = None
    zero_init_last: bool | None = None
    drop_path: float | None = None
    width: float | None = None
    groups: int | None = None
    checkpoint_activations: bool | None = None

    def options(self) -> dict[str, object]:
        """The options that were set, by name."""
        own = ("name", "weights")
        return {key: value for key, value in vars(self).items() if key not in own and value is not None}


@dataclass(frozen=True)
class Transfer:
    """How a network learns from the weights that it starts with, part by part: the stem, the stages, the head.

    `head` "auto" keeps the weights' classifier where it is known to be one for the same classes, in the same order;
    "new" never does, "keep" does for any classes of that number. The parts up to and including `freeze` never learn
    ("all": all but the head). Of the others the head begins, alone for `head_epochs`; then the last stage joins, and
    each part before it `thaw_every_epochs` later (0: all at once). What does not learn keeps its batch norms'
    statistics; with `batch_norm` "keep" the rest does too. The learning rate falls by `layer_decay` from part to part,
    from the head to the stem. With `stem_until_epoch` the stem learns until that epoch's end and no longer (0: to the
    end), which saves the gradients of what goes into the first stage. Source: arXiv:1801.06146, section 3.2 (rates that
    fall with depth, gradual unfreezing); arXiv:1706.04983 (first layers that stop).
    """

    head: Literal["auto", "new", "keep"] = "auto"
    freeze: Literal["none", "stem", "stage1", "stage2", "stage3", "stage4", "all"] = "none"
    head_epochs: int = 0
    thaw_every_epochs: int = 0
    batch_norm: Literal["adapt", "keep"] = "adapt"
    layer_decay: float = 1.0
    stem_until_epoch: int = 0


@dataclass(frozen=True)
class Data:
    """The image set, and how its pictures reach the network.

    `source` is what `--data` takes. `val_fraction` of the training pictures is held out where the source has no
    validation part (0: none is, and the last weights are the result); `test_fraction` likewise. `img_size` is the side
    in pixels that the network sees, `resize_px` the shorter side that a picture is brought to before the centre crop at
    evaluation. A set that is read in a stream (tar shards, Parquet shards that do not fit into memory) is mixed in a
    buffer of `shuffle_buffer` pictures, which each process has for itself.

    A picture reaches its square by `resize`: "shorter-crop" as above, "squash" the whole picture whatever its shape,
    "pad" the whole picture with its mean colour beside it. `mode` "auto" is the set's own, or what the weights to start
    from take. `mean` and `std`, on the 0..1 scale, normalise the pictures: left out, they are those of the weights to
    start from where these say so, and else follow from `normalise`.

    With `balanced_sampling` rare classes come more often, in an epoch as long: a class has a share in proportion to its
    pictures to the power of 1 - `balanced_sampling` (0: as they are; 1: all the same). With `folds`, number `fold` of
    so many parts of the training pictures is the validation part.

    `labels` says what | in the labels of a table means: "several" classes for a picture, "one" class whose name has
    that letter; "auto" is several where any label has it. Where a picture may have several, each class is trained as a
    question of its own.
    """

    source: str = "digits"
    labels: Literal["auto", "one", "several"] = "auto"
    img_size: int = 32
    resize_px: int = 32
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    resize: Literal["shorter-crop", "squash", "pad"] = "shorter-crop"
    mode: Literal["auto", "RGB", "L"] = "auto"
    normalise: Literal["set", "imagenet"] = "set"
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    batch_size: int = 128
    eval_batch_size: int = 256
    val_fraction: float = 0.2
    test_fraction: float = 0.0
    split_seed: int = 0
    folds: int = 0
    fold: int = 0
    balanced_sampling: float = 0.0
    on_bad_image: Literal["error", "skip"] = "error"
    workers: int = 0
    shuffle_buffer: int = 10_000


@dataclass(frozen=True)
class CenterCrop:
    """The centre, as at evaluation: no randomness."""

    name: Literal["center"] = "center"


@dataclass(frozen=True)
class PadCrop:
    """`px` pixels on every side, then a crop at a random place (arXiv:1512.03385, section 4.2).

    They are of the mean colour, or with `fill` "reflect" the picture's own, mirrored at its edge (arXiv:2404.00498).
    """

    name: Literal["pad"] = "pad"
    px: int = 4
    fill: Literal["mean", "reflect"] = "mean"


@dataclass(frozen=True)
class ScaleCrop:
    """The shorter side resized to a random length, then a crop at a random place (arXiv:1512.03385, section 3.4)."""

    name: Literal["scale"] = "scale"
    min_px: int = 256
    max_px: int = 480


@dataclass(frozen=True)
class ResizedCrop:
    """A random part of the area at a random aspect ratio, resized (arXiv:1409.4842, section 6)."""

    name: Literal["resized"] = "resized"
    area_min: float = 0.08
    area_max: float = 1.0
    ratio_max: float = 4 / 3


Crop = CenterCrop | PadCrop | ScaleCrop | ResizedCrop


@dataclass(frozen=True)
class NoPolicy:
    """No sequence of random operations."""

    name: Literal["none"] = "none"


@dataclass(frozen=True)
class RandAugment:
    """`ops` random operations of strength `magnitude` in 0..30 (arXiv:1909.13719)."""

    name: Literal["rand_augment"] = "rand_augment"
    ops: int = 2
    magnitude: int = 9


@dataclass(frozen=True)
class TrivialAugment:
    """One random operation of random strength (arXiv:2103.10158)."""

    name: Literal["trivial_augment"] = "trivial_augment"


Policy = NoPolicy | RandAugment | TrivialAugment


@dataclass(frozen=True)
class Augment:
    """What happens to training pictures, in order: crop, flip, policy, rotation, colour, lighting, erasing, mixing.

    `flip` "alternate" mirrors every picture in every second epoch, a random half of them first. `rotate` is the largest
    angle in degrees. `brightness`, `contrast`, `saturation` are the widths of random factors around 1; `lighting` is
    the standard deviation of the noise along the principal components of colour (AlexNet). `erasing` is the probability
    of erasing a rectangle. `mixup` and `cutmix` are the parameters of their Beta distributions (0: off; both: one of
    the two at random, batch by batch). `start_px` is the side that pictures are shrunk to at first, from where it grows
    to `img_size` while the part `grow_until` of the run goes by (0: off).
    """

    crop: Crop = CenterCrop()
    flip: Literal["none", "random", "alternate"] = "none"
    policy: Policy = NoPolicy()
    rotate: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    lighting: float = 0.0
    erasing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    start_px: int = 0
    grow_until: float = 0.6


@dataclass(frozen=True)
class Sgd:
    """Stochastic gradient descent with momentum; `weight_decay` spares norms and biases unless `decay_all`."""

    name: Literal["sgd"] = "sgd"
    lr: float = 0.1
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 1e-4
    decay_all: bool = False
    clip_norm: float = math.inf


@dataclass(frozen=True)
class AdamW:
    """Adam with decoupled weight decay (arXiv:1711.05101), which spares norms and biases unless `decay_all`."""

    name: Literal["adamw"] = "adamw"
    lr: float = 1e-3
    beta1: float = 0.9
    beta2: float = 0.999
    weight_decay: float = 0.05
    decay_all: bool = False
    clip_norm: float = math.inf


@dataclass(frozen=True)
class Muon:
    """Orthogonalised momentum for the weights of the stages (Jordan et al. 2024), with decoupled `weight_decay`.

    Fewer `ns_steps`, iterations of Newton and Schulz, leave directions small that hardly any picture asks for.
    With `fixed_length` every such weight is first brought back to the length of its update, so that the rate is by how
    much of their length a step turns them, and there is nothing to decay: for networks whose every convolution has a
    norm after it.
    The stem, the head, norms and biases are moved by SGD with Nesterov momentum at `plain_factor` times the rate, with
    `plain_momentum` where it is another; of those, `plain_weight_decay` is for weights only. The biases of norms and
    convolutions may have a `bias_factor` of their own (arXiv:2404.00498, section 3.3: a large one saves passes) and a
    `bias_weight_decay`.
    """

    name: Literal["muon"] = "muon"
    lr: float = 0.05
    momentum: float = 0.9
    weight_decay: float = 0.02
    fixed_length: bool = False
    ns_steps: int = 5
    plain_factor: float = 0.4
    plain_momentum: float | None = None
    plain_weight_decay: float = 5e-4
    bias_factor: float | None = None
    bias_weight_decay: float = 0.0
    clip_norm: float = math.inf


Optim = Sgd | AdamW | Muon


@dataclass(frozen=True)
class Steps:
    """The rate is multiplied by `factor` at each of `at_epochs`."""

    name: Literal["steps"] = "steps"
    at_epochs: tuple[float, ...] = ()
    factor: float = 0.1
    warmup_epochs: float = 0.0
    warmup_factor: float = 0.01
    warmup: Literal["linear", "constant"] = "linear"


@dataclass(frozen=True)
class Cosine:
    """Half a cosine from the rate to `final_factor` times the rate (arXiv:1608.03983, without restarts)."""

    name: Literal["cosine"] = "cosine"
    final_factor: float = 0.0
    warmup_epochs: float = 0.0
    warmup_factor: float = 0.01
    warmup: Literal["linear", "constant"] = "linear"


@dataclass(frozen=True)
class OneCycle:
    """Linear up from `initial_factor` to the rate until `peak` of the run, then down (arXiv:1708.07120)."""

    name: Literal["one_cycle"] = "one_cycle"
    peak: float = 0.25
    initial_factor: float = 0.04
    final_factor: float = 0.0


@dataclass(frozen=True)
class Plateau:
    """Multiplied by `factor` when the best validation error is `patience_epochs` old (arXiv:1512.03385, 3.4)."""

    name: Literal["plateau"] = "plateau"
    factor: float = 0.1
    patience_epochs: int = 5
    min_factor: float = 1e-4
    warmup_epochs: float = 0.0
    warmup_factor: float = 0.01
    warmup: Literal["linear", "constant"] = "linear"


Schedule = Steps | Cosine | OneCycle | Plateau


@dataclass(frozen=True)
class Recipe:
    """Everything that decides what a training run does.

    `average_decay` is the decay per step of the moving average of the weights, which is then what is evaluated and kept
    (0: off). `accumulate` splits each batch into so many parts, whose gradients add up to the batch's (0: as few as
    memory needs). With `sync_batch_norm` several processes normalise by the statistics of the batch of all of them.
    A checkpoint is left after every `save_every_epochs`, after an epoch with the best scores so far and the last one,
    and within an epoch every `save_every_steps` (0: off) and every `save_every_minutes` (0: off). A run ends early when
    its best validation scores are `early_stop_epochs` old (0: off). With `class_weights` a picture's loss counts in
    proportion to its class's pictures to the power of -`class_weights` (0: all the same; 1: all classes the same);
    where a picture may have several, that is the weight of the yes of a class against its no. `loss` "bce" trains every
    class as a yes-or-no question (arXiv:2110.00476); "auto" is that where a picture may have several, else
    cross-entropy. `precision` "auto" is bf16 where the hardware computes in it, float32 elsewhere. With `capture` a
    small set lies on the device, and a GPU gets each step at once, as a CUDA graph.

    Where the finished network's best class is less probable than `unknown_below`, its answer is "unknown": "auto" is
    chosen so that 95 % of the validation pictures are answered, "none" is never. Where a picture may have several
    classes, each has a threshold of its own instead.
    """

    name: str = "custom"
    epochs: int = 10
    seed: int = 0
    loss: Literal["auto", "cross_entropy", "bce"] = "auto"
    label_smoothing: float = 0.0
    class_weights: float = 0.0
    average_decay: float = 0.0
    accumulate: int = 1
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    channels_last: bool = True
    compile: bool = False
    capture: bool = False
    log_every_steps: int = 20
    eval_every_epochs: int = 1
    early_stop_epochs: int = 0
    save_every_epochs: int = 1
    save_every_steps: int = 0
    save_every_minutes: float = 10.0
    sync_batch_norm: bool = False
    unknown_below: Literal["none", "auto"] | float = "none"
    model: Model = field(default_factory=Model)
    data: Data = field(default_factory=Data)
    transfer: Transfer = field(default_factory=Transfer)
    augment: Augment = field(default_factory=Augment)
    optim: Optim = field(default_factory=Sgd)
    schedule: Schedule = field(default_factory=Cosine)


@dataclass(frozen=True)
class Expect:
    """What a recipe must reach on the test part, in percent, and who says so."""

    source: str
    top1_error: float | None = None
    seeds: int = 1


ALIASES: Mapping[str, str] = {
    "model": "model.name",
    "weights": "model.weights",
    "data": "data.source",
    "batch_size": "data.batch_size",
    "img_size": "data.img_size",
    "resize": "data.resize",
    "workers": "data.workers",
    "on_bad_image": "data.on_bad_image",
    "lr": "optim.lr",
}
"""Short names of keys, as the command line's flags and Python's keyword arguments know them."""

_LIMITS: Mapping[str, tuple[float, float]] = {
    "epochs": (1, math.inf),
    "seed": (0, 2**63 - 1),
    "accumulate": (0, math.inf),
    "save_every_steps": (0, math.inf),
    "save_every_minutes": (0, 1e6),
    "label_smoothing": (0, 0.99),
    "unknown_below": (0, 1),
    "class_weights": (0, 1),
    "average_decay": (0, 0.999999),
    "log_every_steps": (1, math.inf),
    "eval_every_epochs": (1, math.inf),
    "early_stop_epochs": (0, math.inf),
    "save_every_epochs": (1, math.inf),
    "head_epochs": (0, math.inf),
    "thaw_every_epochs": (0, math.inf),
    "stem_until_epoch": (0, math.inf),
    "layer_decay": (0.001, 1),
    "mean": (-10, 10),
    "std": (1e-6, 100),
    "img_size": (4, 4096),
    "resize_px": (4, 8192),
    "batch_size": (1, 1_000_000),
    "eval_batch_size": (1, 1_000_000),
    "val_fraction": (0, 0.9),
    "test_fraction": (0, 0.9),
    "split_seed": (0, 2**63 - 1),
    "folds": (0, 100),
    "fold": (0, 99),
    "balanced_sampling": (0, 1),
    "workers": (0, 1024),
    "shuffle_buffer": (1, 1_000_000_000),
    "px": (0, 1024),
    "min_px": (4, 8192),
    "max_px": (4, 8192),
    "area_min": (0.001, 1),
    "area_max": (0.001, 1),
    "ratio_max": (1, 100),
    "ops": (1, 16),
    "magnitude": (0, 30),
    "rotate": (0, 180),
    "brightness": (0, 1),
    "contrast": (0, 1),
    "saturation": (0, 1),
    "lighting": (0, 1),
    "erasing": (0, 1),
    "mixup": (0, 100),
    "cutmix": (0, 100),
    "start_px": (0, 4096),
    "grow_until": (0.01, 1),
    "lr": (0, 1e6),
    "momentum": (0, 0.9999),
    "beta1": (0, 0.9999),
    "beta2": (0, 0.999999),
    "weight_decay": (0, 1e6),
    "clip_norm": (1e-12, math.inf),
    "ns_steps": (1, 20),
    "plain_factor": (0, 100),
    "plain_momentum": (0, 0.9999),
    "bias_factor": (0, 1e6),
    "plain_weight_decay": (0, 1e6),
    "bias_weight_decay": (0, 1e6),
    "factor": (0, 1),
    "final_factor": (0, 1),
    "initial_factor": (0, 1),
    "min_factor": (0, 1),
    "warmup_factor": (0, 1),
    "warmup_epochs": (0, 1e6),
    "at_epochs": (0, math.inf),
    "patience_epochs": (1, math.inf),
    "peak": (0, 1),
    "drop_path": (0, 0.99),
    "width": (0.01, 100),
    "groups": (1, 4096),
}
"""The smallest and largest value of a key, by its last part."""

_BUILDER = Builder(_LIMITS)


def to_dict(recipe: Recipe) -> dict[str, Any]:
    """Returns the recipe as nested dicts of TOML's types; options that are None are left out."""

    def plain(value: object) -> object:
        if dataclasses.is_dataclass(value):
            return {f.name: plain(v) for f in fields(value) if (v := getattr(value, f.name)) is not None}
        return list(value) if isinstance(value, tuple) else value

    return typing.cast(dict[str, Any], plain(recipe))


def to_toml(recipe: Recipe) -> str:
    """Returns the recipe as TOML; `from_toml` is its inverse."""
    return tomli_w.dumps(to_dict(recipe))


def from_dict(values: Mapping[str, Any]) -> Recipe:
    """Builds a recipe from nested dicts; what is left out has its default.

    Raises:
        RecipeError: an unknown key, a wrong type or a value out of range.
    """
    return _BUILDER.build(Recipe, values)


def from_toml(text: str) -> Recipe:
    """Builds a recipe from TOML.

    Raises:
        RecipeError: not TOML, an unknown key, a wrong type or a value out of range.
    """
    try:
        return from_dict(tomllib.loads(text))
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise RecipeError(
            f"The recipe is not valid TOML: {error}.",
            expected="Expected lines such as 'epochs = 10' and tables such as '[optim]'.",
            hint="Start from a working one: residuum recipes show digits > mine.toml",
        ) from error


def read(path: Path) -> Recipe:
    """Reads a recipe from a TOML file.

    Raises:
        RecipeError: the file cannot be read, or `from_toml` refuses it.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")  # some editors begin a file with a byte order mark
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text in UTF-8"
        raise RecipeError(
            f"Cannot read the recipe {path}: {reason}.",
            expected="Expected a TOML file in UTF-8.",
            hint="Start from a working one: residuum recipes show digits > mine.toml",
        ) from error
    try:
        return from_toml(text)
    except RecipeError as error:
        raise RecipeError(f"{path}: {error.what}", expected=error.expected, hint=error.hint) from error


def override(recipe: Recipe, changes: Mapping[str, object]) -> Recipe:
    """Returns the recipe with single values changed; keys are dotted (`optim.lr`) or one of `ALIASES`.

    A string is read as a TOML value where the key's type is not a string, so that `--set epochs=3` works. Setting a
    variant's `name` (`optim.name=adamw`) starts from that variant's defaults, whatever the order of the changes. A new
    `data.img_size` takes `data.resize_px` and `augment.start_px` along in proportion, unless they are given too.

    Raises:
        RecipeError: an unknown key, one key given twice with different values, a wrong type or a value out of range.
    """
    values = to_dict(recipe)
    changes = _by_dotted_key(changes)
    for key, value in sorted(changes.items(), key=lambda change: not change[0].endswith(".name")):
        *tables, last = key.split(".")
        table, of = values, "recipe"
        for name in tables:
            if not isinstance(table.get(name), dict):
                raise unknown(name, [k for k, v in table.items() if isinstance(v, dict)], of, "table")
            table, of = table[name], name
        if not tables and last not in {f.name for f in fields(Recipe)}:
            known = [*ALIASES, *vars(recipe), *_dotted_keys(recipe)]
            raise unknown(last, known if did_you_mean(last, known) else vars(recipe), of, "key")
        if last == "name" and key != "name" and key != "model.name" and table.get("name") != value:
            table.clear()
        if isinstance(table.get(last), dict):
            raise RecipeError(
                f"'{key}' is a table and cannot be set to {value!r}.",
                expected=f"Expected one of its keys: {', '.join(f'{key}.{k}' for k in table[last])}.",
                hint=f"For example: --set {key}.name=...",
            )
        table[last] = value
    changed = from_dict(values)
    if "data.img_size" in changes:
        scale = changed.data.img_size / recipe.data.img_size
        if "data.resize_px" not in changes:
            values["data"]["resize_px"] = round(recipe.data.resize_px * scale)
        if "augment.start_px" not in changes:
            values["augment"]["start_px"] = round(recipe.augment.start_px * scale)
        changed = from_dict(values)
    return changed


def _by_dotted_key(changes: Mapping[str, object]) -> dict[str, object]:
    """Returns the changes with aliases resolved; a key that is given under two names must not have two values."""
    resolved: dict[str, object] = {}
    for given, value in changes.items():
        key = ALIASES.get(given, given)
        if key in resolved and resolved[key] != value:
            raise RecipeError(
                f"The recipe key '{key}' is given twice: {resolved[key]!r} and {value!r}.",
                expected="Expected one value.",
                hint=f"Leave out one of them: {' or '.join(k for k in changes if ALIASES.get(k, k) == key)}.",
            )
        resolved[key] = value
    return resolved


def _dotted_keys(recipe: Recipe) -> list[str]:
    """Returns the keys of the recipe's tables, such as `optim.lr`."""
    tables = {name: table for name, table in vars(recipe).items() if dataclasses.is_dataclass(table)}
    return [f"{name}.{f.name}" for name, table in tables.items() for f in fields(table)]
