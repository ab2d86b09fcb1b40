"""What an experiment was asked for, as the command that asks for it again: here, or on any machine."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from residuum.lab.findings import Scale
from residuum.lab.foreign import shown


@dataclass(frozen=True)
class Asked:
    """The words of `residuum reproduce`; None (or "auto") is what was left out."""

    experiment: str
    scale: Scale
    data: str | None = None
    seeds: int | None = None
    bundles: Sequence[str | Path] = ()
    out: str | Path | None = None
    device: str = "auto"
    offline: bool = False
    jobs: int | None = None

    def here(self) -> str:
        """Returns the command that goes on where this one was stopped."""
        words = self._words(self.data, [str(bundle) for bundle in self.bundles])
        for flag, value in (
            ("--out", self.out),
            ("--device", None if self.device == "auto" else self.device),
            ("--jobs", self.jobs),
        ):
            words += [] if value is None else [flag, str(value)]
        return shlex.join([*words, *(["--offline"] if self.offline else [])])

    def anywhere(self) -> str:
        """Returns the command for the reader of a page: sets and bundles by name, without what belongs to a machine."""
        data = None if self.data is None else Path(self.data).name
        return shlex.join(self._words(data, [shown(Path(bundle)) for bundle in self.bundles]))

    def _words(self, data: str | None, bundles: Sequence[str]) -> list[str]:
        words = ["residuum", "reproduce", self.experiment, "--scale", self.scale]
        words += [] if data is None else ["--data", data]
        words += [] if self.seeds is None else ["--seeds", str(self.seeds)]
        return words + [word for bundle in bundles for word in ("--bundle", bundle)]
