"""The only place that lays frames of a video out in one picture."""

import math
from fractions import Fraction

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

from omnihuman_jax.errors import InputError
from omnihuman_jax.media.files import AnyPath, replacing, writing

GAP = 8  # pixels around a tile
LABEL = 20  # height of the line under a tile
PAPER, INK = (255, 255, 255), (60, 60, 60)


class ContactSheet:
    """Evenly spaced frames of a video, the first and the last among them, each with its time.

    Fed as the video streams by: only the frames that are shown are kept, at the size of a tile.

        sheet = ContactSheet(total_frames=250, fps=25)
        for index, frame in enumerate(frames):
            sheet.add(index, frame)
        sheet.save("out.png")
    """

    def __init__(
        self,
        total_frames: int,
        fps: int | float | Fraction,
        *,
        tiles: int = 12,
        columns: int = 4,
        tile_width: int = 240,
    ) -> None:
        if min(total_frames, tiles, columns, tile_width) < 1 or not 0 < fps < math.inf:
            raise InputError(
                "A contact sheet needs at least one frame, tile, column and pixel and a frame rate, "
                f"got {total_frames=}, {tiles=}, {columns=}, {tile_width=}, {fps=}."
            )
        shown = np.linspace(0, total_frames - 1, min(tiles, total_frames))
        self.shown = tuple(shown.round().astype(int).tolist())
        self.fps = float(fps)
        self.columns = min(columns, len(self.shown))
        self.tile_width = tile_width
        self._tiles: dict[int, Image.Image] = {}

    def add(self, index: int, frame: UInt8[np.ndarray, "Y X 3"]) -> None:
        """Frame number `index`; kept if it is one of those `shown`."""
        if index in self.shown:
            tile = Image.fromarray(frame)
            height = max(1, round(tile.height * self.tile_width / tile.width))
            self._tiles[index] = tile.resize((self.tile_width, height), Image.Resampling.LANCZOS)

    def save(self, path: AnyPath) -> None:
        """Write a PNG; a frame that never came leaves its place empty.

        Raises:
            InputError: no frame came, or the file cannot be written.
        """
        if not self._tiles:
            raise InputError(
                f"A contact sheet needs at least one frame; none was given for {path}."
            )
        with replacing(path, ".png") as part:
            sheet = self._drawn()
            with writing(path):
                sheet.save(part, "PNG")

    def _drawn(self) -> Image.Image:
        wide = self.tile_width + GAP
        high = max(tile.height for tile in self._tiles.values()) + LABEL + GAP
        rows = math.ceil(len(self.shown) / self.columns)
        sheet = Image.new("RGB", (self.columns * wide + GAP, rows * high + GAP), PAPER)
        draw = ImageDraw.Draw(sheet)
        font = ImageFont.load_default(LABEL * 0.65)
        for place, index in enumerate(self.shown):
            row, column = divmod(place, self.columns)
            left, top = GAP + column * wide, GAP + row * high
            if index in self._tiles:
                sheet.paste(self._tiles[index], (left, top))
            label = f"{index / self.fps:.2f} s"
            draw.text((left, top + high - GAP - LABEL + 2), label, fill=INK, font=font)
        return sheet
