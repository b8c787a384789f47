"""The geometry of hands, worked out by hand: no picture of one with a clear licence is packaged."""

import math

import numpy as np
import pytest

from omnihuman_jax.landmarks import hands
from omnihuman_jax.landmarks.hands import Hand
from omnihuman_jax.landmarks.pictures import Picture
from omnihuman_jax.landmarks.whole import _one_each

BLANK = Picture(np.zeros((400, 400, 3), np.uint8))


def upright_hand() -> np.ndarray:
    """Fingers up, wrist at (100, 200): a column of four points for each finger."""
    fingers = [[60 + 20 * f, 160 - 20 * j] for f in range(5) for j in range(4)]
    return np.array([[100, 200], *fingers], float)


def turned(points, angle):
    cos, sin = math.cos(angle), math.sin(angle)
    return (points - (100, 200)) @ np.array([[cos, -sin], [sin, cos]]).T + (100, 200)


def test_the_next_region_is_upright_for_the_hand():
    """Palm and first joints: x from 60 to 140, y from 120 to 200, but the thumb's third at 120."""
    region = Hand(upright_hand(), 1.0).region
    assert (region.x, region.side, region.angle) == pytest.approx((100, 160, 0))
    assert region.y == pytest.approx(160 - 0.1 * 80)


@pytest.mark.parametrize("angle", [0.3, 1.6, -2.5])
def test_a_hand_that_turns_turns_its_region(angle):
    points = upright_hand()
    before, after = Hand(points, 1.0).region, Hand(turned(points, angle), 1.0).region
    assert after.side == pytest.approx(before.side)
    assert math.remainder(after.angle - before.angle - angle, math.tau) == pytest.approx(
        0, abs=1e-9
    )
    assert (after.x, after.y) == pytest.approx(turned(np.array([[before.x, before.y]]), angle)[0])


def test_points_come_back_to_the_frame():
    """The network says where in the crop; a wrist at the bottom of a region turned a quarter is left."""
    points = np.full((21, 3), 112.0)
    points[0] = 112, 224, 0
    region = hands.Region(200.0, 100.0, 80.0, math.pi / 2)
    hand = hands.look(
        lambda _: [np.float32(points.reshape(1, 63)), np.float32([[0.9]])], BLANK, region
    )
    assert hand.points[0] == pytest.approx([160, 100])
    assert hand.points[9] == pytest.approx([200, 100])
    assert hand.presence == pytest.approx(0.9)


def test_the_hand_is_looked_for_beyond_the_wrist():
    """Fingers to the right of the wrist: up in the region is right in the frame."""
    wrist, knuckle = np.array([100.0, 200.0]), np.array([140.0, 200.0])
    seen = []

    def recrop(pixels):
        seen.append(pixels.shape)
        return [np.float32([[128, 128, 128, 192]])]  # centre, and a quarter of the crop below it

    region = hands.find(recrop, BLANK, wrist, knuckle, knuckle)
    assert seen == [(1, 256, 256, 3)]
    assert region.angle == pytest.approx(math.pi / 2)
    search = 2 * 40 * 2.7
    assert region.side == pytest.approx(search / 2)
    assert (region.x, region.y) == pytest.approx((140 + 0.1 * 80 + 0.1 * search / 2, 200))


def test_one_hand_is_not_two():
    hand, other = Hand(upright_hand(), 0.9), Hand(upright_hand() + 200, 0.8)
    again = Hand(upright_hand() + 5, 0.7)
    assert _one_each(hand, other, None) == (hand, other)
    assert _one_each(hand, again, None) == (hand, None)
    assert _one_each(again, hand, None) == (None, hand)
    assert _one_each(None, hand, None) == (None, hand)
