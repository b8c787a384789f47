"""From what a user types to a Request: read the files, choose the grid and the length, take the defaults."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from PIL import Image

from omnihuman_jax import media
from omnihuman_jax.diffusion import samplers
from omnihuman_jax.diffusion.guidance import Constant, Cosine, Guidance, Linear, Scale
from omnihuman_jax.errors import InputError
from omnihuman_jax.geometry import Grid, frames_for, nearest_size
from omnihuman_jax.inference.activation import Drive, activate
from omnihuman_jax.inference.generator import Request
from omnihuman_jax.models.directory import ModelDirectory
from omnihuman_jax.models.wav2vec2 import SAMPLE_RATE

Anneal = Literal["constant", "linear", "cosine"]
FRAMES, AREA = 81, 480 * 832  # a clip of Wan2.1, where a model states no other


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What may be asked of `generate`; None takes the model's default.

    Attributes:
        reference: a picture: a file, an array "y x 3" of bytes, or a PIL image.
        audio: a file, or mono samples at 16 kHz, float.
        pose: a file, or keypoints "f J 3" at the video's frame rate: x, y in [0, 1] and confidence.
    """

    reference: str | np.ndarray | Image.Image | None = None
    audio: str | np.ndarray | None = None
    pose: str | np.ndarray | None = None
    text: str | None = None
    negative_text: str | None = None
    seconds: float | None = None
    frames: int | None = None
    size: tuple[int, int] | None = None
    fps: float | None = None
    steps: int | None = None
    sampler: str | None = None
    shift: float | None = None
    text_guidance: float | None = None
    audio_guidance: float | None = None
    guidance_end: float | None = None
    anneal: Anneal = "constant"
    guidance_interval: tuple[float, float] | None = None
    anchor: float = 0.0
    seed: int = 0
    drive: Drive = "auto"
    without: tuple[str, ...] = ()


def prepare(wish: Wish, model: ModelDirectory) -> Request:
    """The request that `wish` comes to with `model`; every input is read and checked here.

    Without reference, audio, pose and text, it is the built-in portrait and speech.

    Raises:
        InputError: a file or a number that cannot work.
    """
    defaults = model.manifest.sampling
    steps = defaults["steps"] if wish.steps is None else wish.steps
    shift = defaults["shift"] if wish.shift is None else wish.shift
    fps = float(defaults["fps"]) if wish.fps is None else wish.fps
    if not 1 <= fps <= 120:
        raise InputError(f"--fps lies between 1 and 120, got {fps}.")
    if not 0 <= wish.seed < 2**32:
        raise InputError(f"--seed lies between 0 and {2**32 - 1}, got {wish.seed}.")
    if not 0 <= wish.anchor <= 1:
        raise InputError(f"--anchor lies between 0 and 1, got {wish.anchor}.")
    sampler = wish.sampler or str(defaults.get("sampler", "unipc"))
    samplers.make(sampler).schedule(steps, shift)
    guidance = _guidance(wish, defaults)
    reference: Any = wish.reference
    audio: Any = wish.audio
    if all(given is None for given in (reference, audio, wish.pose, wish.text)):
        reference = str(media.example(defaults.get("example", "portrait.jpg")))
        audio = str(media.example("speech.flac"))
    inputs: dict[str, Any] = dict(text=wish.text, reference=reference, audio=audio, pose=wish.pose)
    given = [name for name, value in inputs.items() if value is not None]
    chosen = activate(given, wish.drive, wish.without)
    text, reference, audio, posed = (inputs[n] if n in chosen.active else None for n in inputs)
    image, sound, pose = _picture(reference), _sound(audio), _keypoints(posed, fps)
    driven = [
        None if sound is None else len(sound) / SAMPLE_RATE,
        None if pose is None else len(pose) / fps,
    ]
    longest = max((s for s in driven if s is not None), default=None)
    frames, shown = _length(wish, fps, longest, defaults)
    height, width = wish.size or _size(image, defaults)
    return Request(
        grid=Grid(frames, height, width),
        frames=shown,
        fps=fps,
        reference=image,
        audio=sound,
        pose=pose,
        text=text,
        negative_text=_negative(wish, defaults),
        sampler=sampler,
        steps=steps,
        shift=shift,
        guidance=guidance,
        seed=wish.seed,
        anchor=wish.anchor,
        notes=(chosen.told(),),
    )


def _picture(given: Any) -> np.ndarray | None:
    if given is None or isinstance(given, str | os.PathLike):
        return None if given is None else media.read_image(given)
    if isinstance(given, Image.Image):
        given = np.asarray(given.convert("RGB"))
    array = np.asarray(given)
    if array.ndim != 3 or array.shape[2] != 3 or array.dtype != np.uint8 or not array.size:
        raise InputError(
            f"A picture is an array of bytes, height x width x 3, got {array.dtype} {array.shape}."
        )
    return array


def _sound(given: Any) -> np.ndarray | None:
    if given is None or isinstance(given, str | os.PathLike):
        return None if given is None else media.read_audio(given, SAMPLE_RATE)
    array = np.asarray(given)
    if array.ndim != 1 or array.dtype.kind != "f" or not array.size or not np.isfinite(array).all():
        raise InputError(
            f"Sound is one row of finite samples at {SAMPLE_RATE} a second, floats about -1 to 1, got "
            f"{array.dtype} {array.shape}."
        )
    return array.astype(np.float32)


def _keypoints(given: Any, fps: float) -> np.ndarray | None:
    if given is None or isinstance(given, str | os.PathLike):
        return None if given is None else at_rate(*media.read_pose(given), fps)
    array = np.asarray(given, np.float32)
    if array.ndim != 3 or array.shape[2] != 3 or not array.size or not np.isfinite(array).all():
        raise InputError(
            f"Keypoints are finite numbers, frames x joints x 3 (x, y, confidence), got {array.shape}."
        )
    return array


def _length(
    wish: Wish, fps: float, driven: float | None, defaults: Mapping[str, Any]
) -> tuple[int, int]:
    """Frames to denoise at a time, 4n+1, and frames to make in all: more than that are segments."""
    most = int(defaults.get("frames", FRAMES))
    if wish.frames is not None and wish.seconds is not None:
        raise InputError("--frames and --seconds both say how long; give one of them.")
    if wish.frames is not None:
        return min(wish.frames, most), wish.frames
    seconds = driven if wish.seconds is None else wish.seconds
    if seconds is None:
        return most, most
    return min(most, frames_for(seconds, fps)), max(1, round(seconds * fps))


def _size(image: np.ndarray | None, defaults: Mapping[str, Any]) -> tuple[int, int]:
    """The grid of the model's usual area that changes the picture's shape least."""
    area = int(defaults.get("area", AREA))
    height, width = (480, 832) if image is None else image.shape[:2]
    return nearest_size(height, width, area)


def _guidance(wish: Wish, defaults: Mapping[str, Any]) -> Guidance:
    text, audio = scales(defaults) if wish.text_guidance is None else (wish.text_guidance,) * 2
    audio = audio if wish.audio_guidance is None else wish.audio_guidance
    end = wish.guidance_end
    if end is None and wish.anneal != "constant":
        raise InputError(
            f"--anneal {wish.anneal} goes from the scale to --guidance-end; give that too."
        )
    if end is not None and wish.anneal == "constant":
        raise InputError("--guidance-end needs --anneal linear or cosine.")

    def scale(start: float) -> Scale:
        if end is None:
            return Constant(start)
        return (Linear if wish.anneal == "linear" else Cosine)(start, end)

    interval = Guidance.interval if wish.guidance_interval is None else wish.guidance_interval
    return Guidance(text=scale(text), audio=scale(audio), interval=interval)


def scales(defaults: Mapping[str, Any]) -> tuple[float, float]:
    """A model's own guidance scales of text and audio; it may state one for both."""
    text = float(defaults.get("guidance", 5.0))
    return text, float(defaults.get("audio_guidance", text))


def _negative(wish: Wish, defaults: Mapping[str, Any]) -> str | None:
    """Wan knows "no text" as an empty prompt; a model of ours as no text features at all."""
    return defaults.get("negative_text") if wish.negative_text is None else wish.negative_text


def at_rate(pose: np.ndarray, rate: float, fps: float) -> np.ndarray:
    """Keypoints at `rate` frames a second as `fps`: at each frame's middle, between the two nearest."""
    frames = max(1, round(len(pose) / rate * fps))
    at = np.clip((np.arange(frames) + 0.5) / fps * rate - 0.5, 0, len(pose) - 1)
    below = np.floor(at).astype(int)
    above = np.minimum(below + 1, len(pose) - 1)
    share = (at - below).astype(np.float32)[:, None, None]
    return (pose[below] * (1 - share) + pose[above] * share).astype(np.float32)
