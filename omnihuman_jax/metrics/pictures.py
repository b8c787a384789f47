"""The only place that compares pictures number by number: PSNR, SSIM, and the flicker of a video.

Pictures are RGB in 8 bits: the range of values is 255 everywhere.
"""

from itertools import pairwise

import numpy as np
from jaxtyping import Float64, UInt8
from scipy import ndimage

from omnihuman_jax.errors import InputError

RANGE = 255.0
SIZE = 11  # pixels of SSIM's window
SIGMA = 1.5  # of its Gaussian
K1, K2 = 0.01, 0.03


def psnr(
    one: UInt8[np.ndarray, "F Y X 3"], other: UInt8[np.ndarray, "F2 Y2 X2 3"]
) -> Float64[np.ndarray, "F"]:
    """Peak signal-to-noise ratio of each pair of frames in dB, 10 log10(255^2 / MSE); infinite if equal.

    Raises:
        InputError: they differ in size or number.
    """
    _check(one, other, 1)
    error = np.mean((one.astype(np.float64) - other) ** 2, axis=(1, 2, 3))
    with np.errstate(divide="ignore"):
        return np.asarray(10 * np.log10(RANGE**2 / error))


def ssim(
    one: UInt8[np.ndarray, "F Y X 3"], other: UInt8[np.ndarray, "F2 Y2 X2 3"]
) -> Float64[np.ndarray, "F"]:
    """Structural similarity of each pair of frames, 1 if they are equal (Wang et al. 2004, eq. 13).

    Means and (biased) variances are those of an 11 x 11 Gaussian window of sigma 1.5 that lies wholly in the
    picture, K1 = 0.01, K2 = 0.03; the mean over places and the three colours.

    Raises:
        InputError: they differ in size or number, or are smaller than the window.
    """
    _check(one, other, SIZE)
    return np.array([_similarity(a, b) for a, b in zip(one, other, strict=True)])


def temporal_flickering(frames: UInt8[np.ndarray, "F Y X 3"]) -> float:
    """VBench's score of how still a video is (Huang et al., arXiv 2311.17982): 1 - mean |x_t+1 - x_t| / 255.

    Higher is steadier. It takes all motion for flicker, so it compares videos of like motion only.

    Raises:
        InputError: fewer than two frames.
    """
    if len(frames) < 2:
        raise InputError(f"Flicker is between frames; it needs two or more, got {len(frames)}.")
    changes = [np.abs(after.astype(np.int16) - before).mean() for before, after in pairwise(frames)]
    return 1 - float(np.mean(changes)) / RANGE


def _check(one: np.ndarray, other: np.ndarray, least: int) -> None:
    if one.shape != other.shape or min(one.shape[1:3]) < least:
        raise InputError(
            f"Frames are compared with frames of the same size, {least} pixels or more; got "
            f"{one.shape} and {other.shape}."
        )


def _similarity(one: UInt8[np.ndarray, "Y X 3"], other: UInt8[np.ndarray, "Y X 3"]) -> float:
    x, y = one.astype(np.float64), other.astype(np.float64)
    mean_x, mean_y = _windowed(x), _windowed(y)
    spread_x = _windowed(x * x) - mean_x**2
    spread_y = _windowed(y * y) - mean_y**2
    common = _windowed(x * y) - mean_x * mean_y
    c1, c2 = (K1 * RANGE) ** 2, (K2 * RANGE) ** 2
    alike = (2 * mean_x * mean_y + c1) * (2 * common + c2)
    return float(np.mean(alike / ((mean_x**2 + mean_y**2 + c1) * (spread_x + spread_y + c2))))


def _windowed(values: Float64[np.ndarray, "Y X 3"]) -> Float64[np.ndarray, "y x 3"]:
    """The Gaussian mean of every window that lies in the picture, down and then across."""
    places = np.arange(SIZE) - SIZE // 2
    weights = np.exp(-0.5 * (places / SIGMA) ** 2)
    inside = slice(SIZE // 2, -(SIZE // 2))
    for axis in (0, 1):
        values = ndimage.correlate1d(values, weights / weights.sum(), axis, mode="constant")
    return values[inside, inside]
