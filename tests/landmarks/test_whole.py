import pickle

import cv2
import numpy as np
import pytest

from omnihuman_jax import skeleton
from omnihuman_jax.errors import InputError
from omnihuman_jax.landmarks.whole import Landmarker, _between

FACE = np.arange(skeleton.FACE.start, skeleton.FACE.stop)
SHIFT = np.array([40.0, 24.0])


def mirrored_order() -> list[int]:
    """The number that each of the 133 points has in a mirror."""
    body = [0, *(k + 1 if k % 2 else k - 1 for k in range(1, 17))]
    feet = [20, 21, 22, 17, 18, 19]
    jaw = [16 - k for k in range(17)]
    brows = [43 - k for k in range(17, 27)]
    nose = [27, 28, 29, 30, 35, 34, 33, 32, 31]
    eyes = [45, 44, 43, 42, 47, 46, 39, 38, 37, 36, 41, 40]
    outer = [54, 53, 52, 51, 50, 49, 48, 59, 58, 57, 56, 55]
    inner = [64, 63, 62, 61, 60, 67, 66, 65]
    face = [23 + k for k in jaw + brows + nose + eyes + outer + inner]
    return body + feet + face + [*range(112, 133)] + [*range(91, 112)]


def look(landmarker, picture, times=2):
    """The last frame of a still clip, in pixels."""
    pose = landmarker(np.stack([picture] * times), 25.0)[-1]
    return pose[:, :2] * (picture.shape[1], picture.shape[0]), pose[:, 2]


def face_side(points):
    return np.ptp(points[FACE], axis=0).max()


def near(points, expected, seen, share=0.03):
    """Largest distance of points that are seen, as a share of the face."""
    return np.linalg.norm(points - expected, axis=1)[seen].max() < share * face_side(expected)


def test_the_portrait_is_a_face_on_shoulders(landmarker, portrait):
    points, seen = look(landmarker, portrait)
    assert (seen[FACE] > 0.9).all()
    ibug = points[FACE]
    left_eye, right_eye = ibug[42:48].mean(axis=0), ibug[36:42].mean(axis=0)
    mouth, chin, brows = ibug[48:68].mean(axis=0), ibug[8], ibug[17:27].mean(axis=0)
    assert left_eye[0] > right_eye[0]  # the person's left is the picture's right
    assert points[1] == pytest.approx(left_eye)
    assert brows[1] < left_eye[1] < ibug[30][1] < mouth[1] < chin[1]
    assert right_eye == pytest.approx([202, 100], abs=6)  # looked up in the picture
    assert mouth == pytest.approx([224, 146], abs=6)
    assert ((ibug[48:] > ibug[:17].min(axis=0)) & (ibug[48:] < ibug[:17].max(axis=0))).all()
    x, y = ibug.T
    across = [range(17), range(17, 27), range(31, 36), range(48, 55), range(60, 65)]
    across += [[54, 55, 56, 57, 58, 59, 48][::-1], [64, 65, 66, 67, 60][::-1]]
    across += [[36, 37, 38, 39], [36, 41, 40, 39], [42, 43, 44, 45], [42, 47, 46, 45]]
    for line in across:  # each of iBUG's lines runs from the picture's left to its right
        assert (np.diff(x[list(line)]) > 0).all()
    assert (np.diff(y[27:31]) > 0).all()  # the bridge of the nose, downwards
    for above, below in [(37, 41), (44, 46), (51, 62), (62, 66), (66, 57)]:
        assert y[above] < y[below]
    shoulders = points[[5, 6]]
    assert (seen[[5, 6]] > 0.5).all()
    assert shoulders[0, 0] - shoulders[1, 0] > 1.5 * face_side(points)
    assert (shoulders[:, 1] > chin[1]).all()
    assert seen[18] == seen[21] == 0  # the models have no small toes
    assert (seen[91:] == 0).all()  # her hands are out of the picture


def test_a_talking_head_is_followed_and_its_lips_move(landmarker, carphone):
    watched = landmarker.watch(carphone[::2], 15.0)
    assert (watched.pose[:, FACE, 2].min(axis=1) > 0.5).mean() >= 0.9
    assert (watched.pose[:, 5:7, 2] > 0.5).mean() >= 0.9
    assert (watched.faces == 1).mean() >= 0.9
    opening = skeleton.lip_opening(watched.pose, 176 / 144)
    assert np.nanmin(opening) < 0.03
    assert np.nanmax(opening) > 0.15


def test_nobody_is_seen_where_nobody_is(landmarker):
    random = np.random.default_rng(0)
    noise = random.integers(0, 256, (240, 320, 3), np.uint8)
    ramp = np.broadcast_to(np.linspace(0, 255, 320)[None, :, None], (240, 320, 3)).astype(np.uint8)
    blobs = cv2.GaussianBlur(noise, (0, 0), 9)
    blobs = cv2.normalize(blobs, None, 0, 255, cv2.NORM_MINMAX)
    watched = landmarker.watch(np.stack([noise, ramp, blobs]), 25.0)
    assert not watched.pose.any()
    assert not watched.faces.any()


def test_what_moves_the_picture_moves_the_points(landmarker, portrait):
    points, seen = look(landmarker, portrait)
    well = seen > 0.5

    shifted, again = look(landmarker, np.roll(portrait, (24, 40), axis=(0, 1)))
    assert near(shifted, points + SHIFT, FACE)
    assert near(shifted, points + SHIFT, well & (again > 0.5), share=0.3)

    half = cv2.resize(portrait, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    smaller, _ = look(landmarker, half)
    assert np.linalg.norm(smaller[FACE] * 2 - points[FACE], axis=1).max() < 0.03 * face_side(points)

    turn = cv2.getRotationMatrix2D((224, 120), 20, 1.0)
    turned, _ = look(landmarker, cv2.warpAffine(portrait, turn, (512, 512)))
    expected = points @ turn[:, :2].T + turn[:, 2]
    assert np.linalg.norm(turned - expected, axis=1)[FACE].max() < 0.05 * face_side(points)


def test_in_a_mirror_left_is_right(landmarker, portrait):
    points, seen = look(landmarker, portrait)
    mirrored, again = look(landmarker, np.ascontiguousarray(portrait[:, ::-1]))
    swap = mirrored_order()
    expected = (512 - points[:, 0], points[:, 1])
    expected = np.stack(expected, axis=1)[swap]
    assert np.linalg.norm(mirrored - expected, axis=1)[FACE].max() < 0.05 * face_side(points)
    body = np.flatnonzero((again[:17] > 0.5) & (seen[swap][:17] > 0.5))
    assert {5, 6} <= set(body)
    assert np.linalg.norm(mirrored - expected, axis=1)[body].max() < 0.3 * face_side(points)


def test_the_person_is_the_largest_face_and_all_are_counted(landmarker, portrait):
    small = cv2.resize(portrait, None, fx=0.6, fy=0.6, interpolation=cv2.INTER_AREA)
    both = np.zeros((512, 820, 3), np.uint8)
    both[:, 308:] = portrait
    both[-len(small) :, : small.shape[1]] = small
    watched = landmarker.watch(np.stack([both] * 2), 25.0)
    assert (watched.faces == 2).all()
    assert (landmarker.count_people(both[None]) == [2]).all()
    alone, _ = look(landmarker, portrait)
    points = watched.pose[-1, :, :2] * (820, 512) - (308, 0)
    assert np.linalg.norm(points - alone, axis=1)[FACE].max() < 0.03 * face_side(alone)


def test_who_leaves_is_gone_and_who_comes_back_is_found(landmarker, portrait):
    empty = np.full_like(portrait, 120)
    moved = np.roll(portrait, 100, axis=1)
    pose = landmarker(np.stack([portrait, portrait, empty, empty, moved, moved]), 25.0)
    assert (pose[:, FACE, 2].mean(axis=1) > 0.5).tolist() == [True, True, False, False, True, True]
    assert not pose[2:4].any()
    assert pose[4:, FACE, 0] - pose[:2, FACE, 0] == pytest.approx(100 / 512, abs=0.01)


def test_what_is_outside_the_frame_is_not_there(landmarker, portrait):
    """Cut through the mouth: the chin goes, the eyes stay."""
    pose = landmarker(np.ascontiguousarray(portrait[:150])[None], 25.0)[0]
    assert pose[23 + 8].tolist() == [0, 0, 0]
    assert (pose[23 + 36 : 23 + 48, 2] > 0.5).all()
    assert ((pose >= 0) & (pose <= 1)).all()


def test_clips_do_not_know_of_each_other(landmarker, portrait, carphone):
    clip = carphone[:3]
    first = landmarker(clip, 30.0)
    landmarker(portrait[None], 30.0)
    np.testing.assert_array_equal(landmarker(clip, 30.0), first)
    copy = pickle.loads(pickle.dumps(landmarker))  # noqa: S301
    np.testing.assert_array_equal(copy(clip, 30.0), first)


def test_between_the_frames_that_are_looked_at():
    """Seen at 0 and 4: a straight line. Lost after 4: gone from the middle between 4 and 8 on."""
    pose = np.array([[[0.2, 0.4, 1.0]], [[0.6, 0.8, 0.5]], [[0.0, 0.0, 0.0]]], np.float32)
    full = _between(pose, np.array([0, 4, 8]), np.arange(9))
    assert full[:5, 0, 0] == pytest.approx([0.2, 0.3, 0.4, 0.5, 0.6])
    assert full[:5, 0, 2] == pytest.approx([1, 0.875, 0.75, 0.625, 0.5])
    assert full[5:, 0, 2].tolist() == [0.5, 0, 0, 0]
    assert full[5, 0, :2] == pytest.approx([0.6, 0.8])


def test_a_stride_looks_at_every_kth_frame(landmarker, carphone):
    clip = carphone[:11]
    every, third = landmarker(clip, 30.0), Landmarker(stride=3)(clip, 30.0)
    assert third.shape == every.shape
    assert np.abs(every - third)[:, FACE, :2].max() < 0.03


def test_no_frames_are_no_keypoints(landmarker):
    for frames in (0, 1):
        watched = landmarker.watch(np.zeros((frames, 48, 64, 3), np.uint8), 25.0)
        assert watched.pose.shape == (frames, 133, 3)
        assert watched.faces.shape == (frames,)


def test_bad_settings_are_refused():
    with pytest.raises(InputError, match="stride"):
        Landmarker(stride=0)
