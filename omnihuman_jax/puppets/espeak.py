"""The only place that starts espeak-ng, a speech synthesiser that may be installed (Debian: espeak-ng)."""

import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from omnihuman_jax.errors import InputError
from omnihuman_jax.media import read_audio
from omnihuman_jax.puppets.identity import Identity
from omnihuman_jax.puppets.languages import Spoken
from omnihuman_jax.puppets.voice import RATE, Utterance, finished

PROGRAM = "espeak-ng"
LONGEST = 60  # seconds espeak-ng may take for a sentence


def installed() -> bool:
    """Whether espeak-ng can be started."""
    return shutil.which(PROGRAM) is not None


def speak(rng: np.random.Generator, who: Identity, language: Spoken, seconds: float) -> Utterance:
    """`seconds` of sentences of a language in the voice of a puppet, with pauses between them.

    Raises:
        InputError: espeak-ng is not there or refuses the voice.
    """
    variant = f"{'f' if who.pitch > 155 else 'm'}{int(rng.integers(1, 5))}"
    pitch = int(np.clip(50 + 60 * np.log2(who.pitch / (190 if who.pitch > 155 else 120)), 5, 95))
    pace = int(rng.integers(140, 185))
    pause = lambda low, high: np.zeros(round(rng.uniform(low, high) * RATE), np.float32)
    parts = [pause(0.1, 0.3)]
    said: list[str] = []
    order = rng.permutation(len(language.sentences))
    while sum(map(len, parts)) < seconds * RATE:
        sentence = language.sentences[order[len(said) % len(order)]]
        parts += [_sentence(sentence, f"{language.voice}+{variant}", pitch, pace), pause(0.2, 0.5)]
        said.append(sentence)
    sound = np.concatenate(parts)[: round(seconds * RATE)].astype(np.float64)
    fade = np.minimum(
        1, np.arange(len(sound), 0, -1) / (0.02 * RATE)
    )  # the last word is cut softly
    return Utterance(finished(sound * fade, rng), " ".join(said))


def _sentence(text: str, voice: str, pitch: int, pace: int) -> Float32[np.ndarray, "samples"]:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "speech.wav"
        command = [
            PROGRAM,
            "-v",
            voice,
            "-p",
            str(pitch),
            "-s",
            str(pace),
            "-w",
            str(file),
            "--stdin",
        ]
        try:
            subprocess.run(
                command, input=text.encode(), check=True, capture_output=True, timeout=LONGEST
            )
        except FileNotFoundError as why:
            raise InputError(
                f"{PROGRAM} is not installed; install it or use --voices formant."
            ) from why
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as why:
            reason = (
                " ".join((why.stderr or b"").decode(errors="replace").split()) or type(why).__name__
            )
            raise InputError(
                f"{PROGRAM} cannot speak with voice {voice}: {reason}; use --voices formant."
            ) from why
        return read_audio(file, RATE)
