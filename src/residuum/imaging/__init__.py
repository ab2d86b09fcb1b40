"""What a picture is and what a network sees of it, decided once for training, evaluation, prediction and export. No
torch.

`picture` opens files safely, `preprocessing` turns pictures into arrays.
"""

from residuum.imaging.picture import (
    EXTENSIONS,
    FORMAT_OF_EXTENSION,
    FORMATS,
    PIXEL_LIMIT,
    Facts,
    Mode,
    examine,
    open_picture,
)
from residuum.imaging.preprocessing import Preprocessing, normalise, prepare

__all__ = [
    "EXTENSIONS",
    "FORMATS",
    "FORMAT_OF_EXTENSION",
    "PIXEL_LIMIT",
    "Facts",
    "Mode",
    "Preprocessing",
    "examine",
    "normalise",
    "open_picture",
    "prepare",
]
