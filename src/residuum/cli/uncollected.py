"""Modules are imported without Python's garbage collector looking on.

It looks through all that is there again and again while more and more is imported, and finds nothing that matters: of
`import torch` that is a seventh.
"""

from __future__ import annotations

import contextlib
import gc
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def uncollected() -> Iterator[None]:
    """Nothing is collected while what is inside imports torch, and what is there then is not looked through later on.

    Does nothing where torch is there already, or where the collector is off.
    """
    if "torch" in sys.modules or not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()  # else the first collection, which is due at once, looks through all of it
        gc.enable()
