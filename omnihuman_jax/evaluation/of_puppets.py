"""The only place that turns puppets/scoring.py into metrics, for test sets made of puppets.

Puppets' truth is exact, so these need no weights: mouth, joints and colours are read from pixels alone. Their
numbers hold for puppets and stand beside no other's.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from omnihuman_jax.evaluation.cases import Case, paired
from omnihuman_jax.evaluation.metric import (
    ClipMetric,
    Features,
    NotComputedError,
    SetMetric,
    stacked,
)
from omnihuman_jax.metrics import random_features
from omnihuman_jax.metrics.frechet import frechet_distance
from omnihuman_jax.puppets import colour_reading, lips, scoring
from omnihuman_jax.puppets.pose_reading import PoseReader
from omnihuman_jax.puppets.reading import mouth_opening
from omnihuman_jax.puppets.world import Preview, Settings, preview

LOOKED_AT = 3  # frames in which joints are looked for, 0.4 s each
LATEST = 15  # frames either way: as far as SyncNet's published pipeline looks
READABLE = (
    0.7  # correlation of the mouth in the true video with the truth: H.264 halves colours in size
)
PART = 4  # drift is from the first quarter to the last


def _truth(case: Case) -> dict[str, Any]:
    known = case.known.attributes
    if not {"mouth", "settings", "framing"} <= known.keys() or case.known.pose is None:
        raise NotComputedError("needs a test set made of puppets")
    return dict(known)


def _opening(case: Case) -> np.ndarray:
    found: np.ndarray = case.once("mouth in the pixels", lambda: mouth_opening(case.frames))
    return found


def _readable(case: Case) -> dict[str, Any]:
    known = _truth(case)
    if case.truth is None:
        raise NotComputedError("needs the true video")
    drawn = case.once("the true mouth in the pixels", lambda: mouth_opening(case.truth))  # type: ignore[arg-type]
    if scoring.correlation(drawn, np.array(known["mouth"], np.float32)) < READABLE:
        raise NotComputedError("needs a mouth that can be read in the true video")
    return known


def _lips(case: Case, _: Any) -> float:
    truth, read = np.array(_readable(case)["mouth"], np.float32), _opening(case)
    count = min(len(truth), len(read))
    return scoring.correlation(read[:count], truth[:count])


def _lag(case: Case, _: Any) -> float:
    _readable(case)
    if case.sound is None:
        raise NotComputedError("needs a video with sound")
    read = _opening(case)
    heard = lips.follow(case.sound, 16_000, case.fps, len(read))[0]
    most = min(LATEST, len(read) // 5)  # the rest is too short to tell
    return float(np.argmax(scoring.lags(read, heard, most)) - most)


def _drawn(known: dict[str, Any], height: int, width: int) -> Preview:
    """The puppet's own clip, to be drawn at any size of its shape."""
    settings, number = dict(known["settings"]), str(known["identity"]).rpartition("-")[2]
    if not number.isdecimal() or settings["height"] * width != settings["width"] * height:
        raise NotComputedError("needs puppets in the shape in which they were drawn")
    return preview(Settings(**{**settings, "height": height, "width": width}), int(number))


def _pose(case: Case, _: Any) -> float:
    known = _truth(case)
    if known["framing"] == "portrait":
        raise NotComputedError("needs more of the body than a portrait shows")
    pose = case.known.pose
    assert pose is not None
    count = min(len(pose), len(case.frames))
    drawn = _drawn(known, *case.frames.shape[1:3])
    if drawn.plan.desk:
        raise NotComputedError("needs a puppet without a desk")
    chosen = [(2 * k + 1) * count // (2 * LOOKED_AT) for k in range(LOOKED_AT)]
    found = PoseReader(drawn.shot)(case.frames[chosen]).astype(np.float32)
    error = scoring.pose_error(found, pose[chosen][:, : found.shape[1]])
    if not np.isfinite(error):
        raise NotComputedError("needs a joint inside the frame")
    return error


def _look(case: Case, first: int, last: int) -> np.ndarray:
    """Colours of head and clothes in frames `first` to `last`, where the truth has the puppet."""
    pose = case.known.pose
    assert pose is not None
    last = min(last, len(case.frames), len(pose))
    first = min(first, last - 1)
    return colour_reading.look(case.frames[first:last], pose[first:last])


def _looks(case: Case, _: Any) -> Features:
    _truth(case)
    pose, reference = case.known.pose, case.known.reference
    if reference is None or pose is None:
        raise NotComputedError("needs a reference picture")
    own = colour_reading.look(reference[None], pose[:1])
    return {"made": _look(case, 0, len(case.frames))[None], "reference": own[None]}


def _away(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.sqrt(((one - other) ** 2).sum(axis=-1)).mean())


def _unlike(case: Case, _: Any) -> float:
    seen = case.once("looks", lambda: _looks(case, None))
    return _away(seen["made"][0], seen["reference"][0])


def _drift(case: Case, _: Any) -> float:
    _truth(case)
    count = min(len(case.frames), len(case.known.pose))  # type: ignore[arg-type]
    part = max(1, count // PART)
    return _away(_look(case, 0, part), _look(case, count - part, count))


def _recognised(parts: Sequence[Features]) -> Callable[[Sequence[int]], float]:
    everyone = np.concatenate([part["reference"] for part in parts])
    ranks = [scoring.rank(part["made"][0], everyone, k) for k, part in enumerate(parts)]
    right = np.array(ranks) == 0
    return lambda chosen: float(right[list(chosen)].mean())


def _motion(case: Case, _: Any) -> float:
    _truth(case)
    both = paired(case)
    assert both is not None  # a test set has its truth
    change = [np.abs(np.diff(v.astype(np.float32), axis=0)).mean() for v in both]
    if not change[1] > 0:
        raise NotComputedError("needs a truth that moves")
    return float(change[0] / change[1])


def _frames(case: Case, _: Any) -> Features:
    _truth(case)
    both = paired(case)
    assert both is not None
    return dict(zip(("made", "truth"), map(random_features.features, both), strict=True))


def _distance(parts: Sequence[Features]) -> Callable[[Sequence[int]], float]:
    """In the units of all of the truth, whichever clips are taken."""
    units = random_features.Units.of(stacked(parts, "truth", range(len(parts))))
    placed = [{name: units(np.asarray(rows)) for name, rows in part.items()} for part in parts]
    kept = units.axes.shape[1]

    def value(chosen: Sequence[int]) -> float:
        return frechet_distance(*(stacked(placed, n, chosen) for n in ("made", "truth"))) / kept

    return value


HERE = "omnihuman_jax/puppets/scoring.py"

METRICS = (
    ClipMetric(
        name="puppet_lips", better="higher", measure=_lips, version=2,
        definition="Pearson correlation of the mouth's opening in the pixels with the truth's, frame by "
        f"frame, of clips whose true video can be read to {READABLE} ({HERE}, lip_score)",
    ),
    ClipMetric(
        name="puppet_lag", better=None, measure=_lag, version=2,
        definition="Frames by which the mouth in the pixels is late against the mouth that the video's own "
        f"sound makes: the best of lags to {LATEST} frames (a fifth of the video) either way, by a lip "
        f"reader made for puppets and no SyncNet ({HERE}, lags; puppets/lips.py)",
    ),
    ClipMetric(
        name="puppet_pose", better="lower", measure=_pose,
        definition=f"Mean distance of 17 joints, found in {LOOKED_AT} frames by drawing the puppet again, "
        f"from the truth, as a share of the frame; half- and full-bodies ({HERE}, pose_error)",
    ),
    SetMetric(
        name="puppet_identity", better="higher", features=_looks, value=_recognised,
        definition="Share of videos whose colours of head and clothes are nearest to their own reference "
        f"picture's, of the references of all clips of the set ({HERE}, rank)",
    ),
    ClipMetric(
        name="puppet_look", better="lower", measure=_unlike,
        definition="Mean distance of the colours of head and clothes from the reference picture's, of 255 a "
        "channel (puppets/colour_reading.py, look)",
    ),
    ClipMetric(
        name="puppet_drift", better="lower", measure=_drift,
        definition="Mean distance of the colours of head and clothes in the last quarter of the video from "
        "those in its first, of 255 a channel (puppets/colour_reading.py, look)",
    ),
    ClipMetric(
        name="puppet_motion", better=None, measure=_motion,
        definition="Mean change from frame to frame over that of the truth; 1 is as lively, more may be "
        "flicker",
    ),
    SetMetric(
        name="puppet_frechet", better="lower", features=_frames, value=_distance, samples="frames",
        definition="Fréchet distance of frames to the truth's in features of random convolutions, in the "
        "truth's 32 main directions and its spread in each, a direction (metrics/random_features.py; "
        "Heusel et al., arXiv 1706.08500)",
    ),
)  # fmt: skip
