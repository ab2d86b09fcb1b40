"""A registry: name -> thing with its card, filled by one decorator; an unknown name is answered with the closest ones.

The modules of the registry's package are imported when the registry is first asked, so that adding a thing means adding
one function in one file.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from residuum.errors import UsageError, did_you_mean

C = TypeVar("C")
T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., object])


@dataclass(frozen=True)
class Entry(Generic[C, T]):
    """One registered thing: its public name, the function that builds it, and its card."""

    name: str
    build: Callable[..., T]
    card: C

    @property
    def summary(self) -> str:
        """The first sentence of the function's docstring."""
        return (self.build.__doc__ or "").strip().split("\n", maxsplit=1)[0]


class Registry(Generic[C, T]):
    """Names of one kind of thing. `kind` is the word used in messages, `package` where the things are defined."""

    def __init__(self, kind: str, package: str, list_command: str) -> None:
        self.kind = kind
        self.package = package
        self.list_command = list_command
        self._entries: dict[str, Entry[C, T]] = {}
        self._complete = False

    def register(self, card: C) -> Callable[[F], F]:
        """Returns a decorator that registers a function under its own name, with `card`."""

        def decorate(function: F) -> F:
            name = function.__name__
            if name in self._entries:
                raise ValueError(f"The {self.kind} {name!r} is registered twice.")
            self._entries[name] = Entry(name, function, card)  # type: ignore[arg-type]
            return function

        return decorate

    def entries(self) -> list[Entry[C, T]]:
        """All entries, in the order of their modules' names and, within a module, of their definition."""
        if not self._complete:
            package = importlib.import_module(self.package)
            for module in sorted(pkgutil.iter_modules(package.__path__), key=lambda found: found.name):
                importlib.import_module(f"{self.package}.{module.name}")
            self._complete = True
        return list(self._entries.values())

    def names(self) -> list[str]:
        """All names."""
        return [entry.name for entry in self.entries()]

    def __contains__(self, name: object) -> bool:
        return name in self.names()

    def __getitem__(self, name: str) -> Entry[C, T]:
        """Returns the entry called `name`.

        Raises:
            UsageError: nothing has that name.
        """
        self.entries()
        if name not in self._entries:
            raise UsageError(
                f"No {self.kind} is called {name!r}.",
                expected=did_you_mean(name, self._entries)
                or f"Expected one of {len(self._entries)} names, such as {next(iter(self._entries), 'none')}.",
                hint=f"List them with: {self.list_command}",
            )
        return self._entries[name]
