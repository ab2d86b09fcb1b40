"""Heat maps over pictures: what is bright is where the map is high, whatever the picture's size, colours and names."""

from __future__ import annotations

import io

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from residuum.evaluation import heat
from residuum.evaluation.heat import draw_explanation, enlarged, overlay, relative, side_by_side


def picture(height: int, width: int, channels: int = 3) -> NDArray[np.uint8]:
    return np.random.default_rng(height).integers(0, 256, (height, width, channels), dtype=np.uint8)


def lightness(pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
    return np.asarray(Image.fromarray(pixels).convert("L"), dtype=np.float64)


def test_parts_of_the_most() -> None:
    assert relative(np.array([[0.0, 2.0], [1.0, 4.0]])).tolist() == [[0, 0.5], [0.25, 1]]
    assert relative(np.zeros((2, 2))).tolist() == [[0, 0], [0, 0]]


@pytest.mark.parametrize(("height", "width", "channels"), [(8, 8, 1), (32, 32, 3), (300, 200, 3), (97, 400, 1)])
def test_what_is_bright_is_where_the_map_is_high(height: int, width: int, channels: int) -> None:
    """Also in grey: on any picture the brightest place of the drawing is where the map has its most."""
    pixels = picture(height, width, channels)
    values = np.zeros((7, 7), dtype=np.float32)
    values[1, 5] = 3.0
    drawn = overlay(pixels, values)
    tall, wide = drawn.shape[:2]
    assert drawn.shape == (*enlarged(pixels).shape[:2], 3)
    assert min(tall, wide) >= min(height, 96)
    grey = np.where((drawn == 255).all(axis=2), 0, lightness(drawn))  # without the line
    row, column = np.unravel_index(int(grey.argmax()), grey.shape)
    assert (7 * row // tall, 7 * column // wide) == (1, 5)
    far = drawn[tall // 2 :, : wide // 2]
    assert (far.max(axis=2) - far.min(axis=2)).max() <= 1, "where nothing speaks for the class there is no colour"


def test_without_any_evidence_the_picture_is_dark_and_grey() -> None:
    drawn = overlay(picture(120, 120), np.zeros((4, 4)))
    assert (drawn.max(axis=2) == drawn.min(axis=2)).all()
    assert 0 < drawn.max() < 200


def test_what_is_not_seen_is_darker_and_without_colour() -> None:
    white = np.full((100, 200, 3), 255, dtype=np.uint8)
    drawn = overlay(white, np.full((5, 5), 2.0), seen=(0.25, 0.0, 0.75, 1.0))
    unseen = np.concatenate([drawn[:, :50], drawn[:, 150:]], axis=1)
    assert np.unique(unseen).size == 1
    assert unseen.max() < drawn[:, 50:150].min(axis=(0, 1)).max()
    assert not (drawn[:, 51:149] == unseen[0, 0]).all(axis=2).any()


def test_a_line_surrounds_half_of_the_most() -> None:
    values = np.zeros((100, 100))
    values[30:70, 30:70] = 1.0
    drawn = overlay(np.zeros((100, 100, 3), dtype=np.uint8), values)
    white = (drawn == 255).all(axis=2)
    assert white[30, 30:70].all() and white[69, 30:70].all() and white[30:70, 30].all() and white[30:70, 69].all()
    assert white.sum() == 4 * 39
    everywhere = overlay(np.zeros((100, 100, 3), dtype=np.uint8), np.ones((4, 4)))
    assert not (everywhere == 255).all(axis=2).any(), "the border of the picture is no line"


def test_the_picture_itself_stands_to_the_left() -> None:
    pixels = picture(120, 100, 1)
    both = side_by_side(pixels, np.ones((3, 3)))
    np.testing.assert_array_equal(both[:, :100], np.repeat(pixels, 3, axis=2))
    np.testing.assert_array_equal(both[:, -100:], overlay(pixels, np.ones((3, 3))))
    assert both.shape[1] > 200


def test_borders_beside_a_picture_are_not_drawn() -> None:
    """The map is over the padded square; what lies over the picture is its middle."""
    pixels, values = picture(320, 640), np.zeros((4, 4))
    values[1:3] = [[1, 0, 0, 0], [0, 0, 0, 1]]
    border = np.zeros((160, 640, 3), np.uint8)
    whole = heat.overlay(np.concatenate([border, pixels, border]), values)
    alone = heat.overlay(pixels, values, (0.0, -0.5, 1.0, 1.5))
    np.testing.assert_array_equal(alone[8:-8], whole[168:472])  # at the very border a line may be missing


@pytest.mark.parametrize(
    ("size", "seen"),
    [
        ((8, 8, 1), heat.WHOLE), ((32, 20, 3), heat.WHOLE), ((160, 640, 3), (0.2, 0.0, 0.8, 1.0)),
        ((640, 100, 3), (0.0, 0.4, 1.0, 0.6)), ((1, 30, 3), heat.WHOLE),
        ((20, 32, 3), (0.0, -0.3, 1.0, 1.3)),
    ],
)  # fmt: skip
def test_drawings_of_any_size(size: tuple[int, int, int], seen: heat.Box) -> None:
    pixels, values = picture(*size), np.random.default_rng(0).random((7, 7))
    names = {"name": "a/caf\udce9 $x^$.jpg", "said": "<b>, 99.0 %", "asked": "雪 (0.1 %)", "how": "Grad-CAM, stage 3"}
    drawn = draw_explanation(pixels, values, seen=seen, **names)
    shown = Image.open(io.BytesIO(drawn))
    assert shown.format == "PNG"
    assert max(shown.size) < 3000
    if max(size) < 32:
        assert draw_explanation(pixels, values, seen=seen, **names) == drawn
