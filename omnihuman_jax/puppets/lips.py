"""The only place that says how a mouth moves to a sound: opening from loudness and first formant,
rounding from where the spectrum lies.

It listens to nothing but the sound, so it holds for any voice, ours, espeak's or a real one, and a
model that hears the sound can learn it.
"""

import numpy as np
from jaxtyping import Float32

WINDOW = 400  # samples at 16 kHz: 25 ms
STEP = 160  # 10 ms
SMOOTH = 9  # steps: lips take about 90 ms
VOICE = (250.0, 3200.0)  # Hz; hiss above does not open the mouth
LOW, HIGH = (
    (250.0, 520.0),
    (560.0, 1150.0),
)  # where the first formant of closed and of open vowels lies
ROUND, SPREAD = 950.0, 1500.0  # Hz; the middle of the spectrum of rounded and of spread vowels
QUIET = 0.06  # of the loud parts' amplitude: below it the mouth is closed


def follow(
    sound: Float32[np.ndarray, "samples"], rate: int, fps: float, frames: int
) -> tuple[Float32[np.ndarray, "F"], Float32[np.ndarray, "F"]]:
    """Opening and rounding in [0, 1] in the middle of each frame.

    Opening is the amplitude between 250 and 3200 Hz, over its 90th percentile while there is sound,
    to the power 0.8, times 0.6 for a low first formant up to 1 for a high one; smoothed over 90 ms.
    """
    if rate != 16_000:
        raise ValueError(f"Lips follow sound of 16000 samples a second, got {rate}.")
    half = WINDOW // 2
    padded = np.pad(sound.astype(np.float64), (half, half + STEP))
    windows = np.lib.stride_tricks.sliding_window_view(padded, WINDOW)[::STEP]
    power = np.abs(np.fft.rfft(windows * np.hanning(WINDOW))) ** 2
    bins = np.fft.rfftfreq(WINDOW, 1 / rate)
    band = lambda low, high: power[:, (bins >= low) & (bins < high)].sum(axis=1)
    amplitude = np.sqrt(band(*VOICE))
    heard = amplitude[amplitude > 0.1 * amplitude.max(initial=0)]
    loud = amplitude / (np.percentile(heard, 90) if len(heard) and heard.max() > 0.05 else np.inf)
    open_ = band(*HIGH) / (band(*HIGH) + band(*LOW) + 1e-9)
    opening = ((loud - QUIET).clip(0, 1.1) / (1 - QUIET)) ** 0.8 * (0.6 + 0.4 * open_)
    inside = (bins >= 620) & (bins < 3000)
    middle = (power[:, inside] * bins[inside]).sum(axis=1) / (power[:, inside].sum(axis=1) + 1e-9)
    rounding = ((SPREAD - middle) / (SPREAD - ROUND)).clip(0, 1) * (loud > 2 * QUIET)
    rounding *= 1 - 0.75 * ((open_ - 0.45) / 0.4).clip(0, 1)  # wide open is not round
    kernel = np.hanning(SMOOTH + 2)[1:-1]
    kernel /= kernel.sum()
    at = (np.arange(frames) + 0.5) / fps * rate / STEP
    steps = np.arange(len(power))
    sampled = [
        np.interp(at, steps, np.convolve(track, kernel, "same"), right=0.0).clip(0, 1)
        for track in (opening, rounding)
    ]
    sampled[0][sampled[0] < 0.02] = 0
    return sampled[0].astype(np.float32), sampled[1].astype(np.float32)
