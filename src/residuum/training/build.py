"""`build`: the only factory of a run. Everything that a recipe names is looked up and put together here."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from residuum import hardware, imaging, recipe
from residuum.compiling import keep_compiled_code, refuse_if_it_cannot
from residuum.data.balance import class_weights
from residuum.data.labels import are_several
from residuum.data.loading import EvalLoader, TrainLoader
from residuum.data.mixing import mixing_of
from residuum.data.sets import ImageSet, refuse_if_many_bad, sampled, subset
from residuum.data.sources import Parts, open_parts, parts_in_mode, statistics
from residuum.data.verification import verify
from residuum.distributed import ALONE, World, synchronised
from residuum.errors import RecipeError
from residuum.models import create_model, fused, pretrained
from residuum.models.layers import Network
from residuum.models.weights import IMAGENET_MEAN, IMAGENET_STD
from residuum.training import averaging, losses, memory, multilabel, optim, resolution, schedule, transfer
from residuum.training.guard import Norms
from residuum.training.records import Listener, Records
from residuum.training.run import Run
from residuum.training.stop import Stop


def build(
    wanted: recipe.Recipe,
    folder: Path,
    device: torch.device,
    listener: Listener | None = None,
    *,
    stop: Stop | None = None,
    world: World = ALONE,
    fresh: bool = True,
) -> Run:
    """Builds the run of a recipe in `folder`, which is created where it is missing, ready for its first step.

    A run that is not `fresh` gets its weights from a checkpoint, and none are looked for to start from.
    """
    hardware.take(device)
    refuse_if_it_cannot(device, wanted.compile)
    precision = hardware.choose_precision(wanted.precision, device)
    start, parts, wanted = _found(wanted, world, fresh)
    skipped = world.from_main(lambda: _verify(parts, wanted))
    _refuse_patience_without_scores(parts, wanted)
    preprocessing = _preprocessing(parts, wanted.data)
    model_card = _card(parts, wanted, preprocessing)
    model, shared, origin = _network(model_card, parts.train.classes, wanted, start, device, world)
    _look_if_new(model, parts, wanted, preprocessing, device, new=fresh and start is None)
    run = Run(
        recipe=wanted,
        folder=folder,
        parts=parts,
        preprocessing=preprocessing,
        device=device,
        precision=precision,
        autocast=hardware.autocast(precision, device),
        eval_autocast=hardware.autocast("fp32", device),
        train_loader=_train_loader(parts, wanted, preprocessing, device, world),
        val_loader=eval_loader(parts.val, wanted, preprocessing, device, parts.total, world) if parts.val else None,
        schedule=schedule.build(wanted.schedule, wanted.optim.lr, wanted.epochs),
        criterion=_criterion(parts, wanted, device),
        resize=resolution.build(wanted.augment, wanted.data.img_size),
        mix=mixing_of(wanted.augment, len(parts.train.classes), wanted.seed),
        records=Records(folder, listener, writes=world.is_main),
        model_card=model_card,
        forward=_forward(model, shared, precision, wanted.compile, device),
        shared=shared,
        thawing=transfer.Thawing(model, wanted.transfer, wanted.epochs),
        stop=stop or Stop(),
        world=world,
        **multilabel.judging(parts),
        skipped=skipped,
        parts_of_a_batch=max(1, wanted.accumulate),
        licence=start.licence if start else pretrained.UNSPECIFIED,
        model=model,
        norms=Norms(model),
        averaged=averaging.build(model, wanted.average_decay),
        optimizer=optim.build(wanted.optim, model, wanted.transfer),
        scaler=torch.amp.GradScaler(device.type, enabled=precision == "fp16"),
    )
    _say(run, origin, run.thawing.in_words(), multilabel.in_words(wanted, parts))
    if wanted.accumulate == 0:
        memory.fit_batch(run)
    return run


def _found(
    wanted: recipe.Recipe, world: World, fresh: bool
) -> tuple[pretrained.Pretrained | None, Parts, recipe.Recipe]:
    """Returns the weights to start from, the pictures as these take them, and the recipe with what follows."""
    with world.one_after_the_other():
        start = pretrained.find(wanted.model.weights if fresh else None, wanted.model.name, wanted.model.options())
        parts = open_parts(wanted.data)
    return start, *_as_the_weights_take_them(parts, multilabel.resolved(wanted, parts), start)


def _say(run: Run, *words: str) -> None:
    for word in filter(None, words):
        run.records.note(word)


def _refuse_patience_without_scores(parts: Parts, wanted: recipe.Recipe) -> None:
    """Refuses a recipe that waits for validation scores which never come.

    Raises:
        RecipeError: there are no validation pictures, or they are scored too rarely.
    """
    plateau = isinstance(wanted.schedule, recipe.Plateau)
    if parts.val is None and (plateau or wanted.early_stop_epochs):
        what = "The schedule 'plateau'" if plateau else "early_stop_epochs"
        raise RecipeError(
            f"{what} needs validation pictures, and there are none.",
            expected="Expected data.val_fraction above 0, or a set with a validation part.",
            hint="For example: --set data.val_fraction=0.1",
        )
    if 0 < wanted.early_stop_epochs < wanted.eval_every_epochs:
        raise RecipeError(
            f"The recipe key 'early_stop_epochs' cannot be {wanted.early_stop_epochs}.",
            expected=f"Expected at least eval_every_epochs, which is {wanted.eval_every_epochs}; 0 is off.",
            hint=f"For example: --set early_stop_epochs={3 * wanted.eval_every_epochs}",
        )
    if wanted.unknown_below == "auto" and parts.val is None:
        raise RecipeError(
            "unknown_below = 'auto' is chosen on validation pictures, and there are none.",
            expected="Expected data.val_fraction above 0, or a set with a validation part.",
            hint="For example: --set data.val_fraction=0.1, or a probability: --unknown-below 0.8",
        )


def _as_the_weights_take_them(
    parts: Parts, wanted: recipe.Recipe, start: pretrained.Pretrained | None
) -> tuple[Parts, recipe.Recipe]:
    """Returns the parts in the mode that the weights' first layer takes, and the recipe that says so and how these are
    normalised, so that a resumed run, which does not look for the weights, has them in it too."""
    modes: dict[int | None, imaging.Mode] = {1: "L", 3: "RGB"}
    mode = modes.get(start.in_channels) if start else None
    if mode is not None and wanted.data.mode == "auto" and mode != parts.train.mode:
        parts, wanted = parts_in_mode(parts, mode), replace(wanted, data=replace(wanted.data, mode=mode))
    seen = start.preprocessing if start else None
    if seen is None or seen.mode != parts.train.mode or (wanted.data.mean, wanted.data.std) != (None, None):
        return parts, wanted
    if wanted.data.normalise == "imagenet" and (seen.mean, seen.std) == (IMAGENET_MEAN, IMAGENET_STD):
        return parts, wanted
    return parts, replace(wanted, data=replace(wanted.data, mean=seen.mean, std=seen.std))


def _criterion(parts: Parts, wanted: recipe.Recipe, device: torch.device) -> losses.Criterion:
    if are_several(parts.train.labels):
        return multilabel.criterion(wanted, parts, device)
    return losses.build(wanted.loss, wanted.label_smoothing, _class_weights(parts, wanted, device))


def _class_weights(parts: Parts, wanted: recipe.Recipe, device: torch.device) -> Tensor | None:
    if not wanted.class_weights:
        return None
    counts = np.bincount(parts.train.labels, minlength=len(parts.train.classes))
    return torch.from_numpy(class_weights(counts, wanted.class_weights)).to(device, torch.float32)


def _card(parts: Parts, wanted: recipe.Recipe, preprocessing: imaging.Preprocessing) -> dict[str, Any]:
    """Returns what `create_model` is called with, here and by whoever loads the weights."""
    return {
        "name": wanted.model.name,
        "num_classes": len(parts.train.classes),
        "in_channels": len(preprocessing.mean),
        **wanted.model.options(),
    }


def _network(
    card: dict[str, Any],
    classes: Sequence[str],
    wanted: recipe.Recipe,
    start: pretrained.Pretrained | None,
    device: torch.device,
    world: World,
) -> tuple[Network, DistributedDataParallel | None, str]:
    """Returns the network as the seed and the weights to start from make it, what it is called through where several
    processes share it, and a word on these weights."""
    torch.manual_seed(wanted.seed)
    memory_format = torch.channels_last if wanted.channels_last else torch.contiguous_format
    model = create_model(**card)
    _refuse_lone_pixels(model, wanted)
    origin = start.load_into(model) + transfer.choose_head(model, start, wanted.transfer, classes) if start else ""
    model = model.to(device).to(memory_format=memory_format)
    if wanted.sync_batch_norm and world.size > 1:
        synchronised(model, device)
    if world.size == 1:
        return model, None, origin
    ids = [device.index] if device.type == "cuda" else None
    some_wait = transfer.freezes(wanted.transfer, len(model.stages), wanted.epochs)  # and have no gradients to share
    return model, DistributedDataParallel(model, device_ids=ids, find_unused_parameters=some_wait), origin


def _refuse_lone_pixels(model: Network, wanted: recipe.Recipe) -> None:
    """Refuses batches of one picture whose last map is one pixel: batch norm has nothing to take a variance of.

    Raises:
        RecipeError: they are that.
    """
    if wanted.data.batch_size > 1:
        return
    shapes = copy.deepcopy(model).to("meta").eval()

    def is_lone(px: int) -> bool:
        pictures = torch.empty(1, model.in_channels, px, px, device="meta")
        return shapes.features(pictures)[-1].shape[2:] == (1, 1)

    smallest = min(wanted.data.img_size, wanted.augment.start_px or wanted.data.img_size)
    if is_lone(smallest):
        larger = range(smallest + 1, smallest + 2 * model.feature_strides[-1] + 1)
        enough = next((px for px in larger if not is_lone(px)), None)
        raise RecipeError(
            f"Batches of one picture of {smallest} px end in a single pixel in {wanted.model.name}, and batch norm "
            "cannot learn from one.",
            expected="Expected data.batch_size from 2" + (f", or pictures from {enough} px on." if enough else "."),
            hint="For example: --batch-size 2" + (f", or --img-size {enough}" if enough else ""),
        )


def _train_loader(
    parts: Parts, wanted: recipe.Recipe, preprocessing: imaging.Preprocessing, device: torch.device, world: World
) -> TrainLoader:
    return TrainLoader(
        parts.train,
        wanted.data,
        wanted.augment,
        preprocessing,
        seed=wanted.seed,
        device=device,
        channels_last=wanted.channels_last,
        of=parts.total,
        world=world,
    )


def eval_loader(
    images: ImageSet,
    wanted: recipe.Recipe,
    preprocessing: imaging.Preprocessing,
    device: torch.device,
    of: int,
    world: World = ALONE,
) -> EvalLoader:
    """Returns the batches of a part of a set of `of` pictures for evaluation, as the recipe wants them."""
    return EvalLoader(
        images,
        preprocessing,
        wanted.data.eval_batch_size,
        device=device,
        channels_last=wanted.channels_last,
        workers=wanted.data.workers,
        on_bad_image=wanted.data.on_bad_image,
        of=of,
        world=world,
    )


def _look_if_new(
    model: Network,
    parts: Parts,
    wanted: recipe.Recipe,
    preprocessing: imaging.Preprocessing,
    device: torch.device,
    *,
    new: bool,
) -> None:
    """Lets a new network look at as many training pictures as it wants, or fewer where they are larger than 32 x 32."""
    count = model.pictures_wanted
    if new and count:
        some = subset(parts.train, sampled(parts.train, max(1, min(count, count * 32**2 // wanted.data.img_size**2))))
        batches = eval_loader(some, wanted, preprocessing, device, parts.total)
        model.look_at(torch.cat([batch.images for batch in batches]))


def _verify(parts: Parts, wanted: recipe.Recipe) -> dict[str, str]:
    skipped = dict(parts.skipped)
    for part in parts.by_name.values():
        skipped |= verify(part, wanted.data.on_bad_image, parts.total)
        refuse_if_many_bad(skipped, parts.total)
    return skipped


def _preprocessing(parts: Parts, data: recipe.Data) -> imaging.Preprocessing:
    mode = parts.train.mode
    mean, std = _normalisation(parts, data)
    return imaging.Preprocessing(
        mode=mode,
        img_size=data.img_size,
        resize_px=max(data.resize_px, data.img_size),
        interpolation=data.interpolation,
        mean=mean,
        std=std,
        resize=data.resize,
    )


def _normalisation(parts: Parts, data: recipe.Data) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Returns the mean and the standard deviation of each channel that pictures are normalised with.

    Raises:
        RecipeError: the recipe says them for other pictures than these.
    """
    mode = parts.train.mode
    channels = 3 if mode == "RGB" else 1
    if data.mean is not None or data.std is not None:
        mean, std = data.mean or (), data.std or ()
        if (len(mean), len(std)) == (channels, channels):
            return mean, std
        raise RecipeError(
            f"data.mean and data.std have {len(mean)} and {len(std)} numbers, and the pictures {channels} channels.",
            expected="Expected a number for each channel in both, or neither key.",
            hint="For example: --set data.mean=[0.5] --set data.std=[0.25]"
            if channels == 1
            else "For example: --set data.mean=[0.485,0.456,0.406] --set data.std=[0.229,0.224,0.225]",
        )
    if data.normalise == "set":
        return statistics(parts.train)
    if mode != "RGB":
        raise RecipeError(
            "data.normalise = 'imagenet' is for colour pictures, and these are grey.",
            expected="Expected data.normalise = 'set'.",
            hint="Use: --set data.normalise=set",
        )
    return IMAGENET_MEAN, IMAGENET_STD


def _forward(
    model: Network, shared: DistributedDataParallel | None, precision: str, compiles: bool, device: torch.device
) -> Callable[[Tensor], Tensor]:
    """Returns the network as training steps compute it: compiled, shared, or by the fused kernel where there is one."""
    if compiles:
        keep_compiled_code()
        compiled: Callable[[Tensor], Tensor] = torch.compile(shared or model)
        return compiled
    return fused.forward_of(model, device) if shared is None and precision == "bf16" else shared or model
