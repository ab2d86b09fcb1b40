"""Random numbers as a function of (seed, epoch, picture, stream): reference values, uniformity, independence."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from scipy import stats

from residuum.data import randomness
from residuum.data.randomness import Draws, generator, permutation, uniform

N = 100_000
LEAST_P = 1e-3  # of about 40 tests on fixed seeds: a generator that fails one at this level is looked at, not re-seeded


def test_the_mixing_is_splitmix64() -> None:
    """The reference outputs for seed 1234567, as Vigna's splitmix64.c prints them."""
    published = [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]
    weyl = 0x9E3779B97F4A7C15
    states = [(1234567 + step * weyl) % 2**64 for step in range(5)]
    assert [randomness._mixed(state) for state in states] == published
    vectorised = randomness._finalise(np.array([(state + weyl) % 2**64 for state in states], dtype=np.uint64))
    assert vectorised.tolist() == published


def test_a_pictures_number_depends_on_nothing_else() -> None:
    whole = uniform(3, 5, np.arange(1000), "flip")
    order = np.random.default_rng(0).permutation(1000)
    assert np.array_equal(uniform(3, 5, order, "flip"), whole[order])
    assert np.array_equal(np.concatenate([uniform(3, 5, [i], "flip") for i in range(1000)]), whole)
    assert uniform(3, 5, 17, "flip") == whole[17]
    assert np.array_equal(uniform(3, 5, np.arange(10).reshape(2, 5), "flip"), whole[:10].reshape(2, 5))


@pytest.mark.parametrize("seed", [0, 1, 2**63 - 1])
@pytest.mark.parametrize("epoch", [0, 1, 163])
@pytest.mark.parametrize("stream", ["crop_x", "crop_y"])
def test_numbers_are_uniform(seed: int, epoch: int, stream: str) -> None:
    numbers = uniform(seed, epoch, np.arange(N), stream)
    assert numbers.min() >= 0
    assert numbers.max() < 1
    assert stats.chisquare(np.bincount((numbers * 1000).astype(int), minlength=1000)).pvalue > LEAST_P


def test_every_bit_is_set_half_of_the_time() -> None:
    words = randomness._bits(0, 0, np.arange(N), "flip")
    shares = [float(np.mean((words >> np.uint64(bit)) & np.uint64(1))) for bit in range(64)]
    assert np.abs(np.array(shares) - 0.5).max() < 4.5 * 0.5 / np.sqrt(N)


NEIGHBOURS = {
    "the next picture": uniform(0, 0, np.arange(1, N + 1), "flip"),
    "the next epoch": uniform(0, 1, np.arange(N), "flip"),
    "the next epoch's next picture": uniform(0, 1, np.arange(1, N + 1), "flip"),
    "the next seed": uniform(1, 0, np.arange(N), "flip"),
    "seed and epoch exchanged": uniform(1, 0, np.arange(N), "flip"),
    "another stream": uniform(0, 0, np.arange(N), "crop_x"),
}


@pytest.mark.parametrize("neighbour", NEIGHBOURS)
def test_neighbours_are_independent(neighbour: str) -> None:
    one, other = uniform(0, 0, np.arange(N), "flip"), NEIGHBOURS[neighbour]
    pairs = np.bincount((one * 16).astype(int) * 16 + (other * 16).astype(int), minlength=256)
    assert stats.chisquare(pairs).pvalue > LEAST_P
    assert abs(np.corrcoef(one, other)[0, 1]) < 4 / np.sqrt(N)


def test_one_pictures_numbers_over_epochs_are_uniform() -> None:
    numbers = np.array([uniform(0, epoch, 7, "flip") for epoch in range(5000)])
    assert stats.kstest(numbers, "uniform").pvalue > LEAST_P


def test_permutation_is_one_and_differs_by_epoch_and_seed() -> None:
    orders = [permutation(1000, seed, epoch) for seed in (0, 1) for epoch in (0, 1)]
    for order in orders:
        assert order.dtype == np.int64
        assert np.array_equal(np.sort(order), np.arange(1000))
    assert len({order.tobytes() for order in orders}) == 4
    assert np.array_equal(permutation(1000, 1, 1), orders[3])
    assert len(permutation(0, 0, 0)) == 0


def test_all_orders_are_equally_likely() -> None:
    counts = dict.fromkeys(permutations(range(4)), 0)
    for epoch in range(12_000):
        counts[tuple(permutation(4, 0, epoch).tolist())] += 1
    assert stats.chisquare(list(counts.values())).pvalue > LEAST_P


def test_normal_numbers_are_normal() -> None:
    numbers = Draws(0, 0, np.arange(N)).normal("lighting_0")
    assert stats.kstest(numbers, "norm").pvalue > LEAST_P


def test_a_table_has_a_column_for_each_stream() -> None:
    draws = Draws(0, 2, np.arange(5))
    assert np.array_equal(draws.table(("crop_x", "flip"))[:, 1], draws.uniform("flip"))
    assert draws.table(()).shape == (5, 0)


def test_what_is_the_same_in_every_epoch_is_so_for_each_picture() -> None:
    assert np.array_equal(
        Draws(0, 9, np.arange(5)).every_epoch().uniform("flip"), Draws(0, 4, np.arange(5)).every_epoch().uniform("flip")
    )


def test_a_steps_generator_is_a_function_of_seed_step_and_stream() -> None:
    first = generator(0, 10, "mixing").random(4)
    assert np.array_equal(generator(0, 10, "mixing").random(4), first)
    for seed, step, stream in ((1, 10, "mixing"), (0, 11, "mixing"), (0, 10, "other")):
        assert not np.array_equal(generator(seed, step, stream).random(4), first)
