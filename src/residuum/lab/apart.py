"""One net, trained in a process of its own into the folder of nets that the laboratory shares, for `together`.

Nothing is written into an experiment's rows, which are the asking process's own. This one listens to its input, and
stops, with everything saved, when that ends: because somebody asked for it, or because who asked is gone.

Run: python -m residuum.lab.apart REQUEST, an object of JSON; see `together.Request`.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading

from residuum.errors import ResiduumError
from residuum.lab.bench import Bench
from residuum.training.records import Record


def _say(record: Record) -> None:
    sys.stdout.write(json.dumps(record, default=str) + "\n")
    sys.stdout.flush()


def _stop_with_input() -> None:
    """Asks this process to stop, as a signal does, when its input ends."""
    while os.read(0, 1):  # not sys.stdin, which the end of the interpreter would wait for
        pass
    os.kill(os.getpid(), signal.SIGTERM)


def main(request: str) -> int:
    """Trains what is asked for; what is to be known of it goes to standard output, a record a line."""
    asked = json.loads(request)
    net = asked.pop("net")
    threading.Thread(target=_stop_with_input, daemon=True).start()
    try:
        bench = Bench(
            asked["experiment"], asked["scale"], asked["out"], data=asked["data"], seeds=net["seed"] + 1, bundles={},
            device=asked["device"], listener=_say, command=None,
        )  # fmt: skip
        bench.trained(net["model"], net["seed"], asked["at_once"], **dict(net["options"]))
    except ResiduumError as error:
        _say({"kind": "error", "name": type(error).__name__, "what": error.what, "expected": error.expected,
              "hint": error.hint})  # fmt: skip
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
