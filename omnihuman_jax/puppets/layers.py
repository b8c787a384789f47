"""The only place that moves ready-made pictures: a layer is drawn once a clip and placed in every frame."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from PIL import Image, ImageFilter

from omnihuman_jax.puppets.canvas import Canvas
from omnihuman_jax.puppets.palette import Colour
from omnihuman_jax.puppets.shapes import Place, Points

MARGIN = 2  # transparent pixels around a layer, so that its edge is smooth


@dataclass(frozen=True)
class Layer:
    """A picture with premultiplied alpha ("RGBa"); `fine` pixels a unit, its top left at `corner`."""

    picture: Image.Image
    fine: float
    corner: tuple[float, float]

    def draw(self, canvas: Canvas, frame: tuple[int, int]) -> None:
        """Place it on a canvas of `frame` (width, height) pixels as the canvas places points."""
        to_frame = _affine(canvas.place) @ self._to_units()
        wide, high = self.picture.size
        corners = (
            np.array([(0, 0, 1), (wide, 0, 1), (0, high, 1), (wide, high, 1)]) @ to_frame[:2].T
        )
        low = np.maximum(np.floor(corners.min(axis=0)), 0).astype(int)
        top = np.minimum(np.ceil(corners.max(axis=0)), frame).astype(int)
        if (top <= low).any():
            return
        shift = np.array([[1, 0, low[0]], [0, 1, low[1]], [0, 0, 1]], float)
        back = np.linalg.inv(to_frame) @ shift
        moved = self.picture.transform(
            (int(top[0] - low[0]), int(top[1] - low[1])),
            Image.Transform.AFFINE,
            tuple(back[:2].ravel()),
            Image.Resampling.BILINEAR,
        )
        canvas.paste(moved.convert("RGBA"), (int(low[0]), int(low[1])))

    def _to_units(self) -> np.ndarray:
        unit = 1 / self.fine
        return np.array([[unit, 0, self.corner[0]], [0, unit, self.corner[1]], [0, 0, 1]])


def _affine(place: Place) -> Float[np.ndarray, "3 3"]:
    """The matrix of a placement that is affine."""
    origin, x, y = place(np.array([(0.0, 0.0), (1.0, 0.0), (0.0, 1.0)]))
    return np.array([[*(x - origin), 0], [*(y - origin), 0], [*origin, 1]]).T


class Sheet:
    """A layer in the making: paint on `canvas` in units, then `cut` it to an outline."""

    def __init__(
        self, corner: tuple[float, float], size: tuple[float, float], fine: float, colour: Colour
    ) -> None:
        self.corner, self.fine = corner, fine
        self.pixels = (round(size[0] * fine) + 2 * MARGIN, round(size[1] * fine) + 2 * MARGIN)
        self.canvas = Canvas(Image.new("RGB", self.pixels, colour), self._place, fine)

    def _place(self, points: Points) -> Points:
        return (points - self.corner) * self.fine + MARGIN

    @property
    def edge(self) -> tuple[float, float]:
        """The top left of the pixels, in units."""
        return self.corner[0] - MARGIN / self.fine, self.corner[1] - MARGIN / self.fine

    def mask(self, *outlines: Points) -> Image.Image:
        """White inside any of the outlines."""
        sheet = Canvas(Image.new("RGB", self.pixels), self._place, self.fine)
        for outline in outlines:
            sheet.fill(outline, (255, 255, 255))
        return sheet.picture().convert("L")

    def cut(self, mask: Image.Image, shadow: Colour, depth: float) -> Layer:
        """What lies inside the mask, rounded by a soft shadow at its rim away from the light."""
        inside = np.asarray(mask, np.float32) / 255
        shift = round(0.5 * depth * self.fine)
        moved = np.pad(inside, ((0, shift), (0, shift)))[shift:, shift:]
        blurred = Image.fromarray((moved * 255).astype(np.uint8)).filter(
            ImageFilter.GaussianBlur(depth * self.fine)
        )
        light = (np.asarray(blurred, np.float32) / 255 * 1.15).clip(0, 1)[..., None]
        painted = np.asarray(self.canvas.picture(), np.float32)
        deep = painted * (np.array(shadow, np.float32) / 255)
        lit = deep + (painted - deep) * light
        whole = np.dstack([lit, inside * 255]).round().clip(0, 255).astype(np.uint8)
        return Layer(Image.fromarray(whole, "RGBA").convert("RGBa"), self.fine, self.edge)
