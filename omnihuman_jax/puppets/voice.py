"""The only place that synthesises a voice by itself: harmonics of a pitch, shaped by moving formants.

Source and filter (Fant 1960; the cascade of resonators of Klatt 1980, J. Acoust. Soc. Am. 67, 971),
added up harmonic by harmonic; fricatives and bursts are noise, shaped frame by frame. All of it works
on arrays over the whole utterance; 4 s of speech take about a tenth of a second.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Float64

from omnihuman_jax.puppets.languages import Babble, syllable

RATE = 16_000
HOP = 80  # samples between control frames: 5 ms
SMOOTH = 7  # control frames over which the tract glides from one sound to the next
LOUD = 0.085  # root mean square while speaking
FLOOR = 0.0006  # the room's own noise

VOWELS: dict[str, tuple[float, float, float]] = {
    "a": (780, 1280, 2550),
    "E": (610, 1800, 2550),
    "e": (450, 2050, 2650),
    "i": (300, 2300, 3000),
    "o": (480, 860, 2500),
    "u": (330, 740, 2300),
    "y": (300, 1800, 2250),
}
"""First three formants in Hz of an average adult (after Peterson & Barney 1952 and Fant 1960)."""

FIXED = (3500.0, 4500.0)  # higher formants, which hardly move
WIDTHS = (70.0, 90.0, 130.0, 220.0, 300.0)  # of the five resonances, in Hz


@dataclass(frozen=True)
class _Sound:
    """A consonant: seconds, loudness of voice and noise, formants, and where its noise lies."""

    seconds: float
    voice: float
    noise: float
    formants: tuple[float, float, float]
    centre: float = 3000.0  # of the noise, in Hz; 0: the noise goes through the tract
    burst: float = 0.0  # loudness of the release


CONSONANTS: dict[str, _Sound] = {
    "m": _Sound(0.075, 0.22, 0, (240, 1000, 2200)),
    "n": _Sound(0.07, 0.24, 0, (250, 1650, 2600)),
    "l": _Sound(0.06, 0.5, 0, (350, 1150, 2700)),
    "r": _Sound(0.06, 0.5, 0, (400, 1250, 1650)),
    "w": _Sound(0.07, 0.45, 0, (300, 620, 2300)),
    "j": _Sound(0.06, 0.45, 0, (280, 2250, 3000)),
    "v": _Sound(0.07, 0.25, 0.05, (260, 1000, 2300), 4500),
    "z": _Sound(0.085, 0.2, 0.16, (260, 1700, 2600), 5800),
    "b": _Sound(0.06, 0.05, 0, (220, 800, 2200), 800, 0.14),
    "d": _Sound(0.055, 0.05, 0, (220, 1750, 2650), 3800, 0.16),
    "g": _Sound(0.06, 0.05, 0, (220, 2050, 2350), 1900, 0.16),
    "p": _Sound(0.075, 0, 0, (300, 800, 2200), 900, 0.22),
    "t": _Sound(0.07, 0, 0, (300, 1750, 2650), 4200, 0.25),
    "k": _Sound(0.075, 0, 0, (300, 2050, 2350), 1900, 0.25),
    "s": _Sound(0.1, 0, 0.26, (300, 1700, 2600), 5800),
    "sh": _Sound(0.105, 0, 0.28, (300, 1900, 2500), 3000),
    "f": _Sound(0.09, 0, 0.09, (300, 1000, 2300), 4600),
    "h": _Sound(0.06, 0.05, 0.16, (550, 1500, 2500), 0),
}


@dataclass(frozen=True, kw_only=True)
class Speaker:
    """A voice: mean pitch in Hz, formant scale (1 for the average), breath and roughness as shares."""

    pitch: float
    tract: float = 1.0
    breath: float = 0.03
    rough: float = 0.008
    pace: float = 1.0


@dataclass(frozen=True)
class Utterance:
    """What was said: sound in [-1, 1] at 16 kHz, and its syllables."""

    sound: Float32[np.ndarray, "samples"]
    transcript: str


class _Score:
    """The control frames of an utterance, sound after sound."""

    def __init__(self) -> None:
        self.rows: list[np.ndarray] = []

    def add(
        self,
        seconds: float,
        voice: float,
        noise: float,
        formants: tuple[float, float, float],
        centre: float,
        pitch: float,
    ) -> None:
        """So many frames of one sound. The pitch is in octaves above the speaker's own."""
        frames = max(1, round(seconds * RATE / HOP))
        self.rows.append(np.tile([voice, noise, *formants, centre, pitch], (frames, 1)))

    @property
    def seconds(self) -> float:
        return sum(map(len, self.rows)) * HOP / RATE

    def tracks(self) -> Float64[np.ndarray, "frames 7"]:
        """Smooth: the tract glides, and the pitch glides more slowly."""
        raw = np.concatenate(self.rows)
        glide = lambda x, width: np.convolve(
            np.pad(x, width // 2, "edge"),
            np.hanning(width + 2)[1:-1] / np.hanning(width + 2).sum(),
            "valid",
        )
        columns = [glide(raw[:, k], SMOOTH if k < 2 else 13) for k in range(5)]
        return np.stack([*columns, raw[:, 5], glide(raw[:, 6], 25)], axis=1)


def babble(
    rng: np.random.Generator,
    speaker: Speaker,
    language: Babble,
    seconds: float,
    *,
    sings: bool = False,
) -> Utterance:
    """`seconds` of an invented language, in phrases with pauses; or sung, in long vowels on a scale."""
    score = _Score()
    words: list[str] = []
    _pause(score, float(rng.uniform(0.1, 0.3)))
    while score.seconds < seconds:
        words += (_sing_phrase if sings else _say_phrase)(rng, score, speaker, language)
        _pause(score, float(rng.uniform(0.2, 0.5)))
    sound = synthesise(score.tracks(), speaker, rng)[: round(seconds * RATE)]
    sound = np.pad(sound, (0, round(seconds * RATE) - len(sound)))
    return Utterance(finished(sound, rng), " ".join(words))


def steady(
    speaker: Speaker, vowel: str, seconds: float, rng: np.random.Generator
) -> Float32[np.ndarray, "samples"]:
    """One held vowel, for listening and measuring."""
    score = _Score()
    score.add(seconds, 1.0, 0.0, VOWELS[vowel], 0.0, 0.0)
    return finished(synthesise(score.tracks(), speaker, rng), rng)


def _pause(score: _Score, seconds: float) -> None:
    score.add(seconds, 0, 0, (500, 1500, 2500), 0, 0)


def _say_phrase(
    rng: np.random.Generator, score: _Score, speaker: Speaker, language: Babble
) -> list[str]:
    count = int(rng.integers(3, 9))
    asks = rng.random() < 0.25
    spoken: list[str] = []
    word: list[str] = []
    for k in range(count):
        t = k / max(count - 1, 1)
        stressed = bool(rng.random() < 0.4) or k == 0
        pitch = 0.14 - 0.3 * t + (language.melody * rng.uniform(0.4, 1) if stressed else 0) * 0.6
        if k == count - 1:
            pitch += 0.35 if asks else -0.15
        long = (1.0 / language.rate / speaker.pace) * (1.25 if stressed else 0.85)
        long *= 1.35 if k == count - 1 else 1.0
        onset, vowel, coda = syllable(rng, language)
        _say(score, onset, vowel, coda, long, 1.0 if stressed else 0.72, pitch)
        word.append(onset + vowel.lower() + coda)
        if k == count - 1 or rng.random() < 0.45:
            spoken.append("".join(word))
            word = []
    return [*spoken[:-1], spoken[-1] + ("?" if asks else ".")]


SCALE = np.array([0, 2, 4, 7, 9, 12]) / 12  # octaves of a pentatonic scale


def _sing_phrase(
    rng: np.random.Generator, score: _Score, speaker: Speaker, language: Babble
) -> list[str]:
    spoken: list[str] = []
    place = int(rng.integers(1, 4))
    for _ in range(int(rng.integers(4, 7))):
        place = int(np.clip(place + rng.integers(-2, 3), 0, len(SCALE) - 1))
        onset, vowel, coda = syllable(rng, language)
        _say(
            score,
            onset,
            vowel,
            coda,
            float(rng.choice([0.26, 0.36, 0.54])),
            0.95,
            SCALE[place] - 0.35,
        )
        spoken.append(onset + vowel.lower() + coda)
    return ["-".join(spoken) + "~"]


def _say(
    score: _Score, onset: str, vowel: str, coda: str, seconds: float, loud: float, pitch: float
) -> None:
    formants = VOWELS[vowel]
    used = _consonant(score, onset, loud, pitch)
    tail = CONSONANTS[coda].seconds if coda else 0.0
    hold = max(seconds - used - tail, 0.07)
    score.add(hold * 0.62, loud, 0, formants, 0, pitch)
    score.add(hold * 0.38, loud * 0.7, 0, formants, 0, pitch - 0.06)
    if coda:
        _consonant(score, coda, loud * 0.8, pitch - 0.08)


def _consonant(score: _Score, name: str, loud: float, pitch: float) -> float:
    sound = CONSONANTS[name]
    score.add(
        sound.seconds, sound.voice * loud, sound.noise * loud, sound.formants, sound.centre, pitch
    )
    if sound.burst:
        release = 0.03 if sound.voice == 0 else 0.012
        score.add(release, 0, sound.burst * loud, sound.formants, sound.centre, pitch)
        return sound.seconds + release
    return sound.seconds


def synthesise(
    tracks: Float64[np.ndarray, "frames 7"], speaker: Speaker, rng: np.random.Generator
) -> Float64[np.ndarray, "samples"]:
    """Sound from control frames: voice, noise, three formants, the noise's centre, pitch in octaves."""
    frames = len(tracks)
    times = np.arange(frames * HOP) / HOP
    wobble = np.convolve(rng.standard_normal(frames), np.hanning(9) / 2, "same") * speaker.rough
    vibrato = 0.012 * np.sin(2 * np.pi * 5.4 * np.arange(frames) * HOP / RATE)
    pitch = speaker.pitch * 2.0 ** (tracks[:, 6] + wobble + vibrato)
    formants = np.concatenate([tracks[:, 2:5], np.tile(FIXED, (frames, 1))], axis=1) * speaker.tract
    voiced = _harmonics(pitch, formants, tracks[:, 0], times)
    noise = _noise(tracks, formants, speaker, rng)
    return voiced + noise


def _response(at: np.ndarray, formants: np.ndarray) -> np.ndarray:
    """How much the tract passes at frequencies `at` [frames, K], given formants [frames, 5]."""
    gain = np.ones_like(at)
    squared = at**2
    for k, width in enumerate(WIDTHS):
        centre = formants[:, k : k + 1]
        gain *= centre**2 / np.sqrt((squared - centre**2) ** 2 + (width * at) ** 2)
    return gain


def _harmonics(
    pitch: np.ndarray, formants: np.ndarray, loud: np.ndarray, times: np.ndarray
) -> np.ndarray:
    count = int(0.47 * RATE / pitch.min())
    number = np.arange(1, count + 1)
    at = pitch[:, None] * number
    # Glottal pulses fall by 12 dB an octave, and the lips radiate 6 dB an octave more of what is high.
    strength = _response(at, formants) / number * (at < 0.48 * RATE) * loud[:, None]
    whole = np.arange(len(pitch))
    phase = 2 * np.pi * np.cumsum(np.interp(times, whole, pitch)) / RATE
    turn = np.exp(1j * phase).astype(np.complex64)
    wave = np.ones_like(turn)
    sound = np.zeros(len(times))
    for k in range(count):
        wave *= turn
        sound += np.interp(times, whole, strength[:, k]) * wave.imag
    return sound


def _noise(
    tracks: np.ndarray, formants: np.ndarray, speaker: Speaker, rng: np.random.Generator
) -> np.ndarray:
    """Noise shaped in the frequency domain, window by window, added up with overlap."""
    size = 4 * HOP
    frames = len(tracks)
    white = rng.standard_normal((frames + 4) * HOP)
    windows = np.lib.stride_tricks.sliding_window_view(white, size)[::HOP][:frames]
    shape = np.sqrt(np.hanning(size + 1)[:-1])
    bins = np.fft.rfftfreq(size, 1 / RATE)[None]
    centre = np.maximum(tracks[:, 5:6], 1.0)
    hiss = np.exp(-0.5 * ((bins - centre) / (0.28 * centre + 250)) ** 2)
    breath = _response(np.repeat(np.maximum(bins, 60), frames, 0), formants) * 0.25
    through = (tracks[:, 5:6] < 1) * tracks[:, 1:2] + speaker.breath * tracks[:, 0:1]
    gain = hiss * (tracks[:, 5:6] >= 1) * tracks[:, 1:2] + breath * through
    shaped = np.fft.irfft(np.fft.rfft(windows * shape) * gain, size) * shape
    sound = np.zeros((frames + 4) * HOP)
    for k in range(4):  # every fourth window side by side
        part = shaped[k::4]
        sound[k * HOP : k * HOP + part.size] += part.ravel()
    return sound[2 * HOP : (frames + 2) * HOP]


def finished(
    sound: np.ndarray, rng: np.random.Generator, loud: float = LOUD
) -> Float32[np.ndarray, "samples"]:
    """At the usual loudness, in a room that is not dead, on the grid of 16-bit samples."""
    power = np.convolve(sound**2, np.full(400, 1 / 400), "same")
    active = power > 0.05 * power.max(initial=0)
    level = np.sqrt(power[active].mean()) if active.any() else 1.0
    out = sound * (loud / max(level, 1e-9)) + FLOOR * rng.standard_normal(len(sound))
    return quantised(np.tanh(out))


def quantised(sound: np.ndarray) -> Float32[np.ndarray, "samples"]:
    """Rounded to what a 16-bit file holds, so that a wav is the sound exactly."""
    return (np.round(sound.clip(-1, 32767 / 32768) * 32768) / 32768).astype(np.float32)
