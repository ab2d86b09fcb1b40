"""The training room: `loop.py` is the loop (read it first), `run.py` builds what it works on, `train.py` does it all."""
