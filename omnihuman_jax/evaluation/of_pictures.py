"""The only place with the metrics of pictures: distances to the truth, by frames or as sets, and quality."""

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
from omnihuman_jax.metrics.frechet import frechet_distance
from omnihuman_jax.metrics.pictures import SIZE as SSIM_SIZE
from omnihuman_jax.metrics.pictures import psnr, ssim, temporal_flickering

CLIP = 16  # frames that a video network sees, one after the other
EQUAL = 100.0  # dB; more counts as this, or one equal frame would make the mean infinite
WIDE = 20  # resamples of sets with a thousand numbers a sample, whose distance takes seconds


def pairs(case: Case) -> tuple[np.ndarray, np.ndarray]:
    """Video and truth, frame by frame at the truth's size."""
    both = paired(case)
    if both is None:
        raise NotComputedError("needs the true video")
    return both


def clips(frames: np.ndarray) -> np.ndarray:
    """Sixteen frames at a time, one set after the other; what is left over is left out: "N 16 Y X 3"."""
    count = len(frames) // CLIP
    if not count:
        raise NotComputedError(f"needs a video of {CLIP} frames or more")
    return frames[: count * CLIP].reshape(count, CLIP, *frames.shape[1:])


def _of_frames(case: Case, network: Any) -> Features:
    made, truth = pairs(case)
    return {"made": network(made), "truth": network(truth)}


def _of_clips(case: Case, network: Any) -> Features:
    made, truth = pairs(case)
    return {"made": network(clips(made)), "truth": network(clips(truth))}


def frechet(parts: Sequence[Features]) -> Callable[[Sequence[int]], float]:
    """The Fréchet distance of the chosen clips' features to those of their truth."""
    return lambda chosen: frechet_distance(
        stacked(parts, "made", chosen), stacked(parts, "truth", chosen)
    )


def _rating(name: str) -> Callable[[Case, Any], float]:
    def measure(case: Case, network: Any) -> float:
        found = case.once("q-align", lambda: network(case.frames, None, case.fps))
        return float(found[name])

    return measure


def _lpips(case: Case, network: Any) -> float:
    made, truth = pairs(case)
    if min(truth.shape[1:3]) < 32:
        raise NotComputedError("needs pictures of 32 pixels or more")
    return float(np.mean(network(made, truth)))


def _psnr(case: Case, _: Any) -> float:
    return float(np.minimum(psnr(*pairs(case)), EQUAL).mean())


def _ssim(case: Case, _: Any) -> float:
    made, truth = pairs(case)
    if min(truth.shape[1:3]) < SSIM_SIZE:
        raise NotComputedError(f"needs pictures of {SSIM_SIZE} pixels or more")
    return float(ssim(made, truth).mean())


def _flicker(case: Case, _: Any) -> float:
    if len(case.frames) < 2:
        raise NotComputedError("needs two frames or more")
    return temporal_flickering(case.frames)


STATED = "at the truth's frame rate and size, as long as the shorter of the two"
FVD = f"clips of {CLIP} frames that follow each other (stride {CLIP}), {STATED}"

METRICS = (
    SetMetric(
        name="fid", better="lower", network="inception", samples="frames",
        features=_of_frames, value=frechet, resamples=WIDE,
        definition="Fréchet distance of pool3 features of the 2015 Inception network, stretched to 299 px "
        f"as pytorch-fid does (Heusel et al., arXiv 1706.08500); every frame, {STATED}",
    ),
    SetMetric(
        name="fvd_i3d", better="lower", network="i3d", samples="clips of 16 frames",
        features=_of_clips, value=frechet, resamples=WIDE,
        definition="Fréchet distance of the 400 logits of I3D for Kinetics-400 at 224 px (Unterthiner et "
        f"al., arXiv 1812.01717); {FVD}",
    ),
    SetMetric(
        name="fvd_resnet3d", better="lower", network="resnet3d", samples="clips of 16 frames",
        features=_of_clips, value=frechet, resamples=WIDE,
        definition="Fréchet distance of features of a 3D-ResNet-50 for Kinetics at 112 px, as DisCo's "
        f"fid-vid (arXiv 2307.00040) and, probably, OmniHuman's FVD; {FVD}",
    ),
    ClipMetric(
        name="iqa", better="higher", network="qalign", measure=_rating("iqa"),
        definition="Image quality from 1 to 5 by One-Align (Q-Align, arXiv 2312.17090), a frame a second; "
        "the weights are non-commercial (S-Lab licence)",
    ),
    ClipMetric(
        name="ase", better="higher", network="qalign", measure=_rating("ase"),
        definition="Aesthetics from 1 to 5 by One-Align (Q-Align, arXiv 2312.17090), a frame a second; "
        "the weights are non-commercial (S-Lab licence)",
    ),
    ClipMetric(
        name="lpips", better="lower", network="lpips", measure=_lpips,
        definition=f"LPIPS v0.1 on AlexNet (Zhang et al., arXiv 1801.03924), mean over frames, {STATED}",
    ),
    ClipMetric(
        name="ssim", better="higher", measure=_ssim,
        definition=f"Structural similarity (Wang et al. 2004), mean over frames and colours, {STATED}",
    ),
    ClipMetric(
        name="psnr", better="higher", measure=_psnr,
        definition="Peak signal-to-noise ratio in dB, mean over frames, of which equal ones count "
        f"{EQUAL:g}, {STATED}",
    ),
    ClipMetric(
        name="flicker", better="higher", measure=_flicker,
        definition="Temporal flickering as VBench scores it (arXiv 2311.17982): 1 less the mean change from "
        "frame to frame over 255; higher is steadier, and all motion counts as flicker",
    ),
)  # fmt: skip
