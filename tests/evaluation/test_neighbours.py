"""Nearest neighbours: scikit-learn's, whatever the blocks; near-duplicates; the first pass in half precision."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics.pairwise import cosine_similarity
from sklearn.neighbors import KNeighborsClassifier, NearestNeighbors

from residuum.evaluation import neighbours, searcher
from residuum.evaluation.neighbours import Floats, nearest, pairs, unit, votes
from residuum.evaluation.searcher import Searcher


def noise(count: int, dim: int, seed: int = 0) -> Floats:
    return np.random.default_rng(seed).standard_normal((count, dim)).astype(np.float32)


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbours, "_QUERIES", 7)
    monkeypatch.setattr(neighbours, "_BLOCK", 7 * 11)
    monkeypatch.setattr(neighbours, "_PAIR_ROWS", 13)


def test_vectors_get_length_1_and_zeros_stay() -> None:
    made = unit(np.array([[3, 4], [0, 0], [1e-30, 0], [3e30, 4e30]]))
    assert made.dtype == np.float32
    np.testing.assert_allclose(made, [[0.6, 0.8], [0, 0], [1, 0], [0.6, 0.8]], rtol=1e-6)


@pytest.mark.parametrize("top", [1, 5, 90, 200])
@pytest.mark.usefixtures("small_blocks")
def test_the_nearest_are_scikit_learns(top: int) -> None:
    vectors, queries = noise(90, 6), noise(20, 6, seed=1)
    found = nearest(unit(queries), unit(vectors), top)
    expected = NearestNeighbors(n_neighbors=min(top, 90), metric="cosine", algorithm="brute").fit(vectors)
    distances, rows = expected.kneighbors(queries)
    assert (found.rows == rows).all()
    np.testing.assert_allclose(found.similarities, 1 - distances, atol=1e-5)


@pytest.mark.usefixtures("small_blocks")
def test_nothing_is_its_own_neighbour() -> None:
    vectors = noise(40, 5)
    found = nearest(unit(vectors), unit(vectors), 3, apart_from_itself=True)
    _, rows = NearestNeighbors(n_neighbors=3, metric="cosine", algorithm="brute").fit(vectors).kneighbors()
    assert (found.rows == rows).all()
    alone = nearest(unit(vectors[:1]), unit(vectors[:1]), 3, apart_from_itself=True)
    assert alone.rows.shape == (1, 0)


def test_of_equal_ones_the_first_come_first() -> None:
    vectors = unit(np.repeat(noise(3, 4), 5, axis=0))
    assert nearest(vectors[:1], vectors, 5).rows.tolist() == [[0, 1, 2, 3, 4]]


@pytest.mark.parametrize("k", [1, 5, 20])
def test_votes_are_scikit_learns_weighted_neighbours(k: int) -> None:
    vectors, queries, labels = noise(200, 8), noise(50, 8, seed=1), np.arange(200) % 3
    oracle = KNeighborsClassifier(
        n_neighbors=k, metric="cosine", algorithm="brute", weights=lambda distance: np.exp((1 - distance) / 0.07)
    ).fit(vectors, labels)
    found = votes(nearest(unit(queries), unit(vectors), k), labels, 3)
    np.testing.assert_allclose(found, oracle.predict_proba(queries), atol=2e-4)
    assert (found.argmax(axis=1) == oracle.predict(queries)).mean() == 1


@pytest.mark.parametrize("least", [-1.0, 0.3, 0.8])
@pytest.mark.usefixtures("small_blocks")
def test_pairs_are_all_that_are_so_similar(least: float) -> None:
    vectors, told = noise(60, 5), []
    found = pairs(unit(vectors), least, 10_000, told.append)
    similar = cosine_similarity(vectors.astype(np.float64))
    expected = {(i, j) for i in range(60) for j in range(i + 1, 60) if similar[i, j] >= least}
    assert set(zip(found.first.tolist(), found.second.tolist(), strict=True)) == expected
    assert found.found == len(expected)
    assert (np.diff(found.similarities) <= 0).all()
    np.testing.assert_allclose(found.similarities, similar[found.first, found.second], atol=1e-5)
    assert sum(told) == 60


@pytest.mark.usefixtures("small_blocks")
def test_of_too_many_pairs_the_most_similar_are_kept() -> None:
    vectors = unit(noise(60, 5))
    every, some = pairs(vectors, -1, 10_000), pairs(vectors, -1, 25)
    assert some.found == every.found == 60 * 59 // 2
    assert len(some.first) == 25
    assert some.similarities.tolist() == every.similarities[:25].tolist()
    assert some.first.tolist() == every.first[:25].tolist()


def test_a_picture_that_is_there_twice_is_a_pair_of_similarity_1() -> None:
    vectors = unit(np.concatenate((noise(20, 64), noise(20, 64))))
    found = pairs(vectors, 1.0, 100)
    assert sorted(found.first.tolist()) == list(range(20))
    assert (found.second - found.first == 20).all()


@pytest.fixture
def first_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(searcher, "FEWEST", 1)
    monkeypatch.setattr(searcher, "_AGAIN", 1.0)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 1000),
    dim=st.sampled_from([1, 2, 17, 64, 256]),
    spread=st.sampled_from([0.0, 1e-4, 1e-3, 0.01, 1.0]),
    top=st.integers(1, 30),
    zeros=st.booleans(),
)
def test_a_first_pass_in_half_precision_misses_nothing(
    seed: int, dim: int, spread: float, top: int, zeros: bool
) -> None:
    """Whole clusters within half precision's rounding of each other, and of the query."""
    random = np.random.default_rng(seed)
    centres = random.standard_normal((4, dim))
    vectors = centres[random.integers(0, 4, 300)] + spread * random.standard_normal((300, dim))
    if zeros:
        vectors[::7] = 0
    rows, query = unit(vectors), unit(centres[:1] + spread * random.standard_normal((1, dim)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(searcher, "FEWEST", 1)
        patch.setattr(searcher, "_AGAIN", 1.0)
        index = Searcher(rows)
        index.search(query, top)
        found = index.search(query, top)
    assert index._halved is not None
    true = np.sort(-(rows.astype(np.float64) @ query[0].astype(np.float64)))[:top]
    np.testing.assert_allclose(-found.similarities[0], true.clip(-1, 1), atol=6e-8)
    exact = rows[found.rows[0]].astype(np.float64) @ query[0].astype(np.float64)
    assert (exact >= -true[-1] - 1e-12).all()
    assert len(set(found.rows[0].tolist())) == top


@pytest.mark.usefixtures("first_pass")
def test_the_first_pass_leaves_few_to_compare_again() -> None:
    vectors, query = unit(noise(20_000, 256)), unit(noise(1, 256, seed=1))
    index = Searcher(vectors)
    index._halve()
    rows = index._candidates(query[0], 10)
    assert set(nearest(query, vectors, 10).rows[0].tolist()) <= set(rows.tolist())
    assert len(rows) < 40


@pytest.mark.usefixtures("first_pass")
def test_a_processor_that_rounds_more_has_no_first_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors, query = unit(noise(500, 64)), unit(noise(2, 64, seed=1))
    product = torch.mv
    monkeypatch.setattr(torch, "mv", lambda rows, query: product(rows, query) * 1.02)
    index = Searcher(vectors)
    for _ in range(2):
        assert (index.search(query, 5).rows == nearest(query, vectors, 5).rows).all()
    assert index._halved is None


def test_small_sets_many_queries_and_long_lists_go_without_it() -> None:
    vectors = unit(noise(300, 8))
    index = Searcher(vectors)
    for top in (5, 5, 300, 1000):
        assert (index.search(vectors[:9], top).rows == nearest(vectors[:9], vectors, top).rows).all()
    assert index._halved is None
