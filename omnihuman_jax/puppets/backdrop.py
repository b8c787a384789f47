"""The only place that draws what is behind a puppet (once a clip) and what may stand before it.

Units: the height of the frame, from its top left; x goes to the frame's width over its height.
"""

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFilter

from omnihuman_jax.puppets import palette
from omnihuman_jax.puppets.canvas import Canvas
from omnihuman_jax.puppets.layers import Layer, Sheet
from omnihuman_jax.puppets.palette import WHITE, Colour, darker, far, lighter, mix
from omnihuman_jax.puppets.shapes import arc, bumpy, ellipse, moved, smooth, stroke

EDGE = 0.14  # more than the frame shows, on every side, for the camera to move
SOFT = 0.0035  # blur, as a share of the frame's height: what is behind is a little out of focus


@dataclass(frozen=True)
class Scene:
    """A backdrop and its words."""

    name: str
    words: str
    layer: Layer


class _Easel:
    """What the painters share: a canvas, the frame's width in units, colours and chance."""

    def __init__(
        self, canvas: Canvas, wide: float, floor: float, wall: Colour, rng: np.random.Generator
    ) -> None:
        self.canvas, self.wide, self.floor, self.wall, self.rng = canvas, wide, floor, wall, rng

    def box(
        self, left: float, top: float, right: float, low: float, colour: Colour, alpha: float = 1.0
    ) -> None:
        corners = np.array([(left, top), (right, top), (right, low), (left, low)])
        self.canvas.fill(corners, colour, alpha)

    def shade(self, top: float, low: float, first: Colour, last: Colour, steps: int = 48) -> None:
        """A vertical gradient over the whole width."""
        edges = np.linspace(top, low, steps + 1)
        for k in range(steps):
            self.box(
                -EDGE, edges[k], self.wide + EDGE, low + 0.001, mix(first, last, k / (steps - 1))
            )

    def cloth(self) -> Colour:
        return self.pick(tuple(palette.CLOTH.values()))

    def pick[T](self, choices: tuple[T, ...]) -> T:
        return choices[self.rng.integers(len(choices))]


def make_scene(
    rng: np.random.Generator,
    size: tuple[int, int],
    avoid: tuple[Colour, ...],
    *,
    floor: float | None,
) -> Scene:
    """A backdrop for a frame of `size` (width, height), unlike the colours to `avoid`.

    `floor` is how far down the soles are, in units; None: the feet are not seen.
    """
    wide, high = size[0] / size[1], size[1]
    walls = [c for c in palette.WALLS.values() if min(far(c, a) for a in avoid) > 75]
    wall = walls[rng.integers(len(walls))] if walls else palette.WALLS["dusk blue"]
    name = tuple(PAINTERS)[rng.integers(len(PAINTERS))]
    words, painter = PAINTERS[name]
    sheet = Sheet((-EDGE, -EDGE), (wide + 2 * EDGE, 1 + 2 * EDGE), high, wall)
    easel = _Easel(sheet.canvas, wide, 0.9 if floor is None else floor, wall, rng)
    painter(easel)
    if floor is not None:
        middle = ellipse(wide / 2, floor + 0.004, 0.15, 0.018)
        sheet.canvas.glow(middle, (60, 48, 80), 0.4, 8)
    picture = sheet.canvas.picture().filter(ImageFilter.GaussianBlur(SOFT * high))
    picture.putalpha(255)
    return Scene(name, words, Layer(_lit(picture).convert("RGBa"), sheet.fine, sheet.edge))


def _lit(picture: Image.Image) -> Image.Image:
    """Light from the upper left, a soft vignette."""
    pixels = np.asarray(picture, np.float32)
    y, x = np.mgrid[-1 : 1 : pixels.shape[0] * 1j, -1 : 1 : pixels.shape[1] * 1j]
    light = 1.04 - 0.09 * ((x + 0.25) ** 2 + (y + 0.3) ** 2)
    pixels[..., :3] *= light[..., None]
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8), "RGBA")


def _studio(e: _Easel) -> None:
    e.shade(-EDGE, 1 + EDGE, lighter(e.wall, 0.25), darker(e.wall, 0.22))
    e.canvas.glow(ellipse(e.wide * 0.5, 0.42, e.wide * 0.62, 0.62), lighter(e.wall, 0.8), 0.75, 26)
    if e.floor < 0.99:
        e.canvas.glow(
            ellipse(e.wide / 2, e.floor, e.wide * 0.6, 0.1), lighter(e.wall, 0.6), 0.6, 12
        )


def _room_shell(e: _Easel) -> None:
    """A wall with a skirting board, and a floor of boards."""
    e.shade(-EDGE, e.floor, lighter(e.wall, 0.2), darker(e.wall, 0.08))
    low = e.floor - 0.055
    e.box(-EDGE, low - 0.035, e.wide + EDGE, low, lighter(e.wall, 0.65))
    wood: Colour = (206, 164, 122)
    e.shade(low, 1 + EDGE, wood, darker(wood, 0.22), 12)
    for y in np.linspace(low, 1.1, 4)[1:]:
        e.canvas.fill(
            stroke(np.array([(-EDGE, y), (e.wide + EDGE, y)]), 0.004), darker(wood, 0.35), 0.5
        )


def _window(e: _Easel, x: float, y: float, wide: float, high: float) -> None:
    e.box(x - 0.02, y - 0.02, x + wide + 0.02, y + high + 0.02, darker(e.wall, 0.25), 0.35)
    e.box(x, y, x + wide, y + high, (196, 226, 246))
    e.canvas.fill(_hill(x, x + wide, y + high * 0.72, y + high, 0.04), (164, 208, 160))
    for k in range(2):
        cloud = bumpy(
            x + wide * (0.3 + 0.4 * k),
            y + high * (0.25 + 0.15 * k),
            wide * 0.18,
            high * 0.06,
            7,
            0.2,
        )
        e.canvas.fill(cloud, WHITE, 0.9)
    frame = WHITE
    for t in (0, 0.5, 1):
        e.canvas.fill(stroke(np.array([(x + wide * t, y), (x + wide * t, y + high)]), 0.02), frame)
        e.canvas.fill(stroke(np.array([(x, y + high * t), (x + wide, y + high * t)]), 0.02), frame)
    e.box(x - 0.03, y + high, x + wide + 0.03, y + high + 0.025, lighter(e.wall, 0.7))


def _hill(
    left: float, right: float, top: float, low: float, wave: float, phase: float = 0.0
) -> np.ndarray:
    x = np.linspace(left, right, 40)
    y = top + wave * np.sin(np.linspace(0, 5, 40) + phase)
    return np.concatenate([np.stack([x, y], axis=1), [(right, low), (left, low)]])


def _plant(e: _Easel, x: float, ground: float, size: float) -> None:
    green = e.pick(((88, 152, 104), (72, 134, 110), (122, 168, 96)))
    for k in range(9):
        turn = -np.pi / 2 + (k - 4) * 0.3
        tip = np.array([x + size * np.cos(turn) * 0.8, ground - size * 0.45 + size * np.sin(turn)])
        root = np.array([x, ground - size * 0.35])
        path = root + (tip - root) * np.linspace(0, 1, 9)[:, None]
        leaf = stroke(path, size * 0.24 * np.sin(np.linspace(0.25, np.pi, 9)) + 0.002)
        e.canvas.fill(leaf, lighter(green, 0.12) if k % 2 else darker(green, 0.14))
        e.canvas.fill(stroke(path, 0.004), lighter(green, 0.35), 0.6)
    pot = e.pick(((232, 150, 110), (240, 236, 228), (118, 150, 180)))
    corners = np.array([(-0.3, -0.4), (0.3, -0.4), (0.22, 0), (-0.22, 0)]) * size + (x, ground)
    e.canvas.soft(corners, pot, darker(pot, 0.35), depth=0.2, steps=4)


def _pictures(e: _Easel, x: float, y: float) -> None:
    for k, (dx, dy, w, h) in enumerate(
        ((0, 0, 0.17, 0.21), (0.21, -0.03, 0.13, 0.16), (0.21, 0.16, 0.16, 0.12))
    ):
        left, top = x + dx, y + dy
        e.box(
            left + 0.008, top + 0.01, left + w + 0.008, top + h + 0.012, darker(e.wall, 0.4), 0.35
        )
        e.box(left, top, left + w, top + h, e.pick((WHITE, (206, 160, 110), (90, 84, 96))))
        inner = e.cloth()
        e.box(left + 0.015, top + 0.015, left + w - 0.015, top + h - 0.015, lighter(inner, 0.45))
        shape = ellipse(left + w / 2, top + h / 2, w * 0.22, h * 0.25)
        if k == 1:
            shape = np.array(
                [
                    (left + 0.02, top + h - 0.015),
                    (left + w / 2, top + 0.05),
                    (left + w - 0.02, top + h - 0.015),
                ]
            )
        e.canvas.fill(shape, inner)


def _lamp(e: _Easel, x: float, ground: float) -> None:
    e.canvas.fill(stroke(np.array([(x, ground), (x, 0.36)]), 0.014), (104, 92, 88))
    e.canvas.fill(ellipse(x, ground, 0.07, 0.014), (104, 92, 88))
    e.canvas.glow(ellipse(x, 0.36, 0.32, 0.3), (255, 240, 190), 0.5, 12)
    shade = np.array([(-0.065, 0.2), (0.065, 0.2), (0.11, 0.36), (-0.11, 0.36)]) + np.array([x, 0])
    e.canvas.soft(shade, (255, 240, 200), (246, 206, 140), depth=0.25, steps=5)


def _sofa(e: _Easel, x: float, ground: float) -> None:
    """Its middle at x: a back, a seat of two cushions, arms, legs."""
    cloth = lighter(e.cloth(), 0.16)
    shadow, wood = darker(cloth, 0.35), (140, 104, 82)
    for dx in (-0.27, 0.27):
        e.canvas.fill(
            stroke(np.array([(x + dx, ground - 0.04), (x + dx * 1.04, ground)]), 0.02), wood
        )
    back = [
        (-0.3, -0.3),
        (0, -0.315),
        (0.3, -0.3),
        (0.31, -0.12),
        (0.3, -0.04),
        (-0.3, -0.04),
        (-0.31, -0.12),
    ]
    e.canvas.soft(smooth(moved(np.array(back), x, ground)), cloth, shadow, depth=0.12)
    for side in (-1, 1):
        seat = np.array(
            [(0.005, -0.16), (0.13, -0.165), (0.255, -0.16), (0.26, -0.085), (0.005, -0.085)]
        )
        e.canvas.soft(
            smooth(seat * (side, 1) + (x, ground)),
            lighter(cloth, 0.15),
            shadow,
            depth=0.15,
            steps=5,
        )
        arm = np.array([(0.25, -0.19), (0.3, -0.225), (0.355, -0.19), (0.35, -0.03), (0.25, -0.03)])
        e.canvas.soft(
            smooth(arm * (side, 1) + (x, ground)), lighter(cloth, 0.06), shadow, depth=0.2, steps=5
        )
    pillow = smooth(
        np.array([(-0.06, -0.06), (0.06, -0.055), (0.065, 0.06), (-0.055, 0.065)]) * 1.1
        + (x - 0.15, ground - 0.21)
    )
    colour = e.cloth()
    e.canvas.soft(pillow, colour, darker(colour, 0.3), depth=0.3, steps=4)


def _living_room(e: _Easel) -> None:
    _room_shell(e)
    left = bool(e.rng.random() < 0.5)
    a, b = (0.05, e.wide - 0.4) if left else (e.wide - 0.42, 0.04)
    _window(e, a, 0.1, 0.34, 0.46)
    _pictures(e, b, 0.16)
    _sofa(e, b + 0.15, e.floor - 0.02)
    _plant(e, a + (0.08 if left else 0.26), e.floor, 0.26)
    if e.rng.random() < 0.6:
        _lamp(e, b + (0.4 if left else -0.0), e.floor)


def _library(e: _Easel) -> None:
    wood: Colour = e.pick(((178, 130, 92), (226, 206, 176), (146, 108, 88)))
    e.box(-EDGE, -EDGE, e.wide + EDGE, 1 + EDGE, darker(wood, 0.45))
    shelf = 0.235
    for row in range(-1, 6):
        low = 0.02 + row * shelf
        x = -EDGE
        while x < e.wide + EDGE:
            book = float(e.rng.uniform(0.022, 0.05))
            tall = float(e.rng.uniform(0.13, 0.195))
            if e.rng.random() < 0.09:
                _plant(e, x + 0.05, low, 0.11)
                x += 0.12
                continue
            colour = mix(e.cloth(), wood, 0.3)
            e.box(x, low - tall, x + book, low, colour)
            e.box(x, low - tall * 0.82, x + book, low - tall * 0.74, lighter(colour, 0.5), 0.7)
            e.box(x + book * 0.75, low - tall, x + book, low, darker(colour, 0.4), 0.5)
            x += book + 0.002
        e.box(-EDGE, low, e.wide + EDGE, low + 0.026, wood)
        e.box(-EDGE, low + 0.026, e.wide + EDGE, low + 0.045, darker(wood, 0.65), 0.6)
    for x in np.arange(0.08, e.wide + EDGE, 0.62):
        e.box(x - 0.014, -EDGE, x + 0.014, 1 + EDGE, lighter(wood, 0.08))
    if e.floor < 0.99:
        e.shade(e.floor - 0.05, 1 + EDGE, (190, 150, 116), (150, 112, 88), 10)


def _sky(e: _Easel, low: float) -> None:
    top, last = e.pick((
        ((150, 205, 244), (226, 242, 250)),
        ((255, 196, 158), (255, 232, 196)),
        ((176, 184, 236), (250, 214, 216)),
        ((128, 190, 224), (214, 238, 226)),
    ))  # fmt: skip
    e.shade(-EDGE, low, top, last)
    sun = (e.wide * e.rng.uniform(0.12, 0.88), 0.17)
    e.canvas.glow(ellipse(*sun, 0.26), (255, 250, 214), 0.75, 14)
    e.canvas.fill(ellipse(*sun, 0.07), (255, 246, 206))
    for _ in range(5):
        x, y = e.rng.uniform(-0.05, e.wide + 0.05), e.rng.uniform(0.03, 0.4)
        size = e.rng.uniform(0.06, 0.13)
        e.canvas.fill(bumpy(x, y, size, size * 0.36, 7, 0.22), WHITE, 0.82)


def _hills(e: _Easel) -> None:
    _sky(e, 0.8)
    green = e.pick(((150, 200, 140), (172, 196, 112), (132, 190, 168)))
    for k, top in enumerate((0.52, 0.62, 0.74)):
        colour = mix(lighter(green, 0.55), darker(green, 0.12), k / 2)
        e.canvas.fill(
            _hill(-EDGE, e.wide + EDGE, top, 1.2, 0.04, float(e.rng.uniform(0, 6))), colour
        )
        for _ in range(6):
            x = e.rng.uniform(-0.05, e.wide + 0.05)
            size = 0.03 + 0.022 * k
            y = top - 0.02 + e.rng.uniform(0, 0.05)
            e.canvas.fill(stroke(np.array([(x, y), (x, y + size)]), size * 0.22), (140, 104, 82))
            e.canvas.soft(
                ellipse(x, y - size * 0.4, size * 0.62, size * 0.85),
                darker(colour, 0.15),
                darker(colour, 0.42),
                steps=3,
            )
    for _ in range(26):
        x, y = e.rng.uniform(-0.1, e.wide + 0.1), e.rng.uniform(0.82, 1.1)
        e.canvas.fill(
            ellipse(x, y, 0.009, points=8), e.pick((WHITE, (255, 214, 110), (246, 176, 196)))
        )


def _beach(e: _Easel) -> None:
    _sky(e, 0.56)
    e.shade(0.54, 0.76, (92, 178, 210), (160, 220, 222), 16)
    for _ in range(14):
        x, y = e.rng.uniform(0, e.wide), e.rng.uniform(0.57, 0.73)
        e.canvas.fill(stroke(np.array([(x, y), (x + 0.09, y)]), 0.005), WHITE, 0.55)
    boat = (e.wide * e.rng.uniform(0.06, 0.3), 0.55)
    e.canvas.fill(
        np.array([(0, 0), (0.1, 0), (0.075, 0.028), (0.02, 0.028)]) + boat, (240, 140, 104)
    )
    e.canvas.fill(np.array([(0.05, -0.12), (0.1, -0.01), (0.05, -0.01)]) + boat, WHITE)
    e.canvas.fill(_hill(-EDGE, e.wide + EDGE, 0.75, 1.2, 0.012), WHITE)
    e.canvas.fill(_hill(-EDGE, e.wide + EDGE, 0.765, 1.2, 0.012), (246, 224, 178))
    side = e.pick((0.06, 0.94)) * e.wide
    trunk = arc(
        side, 0.95, side + (0.1 if side < e.wide / 2 else -0.1), 0.24, 0.05 if side < 0.5 else -0.05
    )
    e.canvas.fill(stroke(trunk, np.linspace(0.045, 0.028, 12)), (176, 132, 96))
    for k in range(7):
        turn = k * 2 * np.pi / 7 + 0.3
        end = trunk[-1] + (0.26 * np.cos(turn), 0.13 * np.sin(turn) + 0.05)
        leaf = arc(trunk[-1, 0], trunk[-1, 1], end[0], end[1], -0.06 if np.cos(turn) > 0 else 0.06)
        e.canvas.fill(
            stroke(leaf, 0.045 * np.sin(np.linspace(0.4, np.pi, 12)) + 0.003),
            (96, 164, 110) if k % 2 else (78, 144, 104),
        )


def _city(e: _Easel) -> None:
    _sky(e, 0.85)
    for k, (top, colour) in enumerate(
        ((0.22, (190, 196, 222)), (0.36, (150, 160, 198)), (0.5, (116, 128, 172)))
    ):
        x = -EDGE
        while x < e.wide + EDGE:
            w, roof = e.rng.uniform(0.1, 0.2), top + e.rng.uniform(0, 0.2)
            e.box(x, roof, x + w, 1.2, colour)
            e.box(x + w * 0.8, roof, x + w, 1.2, darker(colour, 0.2), 0.5)
            for wy in np.arange(roof + 0.025, 1.0, 0.05):
                for wx in np.arange(x + 0.016, x + w - 0.03, 0.036):
                    if e.rng.random() < 0.55:
                        e.box(wx, wy, wx + 0.016, wy + 0.024, (255, 240, 190) if k else WHITE, 0.75)
            x += w + e.rng.uniform(-0.01, 0.03)
    e.shade(e.floor - 0.06, 1 + EDGE, (206, 204, 210), (176, 174, 186), 10)


def _shapes(e: _Easel) -> None:
    e.shade(-EDGE, 1 + EDGE, lighter(e.wall, 0.3), e.wall)
    for _ in range(16):
        x, y = e.rng.uniform(-0.05, e.wide + 0.05), e.rng.uniform(-0.05, 1.05)
        size, colour = e.rng.uniform(0.04, 0.15), mix(lighter(e.cloth(), 0.35), e.wall, 0.25)
        kind = e.rng.integers(4)
        if kind == 0:
            e.canvas.fill(ellipse(x, y, size), colour)
        elif kind == 1:
            ring = ellipse(x, y, size, points=48)
            ring = np.concatenate([ring, ring[:1]])
            e.canvas.fill(np.concatenate([ring, ((ring - (x, y)) * 0.66 + (x, y))[::-1]]), colour)
        elif kind == 2:
            wave = np.stack(
                [
                    np.linspace(-1, 1, 30) * size * 1.4 + x,
                    y + 0.25 * size * np.sin(np.linspace(0, 15, 30)),
                ],
                1,
            )
            e.canvas.fill(stroke(wave, size * 0.22), colour)
        else:
            turn = e.rng.uniform(0, 6.3) + np.arange(3) * 2 * np.pi / 3
            e.canvas.fill(np.stack([x + size * np.cos(turn), y + size * np.sin(turn)], 1), colour)


def _lights(e: _Easel) -> None:
    """Out-of-focus lights in the evening."""
    dusk = e.pick(((96, 104, 160), (120, 96, 150), (70, 120, 148)))
    e.shade(-EDGE, 1 + EDGE, dusk, mix(dusk, (250, 180, 150), 0.55))
    for _ in range(46):
        x, y, size = (
            e.rng.uniform(-0.1, e.wide + 0.1),
            e.rng.uniform(-0.05, 1.0),
            e.rng.uniform(0.02, 0.075),
        )
        colour = e.pick(((255, 226, 160), (255, 200, 170), (190, 220, 255), (246, 190, 220), WHITE))
        e.canvas.fill(ellipse(x, y, size), colour, float(e.rng.uniform(0.12, 0.4)))
    if e.floor < 0.99:
        e.shade(e.floor - 0.05, 1 + EDGE, mix(dusk, (250, 190, 160), 0.3), dusk, 10)


def _stage(e: _Easel) -> None:
    cloth = e.pick(((112, 96, 170), (60, 132, 146), (190, 110, 140)))
    x = np.linspace(-EDGE, e.wide + EDGE, 40)
    for k in range(39):
        fold = 0.5 + 0.5 * np.sin(k * 1.1)
        e.box(
            x[k], -EDGE, x[k + 1] + 0.002, 1.2, mix(darker(cloth, 0.3), lighter(cloth, 0.08), fold)
        )
    for side in (0.18, 0.82):
        beam = np.array(
            [
                (e.wide * side - 0.03, -EDGE),
                (e.wide * side + 0.03, -EDGE),
                (e.wide * 0.5 + 0.34, 1.1),
                (e.wide * 0.5 - 0.34, 1.1),
            ]
        )
        e.canvas.fill(beam, (255, 246, 214), 0.16)
    e.canvas.glow(ellipse(e.wide / 2, 0.5, e.wide * 0.45, 0.55), lighter(cloth, 0.6), 0.5, 16)
    e.shade(e.floor - 0.06, 1 + EDGE, (214, 176, 138), (164, 124, 98), 10)


def _kitchen(e: _Easel) -> None:
    _room_shell(e)
    tile = lighter(e.wall, 0.5)
    for row, y in enumerate(np.arange(0.36, 0.6, 0.06)):
        for x in np.arange(-EDGE - 0.06 * (row % 2), e.wide + EDGE, 0.12):
            e.box(x + 0.003, y + 0.003, x + 0.117, y + 0.057, tile)
    unit = lighter(e.cloth(), 0.25)
    e.box(-EDGE, 0.62, e.wide + EDGE, 0.65, (226, 200, 168))
    e.box(-EDGE, 0.65, e.wide + EDGE, e.floor - 0.055, unit)
    for x in np.arange(-0.06, e.wide + EDGE, 0.24):
        e.box(x, 0.66, x + 0.228, e.floor - 0.07, lighter(unit, 0.2))
        e.canvas.fill(stroke(np.array([(x + 0.2, 0.7), (x + 0.2, 0.76)]), 0.01), darker(unit, 0.45))
    e.box(-EDGE, 0.215, e.wide + EDGE, 0.235, (206, 164, 122))
    for x in np.arange(0.02, e.wide + 0.02, 0.1):
        jar = e.cloth()
        tall = float(e.rng.uniform(0.05, 0.1))
        e.canvas.soft(
            smooth(
                [
                    (x - 0.03, 0.215),
                    (x - 0.032, 0.22 - tall),
                    (x, 0.205 - tall),
                    (x + 0.032, 0.22 - tall),
                    (x + 0.03, 0.215),
                ]
            ),
            jar,
            darker(jar, 0.35),
            steps=3,
        )
    _plant(e, e.pick((0.07, 0.93)) * e.wide, 0.62, 0.17)


PAINTERS = {
    "studio": ("in front of a plain studio wall", _studio),
    "living room": ("in a cosy living room", _living_room),
    "library": ("in front of bookshelves", _library),
    "hills": ("outdoors among green hills", _hills),
    "beach": ("on a beach", _beach),
    "city": ("in front of a city skyline", _city),
    "shapes": ("in front of a wall with colourful shapes", _shapes),
    "lights": ("in front of blurred evening lights", _lights),
    "stage": ("on a stage with a curtain", _stage),
    "kitchen": ("in a kitchen", _kitchen),
}


def make_desk(
    rng: np.random.Generator, size: tuple[int, int], top: float, unit: float, middle: float
) -> Layer:
    """A desk across the frame from `top` down, that hides the arms, with a laptop and a cup on it.

    `unit` is a head's height, `middle` where the puppet sits, both in frame heights.
    """
    wide, high = size[0] / size[1], size[1]
    sheet = Sheet((-EDGE, top - 0.3), (wide + 2 * EDGE, 1.5 - top), high, WHITE)
    wood: Colour = ((206, 164, 122), (238, 226, 208), (160, 120, 96))[rng.integers(3)]
    e = _Easel(sheet.canvas, wide, top, wood, rng)
    board = np.array([(-EDGE, top), (wide + EDGE, top), (wide + EDGE, 1.3), (-EDGE, 1.3)])
    outlines = [board]
    e.shade(top, 1 + EDGE, lighter(wood, 0.15), darker(wood, 0.3), 24)
    e.box(-EDGE, top, wide + EDGE, top + 0.022, lighter(wood, 0.4))
    at = lambda corners: moved(np.array(corners) * unit, middle, top)
    screen = at([(-0.4, 0.03), (-0.375, -0.42), (0.375, -0.42), (0.4, 0.03)])
    e.canvas.soft(screen, (206, 210, 222), (150, 154, 172), depth=0.12, steps=4)
    e.canvas.fill(moved(ellipse(0, -0.2, 0.05) * unit, middle, top), WHITE)
    outlines.append(screen)
    side = 0.85 if rng.random() < 0.5 else -0.85
    cup = moved(at([(-0.1, -0.25), (0.1, -0.25), (0.08, 0.02), (-0.08, 0.02)]), side * unit, 0.0)
    e.canvas.fill(cup, e.cloth())
    outlines.append(cup)
    return sheet.cut(sheet.mask(*outlines), (190, 180, 200), 0.012)
