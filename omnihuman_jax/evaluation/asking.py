"""The only place that says what a model is asked for by a clip of a test set."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from omnihuman_jax.evaluation.cases import ENDING
from omnihuman_jax.inference.request import Wish, at_rate
from omnihuman_jax.models.directory import ModelDirectory
from omnihuman_jax.testsets.reading import TestClip, open_testset


@dataclass(frozen=True)
class Asked:
    """A wish, and the file for its video, relative to the folder of all of them."""

    id: str
    file: str
    wish: Wish


def wishes(
    testset: str, model: ModelDirectory, common: dict[str, Any], ids: Sequence[str] | None = None
) -> Iterator[Asked]:
    """A wish a clip: its first frame as reference, its sound, its text, and all that is `common`.

    Keypoints are given only where `common["drive"]` names the pose: the papers' tables are of videos
    driven by sound. The seed of clip k of the set is k more than the common one.

    Args:
        common: settings of a Wish.
        ids: some of the clips; None for all.

    Raises:
        InputError: no such test set, or a damaged clip.
    """
    found = open_testset(testset)
    fps = float(common.get("fps") or model.manifest.sampling["fps"])
    posed = "pose" in str(common.get("drive", "auto"))
    for number, name in enumerate(found.ids.ids):
        if ids is not None and name not in ids:
            continue
        clip = found[number]
        given = {
            "reference": clip.reference,
            "audio": clip.sound,
            "text": clip.text or None,
            "pose": _pose(clip, model, fps) if posed else None,
            "seed": int(common.get("seed", 0)) + number,
        }
        yield Asked(name, f"{name}{ENDING}", Wish(**{**common, **given}))


def _pose(clip: TestClip, model: ModelDirectory, fps: float) -> np.ndarray | None:
    """The clip's keypoints at the video's rate, as many as the model knows."""
    config = model.config("dit")
    if clip.pose is None or config.pose is None:
        return clip.pose
    return at_rate(clip.pose[:, : config.pose.joints], clip.fps, fps)
