"""The only place that cuts a clip of a test set out of its video."""

import io
import json
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, UInt8
from PIL import Image

from omnihuman_jax.data import raw, sidecar
from omnihuman_jax.media import VideoWriter, fit_image, read_audio
from omnihuman_jax.testsets.clips import Clip, Unusable, Window

RATE = raw.SOUND_RATE
FEWEST_FRAMES = 16  # what a Fréchet video distance looks at
SLACK = 0.5  # seconds by which a video may be shorter than its collection says


@dataclass(frozen=True, kw_only=True)
class Form:
    """What all clips of a built set have in common.

    Attributes:
        seconds: the longest a clip may be.
        size: height and width, even; None for each clip's own.
    """

    seconds: float = 5.0
    fps: float = 25.0
    size: tuple[int, int] | None = None


def cut(clip: Clip, form: Form, *, needs_sound: bool) -> dict[str, Any]:
    """The example of a clip, a value for each of builders.FEATURES.

    Times are rounded to whole frames at `form.fps` from the start of the video. The reference is the
    first frame before any compression, the ground truth H.264 at VideoWriter's quality with its sound.

    Raises:
        Unusable: it cannot be decoded, is shorter than 16 frames or than its collection says, or has
            no sound where that is needed.
        InputError: the disk is full.
    """
    path = str(clip.video)
    try:
        facts = raw.probe(path)
        first, frames = _span(clip, form, facts)
        heard = _sound(clip, facts, first / form.fps, frames / form.fps)
        if heard is None and needs_sound:
            raise Unusable(f"{clip.video.name} has no sound there")
        window = _window(clip, form, facts)
        height, width = form.size or window[2:]
        pictures = _pictures(clip, form, facts, first, frames, window)
        reference, video = _encoded(pictures, frames, (height, width), form.fps, heard)
    except raw.DecodeError as why:
        raise Unusable(str(why).rstrip(".")) from why
    return {
        "id": clip.id,
        "reference": reference,
        "sound": np.zeros(0, np.float32) if heard is None else heard,
        "pose": _pose(clip, form, facts, first, frames, _shown(window, form)),
        "video": video,
        "fps": form.fps,
        "frames": frames,
        "height": height,
        "width": width,
        "identity": clip.identity,
        "text": clip.text,
        "attributes": _attributes(clip, form, first, frames),
    }


def _span(clip: Clip, form: Form, facts: raw.Facts) -> tuple[int, int]:
    """The first frame and how many, at the set's frame rate."""
    if facts.transfer == "dolby":
        raise Unusable(f"{clip.video.name} is Dolby Vision that nothing here can show")
    if clip.end is not None and facts.seconds < clip.end - SLACK:
        raise Unusable(
            f"{clip.video.name} lasts {facts.seconds:.2f} s, the clip goes to {clip.end:.2f} s"
        )
    first = round(clip.start * form.fps)
    end = facts.seconds if clip.end is None else min(clip.end, facts.seconds)
    frames = int(min(form.seconds, end - first / form.fps) * form.fps + 1e-3)
    if frames < FEWEST_FRAMES:
        raise Unusable(
            f"{clip.video.name} has {max(frames, 0)} frames there, fewer than {FEWEST_FRAMES}"
        )
    return first, frames


def _sound(
    clip: Clip, facts: raw.Facts, start: float, seconds: float
) -> Float32[np.ndarray, "samples"] | None:
    """Exactly as long as the picture, silence where the track has ended; None without a track there."""
    heard = (
        raw.sound(str(clip.video), facts) if clip.sound is None else read_audio(clip.sound, RATE)
    )
    if heard is None:
        return None
    begin = round(start * RATE)
    wanted = np.zeros(round(seconds * RATE), np.float32)
    part = heard[begin : begin + len(wanted)]
    wanted[: len(part)] = part
    return wanted if len(part) else None


def _window(clip: Clip, form: Form, facts: raw.Facts) -> Window:
    """The part of the picture to show; of even size if it is not scaled."""
    top, left, height, width = 0, 0, facts.height, facts.width
    if clip.window is not None:
        top, left, height, width = clip.window(facts.height, facts.width)
    if form.size is None:
        height, width = height - height % 2, width - width % 2
    if min(height, width) < 16:
        raise Unusable(f"{clip.video.name} shows {height}x{width} pixels, less than 16x16")
    return top, left, height, width


def _pictures(
    clip: Clip, form: Form, facts: raw.Facts, first: int, frames: int, window: Window
) -> Iterator[UInt8[np.ndarray, "Y X 3"]]:
    top, left, height, width = window
    # From the first frame on, damage that libav notices is an error.
    for picture in raw.frames(
        str(clip.video), facts, form.fps, first=first, count=frames, whole=first == 0
    ):
        part = picture[top : top + height, left : left + width]
        yield part if form.size is None else fit_image(part, *form.size)


def _encoded(
    pictures: Iterator[UInt8[np.ndarray, "Y X 3"]],
    frames: int,
    size: tuple[int, int],
    fps: float,
    heard: Float32[np.ndarray, "samples"] | None,
) -> tuple[bytes, bytes]:
    """The first picture as PNG, all of them as mp4."""
    png = io.BytesIO()
    with tempfile.TemporaryDirectory(prefix="omnihuman-") as folder:
        path = Path(folder, "clip.mp4")
        with VideoWriter(
            path, height=size[0], width=size[1], fps=fps, sound=heard, rate=RATE
        ) as out:
            for picture in pictures:
                if not out.frames:
                    Image.fromarray(picture).save(png, "PNG")
                out.append(picture)
            if out.frames != frames:
                raise Unusable(f"it has {out.frames} frames there, {frames} are due")
        return png.getvalue(), path.read_bytes()


def _shown(window: Window, form: Form) -> tuple[float, float, float, float]:
    """The part of the picture that is seen when `window` is fitted to the size: pictures.fit_image."""
    top, left, height, width = map(float, window)
    if form.size is None:
        return top, left, height, width
    ratio = form.size[1] / form.size[0]
    tall, wide = min(height, width / ratio), min(width, height * ratio)
    return top + (height - tall) / 2, left + (width - wide) / 2, tall, wide


def _pose(
    clip: Clip,
    form: Form,
    facts: raw.Facts,
    first: int,
    frames: int,
    shown: tuple[float, float, float, float],
) -> Float32[np.ndarray, "F 133 3"]:
    """Keypoints as fractions of what is shown; no frames without. Those far outside are not there."""
    if clip.pose is None:
        return np.zeros((0, 133, 3), np.float32)
    top, left, height, width = shown
    pose = clip.pose.pose(form.fps, frames, first).copy()
    pose[..., 0] = (pose[..., 0] * facts.width - left) / width
    pose[..., 1] = (pose[..., 1] * facts.height - top) / height
    low, high = sidecar.OFF_SCREEN
    pose[((pose[..., :2] < low) | (pose[..., :2] > high)).any(axis=-1)] = 0
    pose[pose[..., 2] == 0] = 0
    return pose


def _attributes(clip: Clip, form: Form, first: int, frames: int) -> str:
    """JSON. What is true of a frame is given for the frame shown at the same time."""
    attributes = dict(clip.attributes)
    if clip.truth:
        # The nudge keeps 0.28 * 25 = 7.000000000000001 and 6.999999999999999 alike.
        places = ((first + np.arange(frames)) / form.fps * clip.truth_fps + 1e-6).astype(int)
        for name, values in clip.truth.items():
            attributes[name] = [values[min(place, len(values) - 1)] for place in places]
    return json.dumps(attributes, ensure_ascii=False, sort_keys=True)
