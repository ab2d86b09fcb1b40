"""Builds a recipe's dataclasses from plain values such as TOML's, and refuses what does not fit with words that help.

A field may be a number, a text, a `Literal`, a tuple of these, another dataclass, or a union of dataclasses told apart
by their first field, `name`. A string stands for a TOML value where the field's type is not a string.
"""

from __future__ import annotations

import dataclasses
import math
import numbers
import tomllib
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, TypeVar

from residuum.errors import RecipeError, did_you_mean

D = TypeVar("D")


@dataclass(frozen=True)
class Builder:
    """Builds recipes and their tables. `limits` are the smallest and largest value by the last part of a key."""

    limits: Mapping[str, tuple[float, float]]

    def build(self, kind: type[D], values: Mapping[str, Any], path: str = "") -> D:
        """Returns a `kind` of these values; `path` is what its keys begin with in messages.

        Raises:
            RecipeError: an unknown key, a wrong type or a value out of range.
        """
        hints = typing.get_type_hints(kind)
        for key in values:
            if key not in hints:
                raise unknown(key, hints, path.rstrip(".") or "recipe", "key")
        built = {key: self._convert(hints[key], value, f"{path}{key}") for key, value in values.items()}
        return kind(**built)

    def _convert(self, wanted: Any, value: Any, key: str) -> Any:
        """Returns `value` as `wanted`, a type of one of the fields above."""
        origin, arguments = typing.get_origin(wanted), typing.get_args(wanted)
        if origin in (typing.Union, types.UnionType):
            tables: list[Any] = [kind for kind in arguments if dataclasses.is_dataclass(kind)]
            if value is None and types.NoneType in arguments:
                return None
            if not tables:
                return self._convert_to_one([kind for kind in arguments if kind is not types.NoneType], value, key)
            wanted = _variant(tables, value, key)
        if dataclasses.is_dataclass(wanted):
            if not isinstance(value, Mapping):
                raise _wrong(key, value, "a table")
            return self.build(typing.cast(Any, wanted), value, f"{key}.")
        if origin is Literal:
            if value not in arguments:
                raise _wrong(
                    key,
                    value,
                    f"one of {', '.join(map(str, arguments))}",
                    did_you_mean(str(value), map(str, arguments)),
                )
            return value
        if wanted is str:
            if not isinstance(value, str):
                raise _wrong(key, value, "a text")
            if not _is_utf8(value):
                raise _wrong(key, value, "a text that UTF-8 can hold, because the run's recipe.toml is written in it")
            return value
        if isinstance(value, str):
            value = _literal(value)
        if origin is tuple:
            if not isinstance(value, list | tuple):
                raise _wrong(key, value, "a list")
            return tuple(self._convert(arguments[0], item, key) for item in value)
        return self._number(wanted, value, key)

    def _convert_to_one(self, kinds: list[Any], value: Any, key: str) -> Any:
        """Returns `value` as one of a few words, where there are such and it is one, else as the last of `kinds`."""
        words = [word for kind in kinds[:-1] for word in typing.get_args(kind)]
        if value in words:
            return value
        try:
            return self._convert(kinds[-1], value, key)
        except RecipeError as error:
            if not words:
                raise
            expected = f"Expected {', '.join(words)}, or {error.expected.removeprefix('Expected ')}"
            raise RecipeError(error.what, expected=expected, hint=error.hint) from error

    def _number(self, wanted: Any, value: Any, key: str) -> Any:
        words: dict[Any, str] = {bool: "true or false", int: "a whole number", float: "a number"}
        if wanted is not bool and not isinstance(value, bool):  # numpy's numbers are welcome: sweeps are made of them
            if wanted is int and isinstance(value, numbers.Integral):
                value = int(value)
            elif wanted is float and isinstance(value, numbers.Real):
                value = _as_float(value, key)
        if type(value) is not wanted:
            raise _wrong(key, value, words[wanted])
        low, high = self.limits.get(key.rsplit(".", maxsplit=1)[-1], (-math.inf, math.inf))
        if wanted is not bool and not low <= value <= high:
            limits = (
                f"from {_plain(low)} on" if high in (math.inf, 2**63 - 1) else f"from {_plain(low)} to {_plain(high)}"
            )
            raise _wrong(key, value, f"{words[wanted]} {limits}")
        return value


def _variant(kinds: list[Any], value: Any, key: str) -> Any:
    """Returns the one of `kinds` whose default `name` is `value["name"]`."""
    names = {str(fields(kind)[0].default): kind for kind in kinds}
    if not isinstance(value, Mapping) or "name" not in value:
        raise _wrong(key, value, f"a table with the key 'name', one of {', '.join(names)}")
    name = value["name"]
    if not isinstance(name, str) or name not in names:
        raise _wrong(f"{key}.name", name, f"one of {', '.join(names)}", did_you_mean(str(name), names))
    return names[name]


def _as_float(value: Any, key: str) -> float:
    try:
        return float(value)
    except OverflowError:
        raise _wrong(key, value, "a number that a float can hold") from None


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # a path whose bytes are not UTF-8
        return False
    return True


def _plain(limit: float) -> str:
    return f"{limit:,}" if isinstance(limit, int) else f"{limit:g}"


def _literal(text: str) -> Any:
    """Returns the value that TOML reads in `text`; the text itself where it is not one value."""
    try:
        values = tomllib.loads(f"x = {text}")
    except (tomllib.TOMLDecodeError, RecursionError):
        return text
    return values["x"] if len(values) == 1 else text


def _wrong(key: str, value: object, expected: str, closest: str = "") -> RecipeError:
    return RecipeError(
        f"The recipe key '{key}' cannot be {value!r}.",
        expected=f"Expected {expected}.",
        hint=closest or "See a complete recipe with: residuum recipes show digits",
    )


def unknown(name: str, known: typing.Iterable[str], of: str, what: str) -> RecipeError:
    """Returns the error of a `what`, such as a key, that `of`, such as a table, does not have."""
    known = list(known)
    return RecipeError(
        f"{of!r} has no {what} '{name}'." if of != "recipe" else f"A recipe has no {what} '{name}'.",
        expected=did_you_mean(name, known) or (f"Its {what}s are {', '.join(known)}." if known else "It has none."),
        hint="See a complete recipe with: residuum recipes show digits",
    )
