"""The only place that reads how a puppet looks from pixels: colours of head and clothes where its keypoints
lie, and its face's light and dark."""

import numpy as np
from jaxtyping import Float32, UInt8
from PIL import Image, ImageFilter

from omnihuman_jax.puppets.face import EYE_Y
from omnihuman_jax.puppets.figure import HEAD
from omnihuman_jax.puppets.limbs import SHOULDER
from omnihuman_jax.puppets.palette import Colour, far

# Where to look, in heads from the pit of the neck: inside the outline of every puppet, so that nothing of
# the backdrop is read, and above what a portrait cuts off.
CELL = 0.09
COLUMNS = np.arange(-0.45, 0.46, CELL)
ROWS = np.arange(-1.1, 0.4, CELL)
REGIONS = {  # left, top, right, bottom
    "hair": (-0.22, -1.13, 0.22, -1.0),
    "skin": (-0.13, -0.56, 0.13, -0.43),
    "clothes": (-0.3, 0.27, 0.3, 0.39),
}
FACE_COLUMNS = np.linspace(-0.34, 0.34, 16)
FACE_ROWS = np.linspace(-0.92, -0.14, 18)
FINE = 0.03
ALIKE = 110  # palette.far: more is another colour


def look(
    frames: UInt8[np.ndarray, "F Y X 3"], pose: Float32[np.ndarray, "F J 3"]
) -> Float32[np.ndarray, "cells 3"]:
    """Mean colours of head and clothes on a fixed grid, placed by the eyes and shoulders of `pose`.

    The same for the same puppet however near it stands; the backdrop is left out. Cells outside the
    frame read its edge.
    """
    y, x = np.meshgrid(ROWS, COLUMNS, indexing="ij")
    head = (x / 0.43) ** 2 + ((y - HEAD[1]) / 0.52) ** 2 < 1
    trunk = (y > 0.2) & (np.abs(x) < 0.42)
    return _sampled(frames, pose, np.stack([x, y], axis=-1))[head | trunk]


def colour(
    region: str, frames: UInt8[np.ndarray, "F Y X 3"], pose: Float32[np.ndarray, "F J 3"]
) -> Colour:
    """The median colour of a region of `REGIONS`, over the clip."""
    red, green, blue = np.median(_region(region, frames, pose), axis=(0, 1))
    return round(float(red)), round(float(green)), round(float(blue))


def nearest(seen: Colour, choices: dict[str, Colour]) -> str:
    """The name of the colour that looks most like the one seen."""
    return min(choices, key=lambda name: far(seen, choices[name]))


def face(
    frames: UInt8[np.ndarray, "F Y X 3"],
    pose: Float32[np.ndarray, "F J 3"],
    shift: tuple[float, float] = (0.0, 0.0),
) -> Float32[np.ndarray, "cells"]:
    """The face's light and dark on a fixed grid where `pose` has it, without mean and of length 1.

    `shift`: looked for that far to the right and below, in heads.
    """
    grid = np.stack(np.meshgrid(FACE_COLUMNS, FACE_ROWS), axis=-1) + shift
    grey = _sampled(frames, pose, grid, FACE_COLUMNS[1] - FACE_COLUMNS[0]).mean(axis=-1).ravel()
    grey = grey - grey.mean()
    return (grey / max(float(np.linalg.norm(grey)), 1e-6)).astype(np.float32)


def skin_share(
    frames: UInt8[np.ndarray, "F Y X 3"], pose: Float32[np.ndarray, "F J 3"], skin: Colour
) -> float:
    """How much of the middle of the face, about the nose, has a colour like `skin`."""
    seen = _region("skin", frames, pose).reshape(-1, 3)
    like = [far((round(r), round(g), round(b)), skin) < ALIKE for r, g, b in seen.tolist()]
    return float(np.mean(like))


def _region(
    region: str, frames: UInt8[np.ndarray, "F Y X 3"], pose: Float32[np.ndarray, "F J 3"]
) -> Float32[np.ndarray, "rows columns 3"]:
    left, top, right, bottom = REGIONS[region]
    grid = np.meshgrid(np.linspace(left, right, 12), np.linspace(top, bottom, 6))
    return _sampled(frames, pose, np.stack(grid, axis=-1), FINE)


def _sampled(
    frames: UInt8[np.ndarray, "F Y X 3"],
    pose: Float32[np.ndarray, "F J 3"],
    units: np.ndarray,
    cell: float = CELL,
) -> Float32[np.ndarray, "rows columns 3"]:
    """The clip's mean colours at places in heads from the pit of the neck, each over about `cell`."""
    high, wide = frames.shape[1:3]
    points = pose[..., :2].mean(axis=0) * (wide, high)
    eyes, shoulders = points[1:3].mean(axis=0), points[5:7].mean(axis=0)
    scale = float(np.hypot(*(shoulders - eyes))) / (SHOULDER[1] - HEAD[1] - EYE_Y)
    at = ((units - (0, SHOULDER[1])) * scale + shoulders).astype(int)
    mean = Image.fromarray(frames.mean(axis=0).round().astype(np.uint8))
    soft = np.asarray(
        mean.filter(ImageFilter.BoxBlur(max(0.5, float(cell) * scale / 2))), np.float32
    )
    return soft[at[..., 1].clip(0, high - 1), at[..., 0].clip(0, wide - 1)]
