"""Maps in two dimensions: scikit-learn's components, whatever the set."""

from __future__ import annotations

import io

import numpy as np
import PIL.Image
import pytest
from sklearn.decomposition import PCA

from residuum.evaluation.maps import draw_map, project


def clusters(count: int = 30, dim: int = 12) -> tuple[np.ndarray, list[str | None]]:
    random = np.random.default_rng(0)
    labels = np.arange(count) % 3
    vectors = 5 * np.eye(dim)[labels] + 0.3 * random.standard_normal((count, dim))
    return vectors.astype(np.float32), [("ant", "bee", None)[label] for label in labels]


def test_a_map_keeps_clusters_together_and_its_components_are_the_principal_ones() -> None:
    vectors, _ = clusters()
    found = project(vectors)
    expected = PCA(2).fit(vectors.astype(np.float64))
    np.testing.assert_allclose(np.abs(found.pca), np.abs(expected.transform(vectors)), atol=1e-6)
    np.testing.assert_allclose(found.explained, expected.explained_variance_ratio_, atol=1e-9)
    again = project(vectors)
    assert (found.tsne == again.tsne).all()
    distances = np.linalg.norm(found.tsne[:, None] - found.tsne[None], axis=2) + np.diag(np.full(30, np.inf))
    nearest = distances.argmin(axis=1)
    assert ((nearest - np.arange(30)) % 3 == 0).all()


@pytest.mark.parametrize("count", [1, 3, 5])
def test_few_pictures_and_equal_ones_have_a_map_too(count: int) -> None:
    vectors, _ = clusters(count)
    for each in (vectors, np.ones_like(vectors)):
        found = project(each)
        assert found.pca.shape == (count, 2)
        assert np.isfinite(found.pca).all()
        assert np.isfinite(found.tsne).all()


def test_a_map_is_a_picture_whatever_the_classes_are_called() -> None:
    vectors, labels = clusters()
    found = project(vectors)
    many = [f"$class_{number}^$" for number in range(30)]
    for said in (labels, many, [None] * 30):
        drawn = draw_map(found, said, "a $title$ of <b>")
        with PIL.Image.open(io.BytesIO(drawn)) as picture:
            assert picture.size[0] > 1000
            colours = picture.convert("RGB").getcolors(1 << 20)
        assert colours is not None
        assert len(colours) > 10
