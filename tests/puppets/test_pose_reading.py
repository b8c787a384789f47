"""The laws of reading poses: joints are found where they are drawn, and nowhere near where they are not."""

import itertools
from functools import cache

import numpy as np
import pytest
from PIL import Image, ImageFilter

from omnihuman_jax.puppets import plan, scoring
from omnihuman_jax.puppets.pose_reading import PoseReader
from omnihuman_jax.puppets.world import Settings, preview

ARMS = (7, 8, 9, 10)


@cache
def waving(size=96, framing="half-body"):
    """Two moments, far apart, of somebody who waves; and a reader of that person."""
    for number in itertools.count(50_000):
        made = plan.make_plan(0, number)
        if made.framing == framing and not made.faults:
            p = preview(Settings(seconds=2, height=size, width=size, voices="formant"), number)
            if p.motion.action == "waves":
                break
    truth = p.shot.trace(p.motion)[:, :17]
    away = np.linalg.norm(truth[:, None, 9:11, :2] - truth[None, :, 9:11, :2], axis=-1).mean(-1)
    pair = list(np.unravel_index(int(np.argmax(away)), away.shape))
    frames = np.stack([p.frame(int(k)) for k in pair])
    return frames, truth[pair], PoseReader(p.shot, arms=48)


@pytest.mark.slow
@pytest.mark.parametrize(
    "size, framing", [(96, "half-body"), (128, "half-body"), (96, "full-body")]
)
def test_joints_are_found_where_they_are_drawn(size, framing):
    frames, truth, reader = waving(size, framing)
    found = reader(frames)
    assert scoring.pose_error(found, truth) < 0.015
    assert scoring.pose_error(found, truth, ARMS) < 0.02
    # The other moment's arms are far away.
    assert scoring.pose_error(found, truth[::-1], ARMS) > 0.08


@pytest.mark.slow
def test_blur_and_noise_do_little():
    frames, truth, reader = waving()
    soft = np.stack([Image.fromarray(f).filter(ImageFilter.GaussianBlur(1.2)) for f in frames])
    noisy = soft + np.random.default_rng(0).normal(0, 12, soft.shape)
    assert scoring.pose_error(reader(noisy.clip(0, 255).astype(np.uint8)), truth) < 0.025


@pytest.mark.slow
def test_in_noise_no_arms_are_found():
    frames, truth, reader = waving()
    noise = np.random.default_rng(0).integers(0, 256, frames.shape, np.uint8)
    assert scoring.pose_error(reader(noise), truth, ARMS) > 0.08
