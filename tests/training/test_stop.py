"""Signals become a question that is asked between two steps; what the process did with them before is put back."""

from __future__ import annotations

import signal
import threading

import pytest

from residuum.errors import Interrupted, Stopped
from residuum.training.stop import Stop, listening

CODES = {signal.SIGINT: 130, signal.SIGTERM: 75, signal.SIGUSR1: 75}


@pytest.mark.parametrize("number", CODES, ids=lambda number: number.name)
def test_a_signal_is_noted_and_nothing_else_happens(number: signal.Signals) -> None:
    stop, before = Stop(), signal.getsignal(number)
    with listening(stop):
        assert stop.signal is None
        signal.raise_signal(number)
        assert stop.signal == number
        assert signal.getsignal(number) == signal.SIG_DFL  # a second one ends the process at once
    assert signal.getsignal(number) == before
    error = stop.error("runs/a-1")
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
