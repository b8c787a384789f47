"""The only place that draws what is on a head: hair behind it and over it, hats, flowers, headphones.

Units: the height of the head, origin in its middle, x to the image's right, y down.
"""

import numpy as np

from omnihuman_jax.puppets.canvas import Canvas
from omnihuman_jax.puppets.face import Look, turn
from omnihuman_jax.puppets.identity import Identity
from omnihuman_jax.puppets.palette import Colour, darker, lighter
from omnihuman_jax.puppets.shapes import arc, bumpy, ellipse, mirrored, moved, smooth, stroke

CROWN = [
    (-0.435, 0.04),
    (-0.46, -0.22),
    (-0.33, -0.49),
    (0, -0.585),
    (0.33, -0.49),
    (0.46, -0.22),
    (0.435, 0.04),
]
"""Where hair ends outside, from the image's left ear over the top."""

HAIRLINES: dict[str, list[tuple[float, float]]] = {
    "crop": [
        (0.385, 0.02),
        (0.36, -0.2),
        (0.2, -0.3),
        (0, -0.29),
        (-0.2, -0.3),
        (-0.36, -0.2),
        (-0.385, 0.02),
    ],
    "side part": [
        (0.39, 0.02),
        (0.385, -0.13),
        (0.25, -0.2),
        (0.02, -0.3),
        (-0.17, -0.41),
        (-0.3, -0.28),
        (-0.385, 0),
    ],
    "quiff": [
        (0.385, 0.02),
        (0.35, -0.22),
        (0.18, -0.33),
        (0, -0.35),
        (-0.18, -0.33),
        (-0.35, -0.22),
        (-0.385, 0.02),
    ],
    "fringe": [
        (0.4, 0.1),
        (0.36, -0.06),
        (0.22, -0.135),
        (0, -0.15),
        (-0.22, -0.135),
        (-0.36, -0.06),
        (-0.4, 0.1),
    ],
    "parted": [
        (0.405, 0.12),
        (0.37, -0.1),
        (0.2, -0.29),
        (0.03, -0.425),
        (-0.15, -0.31),
        (-0.35, -0.12),
        (-0.405, 0.12),
    ],
    "back": [
        (0.39, 0),
        (0.345, -0.23),
        (0.18, -0.36),
        (0, -0.39),
        (-0.18, -0.36),
        (-0.345, -0.23),
        (-0.39, 0),
    ],
}
"""Where hair ends on the face, from the image's right ear back to the left."""

HAIRLINE_OF = {
    "spiky": "crop",
    "buzz": "crop",
    "bob": "fringe",
    "long": "parted",
    "wavy": "side part",
    "bun": "back",
    "ponytail": "side part",
    "pigtails": "parted",
    "afro": "back",
    "curly": "crop",
}
LOCKS = ("long", "wavy", "fringe")
OVER_THE_EARS = ("bob", "long", "wavy", "fringe", "afro")


def draw_behind(canvas: Canvas, who: Identity, look: Look, sway: float) -> None:
    """What lies behind the head, to be drawn before the neck. `sway` in [-1, 1] swings loose hair."""
    shadow, style = darker(who.hair, 0.42), who.hair_style
    back = darker(who.hair, 0.25)
    swung = canvas.placed(
        lambda p: p + np.stack([0.09 * sway * np.clip(p[:, 1], 0, 2), 0 * p[:, 1]], 1)
    )
    if style in ("bob", "fringe", "long", "wavy"):
        low = {"bob": 0.4, "fringe": 0.62, "long": 0.86, "wavy": 0.86}[style]
        half = [
            (0, -0.56),
            (0.3, -0.5),
            (0.5, -0.2),
            (0.53, 0.15),
            (0.55, low - 0.12),
            (0.42, low),
            (0, low),
        ]
        swung.soft(smooth(mirrored(half)), back, shadow, depth=0.12)
    elif style == "afro":
        canvas.soft(bumpy(0, -0.16, 0.66, 0.62, 18, 0.05), who.hair, shadow, depth=0.3)
    elif style == "curly":
        for x, y, r in CURLS:
            canvas.soft(ellipse(x, y, r, points=22), back, shadow, steps=3)
    elif style == "bun":
        canvas.soft(ellipse(0, -0.64, 0.2, 0.18), who.hair, shadow, depth=0.3)
        canvas.fill(stroke(arc(-0.1, -0.7, 0.1, -0.68, -0.05), 0.014), shadow, 0.5)
    elif style == "ponytail":
        tail = [
            (0.2, -0.42),
            (0.5, -0.4),
            (0.66, -0.1),
            (0.68, 0.3),
            (0.56, 0.6),
            (0.5, 0.3),
            (0.42, 0),
        ]
        swung.soft(smooth(tail), who.hair, shadow, depth=0.25)
        canvas.fill(ellipse(0.4, -0.34, 0.06, 0.09, 0.5), who.hat_colour)
    elif style == "pigtails":
        for side in (-1, 1):
            for k in range(4):
                ball = ellipse(
                    side * (0.53 + 0.03 * k), 0.1 + 0.16 * k, 0.115 - 0.014 * k, points=24
                )
                swung.soft(ball, who.hair, shadow, steps=4)
            canvas.fill(ellipse(side * 0.49, 0.0, 0.05, 0.05), who.hat_colour)
    elif style == "headscarf":
        cloth = who.hat_colour
        half = [(0, -0.6), (0.34, -0.52), (0.5, -0.2), (0.5, 0.2), (0.42, 0.6), (0, 0.68)]
        canvas.soft(smooth(mirrored(half)), darker(cloth, 0.12), darker(cloth, 0.4), depth=0.15)
    if who.hat == "sunhat":
        canvas.soft(
            ellipse(0, -0.3, 0.86, 0.22), darker(who.hat_colour, 0.3), darker(who.hat_colour, 0.45)
        )


CURLS = [
    (-0.42, -0.2, 0.17),
    (0.42, -0.2, 0.17),
    (-0.46, 0.04, 0.14),
    (0.46, 0.04, 0.14),
    (-0.3, -0.44, 0.18),
    (0.3, -0.44, 0.18),
    (0, -0.52, 0.2),
    (-0.44, 0.22, 0.11),
    (0.44, 0.22, 0.11),
]


def draw_over(canvas: Canvas, who: Identity, look: Look, sway: float) -> None:
    """What lies over forehead and ears."""
    front = canvas.placed(turn(look))
    hair, shadow, style = who.hair, darker(who.hair, 0.38), who.hair_style
    if style == "headscarf":
        _draw_scarf(canvas, front, who, look)
        return
    if style == "bald":
        front.glow(ellipse(-0.14, -0.37, 0.12, 0.06, -0.4), lighter(who.skin, 0.7), 0.5)
    else:
        outer = CROWN
        if style == "quiff":
            outer = [
                (-0.43, 0.02),
                (-0.45, -0.25),
                (-0.34, -0.5),
                (-0.12, -0.64),
                (0.2, -0.7),
                (0.42, -0.58),
                (0.45, -0.25),
                (0.43, 0.02),
            ]
        line = HAIRLINES[HAIRLINE_OF.get(style, style)]
        cap = smooth([*outer, *line], steps=6)
        if style == "buzz":
            front.fill(cap * (0.925 * who.face.width, 0.89), who.lid, 0.62)
        else:
            front.soft(cap, hair, shadow, depth=0.16, light=(-0.05, -0.08))
            _draw_details(front, who, style, shadow)
    if who.hat:
        _draw_hat(canvas, front, who, look)


def _draw_details(front: Canvas, who: Identity, style: str, shadow: Colour) -> None:
    """Strands, shine, spikes, curls."""
    hair = who.hair
    if style == "spiky":
        for k, x in enumerate(np.linspace(-0.34, 0.34, 6)):
            top = -0.74 + 0.7 * x**2 + 0.025 * (k % 2)
            lean = 0.22 * x + 0.05
            spike = [
                (x - 0.1, -0.4),
                (x - 0.075 + lean * 0.3, -0.55),
                (x + lean, top),
                (x + 0.08 + lean * 0.2, -0.54),
                (x + 0.1, -0.4),
            ]
            front.fill(smooth(spike, steps=5), hair)
            front.fill(
                stroke(np.array([(x + 0.01, -0.42), (x + lean * 0.8, top + 0.09)]), (0.012, 0.004)),
                shadow,
                0.45,
            )
    if style in ("curly", "afro"):
        for x, y, r in (
            CURLS[4:7]
            if style == "curly"
            else ((-0.2, -0.44, 0.15), (0.05, -0.47, 0.16), (0.27, -0.4, 0.14))
        ):
            front.soft(
                ellipse(x, y * 0.92, r * 0.8, points=22), lighter(hair, 0.06), shadow, steps=4
            )
        return
    strands = {
        "side part": [
            (-0.17, -0.44, 0.36, -0.2),
            (-0.17, -0.5, 0.4, -0.3),
            (-0.19, -0.44, -0.37, -0.16),
        ],
        "parted": [
            (0.03, -0.46, 0.36, -0.16),
            (0.03, -0.52, 0.42, -0.24),
            (0.02, -0.46, -0.35, -0.17),
            (0.02, -0.52, -0.42, -0.24),
        ],
        "fringe": [
            (-0.1, -0.5, -0.14, -0.17),
            (0.1, -0.5, 0.13, -0.17),
            (-0.24, -0.44, -0.29, -0.13),
            (0.24, -0.44, 0.29, -0.13),
        ],
        "back": [
            (-0.12, -0.39, -0.08, -0.56),
            (0.12, -0.39, 0.08, -0.56),
            (-0.27, -0.31, -0.24, -0.5),
            (0.27, -0.31, 0.24, -0.5),
        ],
        "quiff": [(-0.1, -0.36, 0.2, -0.62), (0.06, -0.36, 0.3, -0.58), (-0.22, -0.33, 0.02, -0.6)],
        "crop": [
            (-0.16, -0.32, -0.1, -0.47),
            (0.02, -0.31, 0.05, -0.48),
            (0.18, -0.32, 0.2, -0.45),
        ],
    }
    for ax, ay, bx, by in strands.get(HAIRLINE_OF.get(style, style), []):
        bulge = -0.05 if bx > ax else 0.05
        front.fill(
            stroke(arc(ax, ay, bx, by, bulge), np.r_[0.006, np.full(10, 0.014), 0.004]), shadow, 0.5
        )
    shine = arc(-0.32, -0.36, -0.02, -0.5, -0.035)
    front.fill(stroke(shine, np.r_[0.006, np.full(10, 0.035), 0.006]), lighter(hair, 0.45), 0.4)


def draw_locks(canvas: Canvas, who: Identity, sway: float) -> None:
    """Long hair that falls over the shoulders, to be drawn after the clothes."""
    if who.hair_style not in LOCKS:
        return
    low = 0.72 if who.hair_style == "fringe" else 1.02
    shadow = darker(who.hair, 0.38)
    for side in (-1, 1):
        y = np.linspace(-0.1, low, 9)
        wave = 0.035 * np.sin(y * 11) if who.hair_style == "wavy" else 0 * y
        x = (
            side * (0.44 + 0.07 * np.sin(np.clip(y, 0, 1) * 2.2))
            + wave
            + 0.08 * sway * np.clip(y, 0, 2)
        )
        width = np.interp(y, [-0.1, 0.1, low - 0.2, low], [0.05, 0.15, 0.19, 0.04])
        path = np.stack([x, y], axis=1)
        canvas.soft(stroke(path, width), who.hair, shadow, depth=0.2, steps=4)
        canvas.fill(stroke(moved(path[2:-1], 0.025, 0), 0.012), shadow, 0.45)
        canvas.fill(stroke(path[2:-3] - (0.035, 0), 0.016), lighter(who.hair, 0.4), 0.35)


def _draw_scarf(canvas: Canvas, front: Canvas, who: Identity, look: Look) -> None:
    cloth = who.hat_colour
    outer = smooth(
        mirrored([(0, -0.6), (0.33, -0.52), (0.48, -0.2), (0.48, 0.2), (0.36, 0.52), (0, 0.66)])
    )
    inner = smooth(
        mirrored(
            [
                (0, -0.36),
                (0.2, -0.33),
                (0.33, -0.16),
                (0.36, 0.08),
                (0.31, 0.3),
                (0.16, 0.44),
                (0, 0.475),
            ]
        )
    )
    drop = 0.09 * look.opening * np.clip(inner[:, 1], 0, 0.5) / 0.5
    inner = turn(look)(inner + np.stack([0 * drop, drop], axis=1))
    ring = lambda out: np.concatenate([out, out[:1], inner[:1], inner[::-1]])
    canvas.fill(ring(outer), darker(cloth, 0.3))
    for k in (1, 2, 3, 4):
        canvas.fill(
            ring(outer * (1 - 0.022 * k) + (-0.006 * k, -0.008 * k)),
            lighter(darker(cloth, 0.3 - 0.075 * k), 0),
        )
    folds = (
        [(0.4, -0.1), (0.43, 0.15), (0.36, 0.4), (0.2, 0.53)],
        [(-0.2, -0.44), (-0.37, -0.25), (-0.42, 0.05)],
        [(-0.38, 0.3), (-0.2, 0.52), (0.05, 0.57)],
    )
    for fold in folds:
        canvas.fill(stroke(smooth(fold, closed=False), 0.014), darker(cloth, 0.4), 0.5)


def _draw_hat(canvas: Canvas, front: Canvas, who: Identity, look: Look) -> None:
    colour, shadow = who.hat_colour, darker(who.hat_colour, 0.4)
    dome = smooth(
        [
            (-0.47, -0.2),
            (-0.46, -0.42),
            (-0.28, -0.66),
            (0, -0.72),
            (0.28, -0.66),
            (0.46, -0.42),
            (0.47, -0.2),
            (0.2, -0.25),
            (-0.2, -0.25),
        ]
    )
    if who.hat == "beanie":
        canvas.soft(ellipse(0, -0.76, 0.1, points=24), lighter(colour, 0.4), shadow, steps=4)
        front.soft(dome, colour, shadow, depth=0.18)
        for x in np.linspace(-0.3, 0.3, 7):
            front.fill(stroke(arc(x, -0.3, x * 0.55, -0.66, -0.12 * x), 0.012), shadow, 0.35)
        band = stroke(arc(-0.45, -0.2, 0.45, -0.2, -0.1, 16), 0.15)
        front.soft(band, lighter(colour, 0.25), shadow, depth=0.1, steps=4)
    elif who.hat == "cap":
        front.soft(dome, colour, shadow, depth=0.18)
        front.fill(ellipse(0, -0.71, 0.03), shadow)
        near = canvas.placed(turn(look, 0.14))
        brim = [
            (-0.4, -0.24),
            (-0.2, -0.32),
            (0.2, -0.32),
            (0.4, -0.24),
            (0.3, -0.15),
            (0, -0.12),
            (-0.3, -0.15),
        ]
        near.soft(smooth(brim), darker(colour, 0.15), darker(colour, 0.5), steps=4)
    elif who.hat == "sunhat":
        rim = smooth(
            [
                (-0.86, -0.28),
                (-0.5, -0.4),
                (0, -0.44),
                (0.5, -0.4),
                (0.86, -0.28),
                (0.5, -0.2),
                (0, -0.17),
                (-0.5, -0.2),
            ]
        )
        front.soft(dome, colour, shadow, depth=0.18)
        canvas.soft(rim, lighter(colour, 0.15), shadow, depth=0.08, steps=4)
        front.fill(stroke(arc(-0.44, -0.385, 0.44, -0.385, -0.06, 16), 0.07), darker(colour, 0.5))
    elif who.hat == "headphones":
        bow = ellipse(0, -0.04, 0.485, 0.6, points=48)[24:]
        canvas.fill(stroke(bow, 0.075), (70, 66, 80))
        canvas.fill(stroke(bow[5:15] * 1.015, 0.018), (150, 146, 160), 0.7)
        for side in (-1, 1):
            canvas.soft(ellipse(side * 0.46, 0.04, 0.09, 0.15), colour, shadow, depth=0.3, steps=4)
    else:
        _draw_piece(front, who)


def _draw_piece(front: Canvas, who: Identity) -> None:
    colour = lighter(who.hat_colour, 0.15)
    if who.hat == "flower":
        for k in range(6):
            x, y = 0.32 + 0.07 * np.cos(k * np.pi / 3), -0.36 + 0.07 * np.sin(k * np.pi / 3)
            front.soft(
                ellipse(x, y, 0.055, points=18), lighter(colour, 0.2), darker(colour, 0.15), steps=3
            )
        front.fill(ellipse(0.32, -0.36, 0.042), (250, 206, 92))
        return
    for side in (-1, 1):
        wing = smooth(
            [
                (0, 0),
                (side * 0.1, -0.09),
                (side * 0.19, -0.07),
                (side * 0.19, 0.07),
                (side * 0.1, 0.08),
            ]
        )
        front.soft(moved(wing, 0.02, -0.55), colour, darker(colour, 0.35), depth=0.3, steps=4)
    front.fill(ellipse(0.02, -0.55, 0.045), darker(colour, 0.2))
