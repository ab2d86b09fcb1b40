"""A head that learns alone, from embeddings: where nothing else changes, pictures go through the network once.

Where no part but the head ever learns, and pictures are not augmented, an epoch gives the head what the epoch before
gave it. So its input is computed once, as at evaluation, and the loop then goes over vectors: seconds for hundreds of
pictures on a CPU. What is learned is the same as without.

Source: a linear probe: Alain and Bengio, arXiv:1610.01644.
Shapes: N pictures, D channels of the embedding.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from residuum import recipe
from residuum.data.loading import EvalLoader
from residuum.evaluation.evaluate import evaluating
from residuum.models.layers import Network
from residuum.training.build import eval_loader
from residuum.training.run import Run
from residuum.training.transfer import only_the_head_learns


def embed_once(run: Run) -> None:
    """Lets the run's loop go over embeddings, where that is the same; else does nothing."""
    alone = only_the_head_learns(run.recipe.transfer, len(run.model.stages))
    alone &= len(list(run.model.head.parameters())) == len(list(classifier_of(run.model).parameters()))
    if not alone or run.recipe.augment != recipe.Augment() or run.recipe.compile:
        return
    train = eval_loader(run.parts.train, run.recipe, run.preprocessing, run.device, run.parts.total, run.world)
    run.train_loader = run.train_loader.over(*_embeddings(run, train, len(run.parts.train)))
    run.note_skipped(train.skipped)
    if run.val_loader is not None and run.parts.val is not None:
        pictures = run.val_loader
        run.val_loader = pictures.over(*_embeddings(run, pictures, len(run.parts.val)))
        run.note_skipped(pictures.skipped)
    classifier = classifier_of(run.model)
    run.forward, run.scored_part = classifier, classifier_of
    if run.shared is not None:
        ids = [run.device.index] if run.device.type == "cuda" else None
        run.forward = run.shared = DistributedDataParallel(classifier, device_ids=ids)
    run.records.note("Every picture has gone through the network once: the head learns from their embeddings.")


def classifier_of(model: nn.Module) -> nn.Module:
    """Returns the layer of a network that turns an embedding [N, D] into logits."""
    return model.get_submodule("head.fc")


def embedding(model: Network, images: Tensor) -> Tensor:
    """Returns the input of the classifier for pictures [N, C, H, W]: [N, D]."""
    values = model.features(images)[-1]
    for name, layer in model.head.named_children():
        if name != "fc":
            values = layer(values)
    return values


def _embeddings(run: Run, batches: EvalLoader, count: int) -> tuple[Tensor, NDArray[np.bool_]]:
    """Returns the embeddings of a set of `count` pictures [N, D], in its order, and which pictures have one [N]."""
    own: list[tuple[NDArray[np.int64], NDArray[np.float32]]] = []
    with evaluating(run.model), torch.inference_mode():
        for batch in batches:
            with run.eval_autocast():
                values = embedding(run.model, batch.images)
            own.append((batch.indices, values.float().cpu().numpy()))
    found = [part for parts in run.world.gather(own) for part in parts]
    known = np.zeros(count, dtype=bool)
    vectors = np.zeros((count, run.model.feature_channels[-1]), dtype=np.float32)
    for indices, values_of in found:
        known[indices], vectors[indices] = True, values_of
    return torch.from_numpy(vectors).to(run.device), known
