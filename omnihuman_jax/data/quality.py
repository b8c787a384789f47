"""The only place that measures pictures and keypoints of a clip: one number a function, thresholds elsewhere.

Frames come at the size of analysis (longest side some 512 pixels), keypoints in shares of the frame.
A number that cannot be measured is None, and then not recorded.
"""

from itertools import pairwise
from typing import Any

import cv2
import numpy as np
from jaxtyping import Bool, Float32, UInt8

from omnihuman_jax import skeleton
from omnihuman_jax.data.crop import SURE, Box

SHORT_SIDE = 256  # sharpness is measured with this, or less where the picture has less
FLOW_WIDTH = 256  # motion is measured with this: its number is in pixels of a picture so wide
PATCH = 128  # faces and hands are brought to this size before their sharpness is measured
HALF_SHARP = 100.0  # variance of the Laplacian that scores 0.5
SAMPLES = 8  # frames looked at where every frame would tell the same


def luma(frames: UInt8[np.ndarray, "F Y X 3"]) -> UInt8[np.ndarray, "F Y X"]:
    """Brightness of every pixel (BT.601 weights)."""
    return np.stack([cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames])


def brightness(grey: UInt8[np.ndarray, "F Y X"]) -> float:
    """Mean luma, 0 to 255. SpeakerVid-5M drops clips below 10 and above 210."""
    return float(grey.mean())


def sharpness(grey: UInt8[np.ndarray, "F Y X"]) -> float:
    """Variance of the Laplacian where the shorter side has 256 pixels; the median of eight frames.

    The usual measure of blur; about 100 is where people begin to call a photo sharp. No pipeline
    that we know publishes a threshold on whole frames.
    """
    values = []
    for frame in some(grey):
        scale = min(1.0, SHORT_SIDE / min(frame.shape))
        values.append(cv2.Laplacian(_scaled(frame, scale), cv2.CV_64F).var())
    return float(np.median(values))


def motion(grey: UInt8[np.ndarray, "F Y X"], fps: float) -> float | None:
    """Mean optical flow (DIS) between frames half a second apart, in pixels of a 256 pixel wide picture.

    VideoX-Fun measures Farneback's flow at 2 frames a second and keeps 2 to 20; on the same clip DIS
    gave 1.78 where Farneback gave 0.20, so that range does not carry over. None under half a second.
    """
    step = max(1, round(fps / 2))
    small = [_scaled(frame, FLOW_WIDTH / grey.shape[2]) for frame in grey[::step]]
    if len(small) < 2:
        return None
    flow: Any = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)  # its stub knows no None
    pairs = pairwise(small)
    return float(np.mean([np.linalg.norm(flow.calc(a, b, None), axis=-1).mean() for a, b in pairs]))


def frozen(grey: UInt8[np.ndarray, "F Y X"], fps: float) -> float | None:
    """Share of pairs of frames a fifth of a second apart in which nothing moves: slides, stalled video.

    Nothing moves if no block of 16 x 16 pixels changes by a level on average: a blink does.
    """
    step = max(1, round(fps / 5))
    sampled = grey[::step]
    if len(sampled) < 2:
        return None
    still = []
    for a, b in pairwise(sampled):
        change = cv2.absdiff(a, b).astype(np.float32)
        blocks = (max(1, change.shape[1] // 16), max(1, change.shape[0] // 16))
        still.append(cv2.resize(change, blocks, interpolation=cv2.INTER_AREA).max() < 1)
    return float(np.mean(still))


def content(grey: UInt8[np.ndarray, "F Y X"]) -> Box:
    """The picture without black borders: rows and columns at the edge of mean luma under 3.

    LVD-2M's number. They must be black in nearly all frames (its 5 %). All of an all-black picture.
    """
    height, width = grey.shape[1:]
    dark = (
        np.mean(grey.mean(axis=2) < 3, axis=0) > 0.95,
        np.mean(grey.mean(axis=1) < 3, axis=0) > 0.95,
    )
    sides = []
    for lines, size in zip(dark, (height, width), strict=True):
        lit = np.flatnonzero(~lines)
        sides.append((int(lit[0]), int(lit[-1]) + 1) if len(lit) else (0, size))
    (top, bottom), (left, right) = sides
    return Box(top, left, bottom - top, right - left)


def text_area(grey: UInt8[np.ndarray, "F Y X"]) -> float:
    """Share of the picture under lines of text that stay where they are: subtitles, logos, tickers.

    Our own heuristic: strong edges in at least three quarters of eight frames, joined along rows;
    of the shapes, those long and low like a line, filled with upright strokes of two colours. Text
    that moves, and letters under about eight pixels, are not found. VideoX-Fun and LVD-2M drop
    clips with more than 0.02.
    """
    sampled = list(some(grey))
    cross = cv2.getStructuringElement(cv2.MORPH_RECT, (3, 3))
    edges = [cv2.morphologyEx(frame, cv2.MORPH_GRADIENT, cross) > EDGE for frame in sampled]
    stable = (np.mean(edges, axis=0) >= 0.75).astype(np.uint8)
    joined = cv2.morphologyEx(stable, cv2.MORPH_CLOSE, np.ones((3, 13), np.uint8))
    joined = cv2.morphologyEx(joined, cv2.MORPH_OPEN, np.ones((5, 5), np.uint8))
    count, _, boxes, _ = cv2.connectedComponentsWithStats(joined, connectivity=4)
    middle = np.median(sampled, axis=0).astype(np.uint8)
    area = 0
    for left, top, width, height, filled in boxes[1:count]:
        place = (slice(top, top + height), slice(left, left + width))
        if not 8 <= height <= 0.15 * grey.shape[1] or width < 2.5 * height:
            continue
        if filled >= 0.5 * width * height and _is_line(middle[place], stable[place]):
            area += int(width) * int(height)
    return area / middle.size


EDGE = 60  # difference of luma within three pixels that makes an edge of a letter
LETTERS = (1.2, 6.0)  # dark-to-light changes along a row, for each height of the line
STROKES = 6  # at least, along a row: fewer is a pair of eyes
UNEVEN = 0.3  # spread of the strokes' widths over their mean: of letters 0.5 and more, of stripes 0


def _is_line(patch: UInt8[np.ndarray, "y x"], edges: UInt8[np.ndarray, "y x"]) -> bool:
    """Whether it looks like letters: two colours, many upright strokes of uneven width, edges all over."""
    _, ink = cv2.threshold(patch, 0, 1, cv2.THRESH_BINARY + cv2.THRESH_OTSU)
    share = ink.mean()
    if not 0.1 < share < 0.9 or edges.mean() < 0.35:
        return False
    light, dark = patch[ink == 1].astype(np.float32), patch[ink == 0].astype(np.float32)
    between = share * (1 - share) * (light.mean() - dark.mean()) ** 2
    rows = ink[patch.shape[0] // 4 : -(patch.shape[0] // 4)].astype(np.int8)
    strokes = (np.diff(rows, axis=1) > 0).sum(axis=1).mean()
    rate = strokes * patch.shape[0] / patch.shape[1]
    runs = [np.diff(np.flatnonzero(np.diff(row))) for row in rows]
    widths = np.concatenate([run for run in runs if len(run)] or [np.ones(1)])
    return bool(
        between > 0.6 * patch.var()
        and strokes >= STROKES
        and LETTERS[0] <= rate <= LETTERS[1]
        and widths.std() >= UNEVEN * widths.mean()
    )


def seen(pose: Float32[np.ndarray, "F J 3"]) -> Bool[np.ndarray, "F J"]:
    """Which points are there: sure enough, and inside the picture."""
    inside = np.asarray(((pose[..., :2] >= 0) & (pose[..., :2] <= 1)).all(axis=-1))
    return inside & (pose[..., 2] >= SURE)


def faces(pose: Float32[np.ndarray, "F 133 3"]) -> Bool[np.ndarray, "F"]:
    """In which frames the face is seen: 60 % of its 68 points, or nose and eyes where there are none."""
    there = seen(pose)
    if (pose[:, skeleton.FACE, 2] > 0).any():
        return there[:, skeleton.FACE].mean(axis=1) >= 0.6
    return np.asarray(there[:, :3].all(axis=1))


def face_visible(pose: Float32[np.ndarray, "F 133 3"]) -> float:
    """Share of frames in which the face is seen."""
    return float(faces(pose).mean())


def face_size(pose: Float32[np.ndarray, "F 133 3"]) -> float | None:
    """Height of the face points, brows to chin, as a share of the picture's; the median. None without."""
    there = seen(pose)[:, skeleton.FACE]
    heights = [
        np.ptp(points[on, 1])
        for points, on in zip(pose[:, skeleton.FACE], there, strict=True)
        if on.mean() >= 0.6
    ]
    return float(np.median(heights)) if heights else None


def hand_visible(pose: Float32[np.ndarray, "F 133 3"]) -> float:
    """Share of frames with a hand of which at least half the points are seen."""
    there = seen(pose)
    hands = [there[:, part].mean(axis=1) >= 0.5 for part in HANDS]
    return float(np.logical_or(*hands).mean())


def pose_visible(pose: Float32[np.ndarray, "F 133 3"]) -> float:
    """Share of frames with both shoulders and at least one arm down to the wrist.

    A pose drives gestures; a portrait, in which the arms are out of the picture, has none to teach.
    """
    there = seen(pose)
    left, right = there[:, [7, 9]].all(axis=1), there[:, [8, 10]].all(axis=1)
    return float((there[:, [5, 6]].all(axis=1) & (left | right)).mean())


def person_visible(pose: Float32[np.ndarray, "F 133 3"]) -> float:
    """Share of frames with the face or both shoulders."""
    shoulders = seen(pose)[:, [5, 6]].all(axis=1)
    return float((faces(pose) | shoulders).mean())


HANDS = (skeleton.LEFT_HAND, skeleton.RIGHT_HAND)


def face_sharpness(
    grey: UInt8[np.ndarray, "F Y X"], pose: Float32[np.ndarray, "F 133 3"]
) -> float | None:
    """How sharp the face is, 0 to 1; the median of eight frames. None where it is never seen.

    v / (v + 100) with v the variance of the Laplacian on 128 x 128 pixels. SpeakerVid-5M also scores
    patches of 128 from 0 to 1 by their Laplacian, drops clips below 0.1 and fine-tunes on faces above
    0.7 and hands above 0.5; how it comes to 0 to 1 is not published.
    """
    return _sharpness(grey, pose, (skeleton.FACE,))


def hand_sharpness(
    grey: UInt8[np.ndarray, "F Y X"], pose: Float32[np.ndarray, "F 133 3"]
) -> float | None:
    """The same of the hands."""
    return _sharpness(grey, pose, HANDS)


def _sharpness(
    grey: UInt8[np.ndarray, "F Y X"], pose: Float32[np.ndarray, "F 133 3"], parts: tuple[slice, ...]
) -> float | None:
    there, values = seen(pose), []
    for index in _places(len(grey)):
        for part in parts:
            if there[index, part].mean() < 0.6:
                continue
            x, y = (
                pose[index, part, axis] * size
                for axis, size in ((0, grey.shape[2]), (1, grey.shape[1]))
            )
            side = max(np.ptp(x), np.ptp(y)) * 1.2
            left, top = max(0, int(x.mean() - side / 2)), max(0, int(y.mean() - side / 2))
            patch = grey[
                index, top : int(y.mean() + side / 2) + 1, left : int(x.mean() + side / 2) + 1
            ]
            if min(patch.shape) < 8:
                continue
            same = cv2.resize(patch, (PATCH, PATCH), interpolation=cv2.INTER_AREA)
            value = cv2.Laplacian(same, cv2.CV_64F).var()
            values.append(value / (value + HALF_SHARP))
    return float(np.median(values)) if values else None


def _places(count: int) -> list[int]:
    return sorted(set(np.linspace(0, count - 1, SAMPLES).round().astype(int).tolist()))


def some(frames: UInt8[np.ndarray, "F ..."]) -> UInt8[np.ndarray, "f ..."]:
    """Eight frames, evenly spaced, or all where there are no more."""
    return frames[_places(len(frames))]


def _scaled(frame: UInt8[np.ndarray, "Y X"], scale: float) -> UInt8[np.ndarray, "y x"]:
    if scale == 1:
        return frame
    size = (max(1, round(frame.shape[1] * scale)), max(1, round(frame.shape[0] * scale)))
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    return cv2.resize(frame, size, interpolation=method)
