"""Where mouths are: read from the json beside a video, followed through cutting and mirroring."""

import json

import numpy as np
import pytest

from omnihuman_jax.puppets.files import write_clips
from omnihuman_jax.puppets.world import Settings
from omnihuman_jax.training import speaking

SIZE = 64


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    folder = tmp_path_factory.mktemp("puppets")
    write_clips(str(folder), Settings(height=SIZE, width=SIZE, seconds=1.0), 1)
    return next(folder.glob("*.mp4"))


def lips(path):
    """The lips' joints of each frame, as shares of it."""
    pose = np.array(json.loads(path.with_suffix(".json").read_text())["pose"]["keypoints"])
    return pose[:, 71:91]


def test_a_mouth_is_the_middle_and_the_width_of_the_lips(clip):
    found, joints = speaking.mouths(str(clip)), lips(clip)
    np.testing.assert_allclose(found[:, :2], joints[..., :2].mean(axis=1), atol=1e-6)
    np.testing.assert_allclose(found[:, 2], np.ptp(joints[..., 0], axis=1), atol=1e-6)


def test_no_joints_no_mouths(tmp_path):
    video = tmp_path / "a.mp4"
    assert speaking.mouths(str(video)) is None
    video.with_suffix(".json").write_text(json.dumps({"pose": {"keypoints": [[[0, 0, 1]] * 17]}}))
    assert speaking.mouths(str(video)) is None


def test_unseen_lips_have_no_width(tmp_path):
    joints = [[0.1 * (k % 7), 0.2, 1.0] for k in range(133)]
    hidden = [[x, y, 0.0] for x, y, _ in joints]
    (tmp_path / "a.json").write_text(json.dumps({"pose": {"keypoints": [joints, hidden]}}))
    found = speaking.mouths(str(tmp_path / "a.mp4"))
    assert found[0, 2] > 0 and found[1, 2] == 0


@pytest.mark.parametrize("seed", range(5))
def test_a_piece_about_a_mouth_shows_it_and_lies_inside_the_frame(seed):
    random = np.random.default_rng(seed)
    places = np.float32(np.concatenate([random.uniform(0, 1, (4, 2)), np.full((4, 1), 0.1)], 1))
    places[:, :2] = places[0, :2] + 0.01 * places[:, :2]
    shape = (48, 80)
    top, left = speaking.around(places, shape, 32, random)
    assert 0 <= top <= 16 and 0 <= left <= 48
    there = speaking.cut(places, shape, top, left)
    inside = np.minimum(places[:, :2], 0.999) * shape[::-1] - (left, top)
    np.testing.assert_allclose(there[:, :2] - inside, 0, atol=1.0)
    assert np.all(there[:, :2] > -1) and np.all(there[:, :2] < 33)
    np.testing.assert_allclose(there[:, 2], 0.1 * 80, rtol=1e-5)


def test_a_mirrored_mirror_is_the_same():
    places = np.float32([[3, 5, 2], [30, 1, 0]])
    mirrored = speaking.mirrored(places, 32)
    assert mirrored[0].tolist() == [29, 5, 2]
    np.testing.assert_array_equal(speaking.mirrored(mirrored, 32), places)
