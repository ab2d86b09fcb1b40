"""The weights that are known by name: where each is, what it must be, under which licence, and how it was scored.

Source: torchvision's weight enumerations (addresses, preprocessing, accuracy; the eight digits in a file's name are the
    beginning of its SHA-256, there and in Facebook's); timm's pretrained configurations and the models' cards on the
    Hugging Face hub.
Departures: `sha256` is whole where at least two independent publications of it agree with each other, or the hub's own
    page of the file gives it, and otherwise as much of its beginning as the publisher gives. Where it is empty nothing
    is known of the hash: names, shapes and types of all tensors are then what is checked. Revisions are those of the
    hub's own pages that list the file.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from residuum import download
from residuum.errors import NetworkError, UsageError, WeightsError, did_you_mean
from residuum.imaging import Preprocessing

IMAGENET_MEAN: tuple[float, ...] = (0.485, 0.456, 0.406)
IMAGENET_STD: tuple[float, ...] = (0.229, 0.224, 0.225)
"""The usual mean and standard deviation of ImageNet's pictures, on the 0..1 scale (torchvision's weights' metadata)."""

ACCEPT_LICENCE = "RESIDUUM_ACCEPT_LICENSE"
"""With this environment variable set and not '0', weights under a non-commercial licence are loaded."""

_OR_ELSE = "start from random weights with --weights none"
_TORCHVISION = "https://download.pytorch.org/models"
_FACEBOOK = "https://dl.fbaipublicfiles.com/semiweaksupervision/model_files"


@dataclass(frozen=True)
class Weights:
    """Weights of the network `model`, called `name`.

    `repo` is a repository of the Hugging Face hub and `revision` the commit in it; both are None where `publisher` has
    `file` at an address of its own. `top1` is the published
    accuracy on ImageNet's validation pictures in percent, one crop, with `preprocessing`; `bytes_about` the size of the
    file.
    """

    name: str
    model: str
    file: str
    sha256: str
    top1: float
    preprocessing: Preprocessing
    bytes_about: int
    licence: str
    publisher: Literal["torchvision", "facebook", "timm"] = "torchvision"
    repo: str | None = None
    revision: str | None = None

    @property
    def url(self) -> str:
        """Where the file is; $HF_ENDPOINT is honoured."""
        if self.repo is None:
            return f"{_FACEBOOK if self.publisher == 'facebook' else _TORCHVISION}/{self.file}"
        endpoint = (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")
        return f"{endpoint}/{self.repo}/resolve/{self.revision}/{self.file}"

    @property
    def cached(self) -> Path:
        """Where the file is kept, which is where torch.hub or huggingface_hub keep it too."""
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").expanduser()
        if self.repo is None:
            torch_home = Path(os.environ.get("TORCH_HOME") or home / "torch").expanduser()
            return torch_home / "hub" / "checkpoints" / self.file
        hub = os.environ.get("HF_HUB_CACHE")
        folder = Path(hub) if hub else Path(os.environ.get("HF_HOME") or home / "huggingface") / "hub"
        repository = folder.expanduser() / f"models--{self.repo.replace('/', '--')}"
        return repository / "snapshots" / str(self.revision) / self.file

    def as_dict(self) -> dict[str, Any]:
        """The card in JSON's types."""
        return {**asdict(self), "preprocessing": self.preprocessing.as_dict(), "url": self.url}


def _preprocessing(
    resize_px: int, *, img_size: int = 224, interpolation: Literal["bilinear", "bicubic"] = "bilinear"
) -> Preprocessing:
    return Preprocessing("RGB", img_size, resize_px, interpolation, IMAGENET_MEAN, IMAGENET_STD)


def _torchvision(model: str, version: int, sha256: str, top1: float, resize_px: int, megabytes: float) -> Weights:
    """Returns the card of torchvision's IMAGENET1K_V1 or V2; its megabytes are of 2^20."""
    return Weights(
        name=f"{model}.imagenet1k_v{version}",
        model=model,
        file=f"{model}-{sha256[:8]}.pth",
        sha256=sha256,
        top1=top1,
        preprocessing=_preprocessing(resize_px),
        bytes_about=round(megabytes * 2**20),
        licence="BSD-3-Clause",
    )


def _timm(model: str, revision: str, sha256: str, top1: float, bytes_about: int) -> Weights:
    """Returns the card of timm's A1 weights (arXiv:2110.00476), scored at 288 pixels without a margin."""
    return Weights(
        name=f"{model}.a1_in1k",
        model=model,
        file="model.safetensors",
        sha256=sha256,
        top1=top1,
        preprocessing=_preprocessing(288, img_size=288, interpolation="bicubic"),
        bytes_about=bytes_about,
        licence="Apache-2.0",
        publisher="timm",
        repo=f"timm/{model}.a1_in1k",
        revision=revision,
    )


def _semi_weakly(model: str, sha256: str, top1: float, bytes_about: int) -> Weights:
    """Returns the card of Facebook's weights from a billion pictures with hashtags (arXiv:1905.00546)."""
    return Weights(
        name=f"{model}.fb_swsl_ig1b_ft_in1k",
        model=model,
        file=f"semi_weakly_supervised_{model}-{sha256}.pth",
        sha256=sha256,
        top1=top1,
        preprocessing=_preprocessing(256),
        bytes_about=bytes_about,
        licence="CC-BY-NC-4.0",
        publisher="facebook",
    )


_KNOWN = (
    _torchvision(
        "resnet18", 1, "f37072fd47e89c5e827621c5baffa7500819f7896bbacec160b1a16c560e07ec", 69.758, 256, 44.661
    ),
    _torchvision(
        "resnet34", 1, "b627a593bcbe140c234610266fe4f8ae95ea42fc881d091c9b6052e6b1d0590f", 73.314, 256, 83.275
    ),
    _torchvision("resnet50", 1, "0676ba61b6795bbe1773cffd859882e5e297624d384b6993f7c9e683e722fb8a", 76.13, 256, 97.781),
    _torchvision("resnet50", 2, "11ad3fa62ca79e40addfd354a8ec4b7c75143b3038b8d2a807fbc68deab379ca", 80.858, 232, 97.79),
    _torchvision(
        "resnet101", 1, "63fe2227b86e8f1f2063f43a75c84d195911b6a0eace650907dd3dc62dd49a0a", 77.374, 256, 170.511
    ),
    _torchvision(
        "resnet101", 2, "cd907fc2a0de2292b2ba2b27d2216bc672d84632d1cf20058d01c0c03b5e020e", 81.886, 232, 170.53
    ),
    _torchvision(
        "resnet152", 1, "394f9c45966e3651a89bbb78a48410a6755854ce4a5ab64927cf1c7247f85e58", 78.312, 256, 230.434
    ),
    _torchvision("resnet152", 2, "f82ba261", 82.284, 232, 230.474),
    _torchvision("wide_resnet50_2", 1, "95faca4d", 78.468, 256, 131.82),
    _torchvision("wide_resnet50_2", 2, "9ba9bcbe", 81.602, 232, 263.124),
    _torchvision("wide_resnet101_2", 1, "32ee1156", 78.848, 256, 242.896),
    _torchvision("wide_resnet101_2", 2, "d733dc28", 82.51, 232, 484.747),
    _torchvision("resnext50_32x4d", 1, "7cdf4587", 77.618, 256, 95.789),
    _torchvision("resnext50_32x4d", 2, "1a0047aa", 81.198, 232, 95.833),
    _torchvision("resnext101_32x8d", 1, "8ba56ff5", 79.312, 256, 339.586),
    _torchvision("resnext101_32x8d", 2, "110c445d", 82.834, 232, 339.673),
    _torchvision("resnext101_64x4d", 1, "173b62eb", 83.246, 232, 319.318),
    _timm(
        "resnet18",
        "491b427b45c94c7fb0e78b5474cc919aff584bbf",
        "80c49dee3da4822c009c5a7fe591e9223c5a2cfcf95a4067ca4dfb5a7b89c612",
        73.16,
        46_807_446,
    ),
    _timm("resnet34", "0e8757122c4c09b15fb9300c0fd09b3fe89e28bf", "", 77.92, 87_300_000),
    _timm(
        "resnet50",
        "767268603ca0cb0bfe326fa87277f19c419566ef",
        "773525d5821de224f8f30c33377b7a795d7863e08522698200d3217d3f2a41bb",
        81.22,
        102_000_000,
    ),
    _timm(
        "resnet101",
        "e95c1e3e7cdcc0637817ecc79658817e6dc441bc",
        "1ba5b660e7c175b3c27c557fc7dc8b2815be830c516815b0155f61b403f27380",
        82.31,
        179_000_000,
    ),
    _timm("resnet152", "3f553c69c9d64f01c50dfb6462bdf2dad727ad23", "", 82.74, 241_000_000),
    _semi_weakly("resnet18", "118f1556", 73.28, 47_000_000),
    _semi_weakly("resnet50", "16a12f1b", 81.18, 102_000_000),
)

WEIGHTS: Mapping[str, Weights] = {card.name: card for card in _KNOWN}
"""All weights that are known by name."""


def of_model(model: str) -> list[Weights]:
    """Returns the weights known for a network."""
    return [card for card in WEIGHTS.values() if card.model == model]


def named(name: str, model: str) -> Weights:
    """Returns the weights called `name`; `imagenet` is torchvision's newest for `model`.

    Raises:
        WeightsError: there are none of that name, or they are another network's.
    """
    own = of_model(model)
    if name == "imagenet":
        official = [card for card in own if card.publisher == "torchvision"]
        if not official:
            raise WeightsError(
                f"There are no ImageNet weights for the network {model}.",
                expected=f"There are for {', '.join(dict.fromkeys(card.model for card in WEIGHTS.values()))}.",
                hint="Choose one of these with --model, name a file or a bundle, or start with --weights none.",
            )
        return official[-1]
    if name not in WEIGHTS:
        known = [card.name for card in own]
        raise UsageError(
            f"{name!r} is no file, no bundle and no name of weights.",
            expected=did_you_mean(name, (*WEIGHTS, "imagenet", "none"))
            or f"Expected {'one of ' if known else ''}{', '.join((*known, 'a file, a bundle or none'))}.",
            hint="List the names with: residuum weights",
        )
    refuse_another_network(name, WEIGHTS[name].model, model)
    return WEIGHTS[name]


def refuse_another_network(name: str, theirs: str, model: str) -> None:
    """Raises WeightsError where weights are of the network `theirs` and wanted for `model`."""
    if theirs != model:
        own = " or ".join(card.name for card in of_model(model))
        raise WeightsError(
            f"The weights {name} are of the network {theirs}, not of {model}.",
            expected=f"Expected {own or 'a file or a bundle'}.",
            hint=f"Use --model {theirs} with them.",
        )


def recognised(file: Path) -> Weights | None:
    """Returns the weights known by name that a file is, by as much of its SHA-256 as is known; None for any other."""
    try:
        digest = download.sha256(file)
    except OSError:
        return None  # whoever reads it says why
    return next((card for card in WEIGHTS.values() if card.sha256 and digest.startswith(card.sha256)), None)


def obtain(card: Weights) -> Path:
    """Returns the file of known weights, from a cache or downloaded; its hash is checked either way.

    Raises:
        WeightsError: the cached file has another hash, or the licence was not accepted.
        NetworkError: it is in no cache and cannot be downloaded.
        ResourceError: it cannot be written.
    """
    check_licence(card.name, card.licence)
    path = card.cached
    if not path.is_file():
        if card.repo is not None and _hub_is_offline() and not download.is_offline():
            raise NetworkError(
                f"{card.name} is not in the cache, and HF_HUB_OFFLINE forbids asking the hub.",
                expected=f"Expected the file {path}.",
                hint=f"Download {card.url} elsewhere and put it there, unset HF_HUB_OFFLINE, or {_OR_ELSE}.",
            )
        if not download.is_offline():
            size = card.bytes_about / 1e6
            logging.getLogger("residuum").warning("Downloading %s (%.0f MB) to %s", card.url, size, path)
        download.fetch(card.url, path, card.sha256 or None, or_else=_OR_ELSE)
        return path
    if not (digest := download.sha256(path)).startswith(card.sha256):
        raise WeightsError(
            f"{path} is not the weights {card.name}: its SHA-256 is {digest}.",
            expected=f"Expected {download.shown_sha256(card.sha256)}.",
            hint=f"Delete the file, which is then downloaded again, or {_OR_ELSE}.",
        )
    return path


def check_licence(name: str, licence: str) -> None:
    """Refuses weights that may not be used for everything, unless that was accepted.

    Raises:
        WeightsError: the licence forbids commercial use, and nobody has accepted it.
    """
    accepted = os.environ.get(ACCEPT_LICENCE, "0") not in ("", "0")
    if not accepted and ("-NC" in licence.upper() or "noncommercial" in licence.lower().replace("-", "")):
        raise WeightsError(
            f"The weights {name} are under {licence}, which forbids commercial use.",
            expected="Expected that you accept that, for them and for all that is trained from them.",
            hint=f"Accept it with --accept-license (in Python: {ACCEPT_LICENCE}=1), or choose others: residuum weights",
        )


def _hub_is_offline() -> bool:
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")
