"""Photos as everybody loads them to train on: torchvision's ImageFolder, PIL transforms, a DataLoader."""

from __future__ import annotations

import argparse
import time

from arms import serve
from torch.utils.data import DataLoader
from torchvision import datasets, transforms


def loader_of(folder: str, img_size: int, batch_size: int, workers: int) -> DataLoader[object]:
    transform = transforms.Compose(
        [
            transforms.RandomResizedCrop(img_size),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )
    dataset = datasets.ImageFolder(folder, transform)
    return DataLoader(dataset, batch_size=batch_size, shuffle=True, num_workers=workers, persistent_workers=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder")
    parser.add_argument("--img-size", type=int, default=224)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--workers", type=int, default=2)
    wanted = parser.parse_args()
    loader = loader_of(wanted.folder, wanted.img_size, wanted.batch_size, wanted.workers)

    def epoch() -> float:
        started = time.perf_counter()
        images = sum(len(batch[1]) for batch in loader)  # type: ignore[index]
        return images / (time.perf_counter() - started)

    serve(epoch)
