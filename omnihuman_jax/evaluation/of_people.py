"""The only place with the metrics of people: lips and sound, faces, hands, body."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Float32, UInt8

from omnihuman_jax import skeleton
from omnihuman_jax.evaluation.cases import Case
from omnihuman_jax.evaluation.metric import ClipMetric, NotComputedError

HANDS = (skeleton.LEFT_HAND, skeleton.RIGHT_HAND)
TALL = 512.0  # pixels of a frame's height in which hands' spread is told


class Identities:
    """Who the face in a frame is: keypoints, the face put upright, a unit vector of it."""

    def __init__(self, landmarks: Callable[[Any, float], Any], load: Callable[[], Any]) -> None:
        """`landmarks`: (frames, fps) -> keypoints; `load` is called once a face was found."""
        self._landmarks, self._load = landmarks, load
        self._network: Any = None

    def __call__(
        self, frames: UInt8[np.ndarray, "F Y X 3"], fps: float
    ) -> tuple[Float32[np.ndarray, "K D"], Bool[np.ndarray, "F"]]:
        """The vectors of the frames in which a face is seen, and which those are."""
        from omnihuman_jax.models.faces import aligned

        crops, seen = aligned(frames, self._landmarks(frames, fps))
        if not len(crops):
            return np.zeros((0, 1), np.float32), seen
        if self._network is None:
            self._network = self._load()
        return self._network(crops), seen


class WholeBody:
    """133 keypoints of the largest person by rtmlib (Apache-2.0) with ONNX files that the user brings."""

    def __init__(self, folder: str) -> None:
        """`folder` has det.onnx (YOLOX) and pose.onnx (DWPose or RTMW), of any input size."""
        import onnxruntime
        from rtmlib import Wholebody

        files = {part: f"{folder}/{part}.onnx" for part in ("det", "pose")}
        sizes = {}
        for part, file in files.items():
            height, width = onnxruntime.InferenceSession(file).get_inputs()[0].shape[2:]
            sizes[f"{part}_input_size"] = (int(width), int(height))
        self._look = Wholebody(**files, **sizes, to_openpose=False, backend="onnxruntime")

    def __call__(self, frames: UInt8[np.ndarray, "F Y X 3"]) -> Float32[np.ndarray, "F 133 3"]:
        """x, y as shares of the frame, and the detector's own confidence; zeros where nobody is found."""
        return np.stack([self._one(frame) for frame in frames])

    def _one(self, frame: np.ndarray) -> np.ndarray:
        points, scores = self._look(frame[..., ::-1])  # it learnt on BGR
        found = np.zeros((skeleton.JOINTS, 3), np.float32)
        if len(points):
            spans = np.ptp(np.asarray(points)[:, skeleton.BODY], axis=1).prod(axis=-1)
            largest = int(np.argmax(spans))
            found[:, :2] = points[largest] / np.array([frame.shape[1], frame.shape[0]])
            found[:, 2] = scores[largest]
        return found


def _points(case: Case, network: Any) -> np.ndarray:
    found: np.ndarray = case.once("landmarks", lambda: network(case.frames, case.fps))
    return found


def _whole(case: Case, network: Any) -> np.ndarray:
    found: np.ndarray = case.once("whole body", lambda: network(case.frames))
    return found


def spread(
    points: Float[np.ndarray, "F J 3"], aspect: float, least: float = 0.0
) -> Float[np.ndarray, "_"]:
    """How far each point moves over a clip: root of the variances of x and y, in heights of the frame.

    Args:
        aspect: width of the frame over its height.
        least: confidence that a point must have to count in a frame; below or at it, it is not seen.

    Returns:
        Of the points that are seen in at least half of the frames and twice.
    """
    seen = points[..., 2] > least
    places = np.where(seen[..., None], points[..., :2] * (aspect, 1.0), np.nan)
    often = (seen.sum(axis=0) >= 2) & (seen.mean(axis=0) >= 0.5)
    return np.sqrt(np.nanvar(places[:, often], axis=0).sum(axis=-1))


def _moved(points: np.ndarray, chosen: Any, case: Case, what: str) -> float:
    height, width = case.frames.shape[1:3]
    found = spread(points[:, chosen], width / height)
    if not len(found):
        raise NotComputedError(f"needs {what} in half of the frames")
    return float(found.mean())


def _both_hands() -> list[int]:
    return [k for hand in HANDS for k in range(hand.start, hand.stop)]


def _hand_presence(case: Case, network: Any) -> float:
    points = _points(case, network)
    return float(np.mean([points[:, hand, 2].mean() for hand in HANDS]))


def _hand_variance(case: Case, network: Any) -> float:
    return TALL * _moved(_points(case, network), _both_hands(), case, "a hand")


def _hkc(case: Case, network: Any) -> float:
    return float(_whole(case, network)[:, _both_hands(), 2].mean())


def _hkv(case: Case, network: Any) -> float:
    return TALL * _moved(_whole(case, network), _both_hands(), case, "a hand")


def _diversity(case: Case, network: Any) -> float:
    return 100 * _moved(_points(case, network), list(range(17)), case, "a body")


def _who(case: Case, network: Any) -> np.ndarray:
    """Unit vectors of the face in the frames that show one."""
    vectors, seen = case.once("faces", lambda: network(case.frames, case.fps))
    if seen.mean() < 0.5:
        raise NotComputedError("needs a face in half of the frames")
    return np.asarray(vectors, np.float64)


def _csim(case: Case, network: Any) -> float:
    if case.known.reference is None:
        raise NotComputedError("needs a reference picture")
    given, seen = network(case.known.reference[None], case.fps)
    if not seen.all():
        raise NotComputedError("needs a face in the reference picture")
    return float((_who(case, network) @ given[0]).mean())


def _identity_over_time(case: Case, network: Any) -> float:
    who = _who(case, network)
    if len(who) < 2:
        raise NotComputedError("needs two frames with a face")
    before, first = (who[1:] * who[:-1]).sum(axis=1), who[1:] @ who[0]
    return float((np.maximum(before, 0) + np.maximum(first, 0)).mean() / 2)


def _sync(name: str) -> Callable[[Case, Any], float]:
    def measure(case: Case, network: Any) -> float:
        sound = case.sound if case.sound is not None else case.known.sound
        if sound is None:
            raise NotComputedError("needs a video with sound")
        found: Mapping[str, float] = case.once(
            "sync", lambda: network(case.frames, sound, case.fps)
        )
        if not found:
            raise NotComputedError("needs a face in half of the frames, and six frames of it")
        return float(found[name])

    return measure


SYNC = "joonson/syncnet_python (Chung & Zisserman 2016): 25 fps, 16 kHz, shifts of 15 frames either way"

METRICS = (
    ClipMetric(
        name="sync_c", better="higher", network="syncnet", measure=_sync("sync_c"),
        definition=f"Sync-C (LSE-C): how far the least mean distance lies below their median; {SYNC}",
    ),
    ClipMetric(
        name="sync_d", better="lower", network="syncnet", measure=_sync("sync_d"),
        definition=f"Sync-D (LSE-D): the least mean distance of lips and sound; {SYNC}",
    ),
    ClipMetric(
        name="hkc", better="higher", network="wholebody", measure=_hkc,
        definition="Hand keypoint confidence (CyberHost, arXiv 2409.01876): mean confidence of 42 hand "
        "points over frames, of the largest person, by the detector given (rtmlib)",
    ),
    ClipMetric(
        name="hkv", better="higher", network="wholebody", measure=_hkv,
        definition="Hand keypoint variance (CyberHost, arXiv 2409.01876; no formula is published): standard "
        "deviation of 42 hand points over a clip, in pixels of a frame 512 high, by the detector given "
        "(rtmlib); jitter raises it too",
    ),
    ClipMetric(
        name="hand_presence", better="higher", network="landmarks", measure=_hand_presence,
        definition="Mean presence of both hands over frames by mediapipe's hand model, 0 where none is "
        "found; not HKC, for that model has no confidence of single points",
    ),
    ClipMetric(
        name="hand_variance", better=None, network="landmarks", measure=_hand_variance,
        definition="As hkv, of hands that mediapipe finds; not comparable with HKV by other detectors",
    ),
    ClipMetric(
        name="csim", better="higher", network="faces", measure=_csim,
        definition="Mean cosine of face vectors of the reference and of each frame with a face, by dlib's "
        "ResNet as face-api published it; not the ArcFace with which papers measure CSIM",
    ),
    ClipMetric(
        name="identity_over_time", better="higher", network="faces", measure=_identity_over_time,
        definition="Mean cosine of a frame's face vector with that of the frame before and of the first, "
        "as VBench's subject consistency (arXiv 2311.17982), of faces by dlib's ResNet in place of DINO",
    ),
    ClipMetric(
        name="diversity", better=None, network="landmarks", measure=_diversity,
        definition="Action diversity, ours: standard deviation of the body's 17 joints over a clip, in "
        "percent of the frame's height, mean of the joints that mediapipe sees in half of the frames",
    ),
)  # fmt: skip
