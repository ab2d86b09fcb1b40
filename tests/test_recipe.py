"""Recipes: TOML and back, changes by key, refusals that name the closest key, and no key that nothing reads."""

from __future__ import annotations

import dataclasses
import itertools
import math
import tomllib
import types
import typing
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import tomli_w
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from residuum import recipe as recipes
from residuum.errors import RecipeError
from residuum.recipe import (
    ALIASES,
    AdamW,
    Augment,
    Data,
    Model,
    PadCrop,
    Plateau,
    Recipe,
    Sgd,
    from_dict,
    from_toml,
    override,
    read,
    to_dict,
    to_toml,
)

FEWER = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
LIMITS = recipes._LIMITS


def tables_in(hint: Any) -> list[Any]:
    """The dataclasses that a field's type is, or is one of."""
    return [kind for kind in (hint, *typing.get_args(hint)) if dataclasses.is_dataclass(kind)]


def values_of(hint: Any, key: str) -> st.SearchStrategy[Any]:
    """Every valid value of a field."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    low, high = LIMITS.get(key, (None, None))
    if tables := tables_in(hint):
        return st.one_of(*(tables_of(kind) for kind in tables))
    if origin in (typing.Union, types.UnionType):
        return st.one_of(st.none() if kind is types.NoneType else values_of(kind, key) for kind in arguments)
    if origin is Literal:
        return st.sampled_from(arguments)
    if origin is tuple:
        return st.lists(values_of(arguments[0], key), max_size=4).map(tuple)
    if hint is int:
        return st.integers(low, high if high is not None and high < math.inf else 2**63 - 1)
    if hint is float:
        return st.floats(low, high, allow_nan=False)
    return {bool: st.booleans(), str: st.text()}[hint]


def tables_of(kind: Any) -> st.SearchStrategy[Any]:
    """Every valid table of a kind; a variant keeps its name."""
    hints = typing.get_type_hints(kind)
    is_variant = typing.get_origin(hints.get("name")) is Literal
    return st.builds(
        kind, **{name: values_of(hint, name) for name, hint in hints.items() if not (is_variant and name == "name")}
    )


def leaves(kind: Any, path: str = "") -> Iterator[tuple[str, Any, dict[str, Any]]]:
    """Every key of a recipe with its type, and a recipe's nested values in which the key's table is there."""
    for name, hint in typing.get_type_hints(kind).items():
        tables = tables_in(hint)
        for table in tables:
            for key, leaf, values in leaves(table, f"{path}{name}."):
                variant = {"name": fields(table)[0].default} if len(tables) > 1 else {}
                yield key, leaf, {name: variant | values}
        if not tables and not (typing.get_origin(hint) is Literal and name == "name"):
            yield f"{path}{name}", hint, {}


LEAVES = list(leaves(Recipe))


def with_value(values: dict[str, Any], key: str, value: object) -> dict[str, Any]:
    """The nested values with one more."""
    first, _, rest = key.partition(".")
    return values | {first: with_value(values.get(first, {}), rest, value) if rest else value}


def flat(values: dict[str, Any], path: str = "") -> dict[str, Any]:
    """Nested values by dotted key."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        found |= flat(value, f"{path}{name}.") if isinstance(value, dict) else {f"{path}{name}": value}
    return found


def as_flag(value: object) -> object:
    """What somebody types for a value after `--set KEY=`."""
    return value if isinstance(value, str) else tomli_w.dumps({"x": value}, multiline_strings=False)[4:].strip()


def shown(leaf: tuple[str, Any, dict[str, Any]]) -> str:
    key, _, values = leaf
    return key + "".join(f"[{name}]" for full, name in flat(values).items() if full.endswith(".name"))


over_leaves = pytest.mark.parametrize("leaf", LEAVES, ids=shown)


@given(tables_of(Recipe))
@FEWER
def test_toml_and_back(recipe: Recipe) -> None:
    text = to_toml(recipe)
    assert from_toml(text) == recipe
    assert tomllib.loads(text) == to_dict(recipe)
    assert from_toml(to_toml(from_toml(text))) == recipe


@given(st.data(), tables_of(Recipe))
@FEWER
def test_any_recipe_is_changes_of_any_other_in_any_order(data: st.DataObject, wanted: Recipe) -> None:
    start = data.draw(st.sampled_from([Recipe(), Recipe(optim=AdamW(beta1=0.5), schedule=Plateau(factor=0.3))]))
    short = {dotted: alias for alias, dotted in ALIASES.items()}
    changes = []
    for key, value in flat(to_dict(wanted)).items():
        name = short[key] if key in short and data.draw(st.booleans()) else key
        changes.append((name, as_flag(value) if data.draw(st.booleans()) else value))
    assert override(start, dict(data.draw(st.permutations(changes)))) == wanted


def test_every_variant_is_in_the_property() -> None:
    kinds = {name.split("[")[-1].rstrip("]") for name in map(shown, LEAVES) if "[" in name}
    assert kinds >= {
        "pad",
        "scale",
        "resized",
        "rand_augment",
        "sgd",
        "adamw",
        "muon",
        "steps",
        "cosine",
        "one_cycle",
        "plateau",
    }


def test_a_variants_name_starts_from_its_defaults() -> None:
    start = Recipe(optim=Sgd(lr=3.0, weight_decay=0.5), augment=Augment(crop=PadCrop(px=9), flip="random"))
    assert override(start, {"optim.name": "adamw"}).optim == AdamW()
    assert override(start, {"optim.name": "sgd"}) == start
    changed = override(start, {"augment.crop.px": 2, "augment.crop.name": "pad", "optim.lr": 1, "optim.name": "adamw"})
    assert (changed.optim, changed.augment.crop, changed.augment.flip) == (AdamW(lr=1.0), PadCrop(px=2), "random")
    with pytest.raises(RecipeError, match="momentum"):  # not a key of the new variant, although it was one of the old
        override(start, {"optim.momentum": 0.5, "optim.name": "adamw"})


def test_numbers_of_numpy_are_numbers() -> None:
    changed = override(Recipe(), {"lr": np.float32(0.5), "epochs": np.int64(3), "schedule.final_factor": np.int32(1)})
    assert (changed.optim.lr, changed.epochs) == (0.5, 3)
    assert [type(value) for value in (changed.optim.lr, changed.epochs)] == [float, int]


def test_none_is_the_networks_own_default() -> None:
    start = Recipe(model=Model(zero_init_last=True, width=2.0))
    changed = override(start, {"model.zero_init_last": None, "model.width": None})
    assert changed.model.options() == {}


def test_a_key_under_two_names_has_one_value() -> None:
    assert override(Recipe(), {"lr": 0.5, "optim.lr": 0.5}).optim.lr == 0.5
    with pytest.raises(RecipeError, match=r"'optim.lr' is given twice: 0.5 and 0.6.*lr or optim.lr"):
        override(Recipe(), {"lr": 0.5, "optim.lr": 0.6})


@over_leaves
def test_a_wrong_key_names_the_closest(leaf: tuple[str, Any, dict[str, Any]]) -> None:
    key, hint, values = leaf
    last = key.rpartition(".")[2]
    value = 1 if hint in (int, float) else "x"
    for wrong in (f"{key}{key[-1]}", key.upper() if last != "px" else f"{key}_"):
        *tables, name = wrong.split(".")
        where = ".".join([*(table.lower() for table in tables), name])
        with pytest.raises(RecipeError) as caught:
            from_dict(with_value(values, where, value))
        assert f"'{name}'" in caught.value.what
        assert last in caught.value.expected.removeprefix("Did you mean ").rstrip("?").split(", ")
        with pytest.raises(RecipeError) as again:
            override(from_dict(values), {where: value})
        assert last in again.value.expected.replace(".", " ").replace(",", " ").replace("?", " ").split()


@pytest.mark.parametrize(
    ("key", "closest"),
    [
        ("batchsize", "batch_size"),
        ("weight_decay", "optim.weight_decay"),
        ("zero_init_last", "model.zero_init_last"),
        ("optm.lr", "optim"),
        ("augment.corp.px", "crop"),
        ("data.batchsize", "batch_size"),
        ("epoch", "epochs"),
    ],
)
def test_what_people_type_finds_its_key(key: str, closest: str) -> None:
    with pytest.raises(RecipeError) as caught:
        override(Recipe(), {key: "1"})
    assert closest in caught.value.expected.removeprefix("Did you mean ").rstrip("?").split(", ")


def test_a_table_is_not_a_value() -> None:
    with pytest.raises(RecipeError, match=r"'optim' is a table.*optim.lr"):
        override(Recipe(), {"optim": "adamw"})
    with pytest.raises(RecipeError, match=r"'optim' has no table 'lr'\. It has none"):
        override(Recipe(), {"optim.lr.x": 1})
    with pytest.raises(RecipeError, match=r"'data' cannot be 'digits'\. Expected a table"):
        from_dict({"data": "digits"})


@over_leaves
def test_a_wrong_type_is_refused(leaf: tuple[str, Any, dict[str, Any]]) -> None:
    key, hint, values = leaf
    wrong: list[object] = [{"x": 1}, [{}], object(), b"x", "no such word", float("nan")]
    if hint is str:
        wrong = [1, True, None, ["x"], "\udcff"]
    elif hint in (int, float):
        wrong += [True, None, [1], "true"] + [1.5, "1.5", 2.0] * (hint is int)
    elif hint is bool:
        wrong += [0, 1, "yes", "True", None]
    elif typing.get_origin(hint) is tuple:
        wrong += [1, ["a"], [True]]
    for value in wrong:
        with pytest.raises(RecipeError) as caught:
            from_dict(with_value(values, key, value))
        assert f"'{key}'" in caught.value.what
        assert caught.value.expected.startswith("Expected ")
        assert caught.value.exit_code == 2


NUMBERS = [
    leaf
    for leaf in LEAVES
    if {int, float} & {leaf[1], *typing.get_args(leaf[1])} and typing.get_origin(leaf[1]) is not Literal
]


@pytest.mark.parametrize("leaf", NUMBERS, ids=shown)
def test_every_number_has_limits(leaf: tuple[str, Any, dict[str, Any]]) -> None:
    key, hint, values = leaf
    low, high = LIMITS[key.rpartition(".")[2]]
    whole = int in (hint, *typing.get_args(hint))
    below, above = (low - 1, high + 1) if whole else (np.nextafter(low, -math.inf), np.nextafter(high, math.inf))
    many = typing.get_origin(hint) is tuple
    for value in [below] + [above] * (high < math.inf):
        with pytest.raises(RecipeError, match=f"'{key}' cannot be"):
            from_dict(with_value(values, key, [value] if many else value))
    for value in [low] + [high] * (high < math.inf):
        from_dict(with_value(values, key, [value] if many else value))


def test_infinity_is_a_limit_only_where_it_means_something() -> None:
    assert from_toml("[optim]\nname = 'sgd'\nclip_norm = inf").optim.clip_norm == math.inf
    for key, hint, values in NUMBERS:
        if key not in ("optim.clip_norm", "schedule.at_epochs"):
            with pytest.raises(RecipeError):
                from_dict(with_value(values, key, math.inf if hint is float else 10**400 * -1))


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"optim": {"name": "adam"}}, "Did you mean adamw?"),
        ({"optim": {"name": ["sgd"]}}, "one of sgd, adamw"),
        ({"optim": {"lr": 0.1}}, "one of sgd, adamw"),
        ({"optim": 3}, "one of sgd, adamw"),
        ({"schedule": {"name": "onecycle"}}, "Did you mean one_cycle?"),
        ({"augment": {"crop": {"name": "centre"}}}, "Did you mean center?"),
        ({"precision": "bf61"}, "Did you mean bf16?"),
        ({"precision": ["bf16"]}, "one of auto, fp32"),
        ({"optim": {"name": "sgd", "lr": 10**400}}, "that a float can hold"),
    ],
)
def test_a_wrong_choice_is_answered_with_the_closest(values: dict[str, Any], said: str) -> None:
    with pytest.raises(RecipeError) as caught:
        from_dict(values)
    assert said in str(caught.value)


@pytest.mark.parametrize("text", ["epochs = ", "epochs = 1\nepochs = 2", "[optim", "x = " + "[" * 5000, "\0"])
def test_what_is_not_toml_is_refused(text: str) -> None:
    with pytest.raises(RecipeError, match="not valid TOML"):
        from_toml(text)


@pytest.mark.parametrize("value", ["3\nseed = 4", "3 # comment\nx = 5", "[3", "3 4"])
def test_a_flag_is_one_value_and_nothing_of_it_is_dropped(value: str) -> None:
    with pytest.raises(RecipeError, match="'epochs' cannot be"):
        override(Recipe(), {"epochs": value})


def test_files(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_bytes(b"\xef\xbb\xbfepochs = 3\r\n[data]\r\nsource = 'caf\xc3\xa9'\r\n")  # as Windows' editor writes it
    assert (read(file).epochs, read(file).data.source) == (3, "café")
    with pytest.raises(RecipeError, match=r"Cannot read the recipe .*none\.toml"):
        read(tmp_path / "none.toml")
    with pytest.raises(RecipeError, match="Cannot read the recipe"):
        read(tmp_path)
    file.write_bytes(b"name = '\xff'")
    with pytest.raises(RecipeError, match="UTF-8"):
        read(file)


def test_the_models_keys_are_the_options_of_networks() -> None:
    from residuum.models import MODELS
    from residuum.models._catalog import options_of

    options = set(itertools.chain.from_iterable(options_of(entry.build) for entry in MODELS.entries()))
    assert {f.name for f in fields(Model)} - {"name", "weights"} == options - {
        "num_classes",
        "in_channels",
    }  # those follow from data
    every = {"shortcut": "B", "stem": "cifar", "zero_init_last": True, "drop_path": 0.1, "width": 0.5, "groups": 2}
    assert Model("resnet18", weights="imagenet", **every).options() == every  # type: ignore[arg-type]
    assert Model("resnet18", zero_init_last=False, drop_path=0.0).options() == {
        "zero_init_last": False,
        "drop_path": 0.0,
    }


def test_aliases_are_keys() -> None:
    known = {key for key, _, _ in LEAVES}
    assert set(ALIASES.values()) <= known
    assert not set(ALIASES) & {f.name for f in fields(Recipe) if f.name not in ("model", "data")}


def test_defaults_are_valid() -> None:
    assert from_dict(to_dict(Recipe())) == Recipe() == from_toml("")
    assert Data().source == "digits"
