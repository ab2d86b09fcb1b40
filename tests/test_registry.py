"""A registry: filled by its package's modules when it is first asked; a wrong name is answered with the closest."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from residuum.errors import UsageError
from residuum.models import MODELS
from residuum.recipes import RECIPES
from residuum.registry import Registry

INIT = '''
"""A room."""
from residuum.registry import Registry
THINGS = Registry("thing", "{room}", "residuum things")
'''
MODULE = '''
"""A file of the room."""
from {room} import THINGS
{functions}
'''
FUNCTION = '''
@THINGS.register({card!r})
def {name}(value=0):
    """The first sentence of {name}.

    More."""
    return ({name!r}, value)
'''


@pytest.fixture
def things(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry[str, tuple[str, int]]:
    """The registry of a room with two files, whose modules nobody has imported yet."""
    room = "room_of_things"
    folder = tmp_path / room
    folder.mkdir()
    (folder / "__init__.py").write_text(INIT.format(room=room), encoding="utf-8")
    for module, names in (("zebras", ("ant",)), ("apples", ("pear", "banana"))):
        functions = "".join(FUNCTION.format(name=name, card=f"card of {name}") for name in names)
        (folder / f"{module}.py").write_text(MODULE.format(room=room, functions=functions), encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    for name in (room, f"{room}.zebras", f"{room}.apples"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    made: Registry[str, tuple[str, int]] = __import__(room).THINGS
    return made


def test_modules_are_imported_when_the_registry_is_first_asked(things: Registry[str, tuple[str, int]]) -> None:
    assert "room_of_things.apples" not in sys.modules
    assert things.names() == ["pear", "banana", "ant"]  # by file, then as they were defined
    assert "room_of_things.apples" in sys.modules


def test_an_entry_is_the_function_with_its_card_and_first_sentence(things: Registry[str, tuple[str, int]]) -> None:
    entry = things["banana"]
    assert (entry.name, entry.card, entry.summary) == ("banana", "card of banana", "The first sentence of banana.")
    assert entry.build(value=3) == ("banana", 3)
    assert "banana" in things
    assert "bananas" not in things
    assert 3 not in things


def test_a_wrong_name_is_answered_with_the_closest(things: Registry[str, tuple[str, int]]) -> None:
    with pytest.raises(UsageError) as caught:
        things["Bananna"]
    assert str(caught.value) == ("No thing is called 'Bananna'. Did you mean banana? List them with: residuum things")
    assert caught.value.exit_code == 2
    with pytest.raises(UsageError, match=r"No thing is called 'qqq'\..* List them with: residuum things"):
        things["qqq"]


def test_a_name_is_registered_once(things: Registry[str, tuple[str, int]]) -> None:
    def pear() -> None:
        """Another pear."""

    things.names()
    with pytest.raises(ValueError, match="'pear' is registered twice"):
        things.register("card")(pear)


@pytest.mark.parametrize("registry", [MODELS, RECIPES], ids=["models", "recipes"])
def test_every_entry_is_called_as_its_function_and_says_what_it_is(registry: Registry[object, object]) -> None:
    for entry in registry.entries():
        assert entry.name == entry.build.__name__
        assert entry.summary.endswith("."), entry.name
    assert len(set(registry.names())) == len(registry.names()) > 5


def test_the_message_of_the_design() -> None:
    with pytest.raises(UsageError) as caught:
        MODELS["resnet5O"]
    assert "No model is called 'resnet5O'. Did you mean resnet50," in str(caught.value)
    assert str(caught.value).endswith("List them with: residuum models")
