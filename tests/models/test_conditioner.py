"""Heatmaps and grouping: what a joint looks like, and which pixel frames a latent frame stands for."""

import jax.numpy as jnp
import numpy as np
import pytest

from omnihuman_jax.models.conditioner import AudioConfig, by_latent_frame, heatmaps


def test_a_spot_is_where_the_joint_is_and_as_high_as_its_confidence():
    pose = jnp.array([[[[0.25, 0.5, 0.8], [0.9, 0.1, 0.0]]]])
    spots = np.asarray(heatmaps(pose, 8, 16, sigma=1.0))[0, 0]
    y, x = np.mgrid[:8, :16] + 0.5
    for axis, want in ((y, 0.5 * 8), (x, 0.25 * 16)):
        assert np.average(axis, weights=spots[..., 0]) == pytest.approx(want, abs=1e-2)
    # The joint lies on the corner of four cells, half a cell from each centre in both directions.
    assert spots[..., 0].max() == pytest.approx(0.8 * np.exp(-0.25), rel=1e-5)
    assert not spots[..., 1].any(), "a joint without confidence is not drawn"


def test_a_spot_moves_by_less_than_a_cell():
    def peak(x):
        spots = heatmaps(jnp.array([[[[x, 0.5, 1.0]]]]), 4, 16, sigma=1.0)[0, 0, 2, :, 0]
        return float(jnp.sum(spots * (jnp.arange(16) + 0.5)) / jnp.sum(spots))

    assert peak(0.51) - peak(0.5) == pytest.approx(0.01 * 16, rel=1e-2)


def test_latent_frames_stand_for_one_and_then_four_pixel_frames():
    frames = jnp.arange(9.0)[None, :, None]
    np.testing.assert_array_equal(
        by_latent_frame(frames)[0, ..., 0], [[0, 0, 0, 0], [1, 2, 3, 4], [5, 6, 7, 8]]
    )


def test_the_audio_window_is_centred():
    with pytest.raises(ValueError, match="odd"):
        AudioConfig(window=4)
