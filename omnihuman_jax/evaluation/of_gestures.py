"""The only place that tells gestures from flicker in a puppet's video: what moves slowly below shoulders."""

from typing import Any

import numpy as np
from jaxtyping import Float

from omnihuman_jax.evaluation.cases import Case, paired
from omnihuman_jax.evaluation.metric import ClipMetric, NotComputedError

SPAN = 5  # frames, 0.2 s, over which pictures are averaged: flicker goes, an arm stays
SHOULDERS = (5, 6)  # of COCO's joints


def liveliness(frames: Float[np.ndarray, "F Y X 3"]) -> float:
    """Deviation over time of pictures averaged over `SPAN` frames: root of the mean square of all pixels."""
    sums = np.cumsum(frames.astype(np.float64), axis=0)
    means = np.concatenate([sums[SPAN - 1 : SPAN], sums[SPAN:] - sums[:-SPAN]]) / SPAN
    return float(np.sqrt(means.var(axis=0).mean()))


def _gestures(case: Case, _: Any) -> float:
    known, pose, both = case.known.attributes, case.known.pose, paired(case)
    if pose is None or both is None or "framing" not in known:
        raise NotComputedError("needs a test set made of puppets")
    if known["framing"] == "portrait":
        raise NotComputedError("needs more of the body than a portrait shows")
    made, truth = both
    top = int(pose[:, list(SHOULDERS), 1].max() * truth.shape[1])
    if len(truth) <= SPAN or top >= truth.shape[1] - 1:
        raise NotComputedError("needs a body below its shoulders, and more frames")
    own = liveliness(truth[:, top:].astype(np.float64))
    if not own > 0:
        raise NotComputedError("needs a truth that moves")
    return liveliness(made[:, top:].astype(np.float64)) / own


METRICS = (
    ClipMetric(
        name="puppet_gestures", better=None, measure=_gestures,
        definition=f"Movement below the shoulders over that of the truth; 1 is as lively, less is stiff: the "
        f"deviation over time of pictures averaged over {SPAN} frames, which flicker does not survive; half- "
        "and full-bodies (evaluation/of_gestures.py)",
    ),
)  # fmt: skip
