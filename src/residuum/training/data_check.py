"""What the data check says of a run's own pictures, divided as the run divided them, once it has ended.

So copies among the pictures that were held out by chance are found too, which no check before training can know of.
"""

from __future__ import annotations

import contextlib
import shlex
from dataclasses import replace

import numpy as np

from residuum.data.check import Checked, examined
from residuum.data.sets import ImageSet, ResidentSet, opened, sampled
from residuum.data.survey import Survey, survey
from residuum.errors import PictureError, ResiduumError
from residuum.training.run import Run

CHECKED_PICTURES = 2_000
CHECKED_PIXELS = 1_000_000_000
"""A set of up to so many pictures, and about so many pixels, is read once more for its report: that takes seconds."""

_SAMPLE = 8  # pictures of a part whose sizes are looked at


def check_of(run: Run) -> tuple[Checked, str]:
    """Returns what is odd about the pictures of a run, and why none of them was read for that, or nothing."""
    parts = run.parts.by_name
    source = run.recipe.data.source
    read = run.parts.total <= CHECKED_PICTURES and sum(map(_pixels, parts.values())) <= CHECKED_PIXELS
    found = Survey("", {}, (), {}, divided=False)
    with contextlib.suppress(ResiduumError, OSError):  # the set may have gone, or changed, since training began
        found = survey(source) if read else found
    known = {name: frozenset(images.classes) for name, images in parts.items()}
    own = replace(found, parts=parts, classes=run.classes, known=known, divided=len(parts) > 1)
    said = (
        f"The {run.parts.total:,} pictures were not read once more for this: that is done for up to "
        f"{CHECKED_PICTURES:,} pictures and {CHECKED_PIXELS // 1_000_000:,} megapixels. What is odd about single ones, "
        f"and which are copies, is found by: residuum check {shlex.quote(source)}"
    )
    return examined(source, own, read=read), "" if read else said


def _pixels(images: ImageSet) -> float:
    """Returns about how many pixels the pictures of a part have that are not in memory."""
    if isinstance(images, ResidentSet):
        return 0.0
    found = (picture for _, picture in opened(images, sampled(images, _SAMPLE)))
    sizes = [picture.width * picture.height for picture in found if not isinstance(picture, PictureError)]
    return float(np.mean(sizes or [0])) * len(images)


def warnings_of(checked: Checked) -> list[str]:
    """Returns a sentence for each thing that makes scores wrong and that training does not stop at: copies in several
    parts or classes. Pictures that cannot be used were told when they were met."""
    harms = (finding for finding in checked.findings if finding.severity == "harm")
    return [
        f"{finding.what} For example {' = '.join(finding.groups[0][:2])}. {finding.do}"
        for finding in harms
        if finding.groups
    ]
