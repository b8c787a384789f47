"""The only place that puts paint on pixels: anti-aliased polygons (aggdraw), soft shading, pasted layers."""

import aggdraw
import numpy as np
from jaxtyping import UInt8
from PIL import Image

from omnihuman_jax.puppets.palette import Colour, mix
from omnihuman_jax.puppets.shapes import Place, Points, shrunk

LIGHT = (-0.035, -0.05)  # the light comes from the upper left, in units of a part's half size


class Canvas:
    """A picture to draw on, in the units of `place`; `placed` gives the same picture in others.

    `scale` is how many pixels a unit is, for whoever wants to draw less when it is small.
    """

    def __init__(self, picture: Image.Image, place: Place, scale: float) -> None:
        self._sheet = _Sheet(picture)
        self.place, self.scale = place, scale

    def on(self, place: Place, scale: float) -> "Canvas":
        """The same picture, in units that `place` takes to pixels."""
        other = object.__new__(Canvas)
        other._sheet, other.place, other.scale = self._sheet, place, scale
        return other

    def placed(self, place: Place, grow: float = 1.0) -> "Canvas":
        """The same picture, drawn on in units that `place` takes to the units of this canvas."""
        outer = self.place
        return self.on(lambda points: outer(place(points)), self.scale * grow)

    def fill(self, outline: Points, colour: Colour, alpha: float = 1.0) -> None:
        """A filled polygon."""
        brush = aggdraw.Brush(colour, round(255 * alpha))
        self._sheet.draw.polygon(self.place(outline).ravel().tolist(), None, brush)

    def soft(
        self,
        outline: Points,
        colour: Colour,
        shadow: Colour,
        *,
        depth: float = 0.2,
        light: tuple[float, float] = LIGHT,
        steps: int = 7,
    ) -> None:
        """A filled polygon that turns to `shadow` at its rim, most on the side away from the light.

        The outlines inside are drawn one in another, each a little nearer to `colour`.
        """
        size = (outline.max(axis=0) - outline.min(axis=0)) / 2
        self.fill(outline, shadow)
        for step in range(1, steps + 1):
            t = step / steps
            inner = shrunk(outline, depth * t, *(np.array(light) * size * t * depth * 5))
            self.fill(inner, mix(shadow, colour, t * (2 - t)))

    def glow(self, outline: Points, colour: Colour, alpha: float, steps: int = 6) -> None:
        """A patch of colour without an edge: `alpha` in the middle, nothing at the outline."""
        each = 1 - (1 - alpha) ** (1 / steps)
        for step in range(steps):
            self.fill(shrunk(outline, step / steps), colour, each)

    def paste(self, layer: Image.Image, corner: tuple[int, int]) -> None:
        """An RGBA layer, its top left at a pixel."""
        self._sheet.paste(layer, corner)

    def pixels(self) -> UInt8[np.ndarray, "Y X 3"]:
        """What is drawn."""
        return np.asarray(self._sheet.picture()).copy()

    def picture(self) -> Image.Image:
        """What is drawn, as a picture."""
        return self._sheet.picture()


class _Sheet:
    """aggdraw draws on a copy of the picture; this hands it over when something is pasted."""

    def __init__(self, picture: Image.Image) -> None:
        self._size, self._mode = picture.size, picture.mode
        self.draw = aggdraw.Draw(picture)

    def picture(self) -> Image.Image:
        return Image.frombytes(self._mode, self._size, self.draw.tobytes())

    def paste(self, layer: Image.Image, corner: tuple[int, int]) -> None:
        picture = self.picture()
        picture.paste(layer, corner, layer)
        self.draw.frombytes(picture.tobytes())
