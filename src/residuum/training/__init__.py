"""The training room: `loop.py` is the loop (read it first), `run.py` builds it a run, `train.py` does it all."""
