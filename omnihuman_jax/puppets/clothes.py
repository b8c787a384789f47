"""The only place that draws clothes on the trunk, once a clip: cut, pattern, collar, buttons, folds.

Units: the height of the head; origin in the pit of the neck, x to the image's right, y down.
"""

import numpy as np

from omnihuman_jax.puppets.canvas import Canvas
from omnihuman_jax.puppets.identity import Identity
from omnihuman_jax.puppets.layers import Layer, Sheet
from omnihuman_jax.puppets.palette import WHITE, Colour, darker, lighter
from omnihuman_jax.puppets.shapes import Points, arc, ellipse, mirrored, moved, smooth, stroke

HIP = 1.36
CORNER, SIZE = (-0.95, -0.32), (1.9, 2.4)
SHADE: Colour = (150, 138, 176)  # what a fold multiplies cloth by


def outline(who: Identity) -> Points:
    """The trunk with what is worn on it, from the neck to the hem."""
    w, waist = who.girth, 0.06 if who.lashes else 0.0
    half = [(0, 0.05), (0.1, -0.02), (0.155, -0.1), (0.22, -0.03), (0.42, 0.055), (0.545 * w, 0.17)]
    half += [(0.55 * w, 0.42), ((0.5 - waist) * w, 0.85)]
    if who.clothes.garment == "dress":
        half += [(0.55 * w, 1.3), (0.74 * w, 1.95), (0.45 * w, 2.02), (0, 2.04)]
    else:
        half += [(0.52 * w, 1.2), (0.525 * w, 1.38), (0.4 * w, 1.42), (0, 1.43)]
    return smooth(mirrored(half))


def make_trunk(who: Identity, fine: float) -> Layer:
    """The trunk as a layer of `fine` pixels a unit."""
    sheet = Sheet(CORNER, SIZE, fine, who.clothes.colour)
    _draw_pattern(sheet.canvas, who)
    _draw_folds(sheet.canvas, who)
    GARMENTS[who.clothes.garment](sheet.canvas, who)
    return sheet.cut(sheet.mask(outline(who)), SHADE, 0.13)


def _draw_pattern(canvas: Canvas, who: Identity) -> None:
    wear = who.clothes
    if wear.pattern == "stripes":
        for y in np.arange(0.02, 2.1, 0.22):
            canvas.fill(stroke(arc(-0.9, y - 0.03, 0.9, y - 0.03, 0.05, 16), 0.1), wear.accent)
    elif wear.pattern == "dots":
        for row, y in enumerate(np.arange(0.0, 2.1, 0.17)):
            for x in np.arange(-0.9, 0.9, 0.2) + 0.1 * (row % 2):
                canvas.fill(ellipse(x, y, 0.042, points=18), wear.accent)
    elif wear.pattern == "checks":
        for k in np.arange(-0.9, 2.1, 0.2):
            canvas.fill(stroke(np.array([(k, -0.4), (k, 2.2)]), 0.085), wear.accent, 0.5)
            canvas.fill(stroke(np.array([(-1, k), (1, k)]), 0.085), wear.accent, 0.5)
            canvas.fill(stroke(np.array([(-1, k + 0.1), (1, k + 0.1)]), 0.012), WHITE, 0.45)
            canvas.fill(stroke(np.array([(k + 0.1, -0.4), (k + 0.1, 2.2)]), 0.012), WHITE, 0.45)
    elif wear.pattern == "zigzag":
        x = np.arange(-0.98, 1.0, 0.08)
        for y in np.arange(0.1, 2.1, 0.26):
            zig = np.stack([x, y + 0.045 * (-1.0) ** np.arange(len(x))], axis=1)
            canvas.fill(stroke(zig, 0.055), wear.accent)
    elif wear.pattern == "stars":
        turn = np.arange(10) * np.pi / 5 - np.pi / 2
        star = (
            np.stack([np.cos(turn), np.sin(turn)], 1)
            * np.where(np.arange(10) % 2, 0.022, 0.055)[:, None]
        )
        for row, y in enumerate(np.arange(0.0, 2.1, 0.2)):
            for x in np.arange(-0.88, 0.9, 0.24) + 0.12 * (row % 2):
                canvas.fill(moved(star, x, y), wear.accent)


def _draw_folds(canvas: Canvas, who: Identity) -> None:
    dark = darker(who.clothes.colour, 0.5)
    for side in (-1, 1):
        canvas.fill(
            stroke(
                arc(side * 0.5, 0.5, side * 0.3, 0.62, side * 0.03), np.linspace(0.03, 0.004, 12)
            ),
            dark,
            0.22,
        )
        canvas.fill(
            stroke(
                arc(side * 0.48, 0.9, side * 0.25, 0.98, side * 0.03), np.linspace(0.025, 0.004, 12)
            ),
            dark,
            0.2,
        )
    canvas.glow(
        ellipse(0.0, 0.02, 0.3, 0.16), darker(who.clothes.colour, 0.6), 0.35
    )  # under the chin


def _neckline(canvas: Canvas, who: Identity, wide: float, deep: float) -> None:
    """Skin in the opening at the neck, and the hem around it."""
    opening = smooth(
        [
            (-wide, -0.14),
            (wide, -0.14),
            (wide * 0.72, deep * 0.55),
            (0, deep),
            (-wide * 0.72, deep * 0.55),
        ]
    )
    canvas.fill(opening, darker(who.skin, 0.16))
    canvas.glow(ellipse(0, deep * 0.6, wide * 0.7, deep * 0.5), who.skin, 0.7, 4)


def _t_shirt(canvas: Canvas, who: Identity) -> None:
    _neckline(canvas, who, 0.2, 0.12)
    canvas.fill(
        stroke(arc(-0.2, -0.08, 0.2, -0.08, 0.2, 16), 0.035), darker(who.clothes.colour, 0.22)
    )


def _shirt(canvas: Canvas, who: Identity) -> None:
    wear = who.clothes
    _neckline(canvas, who, 0.13, 0.16)
    placket = darker(wear.colour, 0.15)
    canvas.fill(stroke(np.array([(0.05, 0.12), (0.05, 1.5)]), 0.012), placket, 0.8)
    for y in np.arange(0.24, 1.4, 0.22):
        canvas.fill(ellipse(0.0, y, 0.02, points=14), lighter(wear.accent, 0.55))
    collar = lighter(wear.colour, 0.35) if wear.pattern == "plain" else WHITE
    for side in (-1, 1):
        wing = np.array([(0.14, -0.14), (0.235, -0.02), (0.19, 0.16), (0.0, 0.13), (0.1, 0.03)]) * (
            side,
            1,
        )
        canvas.fill(moved(wing, 0, 0.02), darker(wear.colour, 0.5), 0.5)
        canvas.fill(wing, collar)


def _sweater(canvas: Canvas, who: Identity) -> None:
    _neckline(canvas, who, 0.17, 0.07)
    canvas.fill(
        stroke(arc(-0.18, -0.1, 0.18, -0.1, 0.17, 16), 0.075), darker(who.clothes.colour, 0.14)
    )
    canvas.fill(
        stroke(np.array([(-0.7, 1.38), (0.7, 1.38)]), 0.12), darker(who.clothes.colour, 0.14)
    )


def _turtleneck(canvas: Canvas, who: Identity) -> None:
    colour = who.clothes.colour
    for x in np.arange(-0.6, 0.61, 0.1):
        canvas.fill(stroke(np.array([(x, 0.25), (x, 1.32)]), 0.014), darker(colour, 0.35), 0.3)
    canvas.fill(
        smooth([(-0.18, -0.2), (0.18, -0.2), (0.2, 0.02), (0, 0.07), (-0.2, 0.02)]),
        lighter(colour, 0.12),
    )
    canvas.fill(stroke(arc(-0.19, 0.015, 0.19, 0.015, 0.05), 0.016), darker(colour, 0.4), 0.6)


def _hoodie(canvas: Canvas, who: Identity) -> None:
    colour = who.clothes.colour
    _neckline(canvas, who, 0.16, 0.16)
    for side in (-1, 1):
        fold = smooth(
            [
                (0, 0.22),
                (side * 0.14, 0.12),
                (side * 0.17, -0.12),
                (side * 0.3, -0.06),
                (side * 0.27, 0.1),
                (side * 0.1, 0.24),
            ]
        )
        canvas.soft(fold, lighter(colour, 0.1), darker(colour, 0.3), steps=4)
        canvas.fill(
            stroke(arc(side * 0.09, 0.2, side * 0.1, 0.5, side * 0.02), 0.018),
            lighter(who.clothes.accent, 0.5),
        )
        canvas.fill(ellipse(side * 0.1, 0.51, 0.017, points=12), who.clothes.accent)
    pocket = np.array([(-0.22, 0.86), (0.22, 0.86), (0.36, 1.22), (-0.36, 1.22)])
    canvas.fill(pocket, darker(colour, 0.12))
    canvas.fill(stroke(pocket[[0, 3]], 0.02), darker(colour, 0.35), 0.6)
    canvas.fill(stroke(pocket[[1, 2]], 0.02), darker(colour, 0.35), 0.6)


def _jacket(canvas: Canvas, who: Identity) -> None:
    wear = who.clothes
    shirt = WHITE if sum(wear.colour) < 620 else lighter(wear.accent, 0.3)
    canvas.fill(
        np.array(
            [(-0.16, -0.14), (0.16, -0.14), (0.2, 0.1), (0.03, 0.8), (-0.03, 0.8), (-0.2, 0.1)]
        ),
        shirt,
    )
    _neckline(canvas, who, 0.1, 0.08)
    if not who.lashes:
        canvas.fill(
            np.array(
                [
                    (-0.045, 0.07),
                    (0.045, 0.07),
                    (0.03, 0.14),
                    (0.065, 0.7),
                    (-0.065, 0.7),
                    (-0.03, 0.14),
                ]
            ),
            wear.accent,
        )
    canvas.fill(stroke(np.array([(0.0, 0.78), (0.0, 1.5)]), 0.014), darker(wear.colour, 0.5), 0.7)
    for side in (-1, 1):
        wing = np.array(
            [
                (0.1, -0.14),
                (0.2, -0.06),
                (0.31, 0.2),
                (0.25, 0.25),
                (0.29, 0.33),
                (0.02, 0.8),
                (0.17, 0.2),
            ]
        ) * (side, 1)
        canvas.fill(moved(wing, 0, 0.025), darker(wear.colour, 0.6), 0.4)
        canvas.fill(wing, lighter(darker(wear.colour, 0.12), 0.05))
    for y in (0.9, 1.1):
        canvas.fill(ellipse(0.06, y, 0.026, points=16), darker(wear.colour, 0.55))


def _dress(canvas: Canvas, who: Identity) -> None:
    _neckline(canvas, who, 0.22, 0.22)
    canvas.fill(
        stroke(arc(-0.22, -0.08, 0.22, -0.08, 0.34, 16), 0.03), lighter(who.clothes.accent, 0.25)
    )
    canvas.fill(stroke(arc(-0.6, 0.92, 0.6, 0.92, 0.03, 16), 0.085), who.clothes.accent)


def _dungarees(canvas: Canvas, who: Identity) -> None:
    wear = who.clothes
    canvas.fill(np.array([(-1, -0.4), (1, -0.4), (1, 2.2), (-1, 2.2)]), WHITE)
    for y in np.arange(0.0, 1.0, 0.17):
        canvas.fill(stroke(arc(-0.9, y, 0.9, y, 0.05, 16), 0.06), wear.accent)
    _neckline(canvas, who, 0.19, 0.11)
    bib = smooth(
        [
            (-0.3, 0.42),
            (0, 0.44),
            (0.3, 0.42),
            (0.33, 0.8),
            (0.75, 0.92),
            (0.75, 1.6),
            (-0.75, 1.6),
            (-0.75, 0.92),
            (-0.33, 0.8),
        ]
    )
    for side in (-1, 1):
        canvas.fill(
            stroke(arc(side * 0.25, 0.48, side * 0.3, -0.1, side * 0.02), 0.1),
            darker(wear.colour, 0.1),
        )
    canvas.fill(bib, wear.colour)
    canvas.fill(
        smooth([(-0.16, 0.6), (0.16, 0.6), (0.16, 0.8), (0, 0.85), (-0.16, 0.8)]),
        darker(wear.colour, 0.18),
    )
    for side in (-1, 1):
        canvas.fill(ellipse(side * 0.25, 0.49, 0.033, points=18), (240, 204, 110))


GARMENTS = {
    "t-shirt": _t_shirt,
    "shirt": _shirt,
    "sweater": _sweater,
    "turtleneck": _turtleneck,
    "hoodie": _hoodie,
    "jacket": _jacket,
    "dress": _dress,
    "dungarees": _dungarees,
}


def sleeve(who: Identity) -> tuple[Colour, Colour | None]:
    """The colour of the sleeves, and of the stripes on them."""
    wear = who.clothes
    if wear.garment == "dungarees":
        return WHITE, wear.accent
    return wear.colour, wear.accent if wear.pattern in ("stripes", "zigzag", "checks") else None
