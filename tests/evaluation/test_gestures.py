"""Gestures: still is 0, flicker is nearly 0, larger movement is more."""

import numpy as np
import pytest

from omnihuman_jax.evaluation.of_gestures import SPAN, liveliness
from omnihuman_jax.evaluation.run import Settings, evaluate
from tests.evaluation.conftest import film


def test_slow_movement_counts_and_flicker_does_not():
    """A square wave of SPAN frames a period is gone after averaging over SPAN; a slow one is kept."""
    ones = np.ones((1, 4, 4, 3))
    flicker = (np.arange(40) % SPAN)[:, None, None, None] * 20.0 * ones
    slow = np.sin(np.arange(40) * 2 * np.pi / 40)[:, None, None, None] * 20.0 * ones
    assert liveliness(flicker) == pytest.approx(0, abs=1e-9)
    assert 12 < liveliness(slow) < 20 / np.sqrt(2) + 0.5
    assert liveliness(3 * slow) == pytest.approx(3 * liveliness(slow))


def test_half_bodies_have_it_and_stiffer_ones_have_less(testset, tmp_path):
    found = {}
    for share in (0.0, 0.5, 1.0):
        still = lambda frames, clip, s=share: np.uint8(frames[:1] + s * (frames - 1.0 * frames[:1]))
        videos = film(tmp_path / f"{share}", testset, still)
        settings = Settings(videos=str(videos), testset=str(testset), metrics=("puppet_gestures",))
        summary = evaluate(settings, lambda line: None)
        assert len(summary.values("puppet_gestures")) == 1, "portraits have none"
        found[share] = summary.metrics["puppet_gestures"].value
    assert found[0.0] < 0.05 and found[1.0] == pytest.approx(1.0, abs=0.05)
    assert found[0.0] < found[0.5] < found[1.0]
