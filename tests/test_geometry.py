"""The arithmetic of clips, with small numbers worked out in sight."""

import pytest

from omnihuman_jax.errors import InputError
from omnihuman_jax.geometry import CELL, Grid, frames_for, nearest_size


def test_the_clip_of_the_wan_paper():
    grid = Grid(81, 480, 832)
    assert grid.latent_shape == (21, 60, 104)
    assert grid.token_shape == (21, 30, 52)
    assert grid.tokens == 32_760
    assert Grid(81, 720, 1280).tokens == 75_600


@pytest.mark.parametrize(
    "sizes, says",
    [
        ((80, 480, 832), "use 77 or 81"),
        ((0, 480, 832), "use 1 or 5"),
        ((81, 480, 830), "width .* got 830; use 816 or 832"),
        ((81, 8, 832), "height .* got 8; use 16 or 32"),
    ],
)
def test_a_grid_that_cannot_be_says_what_can(sizes, says):
    with pytest.raises(InputError, match=says):
        Grid(*sizes)


@pytest.mark.parametrize(
    "seconds, fps, frames",
    [(2, 25, 53), (0.04, 25, 1), (0.05, 25, 5), (5, 16, 81), (5.0625, 16, 81)],
)
def test_length_is_the_next_4n_plus_1(seconds, fps, frames):
    assert frames_for(seconds, fps) == frames


@pytest.mark.parametrize("seconds, fps", [(0, 25), (-1, 25), (1, 0), (float("inf"), 25)])
def test_no_time_is_no_clip(seconds, fps):
    with pytest.raises(InputError):
        frames_for(seconds, fps)


@pytest.mark.parametrize("shape", [(480, 832), (832, 480), (512, 512), (1000, 300), (720, 1280)])
@pytest.mark.parametrize("area", [256 * 256, 480 * 832])
def test_the_nearest_size_keeps_the_shape_and_uses_the_area(shape, area):
    height, width = nearest_size(*shape, area)
    assert height % CELL == width % CELL == 0
    assert area / 2 < height * width <= area
    assert height / width == pytest.approx(shape[0] / shape[1], rel=0.1)


def test_a_size_on_the_grid_is_kept():
    assert nearest_size(480, 832, 480 * 832) == (480, 832)
    assert nearest_size(1080, 1920, 720 * 1280) == (720, 1280)
