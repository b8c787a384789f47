"""The only place that makes curves into polygons: ellipses, smooth outlines, brush strokes, placements."""

from collections.abc import Callable, Sequence
from functools import cache

import numpy as np
from jaxtyping import Float

type Points = Float[np.ndarray, "_ 2"]
type Place = Callable[[np.ndarray], np.ndarray]
"""Where drawn points go: from the units of a part to those of the whole, `[N 2]` to `[N 2]`."""

CAP = 7  # points of a stroke's round end


@cache
def _unit_circle(points: int) -> np.ndarray:
    angle = np.linspace(0, 2 * np.pi, points, endpoint=False)
    return np.stack([np.cos(angle), np.sin(angle)], axis=1)


def ellipse(
    x: float, y: float, wide: float, high: float | None = None, turn: float = 0.0, points: int = 36
) -> Points:
    """An ellipse around (x, y) with half axes `wide` and `high` (a circle without), turned in radians."""
    curve = _unit_circle(points) * (wide, wide if high is None else high)
    return moved(turned(curve, turn) if turn else curve, x, y)


def moved(points: Points, dx: float, dy: float) -> Points:
    """Shifted."""
    return points + np.array([dx, dy])


def turned(points: Points, angle: float) -> Points:
    """Turned about the origin, clockwise on the screen, in radians."""
    cos, sin = np.cos(angle), np.sin(angle)
    return points @ np.array([[cos, sin], [-sin, cos]])


def smooth(
    corners: Sequence[Sequence[float]] | np.ndarray, closed: bool = True, steps: int = 6
) -> Points:
    """The Catmull-Rom curve through `corners`, `steps` points to each."""
    p = np.asarray(corners, float)
    ends = [p[-1:], p, p[:2]] if closed else [2 * p[:1] - p[1:2], p, 2 * p[-1:] - p[-2:-1]]
    p = np.concatenate(ends)
    before, here, then, after = p[:-3], p[1:-2], p[2:-1], p[3:]
    t = np.linspace(0, 1, steps, endpoint=False)[None, :, None]
    before, here, then, after = (v[:, None] for v in (before, here, then, after))
    curve = here + 0.5 * t * (
        then - before + t * (2 * before - 5 * here + 4 * then - after)
        + t * t * (3 * here - 3 * then + after - before)
    )  # fmt: skip
    curve = curve.reshape(-1, 2)
    return curve if closed else np.concatenate([curve, p[-2:-1]])


def mirrored(half: Sequence[Sequence[float]]) -> list[tuple[float, float]]:
    """A whole outline from its right half, given from top to bottom; points with x = 0 stay single."""
    right = [(float(x), float(y)) for x, y in half]
    return right + [(-x, y) for x, y in reversed(right) if x > 1e-9]


def stroke(path: np.ndarray, width: float | Sequence[float] | np.ndarray) -> Points:
    """The outline of a brush drawn along `path`; `width` is one number or one a point. Round ends."""
    path = np.asarray(path, float)
    half = np.broadcast_to(np.asarray(width, float) / 2, len(path))
    along = np.gradient(path, axis=0) if len(path) > 2 else np.repeat(np.diff(path, axis=0), 2, 0)
    length = np.hypot(*along.T)
    along = along / np.maximum(length, 1e-9)[:, None]
    across = np.stack([-along[:, 1], along[:, 0]], axis=1)
    left, right = path + across * half[:, None], path - across * half[:, None]
    swing = np.linspace(0, np.pi, CAP + 2)[1:-1]
    end = path[-1] + half[-1] * (
        np.cos(swing)[:, None] * across[-1] + np.sin(swing)[:, None] * along[-1]
    )
    start = path[0] - half[0] * (
        np.cos(swing)[:, None] * across[0] + np.sin(swing)[:, None] * along[0]
    )
    return np.concatenate([left, end, right[::-1], start])


def arc(ax: float, ay: float, bx: float, by: float, bulge: float, points: int = 12) -> Points:
    """A bow from a to b; its middle lies `bulge` to the side (downwards, for a bow that goes right)."""
    t = np.linspace(0, 1, points)
    lift = 4 * t * (1 - t) * bulge
    length = max(np.hypot(bx - ax, by - ay), 1e-9)
    across = np.array([-(by - ay), bx - ax]) / length
    line = np.stack([ax + (bx - ax) * t, ay + (by - ay) * t], axis=1)
    return line + lift[:, None] * across


def shrunk(outline: Points, share: float, dx: float = 0.0, dy: float = 0.0) -> Points:
    """The outline, smaller by `share` towards its middle, and moved."""
    middle = (outline.min(axis=0) + outline.max(axis=0)) / 2
    return middle + (outline - middle) * (1 - share) + (dx, dy)


def bumpy(x: float, y: float, wide: float, high: float, bumps: int, depth: float) -> Points:
    """A cloud: an ellipse whose edge goes in and out."""
    angle = np.linspace(0, 2 * np.pi, bumps * 8, endpoint=False)
    radius = 1 - depth + depth * np.abs(np.cos(angle * bumps / 2)) ** 0.6 * 1.6
    return np.stack([x + wide * radius * np.cos(angle), y + high * radius * np.sin(angle)], axis=1)
