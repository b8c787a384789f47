"""The only place that decides what a clip sounds like: a voice, or one of the faults of a sound track."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32

from omnihuman_jax.puppets import espeak, lips, voice
from omnihuman_jax.puppets.identity import Identity, randomness
from omnihuman_jax.puppets.languages import INVENTED, SPOKEN
from omnihuman_jax.puppets.voice import RATE, Speaker, Utterance

SINGS = 0.12  # share of clips that sing, always in our own voice
SHIFTS = 12  # places of the wrong sound that are tried, for the one that fits the lips least


@dataclass(frozen=True)
class Speech:
    """What a clip's puppet says, and how its mouth moves to it."""

    utterance: Utterance
    language: str  # BCP 47
    language_name: str
    engine: str  # "espeak" or "formant"
    sings: bool
    opening: Float32[np.ndarray, "F"]
    rounding: Float32[np.ndarray, "F"]


def make_speech(
    seed: int, number: int, who: Identity, engine: str, seconds: float, fps: float, frames: int
) -> Speech:
    """What the puppet of clip `number` says in `seconds`; `engine` is "espeak" or "formant"."""
    rng = randomness(seed, number, "voice")
    sings = bool(rng.random() < SINGS)
    speaker = Speaker(
        pitch=who.pitch,
        tract=who.tract,
        breath=float(rng.uniform(0.015, 0.05)),
        rough=float(rng.uniform(0.005, 0.012)),
        pace=float(rng.uniform(0.88, 1.12)),
    )
    if engine == "espeak" and not sings:
        spoken = SPOKEN[int(rng.integers(len(SPOKEN)))]
        said, code, name = espeak.speak(rng, who, spoken, seconds), spoken.code, spoken.name
    else:
        engine = "formant"
        language = INVENTED[int(rng.integers(len(INVENTED)))]
        said = voice.babble(rng, speaker, language, seconds, sings=sings)
        code, name = language.code, language.name
    opening, rounding = lips.follow(said.sound, RATE, fps, frames)
    return Speech(said, code, name, engine, sings, opening, rounding)


def wrong_sound(
    other: Float32[np.ndarray, "samples"], opening: Float32[np.ndarray, "F"], fps: float
) -> Float32[np.ndarray, "samples"]:
    """Another utterance, turned in a circle to where it fits a mouth's opening least."""
    places = np.linspace(0, len(other), SHIFTS, endpoint=False).astype(int)
    turned = [np.roll(other, int(place)) for place in places]
    fit = [_likeness(lips.follow(sound, RATE, fps, len(opening))[0], opening) for sound in turned]
    return turned[int(np.argmin(np.abs(fit)))]


def _likeness(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a - a.mean(), b - b.mean()
    return float(a @ b / max(np.linalg.norm(a) * np.linalg.norm(b), 1e-9))


def noise(rng: np.random.Generator, seconds: float) -> Float32[np.ndarray, "samples"]:
    """Wind and traffic: noise that falls with frequency and swells slowly."""
    count = round(seconds * RATE)
    spectrum = np.fft.rfft(rng.standard_normal(count))
    at = np.fft.rfftfreq(count, 1 / RATE)
    spectrum *= 1 / np.maximum(at, 40) ** float(rng.uniform(0.4, 0.9))
    swell = 1 + 0.4 * np.sin(2 * np.pi * rng.uniform(0.15, 0.4) * np.arange(count) / RATE)
    return voice.finished(np.fft.irfft(spectrum, count) * swell, rng)


def music(rng: np.random.Generator, seconds: float) -> Float32[np.ndarray, "samples"]:
    """Plucked tones, one after another over held chords: no voice in it."""
    count = round(seconds * RATE)
    time = np.arange(count) / RATE
    sound = np.zeros(count)
    root = 110 * 2 ** float(rng.uniform(0, 1))
    scale = np.array([0, 2, 4, 7, 9, 12, 14, 16])
    step = float(rng.uniform(0.16, 0.28))
    for k in range(int(seconds / step) + 1):
        since = np.maximum(time - k * step, 0)
        pitch = 2 * root * 2 ** (scale[int(rng.integers(len(scale)))] / 12)
        attack = (time >= k * step) * np.exp(-since * 6)
        for partial in (1, 2, 3, 5):
            sound += attack * np.sin(2 * np.pi * partial * pitch * since) / partial**1.4
        if k % 8 == 0:
            for semitones in (0, 7, 12, 16):
                held = (time >= k * step) * np.exp(-since * 0.9)
                sound += 0.35 * held * np.sin(2 * np.pi * root * 2 ** (semitones / 12) * since)
    return voice.finished(sound, rng)
