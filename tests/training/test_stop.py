"""Signals become a question that is asked between two steps; what the process did with them before is put back."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from residuum.errors import Interrupted, Stopped
from residuum.training.stop import Stop, listening


@pytest.fixture(autouse=True)
def heard() -> Iterator[None]:
    """Lets signals be heard that whoever started the tests has silenced, as nohup silences SIGHUP."""
    before = {number: signal.signal(number, signal.default_int_handler) for number in CODES}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


CODES = {signal.SIGINT: 130, signal.SIGTERM: 75, signal.SIGUSR1: 75, signal.SIGHUP: 75}


@pytest.mark.parametrize("number", CODES, ids=lambda number: number.name)
def test_a_signal_is_noted_and_nothing_else_happens(number: signal.Signals) -> None:
    stop, before = Stop(), signal.getsignal(number)
    stop.folder = Path("runs/a-1")
    with listening(stop), pytest.raises(Stopped), stop.between_steps():  # nobody asked, so that it ends afterwards
        assert stop.signal == 0
        signal.raise_signal(number)
        assert stop.signal == number
        assert signal.getsignal(number) == signal.SIG_DFL  # a second one ends the process at once
    assert signal.getsignal(number) == before
    error = stop.error()
    assert error.exit_code == CODES[number]
    assert type(error) is (Interrupted if number == signal.SIGINT else Stopped)
    assert number.name in error.what
    assert error.hint == "Go on with: residuum train --resume runs/a-1"


def test_handlers_are_put_back_after_an_error() -> None:
    before = [signal.getsignal(number) for number in CODES]
    with pytest.raises(RuntimeError), listening(Stop()):
        raise RuntimeError
    assert [signal.getsignal(number) for number in CODES] == before


def test_in_another_thread_signals_are_left_alone() -> None:
    before = [signal.getsignal(number) for number in CODES]
    seen: list[bool] = []

    def work() -> None:
        with listening(Stop()):
            seen.append([signal.getsignal(number) for number in CODES] == before)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [True]


@pytest.mark.parametrize("number", CODES, ids=lambda number: number.name)
def test_where_everything_is_saved_a_signal_ends_it_at_once(number: signal.Signals) -> None:
    stop, reached = Stop(), False
    with pytest.raises(Stopped, match="before there was anything to save") as caught, listening(stop):
        signal.raise_signal(number)
        reached = True
    assert not reached
    assert caught.value.exit_code == CODES[number]


def test_what_is_ignored_stays_ignored() -> None:
    """As nohup ignores SIGHUP."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with listening(Stop()):
            signal.raise_signal(signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)
