"""The script that everybody writes to train on CIFAR-10: what residuum's captured steps are measured against."""

from __future__ import annotations

from collections.abc import Callable, Generator

import torch
from gpu_session import as_torch_comes
from PIL import Image
from torch import Tensor, nn

from residuum.data.sets import ResidentSet
from residuum.models import create_model
from residuum.training.run import Run


class PlainScript:
    """The script that everybody writes: a DataLoader with torchvision's transforms, float32, SGD, one step at a time.

    Called, it takes `steps` steps, wherever it is in an epoch, and reads the loss once, as scripts do now and then.
    """

    def __init__(self, run: Run, device: torch.device, workers: int, steps: int) -> None:
        from torchvision import transforms

        images = run.parts.train
        assert isinstance(images, ResidentSet)
        look, size = run.preprocessing, run.recipe.data.batch_size
        transform = transforms.Compose(
            [
                transforms.RandomCrop(look.img_size, padding=4),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize(look.mean, look.std),
            ]
        )
        self.steps = steps
        self._device = device
        self._loader = torch.utils.data.DataLoader(
            _Pictures(images, transform),
            size,
            shuffle=True,
            num_workers=workers,
            pin_memory=device.type == "cuda",
            persistent_workers=workers > 0,
        )
        self._model = create_model(**run.model_card).to(device).train()
        self._criterion = nn.CrossEntropyLoss()
        self._batches = _forever(self._loader)
        self._optimizer = torch.optim.SGD(self._model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)

    def __call__(self) -> None:
        with as_torch_comes():
            for _ in range(self.steps):
                loss = self._step(*next(self._batches))
            loss.item()

    def close(self) -> None:
        """Ends the loader's processes and threads: while a step is recorded, nobody else may ask for pinned memory."""
        self._batches.close()
        if (iterator := getattr(self._loader, "_iterator", None)) is not None and self._loader.num_workers:
            iterator._shutdown_workers()

    def _step(self, images: Tensor, labels: Tensor) -> Tensor:
        images, labels = images.to(self._device, non_blocking=True), labels.to(self._device, non_blocking=True)
        self._optimizer.zero_grad()
        loss: Tensor = self._criterion(self._model(images), labels)
        loss.backward()
        self._optimizer.step()
        return loss


def _forever(
    loader: torch.utils.data.DataLoader[tuple[Tensor, int]],
) -> Generator[tuple[Tensor, Tensor], None, None]:
    while True:
        yield from loader


class _Pictures(torch.utils.data.Dataset[tuple[Tensor, int]]):
    """Pictures of a resident set as torchvision's CIFAR10 gives them: a PIL image at a time, transformed."""

    def __init__(self, images: ResidentSet, transform: Callable[..., Tensor]) -> None:
        self._pixels, self._labels, self._transform = images.images, images.labels, transform

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self._transform(Image.fromarray(self._pixels[index])), int(self._labels[index])
