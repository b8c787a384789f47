"""The only place that draws the poster of the puppet world: many people, and one of them speaking."""

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from omnihuman_jax.media.files import AnyPath, replacing, writing
from omnihuman_jax.puppets.canvas import Canvas
from omnihuman_jax.puppets.voice import RATE
from omnihuman_jax.puppets.world import Preview, Settings, preview

PEOPLE, COLUMNS, STRIP = 12, 6, 8
TILE = 200  # the longer side of a picture
GAP = 6
WAVE = 34  # height of the sound under the strip
PAPER, INK = (255, 255, 255), (96, 130, 182)


def write_sheet(path: AnyPath, settings: Settings, start: int = 0) -> None:
    """A PNG: 12 puppets from clip `start` on, and one of them in 8 moments over its sound.

    Raises:
        InputError: the name does not end in .png, or the file cannot be written.
    """
    with replacing(path, ".png") as part:
        picture = Image.fromarray(make_sheet(settings, start))
        # 256 well chosen colours, mixed by dots: 40 % of the bytes, fit for a repository.
        colours = picture.quantize(256, Image.Quantize.MEDIANCUT, kmeans=3)
        small = picture.quantize(palette=colours, dither=Image.Dither.FLOYDSTEINBERG)
        with writing(path):
            small.save(part, "PNG", optimize=True)


def make_sheet(settings: Settings, start: int = 0) -> UInt8[np.ndarray, "Y X 3"]:
    """The poster as pixels."""
    shown: list[Preview] = []
    number = start
    while len(shown) < PEOPLE:
        clip = preview(settings, number)
        number += 1
        if clip.plan.teaches and not clip.shot.covered:
            shown.append(clip)
    shrink = TILE / max(settings.height, settings.width)
    size = (round(settings.width * shrink), round(settings.height * shrink))
    tiles = [_fitted(clip.frame(_moment(clip)), size) for clip in shown]
    rows = [_row(tiles[k : k + COLUMNS]) for k in range(0, PEOPLE, COLUMNS)]
    portraits = [clip for clip in shown if clip.plan.framing == "portrait"] or shown
    speaker = max(portraits, key=lambda clip: float(np.std(clip.speech.opening)))
    strip = _strip(speaker, size, rows[0].shape[1])
    return np.concatenate([*rows, strip])


def _moment(clip: Preview) -> int:
    """A frame in which the mouth is well open, the eyes too, and the hands are not at rest."""
    poses = clip.motion.poses
    lively = [
        -abs(p.look.opening - 0.5) + 0.8 * p.look.lids - 0.5 * min(a.wrist[1] for a in p.arms)
        for p in poses
    ]
    return int(np.argmax(lively))


def _fitted(frame: UInt8[np.ndarray, "Y X 3"], size: tuple[int, int]) -> UInt8[np.ndarray, "y x 3"]:
    return np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.LANCZOS))


def _row(tiles: list[np.ndarray]) -> np.ndarray:
    spaced = [np.pad(t, ((0, GAP), (0, GAP), (0, 0)), constant_values=255) for t in tiles]
    return np.concatenate(spaced, axis=1)


def _strip(clip: Preview, size: tuple[int, int], wide: int) -> np.ndarray:
    """Evenly spaced moments of a second and a half, and the sound between the first and the last."""
    fps = len(clip.motion.poses) * RATE / len(clip.speech.utterance.sound)
    span = min(len(clip.motion.poses), round(1.5 * fps))
    first = _liveliest(clip.speech.opening, span)
    each = wide // STRIP
    small = (each - GAP, round((each - GAP) * size[1] / size[0]))
    frames = [
        clip.frame(k)
        for k in np.linspace(first, first + span - 1, STRIP).round().astype(int).tolist()
    ]
    row = _row([_fitted(frame, small) for frame in frames])
    row = np.pad(row, ((0, 0), (0, wide - row.shape[1]), (0, 0)), constant_values=255)
    sound = clip.speech.utterance.sound[
        round(first / fps * RATE) : round((first + span) / fps * RATE)
    ]
    return np.concatenate([row, _wave(sound, wide)])


def _liveliest(opening: np.ndarray, span: int) -> int:
    moved = np.convolve(np.abs(np.diff(opening, prepend=0)), np.ones(span), "valid")
    return int(np.argmax(moved))


def _wave(sound: np.ndarray, wide: int) -> np.ndarray:
    """The sound's outline."""
    peaks = np.array([np.abs(part).max(initial=0) for part in np.array_split(sound, wide // 4)])
    height = WAVE / 2 * (0.04 + 0.92 * peaks / max(peaks.max(), 1e-6))
    x = np.linspace(0, wide - GAP, len(peaks))
    up, down = np.stack([x, WAVE / 2 - height], 1), np.stack([x, WAVE / 2 + height], 1)
    canvas = Canvas(Image.new("RGB", (wide, WAVE), PAPER), lambda p: p, 1.0)
    canvas.fill(np.concatenate([up, down[::-1]]), INK)
    return canvas.pixels()
