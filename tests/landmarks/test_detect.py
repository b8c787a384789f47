import numpy as np
import pytest

from omnihuman_jax.landmarks.detect import Detector
from omnihuman_jax.landmarks.pictures import Picture

SIZE = 8


def detector(boxes, logits):
    """A detector on a grid of 2x2 cells whose network says this."""
    network = lambda _: [np.float32(boxes)[None], np.float32(logits)[None, :, None]]
    return Detector(network=network, size=SIZE, grids=((2, 1),), least=0.5)


def test_boxes_and_points_are_offsets_from_the_centres_of_cells():
    """Cell 1 (top right) has its centre at (0.75, 0.25) of a frame of 40x80, seen in a square of 80."""
    boxes = np.zeros((4, 6))
    boxes[1] = 1, 0, 2, 4, -2, 1  # centre, size, one point, in pixels of an input of 8
    (found,) = detector(boxes, [-5, 2, -5, -5])(Picture(np.zeros((40, 80, 3), np.uint8)))
    assert found.score == pytest.approx(1 / (1 + np.exp(-2)))
    assert found.box == pytest.approx([60, -20, 80, 20])  # the square begins 20 above the frame
    assert found.points[0] == pytest.approx([40, 10])


def test_one_thing_found_twice_is_their_mean_by_score():
    boxes = np.zeros((4, 6))
    boxes[:, 2:4] = 4
    boxes[0, :2] = 4, 0  # the same box as that of cell 1, a fifth lower
    boxes[0, 1] = 0.8
    high, low = 1 / (1 + np.exp(-3)), 1 / (1 + np.exp(-1))
    found = detector(boxes, [1, 3, -9, 3])(Picture(np.zeros((8, 8, 3), np.uint8)))
    assert [each.score for each in found] == pytest.approx([high, high])
    down = 0.8 * low / (high + low)
    assert found[0].box == pytest.approx([4, 0 + down, 8, 4 + down])
    assert found[1].box == pytest.approx([4, 4, 8, 8])


def test_nothing_is_found_below_the_least_score():
    assert detector(np.ones((4, 6)), np.full(4, -0.1))(Picture(np.zeros((8, 8, 3), np.uint8))) == []
