"""Sidecars: what is given is given exactly, what is wrong is refused, what is unknown passes."""

import json

import numpy as np
import pytest

from omnihuman_jax import storage
from omnihuman_jax.data.sidecar import Sidecar, read_sidecar
from omnihuman_jax.errors import InputError
from tests.cloud import cloud

__all__ = ["cloud"]  # a fixture


def beside(folder, content):
    text = content if isinstance(content, str) else json.dumps(content)
    storage.write_bytes(storage.join(str(folder), "a.b.json"), text.encode())
    return storage.join(str(folder), "a.b.mp4")


@pytest.mark.parametrize("where", ["disk", "cloud"])
def test_what_is_given_comes_back(tmp_path, request, where):
    folder = tmp_path if where == "disk" else request.getfixturevalue("cloud") + "/x"
    points = np.random.default_rng(0).random((3, 17, 3)).astype(np.float32)
    video = beside(
        folder,
        {
            "caption": " A  puppet\nwaves. ",
            "speaker": "puppet-1",
            "language": "en",
            "transcript": None,
            "pose": {"fps": 25, "keypoints": points.tolist()},
            "scores": {"sync_c": 7},
            "truth": {"anything": [1, "x"]},
        },
    )
    side = read_sidecar(video)
    assert (side.caption, side.speaker, side.transcript) == ("A puppet waves.", "puppet-1", "")
    assert dict(side.scores) == {"sync_c": 7.0}
    np.testing.assert_array_equal(side.pose(25, 3)[:, :17], points)
    assert (side.pose(25, 3)[:, 17:] == 0).all()


def test_without_a_file_nothing_is_given(tmp_path):
    assert read_sidecar(str(tmp_path / "a.mp4")) == Sidecar()


def test_another_frame_rate_is_in_proportion(tmp_path):
    """A point that moves evenly does so at any rate; of two confidences the lower; after the end none."""
    points = np.zeros((11, 133, 3), np.float32)
    points[:, 5, 0] = np.arange(11) / 10
    points[:, 5, 2] = np.where(np.arange(11) % 2, 0.9, 0.4)
    side = Sidecar(keypoints=points, pose_fps=10)
    half = side.pose(20, 24)
    np.testing.assert_allclose(half[:21, 5, 0], np.arange(21) / 20, atol=1e-5)
    np.testing.assert_allclose(half[1::4, 5, 2], 0.4)
    assert (half[22:, 5, 2] == 0).all()
    np.testing.assert_array_equal(side.pose(20, 5, first=7), half[7:12])
    np.testing.assert_array_equal(side.pose(10, 4, first=2), points[2:6])


@pytest.mark.parametrize(
    "content, said",
    [
        ("{", "no JSON"),
        ("\ud83d".encode("utf-16", "surrogatepass").decode("latin1"), "no JSON"),
        ([1], "holds list"),
        ({"caption": 3}, "text for caption"),
        ({"scores": [1]}, "scores by name"),
        ({"scores": {"sync_c": "7"}}, "sync_c"),
        ({"scores": {"sync_c": True}}, "sync_c"),
        ('{"scores": {"sync_c": NaN}}', "finite"),
        ({"pose": [[1]]}, '"pose" as'),
        ({"pose": {"fps": 0, "keypoints": [[[0, 0, 1]] * 17]}}, "frame rate"),
        ({"pose": {"fps": 25, "keypoints": [[[0, 0, 1]] * 16]}}, "133"),
        ({"pose": {"fps": 25, "keypoints": [[[0, 0, 1]] * 17, [[0, 0]]]}}, "uneven"),
        ({"pose": {"fps": 25, "keypoints": []}}, "133"),
        ({"pose": {"fps": 25, "keypoints": [[[300, 200, 1]] * 17]}}, "divide x"),
        ({"pose": {"fps": 25, "keypoints": [[[0, 0, 2]] * 17]}}, "confidences"),
    ],
)
def test_what_is_wrong_is_one_line(tmp_path, content, said):
    with pytest.raises(InputError, match=said) as caught:
        read_sidecar(beside(tmp_path, content))
    assert "\n" not in str(caught.value)
