"""Random numbers that are a pure function of (seed, epoch, picture, stream): no state, so no order of calls can change
them.

A counter-based generator: the key is mixed from seed, epoch and stream, the picture's index is the counter, and the
result is the finaliser of splitmix64, applied once more than in that generator because keys of neighbouring epochs
share their pictures' counters. What happens to a picture therefore does not depend on the number of workers, on which
pictures share its batch, or on where a run was resumed.

Source: Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, OOPSLA 2014 (splitmix64); the finaliser is
    Stafford's "Mix13". Salmon et al.: Parallel Random Numbers: As Easy as 1, 2, 3, SC 2011 (counters instead of
    state).
Shapes: N pictures.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

_WEYL = 0x9E3779B97F4A7C15  # 2**64 divided by the golden ratio, made odd: splitmix64's increment
_WORD = 2**64 - 1


def uniform(seed: int, epoch: int, indices: ArrayLike, stream: str) -> NDArray[np.float64]:
    """Returns one number in [0, 1) for each of `indices`, of the shape of `indices`.

    `stream` names what the number decides ("crop_x", "flip"): streams are independent of each other.
    """
    return (_bits(seed, epoch, indices, stream) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def permutation(n: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """Returns the order in which the `n` pictures of a set are seen in `epoch`, int64 [n]."""
    return np.argsort(_bits(seed, epoch, np.arange(n), "order"), kind="stable").astype(np.int64, copy=False)


def generator(seed: int, step: int, stream: str) -> np.random.Generator:
    """Returns a generator for what is drawn once a step, such as from a Beta distribution."""
    return np.random.Generator(np.random.Philox(key=[_mixed(seed), _key(0, step, stream)]))


@dataclass(frozen=True)
class Draws:
    """The random numbers of some pictures in one epoch. `indices` are the pictures' places in their set, int64 [N]."""

    seed: int
    epoch: int
    indices: NDArray[np.int64]

    def uniform(self, stream: str) -> NDArray[np.float64]:
        """Returns numbers in [0, 1), float64 [N]."""
        return uniform(self.seed, self.epoch, self.indices, stream)

    def table(self, streams: tuple[str, ...]) -> NDArray[np.float64]:
        """Returns numbers in [0, 1), float64 [N, len(streams)]."""
        columns = [self.uniform(stream) for stream in streams]
        return np.stack(columns, axis=1) if columns else np.empty((len(self.indices), 0))

    def normal(self, stream: str) -> NDArray[np.float64]:
        """Returns numbers of mean 0 and standard deviation 1, float64 [N] (Box-Muller)."""
        radius = np.sqrt(-2 * np.log1p(-self.uniform(f"{stream}_radius")))
        return np.asarray(radius * np.cos(2 * np.pi * self.uniform(f"{stream}_angle")))

    def every_epoch(self) -> Draws:
        """The same pictures with numbers that are the same in every epoch."""
        return Draws(self.seed, 0, self.indices)


def _bits(seed: int, epoch: int, indices: ArrayLike, stream: str) -> NDArray[np.uint64]:
    counters = np.atleast_1d(np.asarray(indices)).astype(np.uint64)
    words = counters * np.uint64(_WEYL) + np.uint64(_key(seed, epoch, stream))  # wraps around: arithmetic modulo 2**64
    words = _finalise(_finalise(words))
    return words.reshape(np.shape(indices))


def _finalise(words: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Stafford's Mix13, a bijection of 64-bit words in which every input bit flips about half of the output bits."""
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))


def _mixed(word: int) -> int:
    """The same on one Python integer, after one step of the Weyl sequence so that 0 is not a fixed point."""
    word = (word + _WEYL) & _WORD
    word = ((word ^ (word >> 30)) * 0xBF58476D1CE4E5B9) & _WORD
    word = ((word ^ (word >> 27)) * 0x94D049BB133111EB) & _WORD
    return word ^ (word >> 31)


@lru_cache(maxsize=4096)
def _key(seed: int, epoch: int, stream: str) -> int:
    name = int.from_bytes(hashlib.blake2b(stream.encode(), digest_size=8).digest(), "little")
    return _mixed(_mixed(_mixed(seed & _WORD) ^ epoch) ^ name)
