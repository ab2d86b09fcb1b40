"""Fixtures that several rooms share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The folder of real pictures that RESIDUUM_DATA names; the test is skipped where it names none."""
    named = os.environ.get("RESIDUUM_DATA")
    if not named:
        pytest.skip("RESIDUUM_DATA is not set: there are no real pictures to test on")
    folder = Path(named).resolve()
    if not folder.is_dir():
        pytest.fail(f"RESIDUUM_DATA names {folder}, which is not a folder")
    return folder
