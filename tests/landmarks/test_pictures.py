import math

import numpy as np
import pytest

from omnihuman_jax.landmarks.pictures import Picture, Region


def spot(height, width, x, y, radius):
    """A white disc on black; its centre of mass is (x, y) in continuous coordinates."""
    rows, columns = np.mgrid[:height, :width] + 0.5
    disc = ((columns - x) ** 2 + (rows - y) ** 2 < radius**2) * np.uint8(255)
    return np.repeat(disc[..., None], 3, axis=2)


@pytest.mark.parametrize("angle", [0.0, 0.7, -2.0])
@pytest.mark.parametrize("side", [90.0, 700.0])
def test_a_point_of_the_crop_is_the_same_point_of_the_frame(side, angle):
    """What is seen at a place of the crop lies where `to_frame` says, also when it is shrunk a lot."""
    picture = Picture(spot(501, 403, 230.0, 190.0, 25))
    region = Region(215.0, 200.0, side, angle)
    crop = picture.crop(region, 64, 0.0, "zero")[0, ..., 0]
    rows, columns = np.mgrid[:64, :64] + 0.5
    centre = np.array([[(crop * columns).sum(), (crop * rows).sum()]]) / crop.sum() / 64
    assert region.to_frame(centre)[0] == pytest.approx([230, 190], abs=0.1 + side / 2000)


def test_values_and_borders():
    white = Picture(np.full((8, 8, 3), 255, np.uint8))
    region = Region(4.0, 4.0, 32.0)
    assert white.crop(region, 32, -1.0, "edge") == pytest.approx(1.0)
    zero = white.crop(region, 32, -1.0, "zero")
    assert zero[0, 16, 16] == pytest.approx(1.0)
    assert zero[0, 2, 2] == pytest.approx(-1.0)


def test_strong_shrinking_averages_instead_of_skipping():
    """A checkerboard becomes grey; sampling single pixels would keep it black and white."""
    board = (np.indices((512, 512)).sum(axis=0) % 2 * 255).astype(np.uint8)
    picture = Picture(np.repeat(board[..., None], 3, axis=2))
    crop = picture.crop(picture.whole, 32, 0.0, "zero")
    assert crop == pytest.approx(0.5, abs=0.01)


def test_the_square_around_points_is_turned_with_them():
    corners = np.array([[-2.0, -1.0], [2.0, -1.0], [2.0, 1.0], [-2.0, 1.0]])
    cos, sin = math.cos(0.5), math.sin(0.5)
    turned = corners @ np.array([[cos, -sin], [sin, cos]]).T + (10.0, 20.0)
    region = Region.around(turned, 0.5, 1.5)
    assert (region.x, region.y, region.side) == pytest.approx((10.0, 20.0, 6.0))
    raised = Region.around(turned, 0.5, 1.5, up=0.25)  # up of the hand: (sin, -cos)
    assert (raised.x - 10, raised.y - 20) == pytest.approx((sin, -cos))
