"""A map of a set in two dimensions, from the vectors of its pictures: principal components beside t-SNE.

Principal components keep the large distances and t-SNE the near neighbours; what both show is there.

Source: van der Maaten and Hinton, Visualizing Data using t-SNE, JMLR 9 (2008); scikit-learn's PCA and TSNE.
Departures: t-SNE begins with the principal components and compares cosines.
Shapes: N vectors of D numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from residuum.evaluation.plots import BLUE, GREEN, INK, LINE, ORANGE, QUIET, VERMILION, font_families, png, short

MOST_POINTS = 2_000
"""Of more pictures than this, so many are drawn, evenly spread: t-SNE takes some ten seconds for them."""
MOST_CLASSES = 24
"""Of more classes than this, the most frequent are told apart, and the others are grey."""

_COLOURS = (BLUE, ORANGE, GREEN, VERMILION, "#CC79A7", "#56B4E9", "#000000", "#8C6D1F")
"""Okabe and Ito's, yellow replaced by one that is seen on white."""
_MARKERS = ("o", "^", "s")
_PERPLEXITY = 30
_OTHERS = "other, or not known"


class Map(NamedTuple):
    """Where vectors lie in two dimensions: by principal components, which explain so much of the variance (0..1 each),
    and by t-SNE; float [N, 2] both, `tsne` of no rows where there are fewer than 4 vectors."""

    pca: NDArray[np.float64]
    explained: tuple[float, float]
    tsne: NDArray[np.float64]


def project(vectors: NDArray[np.float32], seed: int = 0) -> Map:
    """Returns the map of at least one vector."""
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    exact = vectors.astype(np.float64)
    components = min(2, *exact.shape)
    varied = bool((exact.std(axis=0) > 0).any())
    pca, explained = np.zeros((len(exact), 2)), np.zeros(2)
    if varied and len(exact) > 1:
        found = PCA(components, svd_solver="full" if min(exact.shape) < 500 else "arpack", random_state=seed).fit(exact)
        pca[:, :components], explained[:components] = found.transform(exact), found.explained_variance_ratio_
    tsne = np.empty((0, 2))
    if len(exact) >= 4 and varied:
        perplexity = min(_PERPLEXITY, (len(exact) - 1) / 3)
        tsne = TSNE(
            2, perplexity=perplexity, init=pca[:, :2] / max(pca[:, 0].std(), 1e-12) * 1e-4, metric="cosine",
            random_state=seed,
        ).fit_transform(exact)  # fmt: skip
    return Map(pca, (float(explained[0]), float(explained[1])), np.asarray(tsne, np.float64))


def draw_map(found: Map, labels: Sequence[str | None], title: str) -> bytes:
    """Draws a map, each class in its colour and sign, with a legend beside it; returns a PNG. `labels` are N."""
    figure = Figure(figsize=(12.5, 6.0), layout="constrained")
    panels = figure.subplots(1, 2)
    names = _frequent(labels)
    pca, tsne = panels
    _points(pca, found.pca, labels, names)
    pca.set_title("Principal components", loc="left", fontsize=11, fontweight="bold", color=INK)
    pca.set_xlabel(f"first component, {100 * found.explained[0]:.0f} % of the variance", color=QUIET)
    pca.set_ylabel(f"second component, {100 * found.explained[1]:.0f} % of the variance", color=QUIET)
    _points(tsne, found.tsne, labels, names)
    tsne.set_title("t-SNE", loc="left", fontsize=11, fontweight="bold", color=INK)
    tsne.set_xlabel("only who is near whom means something; axes have no unit", color=QUIET)
    if not len(found.tsne):
        tsne.text(0.5, 0.5, "too few different pictures", transform=tsne.transAxes, ha="center", color=QUIET)
    figure.suptitle(title, x=0.01, ha="left", fontsize=12, color=INK, family=font_families(), parse_math=False)
    if names:
        handles, said = pca.get_legend_handles_labels()
        if said[0] == _OTHERS:  # drawn first, to lie below, and named last
            handles, said = handles[1:] + handles[:1], said[1:] + said[:1]
        legend = figure.legend(
            handles, said, loc="outside right upper", frameon=False, fontsize=9, labelcolor=INK, markerscale=1.8
        )
        for text in legend.get_texts():
            text.set_parse_math(False)
            text.set_fontfamily(font_families())
    return png(figure)


def _frequent(labels: Sequence[str | None]) -> list[str]:
    """Returns the classes that are told apart, in the order in which they first come."""
    known = [label for label in labels if label is not None]
    counts = {label: known.count(label) for label in dict.fromkeys(known)}
    kept = set(sorted(counts, key=lambda label: -counts[label])[:MOST_CLASSES])
    return [label for label in counts if label in kept]


def _points(axes: Axes, places: NDArray[np.float64], labels: Sequence[str | None], names: Sequence[str]) -> None:
    size = float(np.clip(6000 / max(len(labels), 1), 10, 40))
    if len(places):
        others = np.array([label not in names for label in labels])
        if others.any():
            colour, word = (LINE, _OTHERS) if names else (BLUE, "")
            axes.scatter(places[others, 0], places[others, 1], s=size, c=colour, marker="o", linewidths=0, label=word)
        for number, name in enumerate(names):
            own = np.array([label == name for label in labels])
            colour = _COLOURS[number % len(_COLOURS)]
            sign = _MARKERS[(number // len(_COLOURS) + number) % len(_MARKERS)]
            axes.scatter(
                places[own, 0],
                places[own, 1],
                s=size,
                c=colour,
                marker=sign,
                linewidths=0,
                alpha=0.75,
                label=short(name, 24),
            )
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_color(LINE)
    axes.set_facecolor("white")
