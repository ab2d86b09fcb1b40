"""What sets of encoded pictures share: opening one, decoded completely or only where somebody looks."""

from __future__ import annotations

import os

from PIL import Image

from residuum import imaging, jpeg, pixels
from residuum.errors import PictureError
from residuum.imaging import Mode


class Encoded:
    """A set whose pictures lie in files or as bytes, at `source`."""

    mode: Mode

    def name(self, index: int) -> str:
        """Returns what messages call picture `index`."""
        raise NotImplementedError

    def source(self, index: int) -> str | os.PathLike[str] | bytes | None:
        """Returns the file of picture `index`, or its bytes; None where its row holds none."""
        raise NotImplementedError

    def open(self, index: int, at_least_px: int | None = None) -> Image.Image:
        """Returns picture `index`; raises PictureError."""
        return imaging.open_picture(self._source(index), self.mode, name=self.name(index), at_least_px=at_least_px)

    def seen(self, index: int, at_least_px: int | None = None) -> pixels.Picture:
        """Returns what `open` does, to the bit, but maybe not decoded yet; raises PictureError, now or then."""
        return jpeg.seen(self._source(index), self.mode, name=self.name(index), at_least_px=at_least_px)

    def _source(self, index: int) -> str | os.PathLike[str] | bytes:
        source = self.source(index)
        if source is None:
            raise PictureError(self.name(index), "its row holds no bytes")
        return source
