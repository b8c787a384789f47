"""The only place that knows how a puppet stands in a frame: framing, camera, what hides what, the frames."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, UInt8
from PIL import Image

from omnihuman_jax.puppets import backdrop
from omnihuman_jax.puppets.backdrop import Scene
from omnihuman_jax.puppets.canvas import Canvas
from omnihuman_jax.puppets.clothes import HIP
from omnihuman_jax.puppets.figure import TALL, Figure, Pose
from omnihuman_jax.puppets.identity import Identity
from omnihuman_jax.puppets.layers import Layer
from omnihuman_jax.puppets.motion import Motion
from omnihuman_jax.puppets.plan import Plan
from omnihuman_jax.puppets.shapes import Place


@dataclass(frozen=True)
class _Framing:
    """What a framing shows, in units of the puppet: from `top` to `bottom`, at least `wide`."""

    top: float
    bottom: float
    wide: float
    most: float  # units from top to bottom in a tall frame: a portrait never shows hands


FRAMINGS = {
    "portrait": _Framing(-1.4, 0.42, 1.5, 2.3),
    "half-body": _Framing(-1.43, 1.3, 2.3, 3.4),
    "full-body": _Framing(-1.46, 3.1, 2.5, 9.0),
}
FAR = 0.5  # how much of the camera's movement what is far behind makes
DESK = 0.66  # where a desk's top is, in units of the puppet
MOUTH = [0, *range(23 + 31, 23 + 36), *range(23 + 48, 23 + 68)]  # nose tip and base, lips
COVER = {"mask": [*MOUTH, *range(23 + 4, 23 + 13)], "mic": MOUTH[6:]}


@dataclass(frozen=True)
class Shot:
    """A puppet before a backdrop, ready to be filmed. `size` is (width, height); `scale` pixels a unit."""

    figure: Figure
    scene: Scene
    desk: Layer | None
    size: tuple[int, int]
    scale: float
    middle: tuple[float, float]  # in units of the puppet, what is in the middle of the frame
    framing: str
    covered: str

    def film(
        self, motion: Motion
    ) -> tuple[UInt8[np.ndarray, "F Y X 3"], Float32[np.ndarray, "F 133 3"]]:
        """The frames, and the keypoints on them: x, y as shares of the frame, confidence 1 or 0."""
        wide, high = self.size
        frames = np.empty((len(motion.poses), high, wide, 3), np.uint8)
        for k, pose in enumerate(motion.poses):
            frames[k] = self.draw(pose, *motion.camera.at(k))
        return frames, self.trace(motion)

    def trace(self, motion: Motion) -> Float32[np.ndarray, "F 133 3"]:
        """The keypoints alone."""
        camera = motion.camera
        return np.stack([self.keypoints(p, *camera.at(k)) for k, p in enumerate(motion.poses)])

    def draw(
        self, pose: Pose, zoom: float = 1.0, x: float = 0.0, y: float = 0.0
    ) -> UInt8[np.ndarray, "Y X 3"]:
        """One frame; the camera's zoom and shift (in frame heights)."""
        high = self.size[1]
        place = self._place(zoom, x, y)
        canvas = Canvas(Image.new("RGB", self.size), place, self.scale)
        part = 1.0 if self.framing == "full-body" else FAR
        flat = self._frame_place(1 + (zoom - 1) * part, x * part, y * part)
        self.scene.layer.draw(canvas.on(flat, high), self.size)
        self.figure.draw(canvas, pose, self.size, legs=self.legs, covered=self.covered)
        if self.desk:
            self.desk.draw(canvas.on(self._frame_place(zoom, x, y), high), self.size)
        return canvas.pixels()

    @property
    def legs(self) -> bool:
        """Whether the frame goes down to the legs."""
        return self.middle[1] + self.size[1] / self.scale / 2 > HIP - 0.1

    def keypoints(
        self, pose: Pose, zoom: float = 1.0, x: float = 0.0, y: float = 0.0
    ) -> Float32[np.ndarray, "133 3"]:
        """Shares of the frame; confidence 0 outside it, behind the desk, under a mask, not drawn."""
        points = self.figure.keypoints(pose, legs=self.legs)
        places = self._place(zoom, x, y)(points[:, :2]) / self.size
        seen = points[:, 2] * ((places >= 0) & (places <= 1)).all(axis=1)
        if self.desk:
            low = self._frame_place(zoom, x, y)(np.array([(0.0, self.desk_top)]))[0, 1]
            seen *= places[:, 1] < low / self.size[1]
        if self.covered:
            seen[COVER[self.covered]] = 0
        places = places.clip(-1, 2)
        return np.column_stack([places, seen]).astype(np.float32)

    @property
    def desk_top(self) -> float:
        """Where a desk begins, in frame heights."""
        return _desk_top(self.size, self.scale, self.middle)

    def _place(self, zoom: float, x: float, y: float) -> Place:
        """Units of the puppet to pixels."""
        half, high = np.array(self.size) / 2, self.size[1]
        middle, shift = np.array(self.middle), np.array([x, y]) * high
        return lambda points: (points - middle) * (self.scale * zoom) + half + shift

    def _frame_place(self, zoom: float, x: float, y: float) -> Place:
        """Frame heights to pixels."""
        half, high = np.array(self.size) / 2, self.size[1]
        shift = np.array([x, y]) * high
        return lambda points: (points * high - half) * zoom + half + shift


def make_shot(
    rng: np.random.Generator, who: Identity, plan: Plan, size: tuple[int, int], covered: str
) -> Shot:
    """A puppet in a frame of `size` (width, height), as the plan wants it."""
    framing = FRAMINGS[plan.framing]
    wide, high = size
    tall = framing.bottom - framing.top
    scale = max(min(high / tall, wide / framing.wide), high / framing.most)
    spare = high / scale - tall  # what a tall frame shows more, mostly below
    middle_y = (
        framing.top - (0.5 if plan.framing == "full-body" else 0.2) * spare + high / scale / 2
    )
    # In a wide frame the puppet need not stand in the middle.
    aside = max(0.0, wide / scale - framing.wide - 0.4) * 0.28
    middle = (float(rng.uniform(-1, 1) * aside), float(middle_y))
    floor = None
    if plan.framing == "full-body":
        floor = 0.5 + (TALL - middle_y) * scale / high
    avoid = (who.clothes.colour, who.hair, who.skin)
    scene = backdrop.make_scene(rng, size, avoid, floor=floor)
    desk = None
    if plan.desk:
        at = 0.5 * wide / high - middle[0] * scale / high
        desk = backdrop.make_desk(rng, size, _desk_top(size, scale, middle), scale / high, at)
    return Shot(Figure(who, scale), scene, desk, size, scale, middle, plan.framing, covered)


def _desk_top(size: tuple[int, int], scale: float, middle: tuple[float, float]) -> float:
    return 0.5 + (DESK - middle[1]) * scale / size[1]
