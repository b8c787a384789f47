"""The only place that finds cuts, and that says which frames become clips."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise

import numpy as np
from jaxtyping import UInt8
from scenedetect import FrameTimecode
from scenedetect.detectors import AdaptiveDetector

from omnihuman_jax.errors import InputError

WINDOW = 2  # frames before and after, with whose changes a change is compared


def cuts(
    frames: Iterable[UInt8[np.ndarray, "Y X 3"]], fps: float, threshold: float = 2.0
) -> tuple[list[int], int]:
    """Numbers of the frames that begin a new scene, and how many frames there are.

    PySceneDetect's AdaptiveDetector: a cut is a change `threshold` times as large as the changes
    around it, so that a fast gesture or a moving camera is none; 2 is what LatentSync uses. A content
    threshold alone (27, VideoX-Fun) splits such shots. Unlike there, no scene is too short to be found:
    a cut that is passed over would be trained on. Frames of some 256 pixels are enough.
    """
    detector = AdaptiveDetector(threshold, min_scene_len=1, window_width=WINDOW)
    found: list[int] = []
    count = 0
    for count, frame in enumerate(_padded(frames), start=1):
        bgr = np.ascontiguousarray(frame[..., ::-1])
        moment = FrameTimecode(count, float(fps))
        found += [cut.frame_num for cut in detector.process_frame(moment, bgr)]
    total = max(0, count - 2 * WINDOW)
    begins = (number - 1 - WINDOW for number in found)  # counted from 1, after the padding
    return [number for number in begins if 0 < number < total], total


def _padded(frames: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """The first and last frame a few times more, so that a cut one frame from the end is seen."""
    last = None
    for frame in frames:
        if last is None:
            yield from [frame] * WINDOW
        yield frame
        last = frame
    if last is not None:
        yield from [last] * WINDOW


def scenes(found: Sequence[int], total: int, trim: int = 4) -> list[range]:
    """The frames between cuts, less `trim` at each cut, where two scenes may be mixed.

    Four is what Koala-36M takes away. The start and the end of the video are no cuts and stay. A scene
    that is all trimmed away is an empty range, so that the numbers of the others do not shift.
    """
    edges = [0, *found, total]
    ranges = []
    for begin, end in pairwise(edges):
        begin, end = begin + trim * (begin > 0), end - trim * (end < total)
        ranges.append(range(begin, max(begin, end)))
    return ranges


def segments(scene: range, lengths: Sequence[int]) -> list[range]:
    """Clips of a scene, one after the other, each the longest allowed that still fits; the rest is left.

    Raises:
        InputError: no lengths.
    """
    if not lengths:
        raise InputError("At least one clip length is needed.")
    clips, begin = [], scene.start
    while fitting := [length for length in lengths if begin + length <= scene.stop]:
        clips.append(range(begin, begin + max(fitting)))
        begin = clips[-1].stop
    return clips
