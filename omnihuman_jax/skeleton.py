"""The only place that knows which point of a person has which number: COCO-WholeBody's 133, in its order."""

import numpy as np
from jaxtyping import Float32

BODY_NAMES = (
    "nose",
    "left_eye",
    "right_eye",
    "left_ear",
    "right_ear",
    "left_shoulder",
    "right_shoulder",
    "left_elbow",
    "right_elbow",
    "left_wrist",
    "right_wrist",
    "left_hip",
    "right_hip",
    "left_knee",
    "right_knee",
    "left_ankle",
    "right_ankle",
)
"""The first 17 points are COCO's; "left" is the person's own left."""

JOINTS = 133
BODY = slice(0, 17)
FEET = slice(17, 23)  # left big toe, small toe, heel; then right
FACE = slice(
    23, 91
)  # the 68 points of iBUG: jaw 17, brows 10, nose 9, eyes 12, outer lips 12, inner 8
LEFT_HAND = slice(91, 112)  # wrist, then thumb, index, middle, ring, little: four points each
RIGHT_HAND = slice(112, 133)

UPPER_BODY = tuple(range(11))
LIMBS = (
    (5, 6),
    (5, 7),
    (7, 9),
    (6, 8),
    (8, 10),
    (5, 11),
    (6, 12),
    (11, 12),
    (11, 13),
    (13, 15),
    (12, 14),
    (14, 16),
)
"""Pairs of body points to draw a line between."""

_CHIN, _NOSE_ROOT = 23 + 8, 23 + 27
_LIP_PAIRS = ((23 + 61, 23 + 67), (23 + 62, 23 + 66), (23 + 63, 23 + 65))  # inner: upper, lower


def lip_opening(
    pose: Float32[np.ndarray, "F J 3"], aspect: float = 1.0
) -> Float32[np.ndarray, "F"]:
    """How far the lips are apart, as a share of the face from the root of the nose to the chin.

    The mean distance of the three pairs of inner lip points. NaN where the face is not seen, or the
    skeleton has no face points. `aspect` is the frame's width over its height.
    """
    opening = np.full(len(pose), np.nan, np.float32)
    if pose.shape[1] < FACE.stop:
        return opening
    points = pose[..., :2] * np.array([aspect, 1.0], np.float32)
    tall = np.linalg.norm(points[:, _CHIN] - points[:, _NOSE_ROOT], axis=-1)
    apart = np.mean(
        [np.linalg.norm(points[:, a] - points[:, b], axis=-1) for a, b in _LIP_PAIRS], axis=0
    )
    used = [_CHIN, _NOSE_ROOT, *(p for pair in _LIP_PAIRS for p in pair)]
    seen = (pose[:, used, 2] > 0).all(axis=1) & (tall > 1e-6)
    opening[seen] = (apart[seen] / tall[seen]).astype(np.float32)
    return opening
