"""Image sets: where pictures come from, what happens to them, and how they reach the network. Knows nothing of models.

`sources` opens what `--data` names, `sets` is the one interface behind it, `transforms`, `mixing` and `randomness` are
augmentation as a pure function of (seed, epoch, index), and `loading` makes batches.
"""
