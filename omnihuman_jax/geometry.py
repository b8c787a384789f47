"""Clip arithmetic: pixels <-> latents <-> tokens. The only file that knows 4n+1, 8x and the 2x2 patch."""

import math
from dataclasses import dataclass

from omnihuman_jax.errors import InputError

TEMPORAL = 4  # pixel frames a latent frame stands for, after the first (Wan2.1 VAE stride)
SPATIAL = 8  # pixels a latent cell spans
PATCH = 2  # latent cells a token spans
CELL = SPATIAL * PATCH  # heights and widths are multiples of this
MOTION_FRAMES = 5  # pixel frames carried from segment to segment (OmniHuman-1, section 3.4)


@dataclass(frozen=True, order=True)
class Grid:
    """The size of one clip: `frames` = 4n+1 pixel frames of `height` x `width`, multiples of 16."""

    frames: int
    height: int
    width: int

    def __post_init__(self) -> None:
        if self.frames < 1 or (self.frames - 1) % TEMPORAL:
            below = max(1, self.frames - (self.frames - 1) % TEMPORAL)
            raise InputError(
                f"The causal VAE needs 4n+1 frames, got {self.frames}; "
                f"use {below} or {below + TEMPORAL}."
            )
        for name, size in (("height", self.height), ("width", self.width)):
            if size < CELL or size % CELL:
                below = max(CELL, size - size % CELL)
                raise InputError(
                    f"The {name} must be a multiple of {CELL}, got {size}; "
                    f"use {below} or {below + CELL}."
                )

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Latent frames, rows and columns: T, H, W."""
        frames = (self.frames - 1) // TEMPORAL + 1
        return frames, self.height // SPATIAL, self.width // SPATIAL

    @property
    def token_shape(self) -> tuple[int, int, int]:
        """Latent frames, token rows and token columns."""
        frames, rows, columns = self.latent_shape
        return frames, rows // PATCH, columns // PATCH

    @property
    def tokens(self) -> int:
        """Video tokens L of the clip."""
        return math.prod(self.token_shape)


def latent_frames(frames: int) -> int:
    """Latent frames of `frames` = 4n+1 pixel frames."""
    return Grid(frames, CELL, CELL).latent_shape[0]


def frames_for(seconds: float, fps: float) -> int:
    """The smallest 4n+1 frames that last at least `seconds`.

    Raises:
        InputError: no time, or no frame rate.
    """
    if not (0 < seconds < math.inf) or not (0 < fps < math.inf):
        raise InputError(f"A clip needs a positive length and frame rate, got {seconds=} {fps=}.")
    least = math.ceil(seconds * fps - 1e-6)
    return max(0, math.ceil((least - 1) / TEMPORAL)) * TEMPORAL + 1


def nearest_size(height: int, width: int, area: int) -> tuple[int, int]:
    """The height and width, multiples of 16, near `area` pixels whose shape is nearest to the given.

    Of all grids whose area is at most `area` and more than half of it, the one with the smallest
    change of aspect ratio; of equals, the largest.
    """
    if min(height, width) < 1:
        raise InputError(f"An image of {height}x{width} has no shape to keep.")
    best: tuple[float, int, int, int] | None = None
    ratio = math.log(height / width)
    cells = area // CELL**2
    for rows in range(1, cells + 1):
        columns = min(max(round(rows * width / height), 1), cells // rows)
        for c in {columns, max(1, columns - 1), min(columns + 1, cells // rows)}:
            if rows * c * 2 <= cells and rows * c < cells:
                continue
            # A change of shape under 2 % is not seen; below that, more pixels win.
            change = max(abs(math.log(rows / c) - ratio), 0.02)
            key = (round(change, 4), -rows * c, rows, c)
            best = key if best is None or key < best else best
    if best is None:
        raise InputError(
            f"No grid of 16x16 cells has {area} pixels or fewer; use at least {CELL**2}."
        )
    return best[2] * CELL, best[3] * CELL
