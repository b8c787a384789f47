"""The only place that makes mel-frequency cepstral coefficients: those of python_speech_features."""

import functools

import numpy as np
from jaxtyping import Float32, Float64

RATE = 16_000
FULL = 32768  # it takes 16-bit numbers
WINDOW, STEP = 400, 160  # samples: 25 and 10 ms, no taper
POINTS = 512  # of the Fourier transform
FILTERS, KEPT = 26, 13
EMPHASIS = 0.97
LIFTER = 22
TINY = np.finfo(np.float64).eps  # stands for an energy of 0


def mfcc(sound: Float32[np.ndarray, "samples"]) -> Float64[np.ndarray, "M 13"]:
    """13 coefficients every 10 ms of a 16 kHz sound in [-1, 1]; the first is the log energy.

    The last window is filled with silence. Pre-emphasis 0.97, power spectrum over 512, 26 triangles on
    the mel scale from 0 to 8000 Hz, log, orthonormal DCT-II, lifter 22.
    """
    signal = np.round(sound.astype(np.float64) * FULL).clip(-FULL, FULL - 1)
    signal = np.concatenate([signal[:1], signal[1:] - EMPHASIS * signal[:-1]])
    count = 1 + max(0, -(-(len(signal) - WINDOW) // STEP))
    padded = np.zeros((count - 1) * STEP + WINDOW)
    padded[: len(signal)] = signal
    windows = np.lib.stride_tricks.sliding_window_view(padded, WINDOW)[::STEP]
    power = np.abs(np.fft.rfft(windows, POINTS)) ** 2 / POINTS
    total = power.sum(axis=1)
    bands = power @ _filters().T
    logs = np.log(np.where(bands == 0, TINY, bands))
    k, n = np.arange(KEPT)[:, None], np.arange(FILTERS)
    cosines = np.sqrt(2 / FILTERS) * np.cos(np.pi * k * (2 * n + 1) / (2 * FILTERS))
    lift = 1 + LIFTER / 2 * np.sin(np.pi * np.arange(KEPT) / LIFTER)
    found = logs @ cosines.T * lift
    found[:, 0] = np.log(np.where(total == 0, TINY, total))
    return found


@functools.cache
def _filters() -> Float64[np.ndarray, "26 257"]:
    """Triangles between neighbouring points of an even mel scale, rounded down to bins."""
    top = 2595 * np.log10(1 + RATE / 2 / 700)
    hertz = 700 * (10 ** (np.linspace(0, top, FILTERS + 2) / 2595) - 1)
    edges = np.floor((POINTS + 1) * hertz / RATE)
    low, middle, high = (edges[k : k + FILTERS, None] for k in range(3))
    bins = np.arange(POINTS // 2 + 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        rise, fall = (bins - low) / (middle - low), (high - bins) / (high - middle)
    rising, falling = (low <= bins) & (bins < middle), (middle <= bins) & (bins < high)
    return np.where(rising, rise, np.where(falling, fall, 0.0))
