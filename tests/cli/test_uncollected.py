"""Imports without the garbage collector: it does not run meanwhile, and runs afterwards."""

from __future__ import annotations

import gc
import subprocess
import sys

from residuum.cli.uncollected import uncollected

SCRIPT = """
import gc, sys

def look(phase, _):
    begun = getattr(sys.modules.get("residuum.training.train"), "train", None) is not None
    if "torch" in sys.modules and not begun:
        print("it looks on")

gc.callbacks.append(look)
from residuum.cli.main import main
code = main(["train", "--data", "nowhere"])
assert gc.isenabled()
assert gc.get_freeze_count() > 100_000, gc.get_freeze_count()
sys.exit(code)
"""


def test_a_run_imports_torch_without_it() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (3, ""), done.stderr
    assert "There is no image set at 'nowhere'." in done.stderr


def test_a_program_that_has_torch_keeps_its_collector() -> None:
    import torch  # noqa: F401

    frozen = gc.get_freeze_count()
    with uncollected():
        assert gc.isenabled()
    assert gc.get_freeze_count() == frozen
