"""Poses: both formats give the same, and what is not a pose is refused with what is wrong in it."""

import json
import re

import numpy as np
import pytest

from omnihuman_jax.errors import InputError
from omnihuman_jax.media import poses, read_pose


@pytest.fixture
def keypoints():
    return np.random.default_rng(0).random((5, 7, 3)).astype(np.float32)


def write(path, fps, keypoints):
    if path.suffix == ".json":
        points = keypoints.tolist() if isinstance(keypoints, np.ndarray) else keypoints
        path.write_text(json.dumps({"fps": fps, "keypoints": points}))
    else:
        np.savez(path, fps=fps, keypoints=keypoints)
    return path


@pytest.mark.parametrize("suffix", [".json", ".npz", ".NPZ"])
def test_what_was_written_is_read(tmp_path, keypoints, suffix):
    keypoints[0, 0] = [-0.8, 1.9, 0.0]  # off screen, by less than a frame
    path = write(tmp_path / "a.npz", 12.5, keypoints) if suffix != ".json" else None
    path = (
        path.rename(tmp_path / f"b{suffix}")
        if path
        else write(tmp_path / "b.json", 12.5, keypoints)
    )
    read, fps = read_pose(path)
    np.testing.assert_array_equal(read, keypoints)
    assert fps == 12.5


@pytest.mark.parametrize("suffix", [".json", ".npz"])
@pytest.mark.parametrize(
    "fps, change, reason",
    [
        (25, lambda k: k[0], "frames x joints x 3"),
        (25, lambda k: k[..., :2], "frames x joints x 3"),
        (25, lambda k: k[:0], "frames x joints x 3"),
        (25, lambda k: k[:, :0], "frames x joints x 3"),
        (25, lambda k: k > 0.5, "numbers"),
        (25, lambda k: k.astype(str), "numbers"),
        (25, lambda k: np.where(k > 0.9, np.nan, k), "no finite number, in frame"),
        (25, lambda k: k * [512, 512, 1], "fractions of the frame"),
        (25, lambda k: k - [0, 0, 1], "confidences from -"),
        (25, lambda k: k * [1, 1, 2], "confidences from"),
        (0, lambda k: k, "frame rate"),
        (-25, lambda k: k, "frame rate"),
        (float("nan"), lambda k: k, "frame rate"),
        (float("inf"), lambda k: k, "frame rate"),
        ([25, 25], lambda k: k, "frame rate"),
        ("25", lambda k: k, "frame rate"),
    ],
)
def test_a_wrong_pose_is_refused(tmp_path, keypoints, suffix, fps, change, reason):
    path = write(tmp_path / f"a{suffix}", fps, change(keypoints))
    with pytest.raises(InputError, match=re.escape(reason)) as caught:
        read_pose(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "[" * 100_000,
        '{"fps": 25}',
        '{"keypoints": []}',
        '{"fps": 25, "keypoints": [[[0, 0, 1]], [[0, 0, 1], [0, 0, 1]]]}',
        '{"fps": 25, "keypoints": [[[0, 0, null]]]}',
        '{"fps": 25, "keypoints": {"0": [0, 0, 1]}}',
        '{"fps": 1' + "0" * 5000 + ', "keypoints": [[[0, 0, 1]]]}',
        '{"fps": 25, "keypoints": [[[1' + "0" * 400 + ", 0, 1]]]}",
    ],
)
def test_what_is_no_pose_is_refused(tmp_path, text):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(InputError) as caught:
        read_pose(tmp_path / "a.json")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1000


def test_nothing_is_unpickled(tmp_path, keypoints):
    class Trap:
        def __reduce__(self):
            return (tmp_path / "sprung").touch, ()

    points = np.array([Trap()], object)
    np.savez(tmp_path / "a.npz", fps=25, keypoints=points)
    with pytest.raises(InputError, match="cannot be read"):
        read_pose(tmp_path / "a.npz")
    assert not (tmp_path / "sprung").exists()


def test_a_bomb_is_not_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr(poses, "MOST_BYTES", 2**20)
    np.savez_compressed(tmp_path / "a.npz", fps=25, keypoints=np.zeros((12, 2**13, 3)))
    assert (tmp_path / "a.npz").stat().st_size < 2**20
    with pytest.raises(InputError, match="unpacks to more than"):
        read_pose(tmp_path / "a.npz")


def test_other_files_are_refused(tmp_path):
    (tmp_path / "a.csv").write_text("0,0,1")
    (tmp_path / "a.npz").write_text("not a zip")
    for name, reason in [("a.csv", "from .json or .npz"), ("a.npz", "zip"), ("b.json", "no file")]:
        with pytest.raises(InputError, match=reason):
            read_pose(tmp_path / name)
