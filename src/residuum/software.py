"""Which software this is: residuum, where it comes from, and the libraries that it needs. No torch.

What is needed is read from where it is declared: `pyproject.toml` in a checkout, the package's metadata elsewhere.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import re
import shutil
import subprocess
import tomllib
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import residuum
from residuum.errors import VerificationError

PACKAGE = Path(residuum.__file__).parent

_REQUIREMENT = re.compile(r"\s*(?P<name>[A-Za-z0-9._-]+)\s*(?:\[[^]]*\])?(?P<limits>[^;]*)(?:;(?P<only>.*))?")
_MODULES = {"pillow": "PIL", "scikit-learn": "sklearn"}
"""What is imported under another name than it is installed by."""

_GIT_TIMEOUT_S = 5


@dataclass(frozen=True)
class Library:
    """A library that residuum needs: the oldest version that will do (empty: any), and the one that is installed."""

    name: str
    wanted: str
    version: str | None

    @property
    def problem(self) -> str:
        """What is wrong with it, or nothing."""
        if self.version is None:
            return "is not installed"
        return "is too old" if _release(self.version) < _release(self.wanted) else ""


def libraries() -> list[Library]:
    """Returns what residuum needs to run, in the order in which it is declared; extras are left out."""
    found = []
    for line in _declared():
        match = _REQUIREMENT.match(line)
        if match is None or "extra" in (match["only"] or ""):
            continue
        wanted = re.search(r">=\s*([0-9][0-9A-Za-z.]*)", match["limits"])
        found.append(Library(match["name"], wanted[1] if wanted else "", _version(match["name"])))
    return found


def versions() -> dict[str, str]:
    """Returns the versions of residuum (where it is installed, not run from its sources) and of its libraries."""
    named = {"residuum": _version("residuum"), **{library.name: library.version for library in libraries()}}
    return {name: version for name, version in named.items() if version is not None}


def origin() -> dict[str, str | None]:
    """Returns residuum's version, its folder, how it came there, and the commit where git knows it."""
    root = _checkout()
    return {
        "version": residuum.__version__,
        "folder": str(PACKAGE),
        "installed": "sources" if root else _installed(),
        "commit": _commit(root) if root else None,
    }


def import_all() -> str:
    """Imports every library; returns how many there are.

    Raises:
        VerificationError: some cannot be imported; the error has the reason of each.
    """
    names = [library.name for library in libraries()]
    failures = [f"{name} cannot be imported: {reason}" for name in names if (reason := _import_failure(name))]
    if failures:
        raise VerificationError("; ".join(failures))
    return f"{len(names)} libraries import"


def _import_failure(name: str) -> str:
    try:
        importlib.import_module(_MODULES.get(name, name.replace("-", "_")))
    except Exception as error:  # noqa: BLE001 (a library built for another version of torch raises anything)
        return f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"
    return ""


def _checkout() -> Path | None:
    """Returns the folder of the sources that this runs from; None where it was installed."""
    root = PACKAGE.parent.parent
    return root if _project(root).get("name") == "residuum" else None


def _project(root: Path) -> dict[str, Any]:
    """Returns the table [project] of a folder's pyproject.toml; empty where there is none."""
    try:
        return dict(tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8")).get("project", {}))
    except (OSError, tomllib.TOMLDecodeError):
        return {}


def _declared() -> list[str]:
    root = _checkout()
    if root is not None:
        return list(_project(root)["dependencies"])
    try:
        return metadata.requires("residuum") or []
    except metadata.PackageNotFoundError:
        return []


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _release(version: str) -> tuple[int, ...]:
    """Returns the numbers of a version, so that they compare: '2.10.0+cu128' is (2, 10)."""
    numbers = re.match(r"\d+(?:\.\d+)*", version)
    parts = [int(part) for part in numbers[0].split(".")] if numbers else []
    while parts and parts[-1] == 0:
        parts.pop()
    return tuple(parts)


def _installed() -> str:
    """Returns where pip had the package from (PEP 610), without a password in the address."""
    try:
        text = metadata.distribution("residuum").read_text("direct_url.json")
    except metadata.PackageNotFoundError:
        return "copied"
    if text is None:
        return "package index"
    told = json.loads(text)
    commit = told.get("vcs_info", {}).get("commit_id")
    return re.sub(r"//[^/@]*@", "//", told["url"]) + (f"@{commit}" if commit else "")


def _commit(root: Path) -> str | None:
    """Returns the commit of a checkout, with '-dirty' where files were changed since."""
    git = shutil.which("git")
    if git is None or not (root / ".git").exists():
        return None
    command = [git, "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        told = subprocess.run(command, capture_output=True, text=True, check=True, timeout=_GIT_TIMEOUT_S)
        return told.stdout.strip()
    return None
